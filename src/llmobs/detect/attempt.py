"""One detector asked once: an expected failure becomes a value, so it spares its siblings."""

import asyncio
from time import perf_counter

from llmobs.detect.detector import Detector, DetectorFailed
from llmobs.domain.detection import Failed, Ran
from llmobs.domain.subject import Subject


async def attempt(
    detector: Detector, tier: int, subject: Subject, asked: frozenset[str], deadline_s: float | None
) -> Ran | Failed:
    """What the detector reports, or why it could not, within `deadline_s` seconds."""
    started = perf_counter()
    # A later tier speaks, and fails, only for what it was asked about.
    hears = detector.hears if tier == 1 else detector.hears & asked
    try:
        if deadline_s is None:
            findings = await detector.detect(subject, asked)
        else:
            async with asyncio.timeout(deadline_s):
                findings = await detector.detect(subject, asked)
    except TimeoutError:
        return Failed(
            tier=tier,
            detector=detector.name,
            ms=(perf_counter() - started) * 1000,
            hears=hears,
            reason=f"no answer within {deadline_s:g} s" if deadline_s is not None else "timed out",
            timed_out=True,
        )
    except DetectorFailed as error:
        return Failed(
            tier=tier,
            detector=detector.name,
            ms=(perf_counter() - started) * 1000,
            hears=hears,
            reason=str(error) or type(error).__name__,
        )
    return Ran(
        tier=tier,
        detector=detector.name,
        ms=(perf_counter() - started) * 1000,
        hears=hears,
        findings=findings,
    )
