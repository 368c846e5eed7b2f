"""Detectors that never wait, asked for all texts of a moment: one detector after the other, not one text after the other.

What a detector reads again for every text (automatons, tables) is a multiple of what a core's own cache holds, and each
detector drives out the memory of the one before. On texts of 500 characters, with three megabytes of other memory read in
between, tier 1 took 356 µs a text by itself, 225 µs a text with four together and 203 µs with sixteen.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import NamedTuple

from llmobs.detect.attempt import failed, ran
from llmobs.detect.detector import Detector, DetectorFailed, Instant
from llmobs.domain.detection import Failed, Findings, Ran
from llmobs.domain.subject import Subject

Reports = list[Ran | Failed | None]
"""None for a detector that has to be asked by itself, as it would wait."""
_AtOnce = Callable[[Subject, frozenset[str]], Findings | None]


class _Asked(NamedTuple):
    detectors: Sequence[Detector]
    tier: int
    subject: Subject
    classes: frozenset[str]
    future: asyncio.Future[Reports]


class Rounds:
    """Gathers what is asked until the event loop comes round, then asks detector by detector."""

    def __init__(self, detectors: Iterable[Detector]) -> None:
        self._at_once: dict[int, _AtOnce] = {id(d): d.at_once for d in detectors if isinstance(d, Instant)}
        self._waiting: list[_Asked] = []

    async def ask(
        self, detectors: Sequence[Detector], tier: int, subject: Subject, classes: frozenset[str]
    ) -> Reports:
        """A report for each detector, in their order."""
        loop = asyncio.get_running_loop()
        if not self._waiting:
            loop.call_soon(self._run)
        asked = _Asked(detectors, tier, subject, classes, loop.create_future())
        self._waiting.append(asked)
        return await asked.future

    def _run(self) -> None:
        # Whoever gave up is not asked about.
        waiting = [(asked, list[Ran | Failed | None]()) for asked in self._waiting if not asked.future.done()]
        self._waiting = []
        for place in range(max((len(asked.detectors) for asked, _ in waiting), default=0)):
            for asked, reports in waiting:
                if place < len(asked.detectors) and not asked.future.done():
                    try:
                        reports.append(self._report(asked.detectors[place], asked))
                    except Exception as error:  # noqa: BLE001  # a bug is told to the request that met it
                        asked.future.set_exception(error)
        for asked, reports in waiting:
            if not asked.future.done():
                asked.future.set_result(reports)

    def _report(self, detector: Detector, asked: _Asked) -> Ran | Failed | None:
        at_once = self._at_once.get(id(detector))
        if at_once is None:
            return None
        started = perf_counter()
        try:
            findings = at_once(asked.subject, asked.classes)
        except DetectorFailed as error:
            return failed(detector, asked.tier, asked.classes, started, str(error) or type(error).__name__)
        return None if findings is None else ran(detector, asked.tier, asked.classes, started, findings)
