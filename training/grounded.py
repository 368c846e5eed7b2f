"""Fit how a claim's features become scores: `python grounded.py --data DIR --base DIR --compared DIR --out DIR`.

`--base` is the folder of the served base encoder (src/llmobs/data/heads/base), whose vectors are
used as they will be served; `--compared` holds what encoder/comparison.py trained with sources and passages left
out, and only these are fitted on: their logits come from a model that has not seen them, as in service. Features are computed once (features.npz) by the service's own code.
Weights are never negative: a hole in the support of a claim may not lower its score on text of
another sort, which plain logistic regression does as soon as one source invites it.

Prints, for each source left out in turn, the AUC of an answer's worst claim.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from encoder.comparison import LEFT, Asked, Compare, Vectors, answers, auc, left_out, own, score
from encoder.pairs import answered
from encoder.singles import SEED, read

from llmobs.detect.artefacts import Artefacts
from llmobs.detect.tier2_encoder.embedder import Embedder
from llmobs.detect.tier2_encoder.evidence import Passages
from llmobs.detect.tier2_encoder.grounded import (
    FEATURES,
    RELEVANCE,
    claims,
    compared,
    relevance_features,
)
from llmobs.detect.tier2_encoder.words import load_words

OWN_SHARE = 1.0
"""How much all files of our own passages together count beside all public sources: their claims were written so that the
words shared with the passage tell nothing, which they do in most answers."""
CONTRADICTED, NOT_SUPPORTED, SUPPORTED = 2, 1, 0


def served(base: Path) -> Embedder:
    """The base encoder as the service loads it."""
    return Embedder(Artefacts(base), load_words(Artefacts(base.parent / "words")))


def measure(
    data: Path, hand: Path, base: Path, compared_by: Path, rows_a_source: int, *, relevance_too: bool
) -> dict[str, np.ndarray]:
    """Features of claims and of answers to questions, with what is known of them."""
    embedder = served(base)
    asked: list[Asked] = []
    for path in sorted((data / "groundedness").glob("*.jsonl.gz")):
        source = path.name.removesuffix(".jsonl.gz")
        if source not in LEFT and source != "halueval_summ":
            continue
        rows = list(read(path))
        random.Random(SEED).shuffle(rows)
        if source == "halueval_qa":
            rows = [row for row in rows if row["meta"]["like_length"]]  # type: ignore[index]
        for row in rows[:rows_a_source]:
            text, document = str(row["text"]), str(row["context"])
            query = "" if source == "halueval_summ" else str(row.get("query") or "")
            passages = Passages([document])
            label = int(str(row["label"]))
            kind = row["meta"].get("kind")  # type: ignore[attr-defined]
            against = 0.0 if not label else -1.0 if kind is None else float(kind == "contradicted")
            for piece in claims(text)[:12]:
                claim = text[piece.start : piece.end]
                evidence = passages.nearest(claim, query)
                asked.append(
                    Asked(evidence, query, claim, (label, against), source, str(row["id"]), 1.0, document)
                )
    asked += [one for one in own(hand / "passages") if left_out(one)]  # of our own passages, those left out
    for path in sorted((hand / "held_out").glob("grounded_answers*.jsonl")):
        asked += answers(path)
    values = np.zeros((len(asked), len(FEATURES)), dtype=np.float32)
    passages_of: dict[str, Passages] = {}
    for number, one in enumerate(asked):
        passages = passages_of.setdefault(one.document, Passages([one.document]))
        values[number, :-2] = compared(embedder, one.claim, one.query or None, passages, one.evidence)
        if number % 2000 == 0:
            print(number, "of", len(asked), flush=True)
    vectors = Vectors(asked, base.parent, compared_by / "vectors.pkl")
    model = Compare()
    model.load_state_dict(torch.load(compared_by / "left.pt", weights_only=True))
    values[:, -2:] = score(model, vectors, list(range(len(asked))))
    relevance = [
        (relevance_features(embedder, pair.first, pair.second), pair.labels[2], pair.source)
        for pair in (answered(data, hand) if relevance_too else [])
    ]
    whole = [
        (index, one.row, int(one.labels[0]), int(one.labels[1]))
        for index, one in enumerate(asked)
        if not one.source.startswith("own_")
    ] + joined(asked)
    order = [index for index, *_ in whole]
    return {
        "values": values[order],
        "source": np.array([asked[index].source for index in order]),
        "row": np.array([row for _, row, _, _ in whole]),
        "label": np.array([label for _, _, label, _ in whole]),
        "against": np.array([against for *_, against in whole]),
        "relevance": np.array([v for v, _, _ in relevance], dtype=np.float32),
        "off_topic": np.array([label for _, label, _ in relevance]),
        "asked_of": np.array([source for _, _, source in relevance]),
    }


def joined(asked: list[Asked]) -> list[tuple[int, str, int, int]]:
    """Answers of one to four of our own claims about a passage: index of each claim, its answer, the answer's labels.

    Every wrong claim stands in one answer, among right ones, and as many answers are right throughout: real answers go
    wrong in one place, and the more they say, the more often a right claim looks doubtful.
    """
    chance = random.Random(SEED + 5)
    of: dict[str, list[int]] = defaultdict(list)
    for index, one in enumerate(asked):
        if one.source.startswith("own_"):
            of[one.row].append(index)
    made: list[tuple[int, str, int, int]] = []
    for row, indices in of.items():
        right = [i for i in indices if not asked[i].labels[0]]
        for number, wrong in enumerate(i for i in indices if asked[i].labels[0]):
            for label in (0, 1):
                size = min(chance.choice((1, 1, 2, 3, 4)), len(right))
                claims_of = chance.sample(right, max(size - label, 0)) + [wrong] * label
                against = int(asked[wrong].labels[1]) * label
                made += [(i, f"{row}#{number}{'rw'[label]}", label, against) for i in claims_of]
    return made


def shares_of(source: np.ndarray, own_share: float = OWN_SHARE) -> dict[str, float]:
    """What a source counts: public ones alike, our own files alike and together as `own_share` says."""
    names = [str(name) for name in np.unique(source)]
    own_files = [name for name in names if name.startswith("own_")]
    public = max(len(names) - len(own_files), 1)
    return {name: own_share * public / len(own_files) if name in own_files else 1.0 for name in names}


def fit(
    values: np.ndarray,
    label: np.ndarray,
    source: np.ndarray,
    row: np.ndarray,
    own_share: float = OWN_SHARE,
) -> tuple[np.ndarray, float]:
    """Weights >= 0 and offset.

    A row's logit lies half-way from the mean of its claims to the worst; sources weigh as `shares_of` says, both labels of one alike.
    """
    names, place = np.unique(np.char.add(np.char.add(source, "|"), row), return_inverse=True)
    shares = shares_of(source, own_share)
    first = np.zeros(len(names), dtype=int)
    first[place[::-1]] = np.arange(len(place))[::-1]
    y, s = label[first], source[first]
    weight = np.zeros(len(names))
    for one in np.unique(s):
        for which in (0, 1):
            mask = (s == one) & (y == which)
            if mask.any():
                weight[mask] = shares[one] / mask.sum()
    x = torch.from_numpy(values).double()
    owner = torch.from_numpy(place)
    target = torch.from_numpy(y).double()
    share = torch.from_numpy(weight / weight.sum())
    raw = torch.full((values.shape[1],), -1.0, dtype=torch.float64, requires_grad=True)
    offset = torch.full((1,), -1.0, dtype=torch.float64, requires_grad=True)
    best = torch.optim.LBFGS([raw, offset], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        best.zero_grad()
        weights = F.softplus(raw)
        logits = x @ weights + offset
        worst = torch.full((len(names),), -1e9, dtype=torch.float64).scatter_reduce(0, owner, logits, "amax")
        mean = torch.zeros(len(names), dtype=torch.float64).scatter_reduce(
            0, owner, logits, "mean", include_self=False
        )
        worst = (worst + mean) / 2
        loss = (F.binary_cross_entropy_with_logits(worst, target, reduction="none") * share).sum()
        loss = loss + 5e-4 * weights.square().sum()
        loss.backward()
        return loss

    best.step(closure)
    return F.softplus(raw).detach().numpy(), float(offset.detach())


def by_row(score: np.ndarray, label: np.ndarray, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels of the rows and their logits: half-way from the mean of the claims to the worst."""
    claims_of: dict[str, list[float]] = defaultdict(list)
    known: dict[str, int] = {}
    for name, value, y in zip(row, score, label, strict=True):
        claims_of[name].append(float(value))
        known[name] = int(y)
    return (
        np.array([known[name] for name in claims_of]),
        np.array([(max(found) + sum(found) / len(found)) / 2 for found in claims_of.values()]),
    )


