"""The encoder's threads: single texts before batches, and no queue that only grows."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmobs.detect.detector import DetectorFailed
from llmobs.detect.tier2_encoder.workers import Workers
from llmobs.domain.urgency import CAN_WAIT

FAR = 1e12


async def test_a_single_text_goes_before_the_items_that_came_earlier() -> None:
    workers = Workers(ThreadPoolExecutor(1))
    order: list[str] = []

    def work(name: str) -> None:
        time.sleep(0.01)
        order.append(name)

    async def ask(name: str, *, can_wait: bool) -> None:
        CAN_WAIT.set(can_wait)
        await workers.each([name], work, FAR)

    tasks = [asyncio.create_task(ask(f"item {number}", can_wait=True)) for number in range(5)]
    await asyncio.sleep(0.005)
    tasks.append(asyncio.create_task(ask("single", can_wait=False)))
    await asyncio.gather(*tasks)
    assert order.index("single") == 1
    assert len(order) == 6


async def test_a_busy_encoder_refuses_single_texts_and_lets_items_wait() -> None:
    workers = Workers(ThreadPoolExecutor(1))
    workers.longest_wait = 0.05
    await workers.each([0.02], time.sleep, FAR)  # it knows its pace now
    workers._pace = 0.02
    given = [asyncio.create_task(workers.each([0.02], time.sleep, FAR)) for _ in range(10)]
    done = await asyncio.gather(*given, return_exceptions=True)
    refused = [one for one in done if isinstance(one, DetectorFailed)]
    assert 4 <= len(refused) <= 8
    assert "busy" in str(refused[0])

    async def item() -> None:
        CAN_WAIT.set(True)
        await workers.each([0.002], time.sleep, FAR)

    await asyncio.gather(*(asyncio.create_task(item()) for _ in range(20)))
    assert await workers.each([0.001], time.sleep, FAR)  # and afterwards it is free again


async def test_who_is_cancelled_while_waiting_leaves_the_thread_to_others() -> None:
    workers = Workers(ThreadPoolExecutor(1))
    first = asyncio.create_task(workers.call(lambda: time.sleep(0.03)))
    await asyncio.sleep(0)
    second = asyncio.create_task(workers.call(lambda: time.sleep(0.01)))
    third = asyncio.create_task(workers.call(lambda: "third"))
    await asyncio.sleep(0.005)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    await first
    assert await third == "third"
    assert workers._busy == 0
