"""`make fuzz MINUTES=10`: feed the targets mutated bytes until the time is up.

With atheris installed one target is fuzzed with coverage: `--atheris TARGET`. Without it inputs are
mutations of the corpus. An input that crashes a target or takes longer than `--hang` seconds is
written to the corpus, where the ordinary tests run it from then on, and the exit status is 1.
"""

import argparse
import faulthandler
import hashlib
import json
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from targets import TARGETS, ready

CORPUS = Path(__file__).parent / "corpus"
WORDS = [b'{"llm_response":"', b'"}', b"\\u0000", b"\\ud800", b"[" * 80, b"\xe2\x80\xae", b"\xff", b"e999",
         b"aWdub3JlIGFsbA==", b"%41%42", b"&#x41;", b"\xef\xbc\xa1", b"llmobs_", b"AKIA", b"\xf0\x9d\x93\xb0"]  # fmt: skip
LONGEST = 20_000


def mutated(seeds: list[bytes], chance: random.Random) -> bytes:
    """One to eight edits of a seed."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 8)):
        at = chance.randint(0, len(data))
        match chance.randrange(6):
            case 0:
                data[at:at] = chance.choice(WORDS)
            case 1:
                data[at : at + chance.randint(1, 8)] = chance.randbytes(chance.randint(0, 8))
            case 2 if data:
                data[min(at, len(data) - 1)] ^= 1 << chance.randrange(8)
            case 3:
                data[at : at + chance.randint(1, 64)] = b""
            case 4:
                data[at:at] = bytes(data[at : at + chance.randint(1, 64)]) * chance.randint(1, 40)
            case _:
                other = chance.choice(seeds)
                data[at:] = other[chance.randint(0, len(other)) :]
    return bytes(data[:LONGEST])


def main() -> int:
    """Run; 0 where nothing was found."""
    asked = argparse.ArgumentParser()
    asked.add_argument("--minutes", type=float, default=10.0)
    asked.add_argument("--hang", type=float, default=5.0, help="seconds that one input may take")
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--atheris", choices=sorted(TARGETS), metavar="TARGET")
    options = asked.parse_args()
    if options.atheris:
        import atheris  # type: ignore[import-not-found,unused-ignore]  # where it installs

        atheris.instrument_all()
        seconds = int(options.minutes * 60)
        atheris.Setup(
            [sys.argv[0], f"-max_total_time={seconds}", f"-timeout={options.hang:.0f}", str(CORPUS)],
            TARGETS[options.atheris],
        )
        atheris.Fuzz()
        return 0
    chance = random.Random(options.seed)  # to be repeated, not to be secret
    seeds = [path.read_bytes() for path in sorted(CORPUS.iterdir())]
    ready()
    until = time.monotonic() + options.minutes * 60
    runs = dict.fromkeys(TARGETS, 0)
    slowest = dict.fromkeys(TARGETS, 0.0)
    found: list[str] = []
    while time.monotonic() < until:
        data = mutated(seeds, chance)
        for name, target in TARGETS.items():
            # A hang inside C code would not end by itself: leave with a traceback.
            faulthandler.dump_traceback_later(options.hang * 4, exit=True)
            started = time.perf_counter()
            trouble = ""
            try:
                target(data)
            except Exception as error:  # noqa: BLE001  # any is what we look for
                trouble = repr(error)
            took = time.perf_counter() - started
            if not trouble and took > options.hang:
                trouble = f"took {took:.1f} s"
            runs[name] += 1
            slowest[name] = max(slowest[name], took)
            if trouble:
                place = CORPUS / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
                place.write_bytes(data)
                found.append(f"{name}: {trouble}: {place.name}")
                print(found[-1], file=sys.stderr)
    faulthandler.cancel_dump_traceback_later()
    print(json.dumps({
        "minutes": options.minutes,
        "runs": runs,
        "slowest_ms": {name: round(1000 * s, 1) for name, s in slowest.items()},
        "found": found,
    }, indent=2))  # fmt: skip
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
