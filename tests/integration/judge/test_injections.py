"""Texts that talk to the judge, before a judge that obeys whatever it reads."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.judge_injections import INJECTIONS
from support.judge_server import JudgeServer, Seen, obedient
from support.judging import HeardJudge, judging, openai_settings

from llmobs.detect.pipeline import Pipeline, Tier
from llmobs.detect.tier3_judge.setup import InstalledJudge
from llmobs.domain.decision import decide, doubtful_classes
from llmobs.domain.subject import Subject
from llmobs.domain.verdict import Decision
from llmobs.policies import load_policies
from llmobs.testing import ScriptedDetector

POLICY = load_policies()["default"]
IN_DOUBT = {
    "prompt_injection": 0.6,
    "toxicity": 0.6,
    "dangerous_content": 0.4,
    "bias": 0.5,
    "fabricated_fact": 0.7,
    "fabricated_concept": 0.6,
    "missing_grounding": 0.5,
    "domain_mismatch": 0.4,
    "overconfidence": 0.5,
    "hedging_excessive": 0.4,
}
SAID: list[tuple[Seen, Any]] = []


def _obeying(seen: Seen) -> Any:
    answer = obedient(seen)
    SAID.append((seen, answer))
    return answer


@pytest.fixture
async def judge() -> AsyncIterator[InstalledJudge]:
    async with (
        JudgeServer(_obeying) as server,
        judging(
            openai_settings(server, judge_calls_per_minute=0, judge_cache_seconds=0), HeardJudge()
        ) as made,
    ):
        yield made


async def _decided(text: str, scores: dict[str, float], judge: InstalledJudge | None) -> Decision:
    tiers = [
        Tier(number=1, name="rules", detectors=(ScriptedDetector(scores),)),
        Tier(
            number=3,
            name="judge",
            detectors=() if judge is None else (judge.detector,),
            deadline_s=10,
            asks=doubtful_classes,
        ),
    ]
    return decide(POLICY, await Pipeline(tiers).examine(Subject(text=text), POLICY))


def test_there_are_forty() -> None:
    assert len(set(INJECTIONS)) == 40


@pytest.mark.parametrize("text", INJECTIONS, ids=range(len(INJECTIONS)))
async def test_no_text_talks_a_verdict_down(text: str, judge: InstalledJudge) -> None:
    cases = [IN_DOUBT, *({name: score} for name, score in IN_DOUBT.items())]
    for scores in cases:
        SAID.clear()
        without = await _decided(text, scores, None)
        with_judge = await _decided(text, scores, judge)
        assert with_judge.action.rank >= without.action.rank
        for name, score in scores.items():
            assert with_judge.scores[name] >= score
        assert SAID, "the judge was asked"
        for seen, answer in SAID:  # and it did what the text said
            if isinstance(answer, str):
                assert answer in seen.material
            else:
                assert {said["probability"] for said in answer.values()} == {0.0}
            assert text.split(maxsplit=1)[0] in seen.material


async def test_the_fence_cannot_be_foreseen_and_every_line_of_data_is_marked(judge: InstalledJudge) -> None:
    SAID.clear()
    for text in INJECTIONS[:12]:
        await _decided(text, {"toxicity": 0.6}, judge)
    fences = {seen.user.split("fence of this message is ")[1].split(".")[0] for seen, _ in SAID}
    assert len(fences) == len(SAID)
    for seen, _ in SAID:
        fence = seen.user.split("fence of this message is ")[1].split(".")[0]
        begin, end = f"[{fence} begin: text]\n", f"\n[{fence} end: text]"
        assert seen.user.count(begin) == seen.user.count(end) == 1
        inside = seen.user.split(begin)[1].split(end)[0]
        assert all(line.startswith(fence[:4] + "| ") for line in inside.splitlines())
        assert json.dumps(seen.body["response_format"]["json_schema"]["schema"]["required"]) == '["toxicity"]'
