"""The action, and all it rests on."""

from collections.abc import Mapping

import msgspec

from llmobs.domain.detection import Evidence, Report
from llmobs.domain.risk import Action, Severity


class Decision(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the policy makes of the reports."""

    action: Action
    failure_class: str | None
    """The class that decided; None when nothing was found."""
    severity: Severity | None
    confidence: float
    """Probability that the decision is right, 0 to 1."""
    scores: Mapping[str, float]
    """Calibrated probability per class that some detector looked for."""
    evidence: tuple[Evidence, ...]
    tier_used: int
    """The highest tier that looked."""
    method: str
    """The detector that decided, or the last one that looked."""
    degraded: bool
    """A failure left an open class unheard."""
    explanation: str


class Verdict(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A decision on one request, as answered and as recorded."""

    request_id: str
    decision: Decision
    coverage: tuple[Report, ...]
    policy_id: str
    policy_version: int
    processing_time_ms: float
    repeated: bool = False
    """Known from an earlier, equal request; `coverage` is then one object for all of them."""
