"""Fit the lexical classifier of tier 1: `python lexical.py --data DIR --out DIR [--fold N]`.

Weights over hashed features (llmobs.detect.tier1_lexical.features), linear for each head and for HIDDEN
rectified sums that all heads share, fitted on the same rows as the encoder's single-text heads, so the
two disagree for reasons of reading and not of data. A text's logit is the largest over its segments, in
fitting as in service.

With `--teacher FILE` (the encoder's weights, before they are rounded) it learns half from the labels and half from what
the encoder says of the same texts: to clear a class is to foretell that the encoder would.
"""

from __future__ import annotations

import argparse
import json
import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from encoder.bert import Encoder
from encoder.fit import score as scored
from encoder.fit import tokenizer
from encoder.folds import FOLDS
from encoder.heads import Heads
from encoder.singles import FOLDERS, HEADS, SEED, Row, compose, read

from llmobs.detect.tier1_lexical.features import BITS, LONGEST, features, lowered, segments_of

Text = list[np.ndarray]
"""Table rows of each segment."""


def segments(text: str) -> Text:
    """Table rows of each segment of a text's first LONGEST bytes."""
    raw = lowered(text)[:LONGEST]
    parts = features(raw)
    if not parts:
        return []
    bounds = [*segments_of(len(raw)).tolist(), len(raw)]
    found = [
        np.concatenate([rows[(places >= low) & (places < high)] for rows, places in parts])
        for low, high in pairwise(bounds)
    ]
    return [rows for rows in found if rows.size]


HIDDEN = 11
"""Rectified sums: with ten outputs 21 columns, which is 2.75 MB of int8 (the limit is 3) and seven packed words a row."""
DROPPED = 0.15
"""Share of a text's features that are left out in fitting, so that no single word is leant on."""


