"""Where the microseconds of one `/v1/detect` go: each part alone, and all of tier 1 in its turn.

    python bench/budget.py [--out bench/results/budget.json]

CPU time of one thread, so that a busy machine matters less; median of distinct texts of 500
characters that tier 1 decides. `alone` runs one part over all texts, its memory in the processor's
cache; `in turn` runs the detectors one after the other on each text, as a request does, and shows
what they cost when each has driven out the memory of the one before.
"""

import argparse
import asyncio
import json
import os
import random
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tier1 import ordinary

from llmobs.app import build_pipeline
from llmobs.detect.tier1_patterns.book import rule_book
from llmobs.domain.decision import decide, weigh
from llmobs.domain.record import Record
from llmobs.domain.subject import Subject
from llmobs.http.schemas import detect_answer, read_detect
from llmobs.ids import new_request_id
from llmobs.policies import load_policies
from llmobs.screen import Inquiry, Recalled, Screen, examine
from llmobs.settings import Settings
from llmobs.store.records import row_of
from llmobs.telemetry.instruments import Telemetry

CHARS = 500


def micros(call: Callable[[Any], object], given: Iterable[Any]) -> float:
    """Median CPU time of a call, in microseconds."""
    found = []
    for one in given:
        started = time.thread_time_ns()
        call(one)
        found.append(time.thread_time_ns() - started)
    return statistics.median(found) / 1000


def finished(work: Any) -> Any:
    """What a coroutine that never waits comes to."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise RuntimeError("it waited")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--texts", type=int, default=600)
    args = parser.parse_args()
    book = rule_book()
    book.current.warm()
    whole = build_pipeline(Settings(), book)
    policy = load_policies()["default"]
    source = random.Random(20261123)

    async def decided_in_tier_one() -> list[str]:
        kept: list[str] = []
        while len(kept) < args.texts:
            text = ordinary(source, CHARS)
            if (await examine(whole, policy, Inquiry(text=text))).decision.tier_used == 1:
                kept.append(text)
        return kept

    texts = asyncio.run(decided_in_tier_one())
    inquiries = [Inquiry(text=text) for text in texts]
    telemetry = Telemetry()
    screen = Screen(
        pipeline=whole,
        policies=book,  # type: ignore[arg-type]  # only `_record` is asked here
        journal=None,  # type: ignore[arg-type]
        observer=telemetry,
        find_sensitive=book.current.sensitive,
    )
    verdicts = [finished(examine(whole, policy, one)) for one in inquiries]
    record = screen._record  # noqa: SLF001  # a part of its own in the table
    unknown = Recalled(policy, None, None, 0.0)
    records: list[Record] = [
        finished(record(one, verdict, unknown)) for one, verdict in zip(inquiries, verdicts, strict=True)
    ]
    bodies = [json.dumps({"llm_response": text}).encode() for text in texts]
    reports = [verdict.coverage for verdict in verdicts]
    asked = frozenset(policy.classes)
    subjects = [Subject(text=text) for text in texts]

    alone: dict[str, float] = {"parse": micros(read_detect, bodies)}
    for detector in whole.tiers[0].detectors:
        alone[f"tier 1: {detector.name}"] = micros(
            lambda s, d=detector: finished(d.detect(s, asked)), subjects
        )
    alone["weigh"] = micros(lambda r: weigh(policy, r), reports)
    alone["decide"] = micros(lambda r: decide(policy, r), reports)
    alone["request id"] = micros(lambda _: new_request_id(), reports)
    alone["record"] = micros(
        lambda pair: finished(record(*pair, unknown)), list(zip(inquiries, verdicts, strict=True))
    )
    alone["row for SQLite"] = micros(lambda r: row_of(r, postgres=False), records)
    alone["row for PostgreSQL"] = micros(lambda r: row_of(r, postgres=True), records)
    alone["answer"] = micros(lambda r: detect_answer(r, recorded=True), records)
    alone["metrics"] = micros(telemetry.verdict, verdicts)

    turns: dict[str, list[int]] = {d.name: [] for d in whole.tiers[0].detectors}
    for subject in subjects:
        for detector in whole.tiers[0].detectors:
            started = time.thread_time_ns()
            finished(detector.detect(subject, asked))
            turns[detector.name].append(time.thread_time_ns() - started)
    in_turn = {f"tier 1: {name}": statistics.median(found) / 1000 for name, found in turns.items()}
    in_turn["verdict, all of it"] = micros(lambda one: finished(examine(whole, policy, one)), inquiries)

    print(f"{'part':<24} {'alone us':>9} {'in turn us':>10}")
    for name in dict.fromkeys((*alone, *in_turn)):
        one, other = alone.get(name), in_turn.get(name)
        print(
            f"{name:<24} {'' if one is None else f'{one:.1f}':>9} {'' if other is None else f'{other:.1f}':>10}"
        )
    if args.out:
        told = {
            "chars": CHARS,
            "load": os.getloadavg()[0],
            "alone_us": {k: round(v, 1) for k, v in alone.items()},
            "in_turn_us": {k: round(v, 1) for k, v in in_turn.items()},
        }
        args.out.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
