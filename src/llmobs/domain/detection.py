"""What detectors report. They give probabilities with evidence; only a policy gives actions."""

from collections.abc import Mapping

import msgspec

from llmobs.domain.subject import Span


class Evidence(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One reason for a detection."""

    failure_class: str
    source: str
    """Detector and the thing in it that spoke, for example `rule:prompt-injection.override`."""
    score: float
    """Calibrated probability of the class given this evidence alone, 0 to 1."""
    note: str
    """Why, in a few words. Never quotes the subject."""
    span: Span | None = None
    """Where, or None when it concerns the whole text."""
    trial: bool = False
    """True for a source on probation: recorded, never acted on."""


class Detection(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A failure class and its calibrated probability, 0 to 1, with the evidence for it."""

    failure_class: str
    score: float
    evidence: tuple[Evidence, ...] = ()


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What asking a language model took."""

    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float | None = None
    """Estimate from the configured prices; None where no price is known."""
    cached: bool = False
    """Everything was known from an earlier, equal question, so nothing was spent."""


class Findings(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one detector makes of one subject."""

    detections: tuple[Detection, ...] = ()
    trials: tuple[Evidence, ...] = ()
    """Evidence of sources on probation: recorded, never weighed."""
    clears: frozenset[str] = frozenset()
    """Classes that this detector may settle as absent. Patterns leave it empty."""
    silence: Mapping[str, float] = {}
    """Measured probability of a class when this detector says nothing of it. It informs
    `scores` and `confidence`; it never settles a class."""
    sensitive: tuple[Span, ...] = ()
    """Every secret and piece of personal data found, acting or not: masked before storage."""
    seen: float = 1.0
    """Share of the text looked at, 0 to 1."""
    usage: Usage | None = None
    unheard: frozenset[str] = frozenset()
    """Classes that it was asked about and could not judge, while it judged others."""


class Ran(msgspec.Struct, frozen=True, kw_only=True, tag="ran", tag_field="status", gc=False):
    """The detector looked."""

    tier: int
    detector: str
    ms: float
    hears: frozenset[str]
    findings: Findings
    cached: bool = False
    """It looked at an equal request before, and not at this one."""


class Failed(msgspec.Struct, frozen=True, kw_only=True, tag="failed", tag_field="status", gc=False):
    """The detector should have looked and could not."""

    tier: int
    detector: str
    ms: float
    hears: frozenset[str]
    reason: str
    timed_out: bool = False


class Skipped(msgspec.Struct, frozen=True, kw_only=True, tag="skipped", tag_field="status", gc=False):
    """The detector was not asked, and why: `settled`, `not installed`, `not asked`."""

    tier: int
    detector: str
    reason: str


Report = Ran | Failed | Skipped
