"""The judge's parts, one at a time."""

import asyncio
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmobs.detect.tier3_judge.breaker import Breaker, State
from llmobs.detect.tier3_judge.budget import Budget, BudgetSpent, Limits
from llmobs.detect.tier3_judge.cache import DecisionCache, Judgement, Opinion
from llmobs.detect.tier3_judge.calibration import Calibration, Curve, fitted, load_calibration
from llmobs.detect.tier3_judge.check import (
    Answered,
    Bar,
    Case,
    builtin_cases,
    calibrated,
    figures,
    read_cases,
)
from llmobs.detect.tier3_judge.excerpt import NEIGHBOURS, Flat, Window, windows
from llmobs.detect.tier3_judge.flight import Flights, Landed
from llmobs.detect.tier3_judge.observer import NoObserver
from llmobs.detect.tier3_judge.openai_wire import retry_after
from llmobs.detect.tier3_judge.question import Material, compose, load_families, read_family
from llmobs.detect.tier3_judge.reply import (
    ClassVerdict,
    ReplyInvalid,
    locate,
    read_reply,
    schema_for,
    told_reason,
)
from llmobs.detect.tier3_judge.setup import installed_judge, providers, read_prices
from llmobs.domain.subject import Kind, Span
from llmobs.errors import SettingsInvalid, StoreUnavailable
from llmobs.policies import load_policies
from llmobs.settings import Settings


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


# -- the breaker


def test_a_breaker_opens_after_failures_in_a_row_only() -> None:
    clock = Clock()
    breaker = Breaker(failures=3, rest_s=10, clock=clock)
    for _ in range(5):
        breaker.failed()
        breaker.failed()
        breaker.succeeded()
    assert breaker.state is State.CLOSED
    for _ in range(3):
        assert breaker.admit()
        breaker.failed()
    assert (breaker.state, breaker.admit(), breaker.free_in) == (State.OPEN, False, 10)


def test_a_half_open_breaker_lets_one_call_through_and_rests_longer_each_time() -> None:
    clock, moves = Clock(), []
    breaker = Breaker(failures=1, rest_s=10, longest_rest_s=25, clock=clock, changed=moves.append)
    breaker.failed()
    for rest in (10, 20, 25, 25):
        assert breaker.free_in == pytest.approx(rest)
        clock.now += rest
        assert breaker.admit()
        assert not breaker.admit(), "one trial at a time"
        breaker.failed()
        assert breaker.state is State.OPEN
    clock.now += 25
    assert breaker.admit()
    breaker.dropped()
    assert breaker.admit(), "a cancelled trial teaches nothing and leaves room for the next"
    breaker.succeeded()
    assert breaker.state is State.CLOSED
    breaker.failed()
    assert breaker.free_in == pytest.approx(10)
    assert moves[:3] == [State.OPEN, State.HALF_OPEN, State.OPEN]


# -- budget


def test_a_budget_refills_evenly_and_never_holds_more_than_a_minute() -> None:
    clock = Clock()
    budget = Budget(total=Limits(calls=6), client=Limits(), clock=clock)
    for _ in range(6):
        budget.book("a", 100)
    with pytest.raises(BudgetSpent, match="total budget of calls"):
        budget.book("b", 100)
    clock.now += 10
    budget.book("b", 100)
    with pytest.raises(BudgetSpent):
        budget.book("b", 100)
    clock.now += 3600
    for _ in range(6):
        budget.book("c", 100)
    with pytest.raises(BudgetSpent):
        budget.book("c", 100)


def test_tokens_are_booked_by_estimate_and_corrected() -> None:
    budget = Budget(total=Limits(), client=Limits(tokens=1000), clock=Clock())
    budget.book("a", 900)
    with pytest.raises(BudgetSpent, match="client budget of tokens"):
        budget.book("a", 200)
    budget.correct("a", 900, 100)
    budget.book("a", 800)
    budget.book("b", 5000)  # dearer than the whole budget: passes once, on a full one
    with pytest.raises(BudgetSpent):
        budget.book("b", 1)


def test_a_refused_call_takes_from_no_budget() -> None:
    budget = Budget(total=Limits(calls=1), client=Limits(calls=5), clock=Clock())
    budget.book("a", 1)
    for _ in range(9):
        with pytest.raises(BudgetSpent, match="total"):
            budget.book("a", 1)


