"""Windows through threads: fairly, bounded, and with an end."""

import asyncio
import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmobs.detect.detector import DetectorFailed
from llmobs.detect.tier2_encoder.workers import Workers, spread


@settings(deadline=None)
@given(st.integers(1, 500))
def test_spread_names_every_index_once_ends_first(count: int) -> None:
    order = spread(count)
    assert sorted(order) == list(range(count))
    assert set(order[:2]) == {0, count - 1}


def test_spread_leaves_even_gaps_when_cut_short() -> None:
    done = sorted(spread(64)[:9])
    assert max(b - a for a, b in itertools.pairwise(done)) <= 16


async def test_results_come_in_order_with_their_index() -> None:
    with ThreadPoolExecutor(2) as pool:
        found = await Workers(pool).each(range(20), lambda n: n * n, time.perf_counter() + 10.0)
    assert found == [(n, n * n) for n in range(20)]


async def test_no_new_item_starts_after_the_budget_and_one_always_does() -> None:
    def slow(number: int) -> int:
        time.sleep(0.02)
        return number

    with ThreadPoolExecutor(2) as pool:
        found = await Workers(pool).each(range(50), slow, time.perf_counter())
    assert 1 <= len(found) <= 3


async def test_a_long_text_does_not_hold_every_thread() -> None:
    most = running = 0
    lock = threading.Lock()

    def count(_: int) -> None:
        nonlocal most, running
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.005)
        with lock:
            running -= 1

    with ThreadPoolExecutor(8) as pool:
        await Workers(pool).each(range(40), count, time.perf_counter() + 10.0)
    assert most == 2


async def test_too_many_waiting_texts_are_refused_at_once() -> None:
    gate = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        workers = Workers(pool, most_waiting=2)
        waiting = [asyncio.create_task(workers.each([0], lambda _: gate.wait(5), 1.0)) for _ in range(2)]
        await asyncio.sleep(0.01)
        with pytest.raises(DetectorFailed, match="wait"):
            await workers.each([0], lambda n: n, 1.0)
        gate.set()
        await asyncio.gather(*waiting)
        assert workers.waiting == 0


async def test_an_error_in_a_window_surfaces_and_frees_the_place() -> None:
    def broken(_: int) -> None:
        raise RuntimeError("broken window")

    with ThreadPoolExecutor(2) as pool:
        workers = Workers(pool)
        with pytest.raises((RuntimeError, ExceptionGroup)):
            await workers.each(range(3), broken, 1.0)
        assert workers.waiting == 0
