"""Canaries in the running service: they tell a sound tier from a broken one, and leave no trace in the record."""

import asyncio
import re
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from support.app import client_for
from support.judge_server import JudgeServer, Seen, verdicts

import llmobs.canary
from llmobs.app import build_pipeline
from llmobs.canary import Canaries, Key, Sample, builtin_canaries
from llmobs.detect.artefacts import shipped
from llmobs.detect.detector import DetectorFailed
from llmobs.detect.learned import load_learned
from llmobs.detect.pipeline import Pipeline, Tier
from llmobs.detect.tier1_patterns import book
from llmobs.detect.tier1_patterns.book import load_rules, rule_book
from llmobs.detect.tier1_patterns.detector import RulesDetector
from llmobs.detect.tier3_judge.question import load_families
from llmobs.domain.detection import Findings
from llmobs.domain.policy import Policy
from llmobs.domain.risk import FailureClass
from llmobs.domain.subject import Subject
from llmobs.policies import load_policies
from llmobs.settings import Settings, Synchronous
from llmobs.store.migrate import upgrade

Serve = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
BAD = {canary.text: canary for canary in builtin_canaries() if canary.sample is Sample.BAD}


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    @asynccontextmanager
    async def serving(server: JudgeServer | None = None, **more: Any) -> AsyncIterator[httpx.AsyncClient]:
        values: dict[str, Any] = {
            "database_url": f"sqlite:///{tmp_path}/llmobs.db",
            "spool_dir": str(tmp_path / "spool"),
            "sqlite_synchronous": Synchronous.NORMAL,
            "canary_seconds": 0.05,
            "canary_judge_seconds": 0.02,
        }
        if server is not None:
            values |= {"judge_base_url": server.openai_url, "judge_model": "scripted"}
        settings = Settings(**(values | more))
        await asyncio.to_thread(upgrade, settings)
        async with client_for(settings) as client:
            yield client

    return serving


async def _samples(client: httpx.AsyncClient, name: str) -> dict[tuple[str, ...], float]:
    text = (await client.get("/metrics")).text
    found = {}
    for labels, value in re.findall(rf"^{name}\{{(.*?)\}} (\S+)$", text, re.MULTILINE):
        found[tuple(sorted(re.findall(r'"(.*?)"', labels)))] = float(value)
    return found


async def _until(condition: Callable[[], Any], seconds: float = 90) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  # it is asked over HTTP
            await asyncio.sleep(0.05)


def _policy() -> Policy:
    return load_policies()["default"]


def _failing(canaries: Canaries) -> set[Key]:
    return {Key(*key) for key, value in canaries.successes() if not value}


async def test_every_detector_tells_its_samples_for_every_class_that_it_hears() -> None:
    pipeline = build_pipeline(Settings(), rule_book())
    canaries = Canaries(pipeline, _policy)
    await canaries.round()
    sent = {Key(*key) for key, _ in canaries.successes()}
    assert _failing(canaries) == set()
    for tier in pipeline.tiers:
        for detector in tier.detectors:
            # Guards look for characters that do not show, a part of three classes that rules cover.
            if detector.name in {"guards", "exemplars"}:
                continue
            hears = detector.hears - ({FailureClass.DOMAIN_MISMATCH} if detector.name == "lexical" else set())
            assert {
                (key.failure_class, key.sample)
                for key in sent
                if key.detector == detector.name and key.tier == str(tier.number)
            } == {(str(name), sample.value) for name in hears for sample in Sample}, detector.name
    assert {key.sample for key in sent if key.detector == "pipeline"} == {"bad", "good"}


def test_the_judge_has_samples_for_every_class_of_its_prompts() -> None:
    have = {(c.failure_class, c.sample) for c in builtin_canaries() if "judge" in c.by}
    assert have == {(name, s) for family in load_families(None) for name in family.classes for s in Sample}


def test_every_rule_that_a_sample_names_hits_it() -> None:
    rules = load_rules()
    named = [canary for canary in builtin_canaries() if canary.rule]
    assert len(named) == sum("rules" in c.by and c.sample is Sample.BAD for c in builtin_canaries())
    for canary in named:
        assert canary.rule in {hit.rule.id for hit in rules.hits(canary.subject())}, canary.rule