# -- single flight


async def test_a_bug_in_shared_work_reaches_everyone_and_no_one_else() -> None:
    async def broken() -> int:
        await asyncio.sleep(0.01)
        raise ZeroDivisionError

    async def fine() -> int:
        await asyncio.sleep(0.02)
        return 7

    async with asyncio.TaskGroup() as group:
        flights: Flights[int] = Flights(group)
        results = await asyncio.gather(
            flights.join("x", broken),
            flights.join("x", broken),
            flights.join("y", fine),
            return_exceptions=True,
        )
        assert [type(result) for result in results[:2]] == [ZeroDivisionError] * 2
        assert results[2] == (7, False)
        assert flights.under_way == 0


async def test_draining_cancels_what_does_not_end_even_before_it_began() -> None:
    async def endless() -> int:
        await asyncio.sleep(3600)
        return 0

    async with asyncio.TaskGroup() as group:
        flights: Flights[int] = Flights(group)
        waiting = asyncio.create_task(flights.join("x", endless))
        await asyncio.sleep(0)
        await flights.drain(0)
        with pytest.raises(Landed):
            await waiting


# -- what is shown


@given(st.text(alphabet=" \n\tab.é🙂", max_size=60))
def test_every_range_of_the_flat_text_leads_back_to_the_same_words(text: str) -> None:
    flat = Flat(text)
    assert flat.text == " ".join(text.split())
    for start in range(len(flat.text)):
        for end in range(start + 1, len(flat.text) + 1):
            span = flat.span(start, end)
            assert text[span.start : span.end].split() == flat.text[start:end].split()
            assert 0 <= span.start < span.end <= len(text)


@given(
    st.text(alphabet="ab \n", min_size=10, max_size=400),
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 30)), max_size=5),
    st.integers(30, 300),
)
def test_windows_lie_in_the_text_in_order_and_within_the_limit(
    text: str, places: list[tuple[int, int]], most: int
) -> None:
    flat = Flat(text)
    spans = [Span(min(s, len(text)), min(s + n, len(text))) for s, n in places]
    found = windows(flat, spans, most)
    assert sum(w.end - w.start for w in found) <= max(most, 0) or len(flat.text) <= most
    assert list(found) == sorted(found, key=lambda w: w.start)
    assert all(0 <= w.start <= w.end <= len(flat.text) for w in found)
    assert all(a.end <= b.start for a, b in pairwise(found))


def test_the_suspicious_places_of_a_long_text_are_shown_with_their_neighbours() -> None:
    text = " ".join(f"word{n}" for n in range(5000))
    places = [text.index("word900 "), text.index("word4000 ")]
    found = windows(Flat(text), [Span(at, at + 7) for at in places], 4000)
    assert len(found) == 2
    for window, at in zip(found, places, strict=True):
        assert (window.start, window.end) == (at - NEIGHBOURS, at + 7 + NEIGHBOURS)
    assert len(windows(Flat(text), [], 3000)) == 3
    whole = windows(Flat(text), [Span(0, len(text))], 3000)
    assert len(whole) == 3, "evidence over the whole text points nowhere"
    assert windows(Flat("short text"), [], 3000) == (Window(0, 10),)


# -- replies

GOOD = '{"toxicity": {"reason": "r", "quote": "", "probability": 0.5}}'


def test_a_good_reply_is_read_and_a_fenced_one_too() -> None:
    for reply in (GOOD, f" {GOOD}\n", f"```json\n{GOOD}\n```"):
        assert read_reply(reply, ["toxicity"])["toxicity"].probability == 0.5


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "safe",
        "[]",
        "null",
        GOOD + GOOD,
        f"Sure! {GOOD}",
        GOOD.replace("0.5", "1.5"),
        GOOD.replace("0.5", '"0.5"'),
        GOOD.replace("0.5", "NaN"),
        GOOD.replace('"r"', '""'),
        GOOD.replace('"r"', f'"{"x" * 400}"'),
        GOOD.replace('"quote"', '"citation"'),
        GOOD.replace('"probability": 0.5', '"probability": 0.5, "safe": true'),
        GOOD.replace("toxicity", "bias"),
        GOOD[:-1] + ', "bias": {"reason": "r", "quote": "", "probability": 0.5}}',
        GOOD[:-3],
        "{" * 2000,
    ],
)
def test_anything_else_is_refused_without_quoting_it(reply: str) -> None:
    with pytest.raises(ReplyInvalid) as refused:
        read_reply(reply, ["toxicity"])
    assert "citation" not in str(refused.value)
    assert "safe" not in str(refused.value)


