"""Refit single heads on the trained encoder, which stays as it is, with all rows that ask them.

`python -m encoder.refit --data DIR --base DIR --trained DIR --heads NAME [NAME ...]`: reads
`singles/model.pt` under `--trained`, writes it anew with those heads changed, and keeps the old one
as `model-before.pt`. For rows that were written after the long run: minutes instead of hours, and
the other heads answer to the bit as before.
"""

from __future__ import annotations

import argparse
import random
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from .bert import Encoder
from .fit import batches, examples, pad, pieces, tokenizer
from .folds import FOLDS
from .heads import Heads
from .pace import quickest
from .singles import HEADS, SEED, compose

MOST = 9_000
"""Rows of public and made sources, drawn evenly; all of our own are taken."""
OWN_WEIGHT = 2.0


def main() -> None:
    """Read, compute the token vectors once, refit, write."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--own", type=Path, default=Path(__file__).parents[1] / "handwritten")
    ask.add_argument("--base", type=Path, required=True)
    ask.add_argument("--trained", type=Path, required=True)
    ask.add_argument("--heads", nargs="+", choices=HEADS, required=True)
    ask.add_argument("--fold", type=int, default=3)
    ask.add_argument("--leave", nargs="*", default=[], help="sources to leave out, to measure on them")
    ask.add_argument("--epochs", type=int, default=8)
    ask.add_argument("--rate", type=float, default=1e-3)
    said = ask.parse_args()
    torch.manual_seed(SEED)
    chance = random.Random(SEED + 40)
    left_out = FOLDS[said.fold] | set(said.leave)
    columns = [list(HEADS).index(head) for head in said.heads]
    rows = [
        row
        for row in compose(said.data, said.own)
        if row.source not in left_out
        and not left_out & set(row.group.split("+"))
        and any(head in row.labels for head in said.heads)
    ]
    own = [row for row in rows if row.source.startswith("own_")]
    rest = [row for row in rows if not row.source.startswith("own_")]
    rows = own + chance.sample(rest, min(MOST, len(rest)))
    data = []
    for row, ids in zip(rows, pieces(tokenizer(said.base), [row.text for row in rows]), strict=True):
        more = OWN_WEIGHT if row.source.startswith("own_") else 1.0
        data += [(cut, labels, weight * more) for cut, labels, weight in examples([row], [ids], chance)]
    path = said.trained / "singles" / "model.pt"
    model = Heads(Encoder(), len(HEADS))
    model.load_state_dict(torch.load(path, weights_only=True))
    model.eval()
    kept = []
    with torch.no_grad():
        for batch in batches(data, chance):
            chosen = [data[i] for i in batch]
            table, seen, kinds = pad([one[0] for one in chosen])
            with quickest():
                states = model.encoder.tokens(table, seen, kinds)
            labels = torch.from_numpy(np.stack([one[1] for one in chosen]))[:, columns]
            weights = torch.tensor([one[2] for one in chosen])
            kept.append((states.to(torch.bfloat16), seen, labels.float(), weights))
    print(len(own), "own rows of", len(rows), flush=True)
    parts = {
        name: tensor[columns].clone().requires_grad_()
        for name, tensor in model.state_dict().items()
        if name.split(".")[0] in ("look", "value", "mean")
    }
    start = {name: tensor.detach().clone() for name, tensor in parts.items()}
    best = torch.optim.Adam(parts.values(), lr=said.rate)
    steps = said.epochs * len(kept)
    plan = torch.optim.lr_scheduler.LambdaLR(best, lambda step: max(0.02, 1 - step / steps))
    for epoch in range(said.epochs):
        chance.shuffle(kept)
        total = 0.0
        for states, seen, labels, weights in kept:
            x, here = states.float(), seen.float()[:, :, None]
            look = torch.softmax(
                F.linear(x, parts["look.weight"], parts["look.bias"]) + (1.0 - here) * -10000.0, dim=1
            )
            pooled = (look * F.linear(x, parts["value.weight"], parts["value.bias"])).sum(1)
            logits = pooled + F.linear((x * here).sum(1) / here.sum(1), parts["mean.weight"])
            asked = ~torch.isnan(labels)
            each = F.binary_cross_entropy_with_logits(
                logits, torch.nan_to_num(labels) * 0.96 + 0.02, reduction="none"
            )
            loss = (each * asked * weights[:, None]).sum() / (asked.sum() + 1)
            near = sum((parts[name] - start[name]).square().sum() for name in parts)
            (loss + 1e-3 * near).backward()
            best.step()
            plan.step()
            best.zero_grad()
            total += loss.item()
        print(f"epoch {epoch + 1} loss {total / len(kept):.4f}", flush=True)
    state = model.state_dict()
    torch.save(state, path.with_name("model-before.pt"))
    state = {name: tensor.clone() for name, tensor in state.items()}
    for name, tensor in parts.items():
        state[name][columns] = tensor.detach()
    torch.save(state, path)


if __name__ == "__main__":
    main()