async def test_a_class_defined_by_examples_gets_canaries_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "house.toml").write_text(
        'id = "default"\nversion = 1\n[classes.leaked_plan]\nseverity = "high"\nwarn = 0.5\n'
        'examples = ["We will open a branch in Ghent in the autumn.", '
        '"Our next shop opens in Antwerp in October.", "A new store is planned in Bruges for the fall."]\n'
    )
    policies = load_policies(tmp_path)
    canaries = Canaries(
        build_pipeline(Settings(), rule_book(), by_example=lambda: frozenset({"leaked_plan"})),
        lambda: policies["default"],
    )
    await canaries.round()
    told = dict(canaries.successes())
    assert told[Key("2", "exemplars", "leaked_plan", "bad")] == 1
    assert told[Key("2", "exemplars", "leaked_plan", "good")] == 1


async def test_an_excluded_rule_takes_its_sample_along() -> None:
    excluded = ("bias.*",)
    canaries = Canaries(
        build_pipeline(Settings(encoder=False), rule_book(excluded=excluded)),
        _policy,
        excluded_rules=excluded,
    )
    await canaries.round()
    assert _failing(canaries) == set()
    assert Key("1", "rules", "bias", "bad") not in dict(canaries.successes())


async def test_rules_that_are_gone_fail_their_canaries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book, "BUILTIN", tmp_path)
    monkeypatch.setattr(book, "_builtin_rules", book._builtin_rules.__wrapped__)
    monkeypatch.setattr(book, "_builtin_packs", book._builtin_packs.__wrapped__)
    rules = rule_book()
    assert rules.current.rules == ()
    canaries = Canaries(build_pipeline(Settings(encoder=False), rules), _policy)
    await canaries.round()
    dumb = {key for key in dict(canaries.successes()) if key.detector == "rules"}
    assert len(dumb) == 22
    assert _failing(canaries) == dumb | {Key("all", "pipeline", "prompt_injection", "bad")}


class _Blind:
    """A tier that has gone blind in one of three ways."""

    name = "encoder"
    hears = frozenset({"toxicity"})

    def __init__(self, way: str) -> None:
        self._way = way

    async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
        match self._way:
            case "silent":
                return Findings()
            case "failing":
                raise DetectorFailed("the graph is gone")
            case _:
                raise ZeroDivisionError


@pytest.mark.parametrize("way", ["silent", "failing", "broken"])
async def test_a_blind_detector_fails_its_canaries_and_harms_no_other(way: str) -> None:
    tiers = (
        Tier(number=1, name="rules", detectors=(RulesDetector(rule_book()),)),
        Tier(number=2, name="encoder", detectors=(_Blind(way),), deadline_s=1.0),
    )
    canaries = Canaries(Pipeline(tiers), _policy)
    await canaries.round()
    failing = _failing(canaries)
    wanted = {Key("2", "encoder", "toxicity", "bad")}
    if way != "silent":
        wanted.add(Key("2", "encoder", "toxicity", "good"))
    assert {key for key in failing if key.tier == "2"} == wanted
    assert not any(key.tier == "1" for key in failing)


async def test_one_slow_moment_is_no_blindness() -> None:
    class Once(_Blind):
        calls = 0

        async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
            self.calls += 1
            if self.calls == 1:
                raise DetectorFailed("no answer in time")
            from llmobs.domain.detection import Detection

            bad = subject.text in BAD
            return Findings(detections=(Detection(failure_class="toxicity", score=0.9 if bad else 0.1),))

    canaries = Canaries(
        Pipeline((Tier(number=2, name="encoder", detectors=(Once("once"),), deadline_s=1.0),)), _policy
    )
    await canaries.round()
    assert not any(key.tier == "2" for key in _failing(canaries))


async def test_they_leave_no_row_and_no_traffic(serve: Serve) -> None:
    async with serve(canary_required=True) as client:

        async def ready() -> bool:
            return (await client.get("/health/ready")).status_code == 200

        await _until(ready)
        await client.post("/v1/detect", json={"llm_response": "The cart stands in the rain."})
        success = await _samples(client, "llmobs_canary_success")
        assert len(success) > 40
        assert set(success.values()) == {1.0}
        assert (await client.get("/metrics/stats")).json()["total_detections"] == 1
        assert (await client.get("/logs/recent")).json()["total"] == 1
        assert sum((await _samples(client, "detection_tier_total")).values()) == 1
        assert sum((await _samples(client, "detector_reports_total")).values()) == len(
            (await client.get("/logs/recent")).json()["logs"][0]["coverage"]
        )
        ages = await _samples(client, "llmobs_canary_age_seconds")
        assert set(ages) == {("1",), ("2",)}
        assert all(0 <= age < 20 for age in ages.values())
        assert await _samples(client, "detection_tier_ready") == {("1",): 1.0, ("2",): 1.0}


