"""One subject under several policies: a detector that gets an equal question again answers it from memory."""

import asyncio
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from llmobs.detect.detector import Detector, DetectorFailed, Selective
from llmobs.detect.pipeline import Pipeline
from llmobs.domain.detection import Findings
from llmobs.domain.subject import Doubt, Likeness, Subject

Kept = TypeVar("Kept")


class _Question(msgspec.Struct, frozen=True):
    """All in which two questions about the same subject can differ, for one detector."""

    asked: frozenset[str]
    doubts: frozenset[tuple[str, Doubt]]
    likenesses: frozenset[tuple[str, Likeness]]


class Once:
    """A detector as one subject sees it. What it could not do it does not try again for an equal question."""

    def __init__(self, detector: Detector) -> None:
        self._detector = detector
        self._selective = detector if isinstance(detector, Selective) else None
        self._known: dict[_Question, Findings | DetectorFailed | TimeoutError] = {}

    @property
    def name(self) -> str:
        """The detector's."""
        return self._detector.name

    @property
    def hears(self) -> frozenset[str]:
        """The detector's."""
        return self._detector.hears

    def idle(self, subject: Subject, asked: frozenset[str]) -> str | None:
        """See Selective."""
        return None if self._selective is None else self._selective.idle(subject, asked)

    async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
        """See Detector."""
        mine = asked & self._detector.hears
        question = _Question(mine, _of(mine, subject.doubts), _of(mine, subject.likenesses))
        known = self._known.get(question)
        if known is None:
            known = self._known[question] = await self._tried(subject, asked, question)
        if isinstance(known, Exception):
            raise known
        return known

    async def _tried(
        self, subject: Subject, asked: frozenset[str], question: _Question
    ) -> Findings | DetectorFailed:
        try:
            return await self._detector.detect(subject, asked)
        except DetectorFailed as error:
            return error
        except asyncio.CancelledError:  # by its deadline; where everything ends, nobody asks again
            self._known[question] = TimeoutError()
            raise


def asked_once(pipeline: Pipeline) -> Pipeline:
    """The pipeline for one subject that is examined under several policies."""
    return Pipeline(
        [msgspec.structs.replace(tier, detectors=tuple(map(Once, tier.detectors))) for tier in pipeline.tiers]
    )


def _of(names: frozenset[str], told: Mapping[str, Kept]) -> frozenset[tuple[str, Kept]]:
    return frozenset((name, value) for name, value in told.items() if name in names)