def test_the_schema_holds_each_class_exactly_once() -> None:
    schema = schema_for(["a", "b"])
    assert schema["required"] == ["a", "b"] == list(schema["properties"])
    assert schema["additionalProperties"] is False
    assert schema["properties"]["a"]["required"] == ["reason", "quote", "probability"]


@pytest.mark.parametrize(
    ("quote", "found"),
    [
        ("brown fox", (4, 13)),
        ("  brown\nfox ", (4, 13)),
        ("“Brown Fox”", (4, 13)),
        ("red fox", None),
        ("", None),
        ("  ''", None),
        ("jumps over", None),
    ],
)
def test_quotations_are_found_loosely_but_only_where_shown(quote: str, found: tuple[int, int] | None) -> None:
    flat = Flat("The brown\n fox jumps over it")
    assert locate(quote, flat, [Window(0, 19)]) == found


def test_a_reason_that_repeats_the_text_is_not_kept() -> None:
    flat = Flat("my card is 4111 1111 1111 1111 and my name is Ada Example")
    honest = ClassVerdict(reason="It\x00 holds\n a card number.", quote="", probability=0.5)
    assert told_reason(honest, flat) == "It holds a card number."
    for at in range(0, 30, 3):
        copied = ClassVerdict(
            reason="x" * (at % 7) + "see: " + flat.text[at : at + 26], quote="", probability=1
        )
        assert "4111" not in told_reason(copied, flat) or at > 24
        assert told_reason(copied, flat) == "the judge's reason repeats the text, so it is not kept"


# -- questions


def test_the_built_in_prompts_hear_what_language_can_tell() -> None:
    families = load_families()
    heard = {name for family in families for name in family.classes}
    policy = load_policies()["default"]
    asked = {name for name, limits in policy.classes.items() if limits.judge.value != "never"}
    assert heard == asked
    for family in families:
        for name, judged in family.classes.items():
            weighs = policy.classes[name].judge.value == "weigh"
            assert bool(judged.control) == weighs, "a control for each class that may be lowered"


def test_what_the_system_message_says_does_not_depend_on_the_text() -> None:
    (family, *_) = load_families()
    names = sorted(family.classes)
    texts = ["a text", "{{classes}} {{guidance}} {{names}}", "x" * 900]
    asks = [compose(family, names, Kind.PROMPT, [Material(title="text", text=text)]) for text in texts]
    assert len({ask.system for ask in asks}) == 1
    assert "{{" not in asks[0].system
    assert "{{names}}" in asks[1].user
    assert len({ask.user.split(".")[0] for ask in asks}) == 3


def test_an_operator_adds_classes_by_a_prompt_file(tmp_path: Path) -> None:
    (tmp_path / "house.md").write_text(
        '+++\nid = "house"\nversion = 3\n[classes.spoilers]\nmeans = "gives an ending away"\n+++\nBe kind.\n'
    )
    families = load_families(tmp_path)
    assert next(f for f in families if f.id == "house").label == "house@3"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("no front", "does not begin"),
        ('+++\nid = "x"\n+++\n', "version"),
        ('+++\nid = "x"\nversion = 1\nshows = ["secrets"]\n[classes.a_b]\nmeans = "m"\n+++\n', "secrets"),
        ('+++\nid = "x"\nversion = 1\n[classes.toxicity]\nmeans = "m"\n+++\n', "stands in"),
        ('+++\nid = "x"\nversion = 1\n[classes.a_b]\nmeant = "m"\n+++\n', "means|meant"),
    ],
)
def test_a_bad_prompt_file_is_refused_by_name(tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "bad.md").write_text(text)
    with pytest.raises(SettingsInvalid, match=why):
        load_families(tmp_path)


