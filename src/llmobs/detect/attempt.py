"""One detector asked once: an expected failure becomes a value, so it spares its siblings."""

import asyncio
from time import perf_counter

from llmobs.detect.detector import Detector, DetectorFailed
from llmobs.domain.detection import Failed, Findings, Ran
from llmobs.domain.subject import Subject


async def attempt(
    detector: Detector, tier: int, subject: Subject, asked: frozenset[str], deadline_s: float | None
) -> Ran | Failed:
    """What the detector reports, or why it could not, within `deadline_s` seconds."""
    started = perf_counter()
    try:
        if deadline_s is None:
            findings = await detector.detect(subject, asked)
        else:
            async with asyncio.timeout(deadline_s):
                findings = await detector.detect(subject, asked)
    except TimeoutError:
        reason = f"no answer within {deadline_s:g} s" if deadline_s is not None else "timed out"
        return failed(detector, tier, asked, started, reason, timed_out=True)
    except DetectorFailed as error:
        return failed(detector, tier, asked, started, str(error) or type(error).__name__)
    return ran(detector, tier, asked, started, findings)


def ran(detector: Detector, tier: int, asked: frozenset[str], started: float, findings: Findings) -> Ran:
    """The report of one that looked; `started` as perf_counter tells it."""
    return Ran(
        tier=tier,
        detector=detector.name,
        ms=(perf_counter() - started) * 1000,
        hears=_hears(detector, tier, asked),
        findings=findings,
    )


def failed(
    detector: Detector,
    tier: int,
    asked: frozenset[str],
    started: float,
    reason: str,
    *,
    timed_out: bool = False,
) -> Failed:
    """The report of one that could not."""
    return Failed(
        tier=tier,
        detector=detector.name,
        ms=(perf_counter() - started) * 1000,
        hears=_hears(detector, tier, asked),
        reason=reason,
        timed_out=timed_out,
    )


def _hears(detector: Detector, tier: int, asked: frozenset[str]) -> frozenset[str]:
    # A later tier speaks, and fails, only for what it was asked about.
    return detector.hears if tier == 1 else detector.hears & asked
