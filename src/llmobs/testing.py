"""Stand-ins for tests, ours and those of people who build on the seams."""

import asyncio
from collections.abc import Mapping

from llmobs.detect.detector import DetectorFailed
from llmobs.domain.detection import Detection, Evidence, Findings
from llmobs.domain.subject import Span, Subject


class ScriptedDetector:
    """Answers every subject with the same scores, after a pause, or fails as told.

    `scores` maps failure class to probability; `clears` names the classes it may settle as absent;
    `pause` is in seconds; `failure` makes it fail with that reason. `heard` keeps what it was asked.
    """

    def __init__(
        self,
        scores: Mapping[str, float],
        *,
        name: str = "scripted",
        hears: frozenset[str] | None = None,
        clears: frozenset[str] = frozenset(),
        pause: float = 0.0,
        failure: str | None = None,
    ) -> None:
        self.name = name
        self.hears = frozenset(scores) if hears is None else hears
        self.heard: list[tuple[Subject, frozenset[str]]] = []
        self._scores = dict(scores)
        self._clears = clears
        self._pause = pause
        self._failure = failure

    async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
        """The scripted scores, with one piece of evidence over the whole text each."""
        self.heard.append((subject, asked))
        if self._pause:
            await asyncio.sleep(self._pause)
        if self._failure is not None:
            raise DetectorFailed(self._failure)
        return Findings(
            detections=tuple(
                Detection(
                    failure_class=name,
                    score=score,
                    evidence=(
                        Evidence(
                            failure_class=name,
                            source=f"{self.name}:script",
                            score=score,
                            note="scripted",
                            span=Span(0, len(subject.text)),
                        ),
                    ),
                )
                for name, score in self._scores.items()
            ),
            clears=self._clears,
        )