def test_the_digest_follows_file_and_frame(tmp_path: Path) -> None:
    path = tmp_path / "x.md"
    path.write_text('+++\nid = "x"\nversion = 1\n[classes.a_b]\nmeans = "m"\n+++\nGuidance.\n')
    first = read_family(path, "frame")
    assert read_family(path, "another frame").digest != first.digest
    path.write_text(path.read_text() + "More.")
    assert read_family(path, "frame").digest != first.digest


# -- cache

JUDGED = Judgement(model="m", opinions={"toxicity": Opinion(said=(0.9,), reason="r", start=1, end=3)})


async def test_the_memory_forgets_the_oldest_and_the_expired() -> None:
    clock = Clock()
    cache = DecisionCache(size=2, seconds=60, clock=clock)
    for key in ("a", "b"):
        await cache.keep(key, JUDGED)
    assert cache.in_memory(["a"]) == JUDGED
    await cache.keep("c", JUDGED)
    assert cache.in_memory(["b"]) is None
    assert cache.in_memory(["b", "a"]) == JUDGED
    clock.now += 61
    assert cache.in_memory(["a", "c"]) is None


async def test_what_was_first_asked_for_a_person_is_forgotten_with_them() -> None:
    kept: dict[str, tuple[bytes, str | None]] = {}

    class Store:
        async def judgement(self, keys: Any) -> Any:
            return next(((key, *kept[key]) for key in keys if key in kept), None)

        async def keep_judgement(
            self, key: str, value: bytes, expires_at: Any, person: str | None = None
        ) -> None:
            kept[key] = value, person

    first, other = (DecisionCache(size=9, seconds=60, store=Store()) for _ in range(2))
    for key, person in (("a", "ann"), ("b", "bob"), ("c", None)):
        await first.keep(key, JUDGED, person)
        assert await other.in_store([key]) == JUDGED  # another process, which has it from the database
    for cache in (first, other):
        cache.forget({"ann"})
        assert [cache.in_memory([key]) for key in "abc"] == [None, JUDGED, JUDGED]


async def test_a_store_that_fails_or_holds_nonsense_is_a_miss() -> None:
    class Store:
        def __init__(self, value: Any) -> None:
            self.value = value

        async def judgement(self, keys: Any) -> Any:
            if self.value is None:
                raise StoreUnavailable("away")
            return keys[0], self.value, None

        async def keep_judgement(
            self, key: str, value: bytes, expires_at: Any, person: str | None = None
        ) -> None:
            raise StoreUnavailable("away")

    for value in (None, b"{", b'{"model": 3}'):
        cache = DecisionCache(size=2, seconds=60, store=Store(value))
        assert await cache.in_store(["a"]) is None
        await cache.keep("a", JUDGED)
        assert cache.in_memory(["a"]) == JUDGED


# -- calibration


def test_a_curve_brings_an_overconfident_judge_down_to_what_is_measured() -> None:
    generator = random.Random(7)
    pairs = []
    for _ in range(4000):
        truth = generator.random() < 0.5
        right = generator.random() < 0.8  # it says 0.97 or 0.03 and is right in four cases of five
        pairs.append((0.97 if truth == right else 0.03, int(truth)))
    curve = fitted(pairs)
    assert curve is not None
    calibration = Calibration(curves={"toxicity": curve})
    assert calibration.score("toxicity", [0.97]) == pytest.approx(0.8, abs=0.03)
    assert calibration.score("toxicity", [0.03]) == pytest.approx(0.2, abs=0.03)
    assert calibration.score("bias", [1.0]) == 0.98


def test_too_few_rows_make_no_curve_and_a_backward_judge_is_not_read_backwards() -> None:
    assert fitted([(0.9, 1)] * 50 + [(0.1, 0)] * 5) is None
    backward = fitted([(0.1, 1)] * 50 + [(0.9, 0)] * 50)
    assert backward == Curve(0.0, 0.0)


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=40, max_size=80))
def test_curves_rise(pairs: list[tuple[float, int]]) -> None:
    curve = fitted(pairs)
    if curve is not None:
        calibration = Calibration(curves={"x": curve})
        scores = [calibration.score("x", [said / 10]) for said in range(11)]
        assert scores == sorted(scores)
        assert all(0 <= score <= 1 for score in scores)


