"""Fine-tune a second copy of the encoder on pairs: claim against evidence.

`python -m encoder.fit_pairs --data DIR --base DIR --out DIR [--fold N] [--epochs N]`, as `fit`.
"""

from __future__ import annotations

import argparse
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

from .bert import Encoder, load_base
from .fit import tokenizer
from .folds import FOLDS
from .heads import Heads
from .pairs import PAIR_HEADS, Pair, compose_pairs
from .singles import SEED

FIRST, SECOND = 128, 90
"""Word pieces of each side, at most."""

Encoded = tuple[list[int], list[int], np.ndarray, float]


def encode(tool: Tokenizer, pairs: list[Pair]) -> list[Encoded]:
    """Word pieces of both sides, cut to FIRST and SECOND (the end of a long second side is kept)."""
    first = tool.encode_batch([pair.first for pair in pairs], add_special_tokens=False)
    second = tool.encode_batch([pair.second for pair in pairs], add_special_tokens=False)
    return [
        (a.ids[:FIRST], b.ids[-SECOND:], np.array(p.labels[:2], dtype=np.float32), p.weight)
        for a, b, p in zip(first, second, pairs, strict=True)
        if a.ids and b.ids
    ]  # fmt: skip


def batches(data: list[Encoded], chance: random.Random, tokens: int = 4096) -> list[list[Encoded]]:
    """Batches of like length in random order."""
    order = sorted(data, key=lambda one: len(one[0]) + len(one[1]) + chance.random() * 16)
    made: list[list[Encoded]] = []
    batch: list[Encoded] = []
    for one in order:
        longest = max(len(x[0]) + len(x[1]) for x in [one, *batch[-1:]]) + 3
        if batch and longest * (len(batch) + 1) > tokens:
            made.append(batch)
            batch = []
        batch.append(one)
    if batch:
        made.append(batch)
    chance.shuffle(made)
    return made


def pad(batch: list[Encoded]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, what is seen and which side, as (pairs, tokens)."""
    longest = max(len(a) + len(b) for a, b, *_ in batch) + 3
    ids, seen, kinds = (torch.zeros((len(batch), longest), dtype=torch.long) for _ in range(3))
    for row, (a, b, *_) in enumerate(batch):
        whole = [101, *a, 102, *b, 102]
        ids[row, : len(whole)] = torch.tensor(whole)
        seen[row, : len(whole)] = 1
        kinds[row, len(a) + 2 : len(whole)] = 1
    return ids, seen, kinds


def loss_of(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Masked cross-entropy, each head averaged over the pairs that ask it."""
    asked = ~torch.isnan(labels)
    each = F.binary_cross_entropy_with_logits(
        logits, torch.nan_to_num(labels) * 0.94 + 0.03, reduction="none"
    )
    return ((each * asked * weights[:, None]).sum(0) / (asked.sum(0) + 2)).sum()


@torch.no_grad()
def score(model: Heads, data: list[Encoded]) -> np.ndarray:
    """Logits (pairs, heads) in the order given."""
    model.eval()
    place = {id(one): index for index, one in enumerate(data)}
    out = np.zeros((len(data), len(PAIR_HEADS)), dtype=np.float32)
    for batch in batches(data, random.Random(0), 8192):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits, _ = model(*pad(batch))
        for one, values in zip(batch, logits.float().numpy(), strict=True):
            out[place[id(one)]] = values
    return out


def main() -> None:
    """Train as the arguments say."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--base", type=Path, required=True)
    ask.add_argument("--out", type=Path, required=True)
    ask.add_argument("--fold", type=int)
    ask.add_argument("--epochs", type=int, default=2)
    ask.add_argument("--share", type=float, default=1.0)
    ask.add_argument("--rate", type=float, default=1e-4)
    ask.add_argument("--threads", type=int, default=2)
    said = ask.parse_args()
    said.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    torch.set_num_threads(said.threads)
    left = FOLDS[said.fold] if said.fold is not None else frozenset[str]()
    pairs = [pair for pair in compose_pairs(said.data) if pair.source not in left and pair.group not in left]
    tool = tokenizer(said.base)
    data = encode(tool, pairs)
    print(len(data), "pairs", flush=True)
    encoder = Encoder()
    load_base(encoder, load_file(said.base / "model.safetensors"))
    encoder.words.weight.requires_grad_(False)
    model = Heads(encoder, len(PAIR_HEADS))
    plans: list[list[list[Encoded]]] = []
    for epoch in range(said.epochs):
        chance = random.Random(SEED + 30 + epoch)
        chance.shuffle(data)
        plans.append(batches(data[: int(len(data) * said.share)], chance))
    steps = sum(map(len, plans))
    slow = [p for n, p in model.named_parameters() if p.requires_grad and n.startswith("encoder")]
    fast = [p for n, p in model.named_parameters() if not n.startswith("encoder")]
    best = torch.optim.AdamW(
        [{"params": slow, "lr": said.rate}, {"params": fast, "lr": 1e-3}], weight_decay=0.01
    )
    plan = torch.optim.lr_scheduler.LambdaLR(
        best, lambda s: min((s + 1) / (0.06 * steps), max(0.02, (steps - s) / (0.94 * steps)))
    )
    done, saved = 0, said.out / "checkpoint.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        best.load_state_dict(state["best"])
        plan.load_state_dict(state["plan"])
        done = state["done"]
    start = last = time.time()
    step, running = 0, 0.0
    for epoch_plan in plans:
        for batch in epoch_plan:
            step += 1
            if step <= done:
                continue
            model.train()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                logits, _ = model(*pad(batch))
            labels = torch.from_numpy(np.stack([one[2] for one in batch]))
            loss = loss_of(logits.float(), labels, torch.tensor([one[3] for one in batch]))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            best.step()
            plan.step()
            best.zero_grad()
            running = 0.98 * running + 0.02 * loss.item()
            if step % 50 == 0:
                pace = (time.time() - start) / (step - done)
                told = running / (1 - 0.98 ** (step - done))
                print(f"{step}/{steps} loss {told:.4f} {pace * (steps - step):.0f} s left", flush=True)
            if time.time() - last > 240:
                last = time.time()
                torch.save(
                    {"model": model.state_dict(), "best": best.state_dict(),
                     "plan": plan.state_dict(), "done": step}, saved,
                )  # fmt: skip
    torch.save(model.state_dict(), said.out / "model.pt")
    saved.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
