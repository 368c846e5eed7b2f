"""The door and the queue: who is refused, and in which order texts are examined."""

import asyncio
from collections import Counter
from time import perf_counter

import msgspec
import pytest

from llmobs.http import admission as module
from llmobs.http.admission import Admission
from llmobs.settings import Settings


class Counts:
    def __init__(self) -> None:
        self.seen: Counter[tuple[str, ...]] = Counter()

    def count(self, name: str, attributes: tuple[str, ...], amount: float = 1) -> None:
        self.seen[name, *attributes] += int(amount)


def _admission(counts: Counts | None = None, *, late: bool = False, **changes: float) -> Admission:
    settings = msgspec.structs.replace(Settings(), **changes)
    return Admission(settings, counts or Counts(), lambda: late)


async def test_a_text_alone_has_its_turn_at_once() -> None:
    admission = _admission()
    admission.enter()
    turn = admission.turn()
    with pytest.raises(StopIteration):  # it did not wait once
        turn.send(None)
    assert admission.refusal() is None
    admission.leave()
    assert admission.inside == 0


async def test_too_many_inside_are_refused_and_counted() -> None:
    counts = Counts()
    admission = _admission(counts, max_in_flight=2)
    admission.enter()
    assert admission.refusal() is None
    admission.enter()
    assert admission.refusal() == "in_flight"
    admission.leave()
    assert admission.refusal() is None
    assert counts.seen == {("requests_shed", "in_flight"): 1}


async def test_who_comes_while_the_first_has_waited_too_long_is_refused() -> None:
    admission = _admission(queue_ms=20.0)
    admission._most = 1
    order: list[int] = []

    async def one(number: int) -> None:
        await admission.turn()
        order.append(number)
        end = perf_counter() + 0.01  # what tier 1 does: it holds the loop
        while perf_counter() < end:
            pass

    tasks = [asyncio.create_task(one(number)) for number in range(12)]
    refused = []
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        refused.append(admission.refusal())
    assert order == list(range(12))
    assert refused[0] is None
    assert "queue" in refused
    assert admission.refusal() is None  # and when they are through, everybody is welcome again


async def test_a_late_journal_closes_the_door_for_all() -> None:
    admission = _admission(late=True)
    assert admission.refusal() == "journal"
    assert admission.batch_refusal(3) == "journal"


async def test_items_of_batches_are_bounded() -> None:
    admission = _admission()
    with admission.batch(module.MOST_ITEMS - 50):
        assert admission.batch_refusal(51) == "batch"
        assert admission.batch_refusal(50) is None
        assert admission.waiting == module.MOST_ITEMS - 50
    assert admission.batch_refusal(100) is None


class Clock:
    """Time that passes when somebody works: what takes how long does not hang on the machine."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "perf_counter", made)
    return made


async def test_single_texts_go_before_items_of_a_batch_which_still_get_on(clock: Clock) -> None:
    admission = _admission()
    waits: list[float] = []
    items = 0

    async def item() -> None:
        nonlocal items
        await admission.item_turn()
        clock.now += 0.001
        items += 1

    admission.enter()  # somebody with a single text is always inside
    admission.enter()
    batch = [asyncio.create_task(item()) for _ in range(100)]
    began = clock.now
    for _ in range(100):
        came = clock.now
        await admission.turn()
        waits.append(clock.now - came)
        clock.now += 0.001
        for _ in range(10):  # its commit
            clock.now += 0.0002
            await asyncio.sleep(0)
    lasted, while_singles_ask = clock.now - began, items
    admission.leave()
    admission.leave()
    while not all(task.done() for task in batch):
        clock.now += 0.001
        await asyncio.sleep(0)
    assert items == 100
    # Not starved, and with no more than their share of the time; nobody waited for more than one of them.
    assert while_singles_ask >= 5
    assert while_singles_ask * 0.001 <= module.ITEM_SHARE * lasted + 0.001
    assert max(waits) <= 0.0011


async def test_who_would_wait_too_long_is_refused_before_the_first_has_waited(clock: Clock) -> None:
    admission = _admission(queue_ms=50.0)
    admission._pace = 0.01  # a turn takes 10 ms: five may wait, and four times as many in a burst
    loop = asyncio.get_running_loop()

    def refusal_behind(waiting: int) -> str | None:
        admission._singles.clear()
        admission._singles.extend((clock.now, loop.create_future()) for _ in range(waiting))
        return admission.refusal()

    clock.now += module.BURST_AGAIN_SECONDS
    assert refusal_behind(0) is None
    assert refusal_behind(20) is None
    assert refusal_behind(21) == "queue"
    clock.now += module.STANDING_SECONDS + 0.001
    assert refusal_behind(5) is None
    assert refusal_behind(6) == "queue"  # for it has not been short for a while
    assert refusal_behind(2) is None
    assert refusal_behind(6) == "queue"  # short, but somebody was refused a moment ago
    clock.now += module.BURST_AGAIN_SECONDS + 0.001
    assert refusal_behind(2) is None
    assert refusal_behind(20) is None


async def test_the_pace_follows_what_turns_take(clock: Clock) -> None:
    admission = _admission()

    async def text() -> None:
        await admission.turn()
        clock.now += 0.003

    await asyncio.gather(*(text() for _ in range(400)))
    assert admission._pace == pytest.approx(0.003, rel=0.2)


async def test_a_single_text_goes_before_items_that_came_earlier() -> None:
    admission = _admission()
    admission._most = admission._granted = 1  # this round is full
    order: list[str] = []

    async def ask(name: str) -> None:
        await (admission.turn() if name == "single" else admission.item_turn())
        order.append(name)

    admission.enter()
    names = ["item", "item", "item", "single"]
    await asyncio.gather(*(ask(name) for name in names))
    assert order[0] == "single"
    assert sorted(order) == sorted(names)


async def test_a_batch_alone_has_whole_rounds() -> None:
    admission = _admission()
    admission._last_single = perf_counter() - 10
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            rounds += 1
            await asyncio.sleep(0)

    async def item() -> None:
        await admission.item_turn()

    counting = asyncio.create_task(count())
    await asyncio.gather(*(item() for _ in range(300)))
    counting.cancel()
    assert rounds < 200


async def test_who_gave_up_waiting_is_not_waited_for() -> None:
    admission = _admission(queue_ms=10.0)
    admission._granted = admission._most = 1
    waiting = asyncio.create_task(admission._wait(admission._singles))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.sleep(0.02)
    assert admission.refusal() is None