GIVEN_UP = 0.01
"""Of balanced accuracy, for fewer alarms on right answers: they cost more trust than a wrong answer that passes."""


def even_level(got: dict[str, np.ndarray], weights: np.ndarray, offset: float) -> float:
    """The highest logit of an answer that parts right from wrong ones nearly as well as the best one does.

    Sources count as in the fit; nearly is GIVEN_UP.
    """
    truth, worst, share, counts = [], [], [], shares_of(got["source"])
    for name in np.unique(got["source"]):
        mask = got["source"] == name
        y, values = by_row(got["values"][mask] @ weights + offset, got["label"][mask], got["row"][mask])
        truth.append(y)
        worst.append(values)
        share.append(counts[str(name)] / np.bincount(y, minlength=2)[y])
    y, values, each = (np.concatenate(parts) for parts in (truth, worst, share))
    levels = np.arange(-1.0, 1.5, 0.05)
    right = np.array([each[(values > level) == y].sum() for level in levels]) / each.sum()
    place = int(np.flatnonzero(right >= right.max() - GIVEN_UP)[-1])
    print(
        f"level {levels[place]:.2f}: right {right[place]:.3f}, at best {right.max():.3f} at {levels[int(right.argmax())]:.2f}"
    )
    return float(levels[place])


def written(names: tuple[str, ...], weights: np.ndarray, offset: float) -> dict[str, object]:
    """As the manifest holds it."""
    return {
        "weights": {n: round(float(w), 4) for n, w in zip(names, weights, strict=True) if w > 0.005},
        "offset": round(offset, 4),
    }


