"""Labelled texts under two policies: what is asked twice, what is left out, and when it ends."""

import asyncio

import pytest

from llmobs import labelled
from llmobs.detect.pipeline import Pipeline, Tier
from llmobs.domain.detection import Detection, Findings
from llmobs.domain.policy import Policy
from llmobs.domain.subject import Kind, Subject
from llmobs.errors import Overloaded
from llmobs.evaluation import Row
from llmobs.labelled import LabelledTrials
from llmobs.policies import parsed_policy, sound_policy

HOUSE = """id = "house"
version = {version}
[classes.prompt_injection]
severity = "high"
{limits}
"""
IN_FORCE = HOUSE.format(version=1, limits="warn = 0.5\nblock = 0.99999")
STRICTER = HOUSE.format(version=2, limits="warn = 0.5\nblock = 0.6")


class Slow:
    """A detector that counts its looks, and lets them go on when it is told."""

    name = "slow"
    hears = frozenset({"prompt_injection", "toxicity"})

    def __init__(self) -> None:
        self.looks: list[tuple[str, frozenset[str]]] = []
        self.may_go = asyncio.Event()
        self.may_go.set()

    async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
        self.looks.append((subject.text, asked))
        await self.may_go.wait()
        return Findings(detections=(Detection(failure_class="prompt_injection", score=0.7),))


class NoTurns:
    async def item_turn(self) -> None:
        await asyncio.sleep(0)


def policy(toml: str) -> Policy:
    return sound_policy(parsed_policy(toml, "test"), "test")


def some_rows(count: int) -> list[Row]:
    return [
        Row(id=str(n), task="benign", label=0, role=Kind.RESPONSE, text=f"text {n}") for n in range(count)
    ]


@pytest.fixture
def slow() -> tuple[Slow, LabelledTrials]:
    detector = Slow()
    pipeline = Pipeline([Tier(number=1, name="slow", detectors=(detector,))])
    return detector, LabelledTrials(lambda _: pipeline, NoTurns(), frozenset({"prompt_injection"}))


async def test_a_text_is_examined_once_unless_the_policies_ask_otherwise(
    slow: tuple[Slow, LabelledTrials],
) -> None:
    detector, trials = slow
    in_force = policy(IN_FORCE)
    tried = await trials.run(some_rows(3), in_force, policy(STRICTER))
    assert (tried.changed, len(detector.looks)) == (3, 3)
    assert tried.unjudged == 3  # 0.7 is in doubt where only 0.99999 blocks
    detector.looks.clear()
    more = policy(STRICTER + '[classes.toxicity]\nseverity = "low"\nwarn = 0.5\n')
    await trials.run(some_rows(1), in_force, more)
    assert [sorted(asked) for _, asked in detector.looks] == [
        ["prompt_injection"],
        ["prompt_injection", "toxicity"],
    ]


async def test_one_file_at_a_time_and_not_beyond_its_time(
    slow: tuple[Slow, LabelledTrials], monkeypatch: pytest.MonkeyPatch
) -> None:
    detector, trials = slow
    monkeypatch.setattr(labelled, "SECONDS", 0.05)
    detector.may_go.clear()
    first = asyncio.create_task(trials.run(some_rows(20), policy(IN_FORCE), policy(STRICTER)))
    while len(detector.looks) < labelled.LANES:  # noqa: ASYNC110  # the detector has no event for it
        await asyncio.sleep(0.001)
    with pytest.raises(Overloaded):
        await trials.run(some_rows(1), policy(IN_FORCE), policy(STRICTER))
    await asyncio.sleep(0.06)
    detector.may_go.set()
    tried = await first
    assert (tried.rows, tried.decided, tried.late) == (20, labelled.LANES, 20 - labelled.LANES)
    assert {one.id for one in tried.changes} == {"0", "16", "1", "17"}  # spread over the file
    assert (await trials.run(some_rows(1), policy(IN_FORCE), policy(STRICTER))).decided == 1


async def test_it_ends_when_whoever_asked_has_gone_away(slow: tuple[Slow, LabelledTrials]) -> None:
    detector, trials = slow
    detector.may_go.clear()
    gone = asyncio.Event()

    async def departed() -> None:
        await gone.wait()

    work = asyncio.create_task(trials.run(some_rows(50), policy(IN_FORCE), policy(STRICTER), departed))
    while not detector.looks:  # noqa: ASYNC110  # the detector has no event for it
        await asyncio.sleep(0.001)
    gone.set()
    await asyncio.sleep(0)
    detector.may_go.set()
    assert (await work).decided <= labelled.LANES


async def test_rows_of_which_a_detector_failed_are_left_out() -> None:
    class Broken(Slow):
        async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
            self.looks.append((subject.text, asked))
            await asyncio.sleep(30)
            raise AssertionError

    detector = Broken()
    pipeline = Pipeline([Tier(number=2, name="slow", detectors=(detector,), deadline_s=0.01)])
    trials = LabelledTrials(lambda _: pipeline, NoTurns())
    tried = await trials.run(some_rows(2), policy(IN_FORCE), policy(STRICTER))
    assert (tried.rows, tried.decided, tried.degraded, tried.tasks) == (2, 0, 2, ())
    assert len(detector.looks) == 2  # what ran out of time for one policy is not tried again for the other
