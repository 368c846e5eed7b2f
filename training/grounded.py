"""Fit how a claim's features become scores: `python grounded.py --data DIR --base DIR --out DIR`.

`--base` is the folder of the served base encoder (src/llmobs/data/heads/base), whose vectors are
used as they will be served. Features are computed once (features.npz) by the service's own code.
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
from encoder.pairs import answered, swapped
from encoder.singles import SEED, read

from llmobs.detect.artefacts import Artefacts
from llmobs.detect.tier2_encoder.embedder import Embedder
from llmobs.detect.tier2_encoder.evidence import Passages
from llmobs.detect.tier2_encoder.grounded import (
    FEATURES,
    RELEVANCE,
    claim_features,
    claims,
    relevance_features,
)
from llmobs.detect.tier2_encoder.words import load_words

CONTRADICTED, NOT_SUPPORTED, SUPPORTED = 2, 1, 0


def served(base: Path) -> Embedder:
    """The base encoder as the service loads it."""
    return Embedder(Artefacts(base), load_words(Artefacts(base.parent / "words")))


def measure(data: Path, own: Path, embedder: Embedder, rows_a_source: int) -> dict[str, np.ndarray]:
    """Features of claims and of answers to questions, with what is known of them."""
    values: list[tuple[float, ...]] = []
    told: list[tuple[str, str, int, int]] = []
    for path in sorted((data / "groundedness").glob("*.jsonl.gz")):
        source = path.name.removesuffix(".jsonl.gz")
        rows = list(read(path))
        random.Random(SEED).shuffle(rows)
        if source == "halueval_qa":
            rows = [row for row in rows if row["meta"]["like_length"]]  # type: ignore[index]
        for row in rows[:rows_a_source]:
            text, query = str(row["text"]), row.get("query")
            if source == "halueval_summ":
                query = None
            passages = Passages([str(row["context"])])
            label = int(str(row["label"]))
            kind = row["meta"].get("kind")  # type: ignore[attr-defined]
            against = -1 if label and kind is None else int(kind == "contradicted")
            for piece in claims(text)[:12]:
                claim = text[piece.start : piece.end]
                values.append(claim_features(embedder, claim, str(query) if query else None, passages))
                told.append((source, str(row["id"]), label, against))
        print(source, len(values), flush=True)
    for number, pair in enumerate(swapped(data, rows_a_source * 2)):
        values.append(claim_features(embedder, pair.second, None, Passages([pair.first])))
        told.append(("made_swapped", f"made{number}", int(pair.labels[0]), int(pair.labels[1])))
    relevance = [
        (relevance_features(embedder, pair.first, pair.second), pair.labels[2], pair.source)
        for pair in answered(data, own)
    ]
    return {
        "values": np.array(values, dtype=np.float32),
        "source": np.array([t[0] for t in told]),
        "row": np.array([t[1] for t in told]),
        "label": np.array([t[2] for t in told]),
        "against": np.array([t[3] for t in told]),
        "relevance": np.array([v for v, _, _ in relevance], dtype=np.float32),
        "off_topic": np.array([label for _, label, _ in relevance]),
        "asked_of": np.array([source for _, _, source in relevance]),
    }


def fit(
    values: np.ndarray, label: np.ndarray, source: np.ndarray, row: np.ndarray
) -> tuple[np.ndarray, float]:
    """Weights >= 0 and offset.

    A row's logit lies half-way from the mean of its claims to the worst; sources weigh alike, and both labels of a source too.
    """
    names, place = np.unique(np.char.add(np.char.add(source, "|"), row), return_inverse=True)
    first = np.zeros(len(names), dtype=int)
    first[place[::-1]] = np.arange(len(place))[::-1]
    y, s = label[first], source[first]
    weight = np.zeros(len(names))
    for one in np.unique(s):
        for which in (0, 1):
            mask = (s == one) & (y == which)
            if mask.any():
                weight[mask] = 1.0 / mask.sum()
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


def auc(y: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve."""
    order = np.argsort(score, kind="stable")
    ranks = np.empty(len(score))
    ranks[order] = np.arange(1, len(score) + 1)
    for value in np.unique(score):
        same = score == value
        ranks[same] = ranks[same].mean()
    positives = y.sum()
    return float((ranks[y == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(y) - positives)))


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


def main() -> None:
    """Measure (once), report by left-out source, fit on all, write weighings.json."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--own", type=Path, default=Path(__file__).parent / "handwritten")
    ask.add_argument("--base", type=Path, required=True)
    ask.add_argument("--out", type=Path, required=True)
    ask.add_argument("--rows", type=int, default=300)
    said = ask.parse_args()
    said.out.mkdir(parents=True, exist_ok=True)
    kept = said.out / "features.npz"
    if not kept.exists():
        np.savez_compressed(kept, **measure(said.data, said.own, served(said.base), said.rows))
    got = dict(np.load(kept))
    for name in np.unique(got["source"]):
        rest, mask = got["source"] != name, got["source"] == name
        weights, offset = fit(got["values"][rest], got["label"][rest], got["source"][rest], got["row"][rest])
        y, worst = by_row(got["values"][mask] @ weights + offset, got["label"][mask], got["row"][mask])
        right = (worst > 0) == y
        even = (right[y == 1].mean() + right[y == 0].mean()) / 2
        print(f"{name:16s} rows {len(y):4d}  AUC {auc(y, worst):.3f}  balanced accuracy {even:.3f}")
    weights, offset = fit(got["values"], got["label"], got["source"], got["row"])
    print("unsupported", written(FEATURES, weights, offset))
    known = got["against"] >= 0
    c_weights, c_offset = fit(*(got[k][known] for k in ("values", "against", "source", "row")))
    print("contradicted", written(FEATURES, c_weights, c_offset))
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
    # The warn threshold of missing_grounding (0.6) goes where both kinds of error weigh the same.
    offset += logit(0.6)
    supported = got["against"] == 0
    _, calm = by_row((got["values"] @ c_weights)[supported], got["label"][supported], got["row"][supported])
    c_weights, c_offset = anchored(c_weights, calm, (0.08, 0.5), (0.02, 0.8))
    answers = got["relevance"][got["off_topic"] == 0] @ r_weights
    r_weights, r_offset = anchored(r_weights, answers, (0.003, 0.6), (0.001, 0.8))
    (said.out / "weighings.json").write_text(
        json.dumps(
            {
                "unsupported": written(FEATURES, weights, offset),
                "contradicted": written(FEATURES, c_weights, c_offset),
                "off_topic": written(RELEVANCE, r_weights, r_offset),
            },
            indent=1,
        )
    )


if __name__ == "__main__":
    main()
