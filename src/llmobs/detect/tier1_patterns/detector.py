"""The tier-1 detectors as the pipeline sees them."""

import anyio.to_thread
from anyio import CapacityLimiter

from llmobs.detect.tier1_patterns.book import RuleBook
from llmobs.detect.tier1_patterns.engine import SENSITIVE, RuleSet, acts, evidence_of
from llmobs.detect.tier1_patterns.formatting import SCORES, formatting_problems
from llmobs.detect.tier1_patterns.guards import guard_findings
from llmobs.domain.decision import strongest
from llmobs.domain.detection import Evidence, Findings
from llmobs.domain.risk import FailureClass
from llmobs.domain.subject import Kind, Span, Subject

INLINE_CHARS = 8_000
"""Longer texts go to a thread, so that a few hundred microseconds never hold the event loop."""


class RulesDetector:
    """Rule packs over the raw and the normalised text. Condemns; never clears."""

    name = "rules"

    def __init__(self, book: RuleBook) -> None:
        self._book = book
        self._limiter = CapacityLimiter(2)

    @property
    def hears(self) -> frozenset[str]:
        """The classes that some loaded rule looks for."""
        return self._book.current.classes

    async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
        """All hits; rules on trial apart."""
        found = self.at_once(subject, asked)
        if found is None:
            rules = self._book.current
            found = await anyio.to_thread.run_sync(_examine, rules, subject, limiter=self._limiter)
        return found

    def at_once(self, subject: Subject, asked: frozenset[str]) -> Findings | None:
        """See Instant."""
        return _examine(self._book.current, subject) if len(subject.text) <= INLINE_CHARS else None


def _examine(rules: RuleSet, subject: Subject) -> Findings:
    hits = rules.hits(subject, deciding=True)
    if not hits:
        return Findings(silence=rules.silence)
    if subject.documents or subject.reference:
        # Whether a claim is borne out by what was given is not for a phrase to say.
        hits = [hit for hit in hits if hit.failure_class != FailureClass.MISSING_GROUNDING]
    acting: list[Evidence] = []
    trials: list[Evidence] = []
    for hit in hits:
        if acts(hit, subject.request_id):
            acting += evidence_of(hit, trial=False)
        else:
            trials += evidence_of(hit, trial=True)
    return Findings(
        detections=strongest(acting),
        trials=tuple(trials),
        silence=rules.silence,
        sensitive=tuple(span for hit in hits if hit.failure_class in SENSITIVE for span in hit.spans),
    )


class GuardsDetector:
    """Invisible, control and repeated characters. Condemns; never clears."""

    name = "guards"
    hears = frozenset(
        {FailureClass.PROMPT_INJECTION, FailureClass.SECURITY_ATTACK, FailureClass.FORMATTING_ISSUE}
    )

    async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
        """What no rule can say because the characters do not show."""
        return self.at_once(subject, asked)

    def at_once(self, subject: Subject, asked: frozenset[str]) -> Findings:
        """See Instant."""
        found = guard_findings(subject.text)
        if not found:
            return _NOTHING
        return Findings(
            detections=strongest(
                Evidence(
                    failure_class=finding.failure_class,
                    source=f"guard:{finding.kind}",
                    score=finding.score,
                    note=finding.note,
                    span=Span(*finding.span),
                )
                for finding in found
            )
        )


class FormattingDetector:
    """Broken code fences, tables and JSON in answers."""

    name = "formatting"
    hears = frozenset({FailureClass.FORMATTING_ISSUE})

    async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
        """Nothing for prompts: a user may write as they like."""
        return self.at_once(subject, asked)

    def at_once(self, subject: Subject, asked: frozenset[str]) -> Findings:
        """See Instant."""
        if subject.kind is Kind.PROMPT:
            return _NOTHING
        found = formatting_problems(subject.text)
        if not found:
            return _NOTHING
        return Findings(
            detections=strongest(
                Evidence(
                    failure_class=FailureClass.FORMATTING_ISSUE,
                    source=f"formatting:{problem.kind}",
                    score=SCORES[problem.kind],
                    note=problem.note,
                    span=Span(*problem.span),
                )
                for problem in found
            )
        )


_NOTHING = Findings()
