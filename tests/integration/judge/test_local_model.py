"""A real model behind servers that we did not write. It proves the protocols; it does not judge well."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from support.judge_local import MODEL, PROXIED, LocalModel, local_model, missing
from support.judging import asked, judging, scores_of, subject

from llmobs.detect.detector import DetectorFailed
from llmobs.detect.tier3_judge.setup import InstalledJudge
from llmobs.domain.detection import Findings
from llmobs.settings import Settings

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(bool(missing()), reason=f"not installed: {missing()}"),
]
TEXT = "This is guaranteed to work for everyone, always."
CLASS = asked("overconfidence")


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    with local_model() as started:
        yield started


def _settings(model: LocalModel, protocol: str, **more: Any) -> Settings:
    patient = {"tier3_timeout_ms": 90_000.0, "judge_call_timeout_ms": 60_000.0, "judge_drain_seconds": 0.1}
    if protocol == "openai":
        return Settings(judge_base_url=model.openai_url, judge_model=MODEL, **(patient | more))
    return Settings(ollama_base_url=model.ollama_url, ollama_model=PROXIED, **(patient | more))


@pytest.mark.parametrize("protocol", ["openai", "ollama"])
async def test_a_verdict_holds_the_form_and_is_counted(model: LocalModel, protocol: str) -> None:
    async with judging(_settings(model, protocol)) as judge:
        (status,) = await judge.judge.probe()
        assert status.ok, status.detail
        text, findings = await answered(judge)
        assert set(scores_of(findings)) == CLASS
        assert findings.usage is not None
        assert findings.usage.input_tokens > 100
        assert 5 < findings.usage.output_tokens < 300
        again = await judge.detector.detect(subject(text), CLASS)
        assert again.usage is not None
        assert again.usage.cached


@pytest.mark.parametrize("protocol", ["openai", "ollama"])
async def test_a_model_that_is_not_there_is_found_by_the_probe(model: LocalModel, protocol: str) -> None:
    field = "judge_model" if protocol == "openai" else "ollama_model"
    settings = msgspec.structs.replace(_settings(model, protocol), **{field: "absent"})
    async with judging(settings) as judge:
        (status,) = await judge.judge.probe()
        assert not status.ok
        assert "absent" in status.detail


async def answered(judge: InstalledJudge) -> tuple[str, Findings]:
    """A text that the model gets through; one this small rambles on now and then."""
    for number in range(5):
        text = f"{TEXT} Take {number}."
        try:
            return text, await judge.detector.detect(subject(text), CLASS)
        except DetectorFailed as error:
            if not any(reason in str(error) for reason in ("cut off", "did not hold the form")):
                raise
    raise AssertionError("five texts, and the model rambled on about each")


@pytest.mark.parametrize("protocol", ["openai", "ollama"])
async def test_a_deadline_ends_the_call_and_the_server_goes_on(model: LocalModel, protocol: str) -> None:
    async with judging(_settings(model, protocol, judge_call_timeout_ms=150.0)) as judge:
        started = time.perf_counter()
        with pytest.raises(DetectorFailed, match="no answer within"):
            await judge.detector.detect(subject("A text of which no part was seen before."), CLASS)
        assert time.perf_counter() - started < 2.5
    async with judging(_settings(model, protocol)) as judge:
        assert scores_of((await answered(judge))[1])


@pytest.mark.parametrize("protocol", ["openai", "ollama"])
async def test_a_cancelled_call_frees_the_model(model: LocalModel, protocol: str) -> None:
    async with judging(_settings(model, protocol, judge_concurrency=4)) as judge:
        calls = [
            asyncio.create_task(judge.detector.detect(subject(f"Text {n}, soon forgotten."), CLASS))
            for n in range(4)
        ]
        await asyncio.sleep(0.3)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        # The model has two slots: with four calls left in them this would take several answers' time.
        assert scores_of((await answered(judge))[1])


def test_the_death_of_the_model_behind_the_proxy_is_a_failure_in_time() -> None:
    async def run(model: LocalModel) -> None:
        async with judging(_settings(model, "ollama", judge_call_timeout_ms=20_000.0)) as judge:
            call = asyncio.create_task(judge.detector.detect(subject(TEXT), CLASS))
            await asyncio.sleep(0.4)
            model.processes[0].kill()
            with pytest.raises(DetectorFailed, match="ollama: "):
                await call
            with pytest.raises(DetectorFailed, match="ollama: "):
                await judge.detector.detect(subject("After it."), CLASS)

    with local_model() as started:
        asyncio.run(run(started))