def test_a_calibration_file_is_read_back_or_refused(tmp_path: Path) -> None:
    case = Case(failure_class="toxicity", expected=1, text="x")
    rows = [
        Answered(
            case=case if n % 2 else Case(failure_class="toxicity", expected=0, text="y"),
            score=0.9 if n % 2 else 0.2,
            seconds=0.1,
        )
        for n in range(60)
    ]
    import msgspec

    path = tmp_path / "curves.json"
    path.write_bytes(msgspec.json.encode(calibrated(rows, model="m", prompts="p")))
    assert set(load_calibration(path).curves) == {"toxicity"}
    path.write_text("{")
    with pytest.raises(SettingsInvalid, match="LLMOBS_JUDGE_CALIBRATION"):
        load_calibration(path)


# -- the check


def test_the_fixed_set_has_both_labels_for_every_class() -> None:
    cases = builtin_cases()
    assert len(cases) == 60
    heard = {name for family in load_families() for name in family.classes}
    assert {(case.failure_class, case.expected) for case in cases} == {(n, e) for n in heard for e in (0, 1)}
    assert sum(case.to_judge for case in cases) >= 6
    assert len({case.text for case in cases}) >= 59


def test_the_bar_is_held() -> None:
    case = Case(failure_class="toxicity", expected=1, text="x", to_judge=True)
    good = [Answered(case=case, score=0.9, seconds=1.0) for _ in range(50)]
    assert figures(good).shortcomings(Bar()) == []
    bad = [Answered(case=case, score=0.1, seconds=9.0) for _ in range(45)]
    bad += [Answered(case=case, score=None, seconds=9.0, failure="gone") for _ in range(5)]
    told = figures(bad)
    assert (told.agreed, told.valid, told.failures) == (0, 0.9, {"gone": 5})
    assert len(told.shortcomings(Bar())) == 4


def test_a_file_of_cases_with_a_mistake_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cases.toml"
    path.write_text('[[case]]\nclass = "toxicity"\nexpected = 2\ntext = "x"\n')
    with pytest.raises(ValueError, match=r"cases\.toml.*expected"):
        read_cases(path)


# -- settings


def test_the_order_leaves_out_what_is_not_configured() -> None:
    every = Settings(
        groq_api_key="k", judge_base_url="http://x/v1", judge_model="m", ollama_base_url="http://y"
    )
    assert [provider.name for provider in providers(every)] == ["groq", "openai", "ollama"]
    assert [p.name for p in providers(Settings(ollama_base_url="http://y"))] == ["ollama"]
    assert installed_judge(Settings(), observer=NoObserver()) is None


@pytest.mark.parametrize(
    "more",
    [
        {"judge_base_url": "http://x/v1"},
        {"judge_order": "groq,openrouter"},
        {"judge_order": "groq,groq"},
        {"judge_prices": "m=1"},
        {"judge_prices": "m=-1/2"},
        {"judge_prices": "m=nan/2"},
        {"judge_prompts_dir": "/nowhere"},
        {"judge_calibration": "/nowhere"},
    ],
)
def test_a_bad_setting_is_refused(more: dict[str, str]) -> None:
    with pytest.raises(SettingsInvalid, match="JUDGE"):
        installed_judge(Settings(**more), observer=NoObserver())  # type: ignore[arg-type]


def test_prices_are_read() -> None:
    prices = read_prices("llama3.1:8b=0/0, openai/gpt-oss-20b=0.1/0.5")
    assert prices["openai/gpt-oss-20b"].output == 0.5
    assert read_prices("") == {}


@pytest.mark.parametrize(
    ("value", "seconds"), [("3", 3.0), ("0.5", 0.5), ("soon", None), ("", None), ("²", None)]
)
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    import httpx

    assert retry_after(httpx.Headers({"retry-after": value.encode()})) == seconds


def test_retry_after_as_a_date() -> None:
    import email.utils
    import time

    import httpx

    date = email.utils.formatdate(time.time() + 20, usegmt=True)
    found = retry_after(httpx.Headers({"retry-after": date}))
    assert found is not None
    assert 18 < found <= 20