async def test_readiness_waits_for_the_first_round_where_canaries_are_required(serve: Serve) -> None:
    async with serve(canary_required=True, encoder=False, canary_seconds=0.0) as client:
        assert (await client.get("/health/ready")).status_code == 200
    async with serve(
        canary_required=True, encoder=False, rules_exclude="prompt-injection.*,security*"
    ) as client:

        async def told() -> bool:
            checks = (await client.get("/health/ready")).json()["checks"]
            return not next(c for c in checks if c["name"] == "canaries")["detail"].startswith("not sent")

        await _until(told)
        assert (await client.get("/health/ready")).status_code == 200


async def test_readiness_falls_while_a_canary_fails(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llmobs.canary, "FOUND", 1.1)  # nothing is ever found
    for required, status in ((False, 200), (True, 503)):
        async with serve(canary_required=required, encoder=False) as client:

            async def failing() -> bool:
                checks = (await client.get("/health/ready")).json()["checks"]
                return " fail: " in next(c for c in checks if c["name"] == "canaries")["detail"]

            await _until(failing)
            assert (await client.get("/health/ready")).status_code == status


async def test_an_empty_rules_folder_shows_in_the_next_scrape(serve: Serve, tmp_path: Path) -> None:
    folder = tmp_path / "rules"
    folder.mkdir()
    (folder / "house.toml").write_text(
        '[pack]\nid = "house"\nfailure_class = "toxicity"\ndescription = "House words."\n'
        '[[rule]]\nid = "house.word"\nnote = "a word"\npattern = "redstart"\nscore = 0.9\n'
        'match = ["a ⟦redstart⟧"]\nskip = ["a finch"]\n'
    )
    async with serve(rules_dir=str(folder), encoder=False, reload_seconds=0.05) as client:
        assert await _samples(client, "detection_tier_ready") == {("1",): 1.0}
        assert (await _samples(client, "rules_loaded"))["own",] == 1
        (folder / "house.toml").unlink()
        assert await _samples(client, "detection_tier_ready") == {("1",): 0.0}

        async def unloaded() -> bool:
            return (await _samples(client, "rules_loaded"))["own",] == 0

        await _until(unloaded)
        assert (await _samples(client, "rules_loaded"))["builtin",] > 100


async def test_a_removed_model_file_shows_in_the_next_scrape(serve: Serve, tmp_path: Path) -> None:
    heads = tmp_path / "heads"
    shutil.copytree(shipped("base").parent, heads)
    try:
        async with serve(heads_dir=str(heads)) as client:
            assert (await _samples(client, "detection_tier_ready"))["2",] == 1
            (heads / "singles/encoder.onnx").unlink()
            assert (await _samples(client, "detection_tier_ready"))["2",] == 0
            assert (await _samples(client, "detection_tier_ready"))["1",] == 1
    finally:
        load_learned.cache_clear()


async def test_the_judge_is_asked_in_turn_past_its_cache_and_recovers_at_once(serve: Serve) -> None:
    def knowing(seen: Seen) -> Any:
        bad = any(
            canary.text in " ".join(seen.material.split()) for canary in BAD.values() if "judge" in canary.by
        )
        return verdicts(seen, 0.95 if bad else 0.05)

    async with (
        JudgeServer(knowing) as server,
        serve(server, encoder=False, judge_breaker_seconds=0.1) as client,
    ):
        judged = sum("judge" in canary.by for canary in builtin_canaries())

        async def whole_turn() -> bool:
            return len(server.asked) > judged + 5

        await _until(whole_turn)

        async def judge() -> dict[tuple[str, ...], float]:
            found = await _samples(client, "llmobs_canary_success")
            return {labels: value for labels, value in found.items() if "judge" in labels}

        assert len(await judge()) == judged
        assert set((await judge()).values()) == {1.0}
        assert sum((await _samples(client, "judge_lookups_total")).values()) == 0
        await server.stop()

        async def some_fail() -> bool:
            return list((await judge()).values()).count(0.0) > 3

        await _until(some_fail)
        await server.start()

        async def all_well() -> bool:
            return set((await judge()).values()) == {1.0}

        await _until(all_well)
