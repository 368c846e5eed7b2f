"""Go on training the shipped encoder with rows that were written since: minutes instead of hours.

`python -m encoder.tune --data DIR --base DIR --heads src/llmobs/data/heads --out DIR`: reads the weights
back from the served int8 graph, learns from all of our own rows and an even sample of the others (so that
nothing is unlearnt), and writes `model.pt` and `scores.jsonl` as encoder.fit does.
"""

from __future__ import annotations

import argparse
import random
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from torch import nn

from .bert import Encoder
from .export import STRETCH, read_back
from .fit import batches, examples, judge, loss_of, pad, pieces, tokenizer
from .folds import FOLDS
from .heads import Heads
from .pace import quickest
from .singles import HEADS, SEED, Row, compose


class Rounded(nn.Linear):
    """A matrix that computes as its int8 form will.

    Weights stand on the grid of encoder.export, activations in 8 bits over each text. The gradient passes as if nothing were
    rounded (straight-through, Bengio et al. 2013).
    """

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (texts, tokens, width) or (texts, width)."""
        scale = self.weight.detach().abs().amax(1, keepdim=True) / 64 * STRETCH
        weight = self.weight + ((self.weight / scale).round().clamp(-64, 63) * scale - self.weight).detach()
        with torch.no_grad():
            over = tuple(range(1, x.dim()))
            low = x.amin(over, keepdim=True).clamp(max=0)
            step = ((x.amax(over, keepdim=True).clamp(min=0) - low) / 255).clamp(min=1e-8)
            error = ((x - low) / step).round() * step + low - x
        return F.linear(x + error, weight, self.bias)


def rounded(model: nn.Module) -> None:
    """From now on its matrices compute as in int8."""
    for part in model.modules():
        if type(part) is nn.Linear:
            part.__class__ = Rounded


OWN_WEIGHT = 1.5
MORE = {
    "paradetox": 900,
    "davidson_tweets": 700,
    "crows_pairs": 400,
    "cyberseceval_pi_ml": 435,
    "surge_toxicity": 500,
    "toxigen_seeds": 400,
    "deepset": 400,
    "bipia_train": 500,
    "xquad_passages": 400,
    "mgsm": 300,
}
"""Rows of sources of which an even share let go what was learnt before, or which are in other languages."""
PARTS = ("qkv", "out", "up", "down")
MASK = 103


def blanked(ids: list[int], share: float, chance: random.Random) -> list[int]:
    """The word pieces with about `share` of them hidden, so that no single word gives the label away."""
    return [MASK if chance.random() < share else piece for piece in ids] if share else ids


def served(heads: Path) -> Heads:
    """The model of `singles` as trained, but for what int8 rounded away."""
    graph = onnx.load(heads / "singles" / "encoder.onnx").graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    model = Heads(Encoder(), len(HEADS))
    state = model.state_dict()
    for name, values in held.items():
        known = name.removeprefix("model.")
        if known in state and state[known].shape == values.shape:
            state[known] = torch.from_numpy(values.copy())
    table = np.load(heads / "words" / "words.npy").astype(np.float32)
    state["encoder.words.weight"] = torch.from_numpy(table * held["model.encoder.words.weight_s"])
    products = [node for node in graph.node if node.op_type == "MatMulInteger"]
    targets = [f"encoder.layers.{i}.{part}.weight" for i in range(6) for part in PARTS]
    targets += ["look.weight", "value.weight", "mean.weight"]
    for node, target in zip(products, targets, strict=True):
        name = node.input[1].removesuffix("_quantized")
        weights = read_back(held, name)
        if state[target].shape != weights.shape:
            raise SystemExit(f"{node.name} does not hold {target}")
        state[target] = torch.from_numpy(weights)
    model.load_state_dict(state)
    return model


def mixed(
    new: dict[str, torch.Tensor], old: dict[str, torch.Tensor], share: float
) -> dict[str, torch.Tensor]:
    """Weights between the new and the served ones: most of what was learnt, and less of what that cost elsewhere.

    After Wortsman et al., Robust fine-tuning of zero-shot models (2022).
    """
    return {name: torch.lerp(old[name].float(), new[name].float(), share).to(new[name].dtype) for name in new}


def chosen(
    rows: list[Row], most: int, chance: random.Random, new: frozenset[str], old: int | None
) -> list[Row]:
    """All of our own rows, and of the other sources evenly as many as fit.

    Rows of the files `new` come twice; with `old` only so many of the others of ours, drawn at random.
    """
    own = [row for row in rows if row.source.startswith("own_")]
    if new or old is not None:
        fresh = [row for row in own if row.source.removeprefix("own_") in new]
        known = [row for row in own if row.source.removeprefix("own_") not in new]
        own = 2 * fresh + (known if old is None else chance.sample(known, min(old, len(known))))
        print(2 * len(fresh), "of them new", flush=True)
    by_source: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if not row.source.startswith("own_"):
            by_source[row.source].append(row)
    share, taken = most // len(by_source), []
    for source in sorted(by_source):
        found = by_source[source]
        taken += chance.sample(found, min(len(found), MORE.get(source, share)))
    print(len(own), "own rows,", len(taken), "of", len(by_source), "other sources", flush=True)
    return own + taken


def main() -> None:
    """Train as the arguments say."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--own", type=Path, default=Path(__file__).parents[1] / "handwritten")
    ask.add_argument("--base", type=Path, required=True)
    ask.add_argument("--heads", type=Path, required=True)
    ask.add_argument("--out", type=Path, required=True)
    ask.add_argument("--most", type=int, default=12_000)
    ask.add_argument("--epochs", type=int, default=2)
    ask.add_argument("--rate", type=float, default=4e-5)
    ask.add_argument("--eval-rows", type=int, default=400)
    ask.add_argument("--start", type=Path, help="weights to go on from, instead of the served ones")
    ask.add_argument("--rounded", action="store_true", help="learn with what int8 will round away")
    ask.add_argument("--blank", type=float, default=0.0, help="share of the word pieces that are hidden")
    ask.add_argument("--new", nargs="*", default=[], help="our own files whose rows come twice")
    ask.add_argument("--old", type=int, help="how many of our other rows take part; all without it")
    ask.add_argument(
        "--mix", type=float, default=1.0, help="share of what was learnt that is kept, see `mixed`"
    )
    ask.add_argument("--turn", type=int, default=0, help="another turn takes other rows")
    said = ask.parse_args()
    said.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    torch.set_num_threads(2)
    left = FOLDS[3]
    rows = [
        row
        for row in compose(said.data, said.own)
        if row.source not in left and not left & set(row.group.split("+"))
    ]
    model = served(said.heads)
    if said.start is not None:
        model.load_state_dict(torch.load(said.start, weights_only=True))
    if said.rounded:
        rounded(model)
    model.encoder.words.weight.requires_grad_(False)
    tool = tokenizer(said.base)
    plan_of = []
    for epoch in range(said.epochs):
        chance = random.Random(SEED + 70 + said.turn + epoch)
        some = chosen(rows, said.most, chance, frozenset(said.new), said.old)
        data = [
            (ids, labels, weight * (OWN_WEIGHT if row.source.startswith("own_") else 1.0))
            for row, found in zip(some, pieces(tool, [row.text for row in some]), strict=True)
            for ids, labels, weight in examples([row], [found], chance)
        ]
        plan_of += [[data[i] for i in batch] for batch in batches(data, chance)]
    steps = len(plan_of)
    slow = [p for n, p in model.named_parameters() if p.requires_grad and n.startswith("encoder")]
    fast = [p for n, p in model.named_parameters() if not n.startswith("encoder")]
    best = torch.optim.AdamW(
        [{"params": slow, "lr": said.rate}, {"params": fast, "lr": 3e-4}], weight_decay=0.01
    )
    plan = torch.optim.lr_scheduler.LambdaLR(
        best, lambda s: min((s + 1) / (0.06 * steps), max(0.02, (steps - s) / (0.94 * steps)))
    )
    started, running = time.time(), 0.0
    hide = random.Random(SEED + 80 + said.turn)
    for step, batch in enumerate(plan_of, 1):
        model.train()
        with quickest():
            logits, _ = model(*pad([blanked(ids, said.blank, hide) for ids, _, _ in batch]))
        labels = torch.from_numpy(np.stack([labels for _, labels, _ in batch]))
        loss = loss_of(logits.float(), labels, torch.tensor([weight for *_, weight in batch]))
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        best.step()
        plan.step()
        best.zero_grad()
        running = 0.98 * running + 0.02 * loss.item() if running else loss.item()
        if step % 200 == 0:
            torch.save(model.state_dict(), said.out / "model.pt")
        if step % 25 == 0:
            pace = (time.time() - started) / step
            print(f"{step}/{steps} loss {running:.4f} {pace * (steps - step):.0f} s left", flush=True)
    if said.mix < 1.0:
        model.load_state_dict(mixed(model.state_dict(), served(said.heads).state_dict(), said.mix))
    torch.save(model.state_dict(), said.out / "model.pt")
    model.eval()
    judge(model, tool, said.data, left, said.out / "scores.jsonl", said.eval_rows)


if __name__ == "__main__":
    main()
