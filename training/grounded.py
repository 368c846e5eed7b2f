"""Fit how a claim's features become scores: `python grounded.py --data DIR --heads DIR --out DIR`.

`--heads` is the folder of the served graphs (src/llmobs/data/heads), whose vectors and comparison are used as they are
served. Only text that the comparison has not learnt from is fitted on: rows of public sources that were kept back, and our
own answers in handwritten/fitted, which serve nothing else. Features are computed once (features.npz) by the service's own code.
Weights are never negative: a hole in the support of a claim may not lower its score on text of
another sort, which plain logistic regression does as soon as one source invites it.

Prints, for each source left out of the fit in turn, the AUC of an answer.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from encoder.comparison import answers, auc, kept_back
from encoder.pairs import answered

from llmobs.detect.artefacts import Artefacts
from llmobs.detect.tier2_encoder.comparison import Comparison
from llmobs.detect.tier2_encoder.embedder import Embedder
from llmobs.detect.tier2_encoder.evidence import Passages
from llmobs.detect.tier2_encoder.grounded import (
    FEATURES,
    RELEVANCE,
    claim_features,
    relevance_features,
)
from llmobs.detect.tier2_encoder.words import load_words

OWN_SHARE = 1.0
"""How much all files of our own answers together count beside all public sources: their wrong answers keep as near to the
document's words as the right ones, which those of the public sources do not."""
ASIDE = frozenset(["bbq_grounded", "sgd_results", "xquad_claims"])
"""Sources that support is not fitted on, only told of: choices among two names, JSON of tools, other languages."""


def measure(data: Path, hand: Path, heads: Path, *, relevance_too: bool) -> dict[str, np.ndarray]:
    """Features of claims and of answers to questions, with what is known of them."""
    words = load_words(Artefacts(heads / "words"))
    embedder = Embedder(Artefacts(heads / "base"), words)
    comparison = Comparison(Artefacts(heads / "comparison"), words, embedder)
    asked = kept_back(data)
    for path in sorted((hand / "fitted").glob("grounded_*.jsonl")):
        asked += answers(path, f"own_{path.stem}")
    for path in sorted((hand / "held_out").glob("grounded_answers*.jsonl")):
        asked += answers(path, f"held_{path.stem}")
    values = np.zeros((len(asked), len(FEATURES)), dtype=np.float32)
    passages_of: dict[str, Passages] = {}
    for number, one in enumerate(asked):
        passages = passages_of.setdefault(one.document, Passages([one.document]))
        values[number] = claim_features(embedder, comparison, one.claim, one.query or None, passages)
        if number % 2000 == 0:
            print(number, "of", len(asked), flush=True)
    relevance = [
        (relevance_features(embedder, pair.first, pair.second), pair.labels[2], pair.source)
        for pair in (answered(data, hand) if relevance_too else [])
    ]
    return {
        "values": values,
        "source": np.array([one.source for one in asked]),
        "row": np.array([one.row for one in asked]),
        "label": np.array([int(one.labels[0]) for one in asked]),
        "against": np.array([-1 if math.isnan(one.labels[1]) else int(one.labels[1]) for one in asked]),
        "relevance": np.array([v for v, _, _ in relevance], dtype=np.float32),
        "off_topic": np.array([label for _, label, _ in relevance]),
        "asked_of": np.array([source for _, _, source in relevance]),
    }


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
    ask.add_argument("--heads", type=Path, required=True)
    ask.add_argument("--out", type=Path, required=True)
    ask.add_argument(
        "--support-alone",
        action="store_true",
        help="contradicted and off_topic stay as the manifest has them",
    )
    said = ask.parse_args()
    said.out.mkdir(parents=True, exist_ok=True)
    kept = said.out / "features.npz"
    if not kept.exists():
        found = measure(said.data, said.own, said.heads, relevance_too=not said.support_alone)
        np.savez_compressed(kept, **found)
    got = dict(np.load(kept))
    blind = np.char.startswith(got["source"], "held_")
    held = {key: got[key][blind] for key in ("values", "label", "source", "row")}
    got |= {key: got[key][~blind] for key in ("values", "label", "against", "source", "row")}
    plain = ~np.isin(got["source"], sorted(ASIDE))
    for name in np.unique(got["source"]):
        rest, mask = plain & (got["source"] != name), got["source"] == name
        weights, offset = fit(got["values"][rest], got["label"][rest], got["source"][rest], got["row"][rest])
        y, worst = by_row(got["values"][mask] @ weights + offset, got["label"][mask], got["row"][mask])
        right = (worst > 0) == y
        even = (right[y == 1].mean() + right[y == 0].mean()) / 2
        print(f"{name:16s} rows {len(y):4d}  AUC {auc(y, worst):.3f}  balanced accuracy {even:.3f}")
    fitted = {key: got[key][plain] for key in ("values", "label", "source", "row")}
    weights, offset = fit(fitted["values"], fitted["label"], fitted["source"], fitted["row"])
    print("unsupported", written(FEATURES, weights, offset))
    known = got["against"] >= 0
    # Of the public sources alone: what contradicts in our own passages is past this detector, and would cost it the plain
    # cases, a number or a name that the document has otherwise.
    c_weights, c_offset = fit(
        *(got[k][known] for k in ("values", "against", "source", "row")), own_share=1e-6
    )
    print("contradicted", written(FEATURES, c_weights, c_offset))
    # The warn threshold of missing_grounding (0.6) goes where both kinds of error, over all sources alike, are least.
    level = even_level(fitted, weights, offset)
    for name in np.unique(held["source"]):
        # Answers that nothing is fitted on.
        mask = held["source"] == name
        y, worst = by_row(held["values"][mask] @ weights + offset, held["label"][mask], held["row"][mask])
        right = (worst > level) == y
        print(
            f"{name:16s} rows {len(y):4d}  AUC {auc(y, worst):.3f}  recall {right[y == 1].mean():.3f}"
            f"  false {1 - right[y == 0].mean():.3f}"
        )
    offset += logit(0.6) - level
    supported = got["against"] == 0
    _, calm = by_row((got["values"] @ c_weights)[supported], got["label"][supported], got["row"][supported])
    c_weights, c_offset = anchored(c_weights, calm, (0.06, 0.5), (0.008, 0.8))
    weighings = {
        "unsupported": written(FEATURES, weights, offset),
        "contradicted": written(FEATURES, c_weights, c_offset),
    }
    if said.support_alone:
        told = json.loads((said.heads / "base" / "manifest.json").read_text())
        weighings |= {"contradicted": told["contradicted"], "off_topic": told["off_topic"]}
    else:
        weighings["off_topic"] = relevance(got)
    (said.out / "weighings.json").write_text(json.dumps(weighings, indent=1))


if __name__ == "__main__":
    main()
