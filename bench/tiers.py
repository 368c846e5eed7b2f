"""Tier 1 with the lexical classifier, the encoder beside the bare graph, concurrency, start and memory.

`python bench/tiers.py [--out bench/results/tiers.json]`. Times are medians of one run on this machine;
what counts are the ratios within the run.
"""

import argparse
import asyncio
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np

from llmobs.app import build_pipeline
from llmobs.detect.learned import load_learned
from llmobs.detect.tier1_patterns.book import rule_book
from llmobs.domain.subject import Subject
from llmobs.policies import load_policies
from llmobs.screen import Inquiry, examine
from llmobs.settings import Settings

WORDS = (
    "the river bread garden of winter letters and quiet harbour lanterns carry small news to every house "
    "before morning while engineers measure bridges count copper wires and write careful reports about "
    "rain schools markets trains oranges and the price of flour in the northern towns"
).split()


def text_of(words: int, seed: int) -> str:
    """Ordinary words in random order, with full stops."""
    chance = np.random.default_rng(seed)
    chosen = [WORDS[i] for i in chance.integers(0, len(WORDS), words)]
    for index in range(11, words, 12):
        chosen[index] += "."
    return " ".join(chosen)


def quantiles(times: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds."""
    ordered = sorted(times)
    return {
        f"p{q}_ms": round(1000 * ordered[min(len(ordered) - 1, int(len(ordered) * q / 100))], 3)
        for q in (50, 95, 99)
    }


async def timed(calls: list[Callable[[], Awaitable[object]]]) -> list[float]:
    """Seconds of each call, one after the other."""
    found = []
    for call in calls:
        started = time.perf_counter()
        await call()
        found.append(time.perf_counter() - started)
    return found


async def tier_one() -> dict[str, object]:
    """The whole of tier 1 at 2,000 characters of unseen text, without and with the classifier."""
    book = rule_book()
    book.current.warm()
    policy = load_policies()["default"]
    result: dict[str, object] = {}
    lexical = load_learned().lexical
    texts = [text_of(400, seed)[:2000] for seed in range(600)]
    for text in texts[:100]:
        await lexical.detect(Subject(text=text), lexical.hears)
    spent = await timed([lambda t=t: lexical.detect(Subject(text=t), lexical.hears) for t in texts[100:]])
    result["lexical alone"] = quantiles(spent)
    for name, settings in (("rules", Settings(encoder=False)), ("rules and lexical", Settings())):
        whole = build_pipeline(settings, book, frozenset({1, 2}))
        first = type(whole)([whole.tiers[0]])
        for text in texts[:100]:
            await first.examine(Subject(text=text), policy)
        spent = await timed(
            [lambda t=t, first=first: first.examine(Subject(text=t), policy) for t in texts[100:]]
        )
        result[name] = quantiles(spent)
    return result


async def encoder_beside_bare() -> list[dict[str, object]]:
    """The heads detector against the bare graph on the same windows, one thread."""
    learned = load_learned()
    heads = learned.tier2(60.0, frozenset)[0]
    rows: list[dict[str, object]] = []
    for tokens, rounds in ((32, 120), (128, 60), (512, 25), (2000, 8)):
        texts = [text_of(int(tokens / 1.13), 1000 + n) for n in range(rounds)]
        cut = [learned.encoder.windows(text) for text in texts]
        bare, ours = [], []
        for text, windows in zip(texts, cut, strict=True):
            started = time.process_time()
            for window in windows:
                learned.encoder.run(window.ids)
            bare.append(time.process_time() - started)
            started = time.process_time()
            await heads.detect(Subject(text=text), heads.hears)
            ours.append(time.process_time() - started)
        rows.append(
            {
                "tokens": statistics.mean(sum(len(w.ids) for w in ws) for ws in cut),
                "windows": len(cut[0]),
                "bare cpu": quantiles(bare),
                "detector cpu": quantiles(ours),
                "overhead": round(statistics.median(ours) / statistics.median(bare) - 1, 3),
            }
        )
    return rows


async def side_by_side() -> dict[str, float]:
    """Requests a second through the encoder, one at a time and 32 at once."""
    heads = load_learned().tier2(60.0, frozenset)[0]
    subjects = [Subject(text=text_of(100, n)) for n in range(192)]

    async def one_at_a_time() -> None:
        for subject in subjects[:96]:
            await heads.detect(subject, heads.hears)

    async def at_once() -> None:
        for start in range(0, len(subjects), 32):
            await asyncio.gather(*(heads.detect(s, heads.hears) for s in subjects[start : start + 32]))

    started = time.perf_counter()
    await one_at_a_time()
    one = 96 / (time.perf_counter() - started)
    started = time.perf_counter()
    await at_once()
    many = len(subjects) / (time.perf_counter() - started)
    return {"one at a time /s": round(one, 1), "32 at once /s": round(many, 1), "ratio": round(many / one, 2)}


async def memory() -> dict[str, object]:
    """Resident memory over 10,000 mixed requests in this process."""
    book = rule_book()
    pipeline = build_pipeline(Settings(), book, frozenset({1, 2}))
    policy = load_policies()["default"]
    sizes: dict[str, float] = {}
    for number in range(10_000):
        words = (8, 20, 60, 150)[number % 4]
        context = {"documents": [text_of(80, number)]} if number % 50 == 0 else None
        await examine(pipeline, policy, Inquiry(text=text_of(words, number), context=context))
        if number + 1 in (10, 1_000, 5_000, 10_000):
            sizes[f"after {number + 1:,}"] = resident()
    return {"MB": sizes, "peak MB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}


def resident() -> float:
    """Resident set in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return round(int(line.split()[1]) / 1024, 1)
    raise RuntimeError("no VmRSS in /proc/self/status")


READY = """
import time; started = time.perf_counter(), time.process_time()
from llmobs.worker import create_app
from llmobs.settings import Settings
create_app(Settings(database_url="sqlite:////tmp/llmobs-bench.db", spool_dir="/tmp/llmobs-bench-spool"))
spent = time.perf_counter() - started[0], time.process_time() - started[1]
told = open("/proc/self/status").read().split("VmRSS:")[1].split()[0]
print(*spent, int(told) / 1024)
"""


def ready() -> dict[str, object]:
    """From the first import to an application that has loaded and tried its models, and a service at rest."""
    told = [
        [
            float(figure)
            for figure in subprocess.run(
                [sys.executable, "-c", READY], capture_output=True, text=True, check=True
            ).stdout.split()
        ]
        for _ in range(3)
    ]
    best = min(told)
    return {
        "import to application, s": round(best[0], 2),
        "cpu s": round(min(cpu for _, cpu, _ in told), 2),
        "resident MB": round(best[2], 1),
        "served": served(),
    }


def served() -> dict[str, float]:
    """`llmobs serve` from its start to `/health/ready`, and its worker's memory ten seconds later."""
    with tempfile.TemporaryDirectory() as folder, socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
        found.close()
        env = os.environ | {
            "DATABASE_URL": f"sqlite:///{folder}/bench.db",
            "API_PORT": str(port),
            "LLMOBS_SPOOL_DIR": f"{folder}/spool",
        }
        started = time.perf_counter()
        process = subprocess.Popen(
            [str(Path(sys.executable).parent / "llmobs"), "serve", "--migrate"],
            env=env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready", timeout=5).read()
                    break
                except OSError:
                    if process.poll() is not None or time.perf_counter() - started > 120:
                        raise
                    time.sleep(0.05)
            spent = time.perf_counter() - started
            time.sleep(10)
            sizes = [
                int(status.read_text().split("VmRSS:")[1].split()[0]) / 1024
                for status in Path("/proc").glob("[0-9]*/status")
                if f"PPid:\t{process.pid}\n" in status.read_text() and "VmRSS:" in status.read_text()
            ]
        finally:
            process.terminate()
            process.wait(60)
    return {"start to ready, s": round(spent, 2), "worker's resident MB": round(max(sizes), 1)}


def main() -> None:
    """Run the parts named, or all; memory in a process of its own, for its peak is its own."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--out", type=Path)
    ask.add_argument("parts", nargs="*", default=["tier1", "encoder", "concurrency", "ready", "memory"])
    said = ask.parse_args()
    found: dict[str, object] = {}
    for part in said.parts:
        match part:
            case "tier1":
                found[part] = asyncio.run(tier_one())
            case "encoder":
                found[part] = asyncio.run(encoder_beside_bare())
            case "concurrency":
                found[part] = asyncio.run(side_by_side())
            case "ready":
                found[part] = ready()
            case "memory" if len(said.parts) == 1:
                found[part] = asyncio.run(memory())
            case "memory":
                done = subprocess.run(
                    [sys.executable, __file__, "memory"], capture_output=True, text=True, check=True
                )
                found |= json.loads(done.stdout)
            case _:
                ask.error(f"no part is called {part}")
    told = json.dumps(found, indent=1)
    print(told)
    if said.out:
        said.out.write_text(told + "\n")


if __name__ == "__main__":
    main()