class Words(torch.nn.Module):
    """Weights (rows, outputs + hidden), biases, and what each hidden unit gives each output (hidden, outputs)."""

    def __init__(self, outputs: int, hidden: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.table = torch.nn.EmbeddingBag(1 << BITS, outputs + hidden, mode="sum")
        torch.nn.init.zeros_(self.table.weight)
        torch.nn.init.normal_(self.table.weight[:, outputs:], std=0.02)
        self.bias = torch.nn.Parameter(torch.cat([torch.full((outputs,), -2.0), torch.zeros(hidden)]))
        self.gives = torch.nn.Parameter(torch.randn(hidden, outputs) * 0.3)

    def forward(self, texts: list[Text], dropped: float = 0.0) -> torch.Tensor:
        """Logits (texts, outputs): the largest over the segments."""
        parts = [segment for text in texts for segment in text]
        owner = torch.tensor([number for number, text in enumerate(texts) for _ in text])
        sizes = torch.tensor([len(part) for part in parts])
        rows = torch.from_numpy(np.concatenate(parts))
        starts = torch.cumsum(sizes, 0) - sizes
        weights = torch.repeat_interleave(sizes.float().rsqrt(), sizes)
        if dropped:
            weights = weights * (torch.rand_like(weights) > dropped) / (1.0 - dropped)
        sums = self.table(rows, starts, per_sample_weights=weights) + self.bias
        logits = sums[:, : self.outputs] + F.relu(sums[:, self.outputs :]) @ self.gives
        best = torch.full((len(texts), logits.shape[1]), -1e4)
        return best.scatter_reduce(0, owner[:, None].expand_as(logits), logits, "amax")


def taught(rows: list[Row], said: argparse.Namespace) -> np.ndarray:
    """What the encoder says of each row, as probabilities (rows, outputs), NaN for rows that it is not asked about.

    Computed once, for our own rows, the made ones and an even part of the others.
    """
    kept = said.out / "taught.npy"
    if kept.exists():
        return np.load(kept)
    encoder = Heads(Encoder(), len(HEADS))
    encoder.load_state_dict(torch.load(said.teacher, weights_only=True))
    heard = [i for i, row in enumerate(rows) if row.source.startswith(("own_", "made_"))]
    others = sorted(set(range(len(rows))) - set(heard))
    heard += random.Random(SEED + 8).sample(others, min(len(others), said.taught))
    logits = scored(encoder, tokenizer(said.base), [rows[i].text[:1500] for i in heard])
    found = np.full((len(rows), len(HEADS)), np.nan, dtype=np.float32)
    found[heard] = 1.0 / (1.0 + np.exp(-logits))
    np.save(kept, found.astype(np.float16))
    return found


def fit(rows: list[Row], epochs: int, decay: float, teacher: np.ndarray | None = None) -> Words:
    """Fit on the rows that have a feature at all."""
    torch.manual_seed(SEED)
    chance = random.Random(SEED)
    nothing = np.full((len(rows), len(HEADS)), np.nan, dtype=np.float32)
    heard = nothing if teacher is None else teacher.astype(np.float32)
    data = [(segments(row.text[:6000]), row, said) for row, said in zip(rows, heard, strict=True)]
    data = [one for one in data if one[0]]
    model = Words(len(HEADS), HIDDEN)
    best = torch.optim.Adam(model.parameters(), lr=0.01)
    size = 256
    steps = epochs * (len(data) // size + 1)
    plan = torch.optim.lr_scheduler.LinearLR(best, 1.0, 0.05, steps)
    for epoch in range(epochs):
        chance.shuffle(data)
        total = 0.0
        for start in range(0, len(data), size):
            batch = data[start : start + size]
            logits = model([text for text, *_ in batch], DROPPED)
            labels = torch.tensor(
                [[row.labels.get(head, float("nan")) for head in HEADS] for _, row, _ in batch]
            )
            soft = torch.from_numpy(np.stack([said for *_, said in batch]))
            known, heard_of = ~torch.isnan(labels), ~torch.isnan(soft)
            asked = known | heard_of
            share = known.float() / (known.float() + heard_of.float()).clamp(min=1)
            target = torch.nan_to_num(labels) * share + torch.nan_to_num(soft) * (1 - share)
            each = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            weight = torch.tensor([row.weight for _, row, _ in batch])[:, None]
            # Missing a positive is what costs here: whatever is cleared is not looked at again.
            loss = (each * asked * weight * (1 + 2 * target)).sum() / len(batch)
            loss = loss + decay * model.table.weight.square().sum()
            best.zero_grad()
            loss.backward()
            best.step()
            plan.step()
            total += loss.item()
        print(f"epoch {epoch}: {total / (len(data) / size):.4f}", flush=True)
    return model


@torch.no_grad()
def score(model: Words, texts: list[str]) -> np.ndarray:
    """Logits (texts, outputs)."""
    cut = [segments(text) or [np.zeros(1, dtype=np.int64)] for text in texts]
    return np.concatenate([model(cut[i : i + 256]).numpy() for i in range(0, len(cut), 256)])


def main() -> None:
    """Fit as the arguments say."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--own", type=Path, default=Path(__file__).parent / "handwritten")
    ask.add_argument("--out", type=Path, required=True)
    ask.add_argument("--fold", type=int)
    ask.add_argument("--epochs", type=int, default=5)
    ask.add_argument("--decay", type=float, default=1e-6)
    ask.add_argument("--eval-rows", type=int, default=400)
    ask.add_argument("--teacher", type=Path, help="weights of the encoder, as encoder.tune writes them")
    ask.add_argument(
        "--taught", type=int, default=100_000, help="rows of other sources that the teacher reads"
    )
    ask.add_argument("--base", type=Path, help="whose tokenizer the teacher reads with")
    said = ask.parse_args()
    said.out.mkdir(parents=True, exist_ok=True)
    left = FOLDS[said.fold] if said.fold is not None else frozenset[str]()
    rows = [
        row
        for row in compose(said.data, said.own)
        if row.source not in left and not left & set(row.group.split("+"))
    ]
    model = fit(rows, said.epochs, said.decay, taught(rows, said) if said.teacher else None)
    np.savez_compressed(
        said.out / "lexical.npz",
        weights=model.table.weight.detach().numpy(),
        bias=model.bias.detach().numpy(),
        gives=model.gives.detach().numpy(),
    )
    if left:
        chance = random.Random(SEED)
        with (said.out / "lexical-scores.jsonl").open("w", encoding="utf-8") as lines:
            for folder in (*FOLDERS, "benign", "pii", "secret"):
                for path in sorted((said.data / folder).glob("*.jsonl.gz")):
                    source = path.name.removesuffix(".jsonl.gz")
                    if source not in left:
                        continue
                    found = list(read(path))
                    chance.shuffle(found)
                    found = found[: said.eval_rows]
                    for row, values in zip(
                        found, score(model, [str(row["text"]) for row in found]), strict=True
                    ):
                        told = {key: row[key] for key in ("id", "source", "label", "role")}
                        lines.write(
                            json.dumps(
                                {**told, "task": folder, "logits": [round(float(v), 3) for v in values]}
                            )
                            + "\n"
                        )


if __name__ == "__main__":
    main()
