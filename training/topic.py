"""Make the word vectors of tier 1: `python topic.py --data DIR --base DIR --out DIR`.

`--base` is the folder of the served base encoder, `--out` the folder of all heads. Each of the
most common content words of the data (cut to six letters, as `stems` does) is given to the base
alone; the vectors, less their mean, are turned to their 96 strongest directions, weighted by
rarity, and rounded to int8. No label is used.

Then prints, for answers to their own question and to another, what tier 1 lets off and how many of
the answers that the encoder's relevance would raise are lost by it (points of its recall).
"""

from __future__ import annotations

import argparse
import io
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from assemble import write
from encoder.pairs import answered
from encoder.singles import SEED, read
from grounded import served

from llmobs.detect.artefacts import Artefacts
from llmobs.detect.tier1_lexical.topic import CALM, NEAR, Topic, is_refusal
from llmobs.detect.tier2_encoder.evidence import ordered_stems, stems
from llmobs.detect.tier2_encoder.grounded import RELEVANCE, load_grounded, relevance_features

WORDS, DIMENSIONS = 14_000, 96
ROWS_A_FILE, CHARS_A_TEXT = 1_200, 3_000
WARN = 0.6
"""The `warn` threshold of domain_mismatch in the shipped policies."""
PROBES = (
    ("How do I bake bread without yeast?", "Use baking soda and buttermilk, then knead the dough briefly."),
    ("How do I bake bread without yeast?", "The parliament passed the bill after a long session."),
    ("When is the next train to Lyon?", "The railway runs one every two hours from the main station."),
)


def texts(data: Path) -> Iterator[str]:
    """Texts, questions and beginnings of contexts of all files."""
    for path in sorted(data.glob("*/*.jsonl.gz")):
        rows = list(read(path))
        random.Random(SEED).shuffle(rows)
        for row in rows[:ROWS_A_FILE]:
            for name in ("text", "query", "context"):
                if row.get(name):
                    yield str(row[name])[:CHARS_A_TEXT]


def counted(data: Path) -> tuple[list[str], list[str], np.ndarray]:
    """The commonest stems, the word that most often stands for each, and how rare they are (log)."""
    held: Counter[str] = Counter()
    spelled: defaultdict[str, Counter[str]] = defaultdict(Counter)
    total = 0
    for text in texts(data):
        total += 1
        seen = set()
        for word in text.lower().split():
            bare = word.strip(".,;:!?\"'()[]")
            found = ordered_stems(bare)
            if len(found) == 1 and not found[0].isdigit():
                seen.add(found[0])
                spelled[found[0]][bare] += 1
        held.update(seen)
    words = sorted(word for word, _ in held.most_common(WORDS))
    rarity = np.log(total / np.array([held[word] for word in words]))
    return words, [spelled[word].most_common(1)[0][0] for word in words], rarity


def reduced(raw: np.ndarray, rarity: np.ndarray) -> np.ndarray:
    """int8 (words, DIMENSIONS) of unit vectors (words, 384)."""
    share = np.exp(-rarity)
    moved = raw - (raw * share[:, None]).sum(0) / share.sum()
    _, _, directions = np.linalg.svd(moved * np.sqrt(share)[:, None], full_matrices=False)
    turned = (moved @ directions[:DIMENSIONS].T) * rarity[:, None]
    return np.clip(np.round(turned / np.percentile(np.abs(turned), 99.9) * 127), -127, 127).astype(np.int8)


def report(topic: Topic, data: Path, own: Path, base: Path) -> dict[str, float]:
    """What is let off and what is lost, beside the encoder's relevance. Shares of rows."""
    embedder, weighing = served(base), load_grounded(Artefacts(base)).off_topic
    rows = []
    for pair in answered(data, own):
        score = weighing.score(RELEVANCE, relevance_features(embedder, pair.first, pair.second))
        raised = score >= WARN and not is_refusal(pair.second)
        shared = len(stems(pair.first) & stems(pair.second))
        rows.append((pair.labels[2] > 0.5, raised, topic.off_topic(pair.first, pair.second) <= CALM, shared))
    other = [row for row in rows if row[0]]
    same = [row for row in rows if not row[0]]
    told = {
        "answers": len(same),
        "let_off": sum(calm for *_, calm, _ in same) / len(same),
        "let_off_by_two_shared_words": sum(shared > 1 for *_, shared in same) / len(same),
        "answers_to_another": len(other),
        "raised_by_the_encoder": sum(raised for _, raised, *_ in other) / len(other),
        "raised_and_let_off": sum(raised and calm for _, raised, calm, _ in other) / len(other),
    }
    return {name: round(value, 4) for name, value in told.items()}


def main() -> None:
    """Make the vectors, write them, report."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--own", type=Path, default=Path(__file__).parent / "handwritten")
    ask.add_argument("--base", type=Path, required=True)
    ask.add_argument("--out", type=Path, required=True)
    said = ask.parse_args()
    words, spelled, rarity = counted(said.data)
    embedder = served(said.base)
    vectors = reduced(np.array([embedder(word).whole for word in spelled]), rarity)
    topic = Topic(words, vectors)
    told = report(topic, said.data, said.own, said.base)
    print(json.dumps(told, indent=1))
    held = io.BytesIO()
    np.save(held, vectors)
    write(
        said.out / "topic",
        {"vectors.npy": held.getvalue(), "words.txt": "\n".join(words).encode()},
        {
            "probes": [[q, a, round(topic.likeness(stems(q), stems(a)), 5)] for q, a in PROBES],
            "training": {"seed": SEED, "near": NEAR, "measured": told},
        },
    )


if __name__ == "__main__":
    main()
