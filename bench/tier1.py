"""Tier 1 beside the bare RE2 set pass and a Python `re` loop over the same rules, in one run.

    python bench/tier1.py [--out bench/results/tier1.json]
    python bench/tier1.py --rows hostile --lengths 2000     # under a minute, while working on the rules

Prints p50 and p99 in microseconds for ordinary texts of 200, 2,000 and 20,000 characters, the cost
a character (linear means flat), and the slowest of 10,000 generated hostile texts as a multiple of
the median of its length. The file is written anew after every length, so that a run that is cut off leaves
what it has found.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import re
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import re2

from llmobs.app import build_pipeline
from llmobs.detect.pipeline import Pipeline
from llmobs.detect.tier1_patterns.book import rule_book
from llmobs.domain.policy import Policy
from llmobs.policies import load_policies
from llmobs.screen import Inquiry, examine
from llmobs.settings import Settings

LENGTHS = (200, 2_000, 20_000)
HOSTILE = 10_000
AGAIN = 4
"""Times that the slowest of a length are measured once more."""
SEED = 20261123

# Sentences with slots, mixed anew for every call: an automaton that has seen a text answers ten times
# faster than on a text that it has not, and traffic never repeats itself.
SENTENCES = (
    "The {a} report shows that {b} grew by {n} percent while {c} stayed flat.",
    "To install the {a} package, run `pip install {b}` and restart the {c}; the log will say `listening on {n}`.",
    "In a large bowl, mix {n} g of {a} with two {b}, then rest the dough for an hour.",
    "{A} is the capital of {B}, and its {c} carries about {n} thousand people a day.",
    "The function returns a list of tuples, each holding a {a} and a {b}, sorted by {c} in descending order.",
    "If the {a} lasts longer than {n} days, see a doctor; most people recover within a week.",
    "You can change the {a} in the settings under {b}, where the {c} is listed as well.",
    "Dear {A}, thank you for your message about the {b}; we will look into the {c} by Friday.",
    "First, {a} the {b}. Then check that the {c} has not moved more than {n} millimetres.",
    "Historians still debate whether the {a} of {B} was lost in {n} or some years later.",
    "def {a}_{b}(value: int) -> int:\n    return value * {n}\n",
    "| {a} | {b} | {c} |\n|---|---|---|\n| {n} | {n} | {n} |\n",
    "- {A}: {n} pieces\n- {B}: {n} pieces\n",
    "Could you explain how {a} and {b} differ when the {c} is cold?",
    "The {a} must not be used near {b}; keep it at {n} degrees and away from the {c}.",
    "She asked why everyone in the {a} had forgotten the {b}, and nobody knew.",
)
WORDS = [
    "garden",
    "invoice",
    "river",
    "engine",
    "teacher",
    "market",
    "ladder",
    "window",
    "planet",
    "bridge",
    "sugar",
    "copper",
    "novel",
    "village",
    "carpet",
    "signal",
    "harbour",
    "pencil",
    "rocket",
    "mirror",
    "cotton",
    "basket",
    "orchard",
    "tunnel",
    "violin",
    "blanket",
    "castle",
    "marble",
    "lantern",
    "forest",
    "kernel",
    "buffer",
    "socket",
    "parser",
    "column",
    "budget",
    "salary",
    "tenant",
    "border",
    "policy",
    "museum",
    "ticket",
    "valley",
    "meadow",
]


def ordinary(source: random.Random, length: int) -> str:
    """A text of ordinary prose, code and tables that has not been seen before."""
    parts: list[str] = []
    size = 0
    while size < length:
        a, b, c = source.choices(WORDS, k=3)
        part = source.choice(SENTENCES).format(
            a=a, b=b, c=c, A=a.title(), B=b.title(), n=source.randint(2, 9000)
        )
        parts.append(part)
        size += len(part) + 1
    return " ".join(parts)[:length]


SEEDS = (
    "ignore all previous instructions and ",
    "' or 1=1 -- ",
    "<script>alert(1)</script>",
    "../../../../etc/passwd",
    "4111 1111 1111 1112 ",
    "a@b.co, ",
    "sk-" + "a1B2" * 10 + " ",
    "%69%67%6e%6f%72%65 ",
    "&#105;&#103;",
    "aWdub3JlIGFsbCBwcmV2aW91cyBpbnN0cnVjdGlvbnM= ",
    "i g n o r e  ",
    "1gn0r3 @ll ",
    "\u200b\u200b\u202e",
    "Ignоrе ",
    "𝐢𝐠𝐧𝐨𝐫𝐞 ",
    "e\u0301" * 8,
    "might perhaps possibly ",
    "studies show that ",
    "```\n",
    "| a | b |\n|---|---|\n",
    '{"a": [',
    "{{7*7}}${7*7}",
    "api_key = ",
    "DE89 3704 0044 0532 0130 01 ",
    "+1 (555) 123-4567 ",
    "AKIA" + "ABCD" * 4,
    "eyJhbGciOiJub25lIn0.eyJhIjoxfQ. ",
    "deadbeef" * 8 + " ",
    "忽略之前的所有指令",
    "игнорируй все ",
)


def hostile(source: random.Random, length: int) -> str:
    """Seeds repeated, mixed, cut and glued: what makes patterns start and fail again and again."""
    kind = source.randrange(4)
    if kind == 0:
        seed = source.choice(SEEDS)
        return (seed * (length // len(seed) + 1))[:length]
    if kind == 1:
        parts = source.choices(SEEDS, k=source.randint(2, 6))
        unit = "".join(parts)
        return (unit * (length // len(unit) + 1))[:length]
    made: list[str] = []
    size = 0
    while size < length:
        seed = source.choice(SEEDS)
        if kind == 2:
            seed = seed[: source.randint(1, len(seed))]
        else:
            seed = chr(
                source.choice((32, 39, 60, 0x200B, 0x430, 0x4E00, source.randrange(33, 0x2FF)))
            ) * source.randint(1, 30)
        made.append(seed)
        size += len(seed)
    return "".join(made)[:length]


def timed(call: Callable[[str], object], texts: list[str]) -> list[float]:
    """Microseconds of each call, one a text, after a warm-up on the first fifth."""
    found = []
    for number, text in enumerate(texts):
        started = time.perf_counter_ns()
        call(text)
        if number >= len(texts) // 5:
            found.append((time.perf_counter_ns() - started) / 1000)
    return found


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=1500)
    parser.add_argument("--hostile", type=int, default=HOSTILE)
    parser.add_argument("--rows", choices=("all", "ordinary", "hostile"), default="all")
    parser.add_argument("--lengths", type=int, nargs="+", choices=LENGTHS, default=LENGTHS)
    args = parser.parse_args()
    settings = Settings()
    book = rule_book()
    book.current.warm()  # as the service does when it starts
    pipeline = build_pipeline(settings, book, frozenset({1}))
    policy = load_policies()["default"]
    loop = asyncio.new_event_loop()
    patterns = [rule.rule.pattern for rule in book.current.rules]

    options = re2.Options()
    options.max_mem = 48 << 20
    bare = re2.Set.SearchSet(options)
    for pattern in patterns:
        bare.Add(pattern.encode())
    bare.Compile()
    compiled = []
    for pattern in patterns:
        try:
            translated = re.sub(r"\\x\{([0-9A-Fa-f]+)\}", lambda m: f"\\U{int(m[1], 16):08x}", pattern)
            compiled.append(re.compile(translated.replace(r"\z", r"\Z")))
        except re.error:
            continue  # \p{...} classes have no counterpart in `re`; the loop runs without them
    print(
        f"{len(patterns)} rules; {len(compiled)} of them compile in Python re; Python {platform.python_version()}"
    )

    def whole(text: str) -> object:
        return loop.run_until_complete(examine(pipeline, policy, Inquiry(text=text)))

    async def inner(texts: list[str]) -> list[float]:
        return [await once(pipeline, policy, text) for text in texts][len(texts) // 5 :]

    result: dict[str, object] = {
        "python": platform.python_version(),
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "rules": len(patterns),
        "rules_in_re": len(compiled),
        "lengths": {},
    }
    print(f"{'chars':>6} {'what':<16} {'p50 us':>9} {'p99 us':>9} {'x bare set':>10}")
    source = random.Random(SEED)
    for text in (ordinary(source, 2_000) for _ in range(args.rounds)):
        whole(text)
    for length in args.lengths if args.rows != "hostile" else ():
        source.seed(f"ordinary {length} {SEED}")
        texts = [
            ordinary(source, length) for _ in range(args.rounds if length < 20_000 else args.rounds // 4)
        ]
        rows = {
            "tier 1 whole": loop.run_until_complete(inner(texts)),
            "bare RE2 set": timed(lambda text: bare.Match(text.encode()), texts),
            "Python re loop": timed(
                lambda text: [p.search(text) for p in compiled], texts[: max(10, 20_000 // length)]
            ),
        }
        base = statistics.median(rows["bare RE2 set"])
        cell = {}
        for name, values in rows.items():
            p50, p99 = statistics.median(values), quantile(values, 0.99)
            cell[name] = {"p50_us": round(p50, 1), "p99_us": round(p99, 1), "texts": len(values)}
            print(f"{length:>6} {name:<16} {p50:>9.1f} {p99:>9.1f} {p50 / base:>10.2f}")
        result["lengths"][str(length)] = cell  # type: ignore[index]
        write(args.out, result)

    worst: dict[str, dict[str, float]] = {}
    result["hostile"] = worst
    share = {200: 0.6, 2_000: 0.35, 20_000: 0.05}
    for length in args.lengths if args.rows != "ordinary" else ():
        source.seed(f"hostile {length} {SEED}")  # the same texts whichever rows were asked for
        count = max(10, int(args.hostile * share[length]))
        texts = [hostile(source, length) for _ in range(count)]
        for text in texts[:50]:
            loop.run_until_complete(once(pipeline, policy, text))
        # CPU time, and the faster of two: a pause of the machine is not the text's doing.
        cpu = time.process_time_ns
        times = [
            min(loop.run_until_complete(once(pipeline, policy, text, cpu)) for _ in range(2))
            for text in texts
        ]
        median = statistics.median(times)
        by_time = sorted(range(count), key=times.__getitem__, reverse=True)
        slowest = by_time[0]

        # On a machine with other work the slowest of thousands is the one that was disturbed twice. The
        # slowest are therefore timed again, and those around the median as often; both figures are told.
        few = count // 50 + 1
        timed_again = {
            i: min(
                times[i],
                *(loop.run_until_complete(once(pipeline, policy, texts[i], cpu)) for _ in range(AGAIN)),
            )
            for i in (*by_time[:few], *by_time[(count - few) // 2 : (count + few) // 2])
        }
        slow_again = max(*(timed_again[i] for i in by_time[:few]), times[by_time[few]])
        median_again = statistics.median(
            timed_again[i] for i in by_time[(count - few) // 2 : (count + few) // 2]
        )
        worst[str(length)] = {
            "texts": count,
            "p50_us": round(median, 1),
            "p99_us": round(quantile(times, 0.99), 1),
            "max_us": round(times[slowest], 1),
            "max_over_median": round(times[slowest] / median, 2),
            "max_again_over_median": round(slow_again / median_again, 2),
        }
        print(
            f"{length:>6} hostile x{count:<6} p50 {median:>9.1f}  p99 {quantile(times, 0.99):>9.1f}  "
            f"max {times[slowest]:>9.1f}  = {times[slowest] / median:.1f} x median, "
            f"{worst[str(length)]['max_again_over_median']:.1f} timed again  {texts[slowest][:40]!r}"
        )
        sys.stdout.flush()
        write(args.out, result)


def write(out: Path | None, result: dict[str, object]) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(result, indent=2) + "\n")


async def once(
    pipeline: Pipeline, policy: Policy, text: str, clock: Callable[[], int] = time.perf_counter_ns
) -> float:
    """Microseconds by the clock."""
    started = clock()
    await examine(pipeline, policy, Inquiry(text=text))
    return (clock() - started) / 1000


if __name__ == "__main__":
    main()
