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


async def test_single_texts_go_before_items_of_a_batch_which_still_get_on() -> None:
    admission = _admission()
    done: Counter[str] = Counter()
    stop = asyncio.Event()

    def work() -> None:
        end = perf_counter() + 0.001
        while perf_counter() < end:
            pass

    async def item() -> None:
        await admission.item_turn()
        work()
        done["item"] += 1

    async def singles() -> None:
        while not stop.is_set():
            admission.enter()
            await admission.turn()
            work()
            done["single"] += 1
            await asyncio.sleep(0.002)  # its commit
            admission.leave()

    batch = [asyncio.create_task(item()) for _ in range(100)]
    asking = asyncio.create_task(singles())
    await asyncio.sleep(0.3)
    while_singles_ask = done["item"]
    stop.set()
    await asking
    await asyncio.gather(*batch)
    assert done["item"] == 100
    assert 1 <= while_singles_ask < 100  # not starved, and not in front


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