def logit(share: float) -> float:
    """Log-odds."""
    return math.log(share / (1 - share))


def anchored(
    weights: np.ndarray, harmless: np.ndarray, low: tuple[float, float], high: tuple[float, float]
) -> tuple[np.ndarray, float]:
    """Weights and offset such that a share of harmless values reaches a score, at two points.

    `low` and `high` are (share, score); `harmless` holds the weighted sums of harmless rows.
    """
    at_low, at_high = (float(np.quantile(harmless, 1 - share)) for share, _ in (low, high))
    slope = (logit(high[1]) - logit(low[1])) / max(at_high - at_low, 1e-3)
    return weights * slope, logit(low[1]) - slope * at_low


def relevance(got: dict[str, np.ndarray]) -> dict[str, object]:
    """Weights that tell an answer to another question."""
    r_weights, r_offset = fit(
        got["relevance"],
        got["off_topic"].astype(int),
        got["asked_of"],
        np.arange(len(got["off_topic"])).astype(str),
    )
    for name in np.unique(got["asked_of"]):
        mask = got["asked_of"] == name
        print(
            f"off topic {name:20s} AUC {auc(got['off_topic'][mask].astype(int), got['relevance'][mask] @ r_weights):.3f}"
        )
    answers_to_it = got["relevance"][got["off_topic"] == 0] @ r_weights
    r_weights, r_offset = anchored(r_weights, answers_to_it, (0.003, 0.6), (0.001, 0.8))
    return written(RELEVANCE, r_weights, r_offset)


def main() -> None:
    """Measure (once), report by left-out source, fit on all, write weighings.json."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--own", type=Path, default=Path(__file__).parent / "handwritten")
    ask.add_argument("--base", type=Path, required=True)
    ask.add_argument("--compared", type=Path, required=True)
    ask.add_argument("--out", type=Path, required=True)
    ask.add_argument("--rows", type=int, default=300)
    ask.add_argument("--keep-relevance", action="store_true", help="off_topic stays as the manifest has it")
    said = ask.parse_args()
    said.out.mkdir(parents=True, exist_ok=True)
    kept = said.out / "features.npz"
    if not kept.exists():
        np.savez_compressed(
            kept,
            **measure(
                said.data,
                said.own,
                said.base,
                said.compared,
                said.rows,
                relevance_too=not said.keep_relevance,
            ),
        )
    got = dict(np.load(kept))
    blind = np.char.startswith(got["source"], "held_")
    held = {key: got[key][blind] for key in ("values", "label", "source", "row")}
    got |= {key: got[key][~blind] for key in ("values", "label", "against", "source", "row")}
    for name in np.unique(got["source"]):
        rest, mask = got["source"] != name, got["source"] == name
        weights, offset = fit(got["values"][rest], got["label"][rest], got["source"][rest], got["row"][rest])
        y, worst = by_row(got["values"][mask] @ weights + offset, got["label"][mask], got["row"][mask])
        right = (worst > 0) == y
        even = (right[y == 1].mean() + right[y == 0].mean()) / 2
        print(f"{name:16s} rows {len(y):4d}  AUC {auc(y, worst):.3f}  balanced accuracy {even:.3f}")
    weights, offset = fit(got["values"], got["label"], got["source"], got["row"])
    print("unsupported", written(FEATURES, weights, offset))
    for name in np.unique(held["source"]):
        # Answers that nothing is fitted on; by a model that has seen less than the one that ships.
        mask = held["source"] == name
        y, worst = by_row(held["values"][mask] @ weights + offset, held["label"][mask], held["row"][mask])
        right = (worst > 0) == y
        print(
            f"{name:16s} rows {len(y):4d}  AUC {auc(y, worst):.3f}  recall {right[y == 1].mean():.3f}"
            f"  false {1 - right[y == 0].mean():.3f}"
        )
    known = got["against"] >= 0
    # Of the public sources alone: what contradicts in our own passages is past this detector, and would cost it the plain
    # cases, a number or a name that the document has otherwise.
    c_weights, c_offset = fit(
        *(got[k][known] for k in ("values", "against", "source", "row")), own_share=1e-6
    )
    print("contradicted", written(FEATURES, c_weights, c_offset))
    # The warn threshold of missing_grounding (0.6) goes where both kinds of error, over all sources alike, are least.
    offset += logit(0.6) - even_level(got, weights, offset)
    supported = got["against"] == 0
    _, calm = by_row((got["values"] @ c_weights)[supported], got["label"][supported], got["row"][supported])
    c_weights, c_offset = anchored(c_weights, calm, (0.06, 0.5), (0.008, 0.8))
    off_topic = (
        json.loads((said.base / "manifest.json").read_text())["off_topic"]
        if said.keep_relevance
        else relevance(got)
    )
    (said.out / "weighings.json").write_text(
        json.dumps(
            {
                "unsupported": written(FEATURES, weights, offset),
                "contradicted": written(FEATURES, c_weights, c_offset),
                "off_topic": off_topic,
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
