"""Fine-tune the encoder and its heads on single texts.

`python -m encoder.fit --data DIR --base DIR --out DIR [--fold N] [--epochs N]`: with `--fold`, the
sources of that fold are left out and scored afterwards (`scores.jsonl`), without, all are used.
A checkpoint is written every few minutes and picked up by the next run of the same command.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer

from .bert import Encoder, load_base
from .folds import FOLDS
from .heads import Heads
from .pace import quickest
from .singles import HEADS, SEED, Row, capped, compose

WINDOW = 126  # word pieces of one window; with [CLS] and [SEP] 128
STRIDE = 96
RARE = {"overconfidence", "hedging_excessive", "tone_issue", "missing_grounding"}


def windows(ids: list[int]) -> list[list[int]]:
    """Cut a text's word pieces into overlapping windows; the last one ends with the text."""
    if len(ids) <= WINDOW:
        return [ids]
    starts = [*range(0, len(ids) - WINDOW, STRIDE), len(ids) - WINDOW]
    return [ids[start : start + WINDOW] for start in starts]


def tokenizer(base: Path) -> Tokenizer:
    """The base's tokenizer without its own padding and cutting."""
    made = Tokenizer.from_file(str(base / "tokenizer.json"))
    made.no_padding()
    made.no_truncation()
    return made


def pieces(tool: Tokenizer, texts: list[str], limit: int = 6000) -> list[list[int]]:
    """Word pieces of each text (its first `limit` characters), without special tokens."""
    cut = [text[:limit] for text in texts]
    return [e.ids for e in tool.encode_batch(cut, add_special_tokens=False)]


def examples(
    rows: list[Row], ids: list[list[int]], chance: random.Random
) -> list[tuple[list[int], np.ndarray, float]]:
    """One or two windows a row, with its label vector (NaN: not asked)."""
    made: list[tuple[list[int], np.ndarray, float]] = []
    for row, tokens in zip(rows, ids, strict=True):
        if not tokens:
            continue
        labels = np.array([row.labels.get(head, math.nan) for head in HEADS], dtype=np.float32)
        if len(tokens) <= WINDOW:
            made.append((tokens, labels, row.weight))
            continue
        if row.at == "short":
            continue
        if row.at == "start":
            made.append((tokens[:WINDOW], labels, row.weight))
        elif row.at == "end":
            made.append((tokens[-WINDOW:], labels, row.weight))
        else:
            start = chance.randint(0, len(tokens) - WINDOW)
            if chance.random() < 0.5:
                start = 0
            made.append((tokens[start : start + WINDOW], labels, row.weight))
    return made


def batches(
    data: list[tuple[list[int], np.ndarray, float]], chance: random.Random, tokens: int = 4096
) -> list[list[int]]:
    """Indices by like length, so that little is padded; the batches themselves are shuffled."""
    order = sorted(range(len(data)), key=lambda i: len(data[i][0]) + chance.random() * 12)
    made: list[list[int]] = []
    batch: list[int] = []
    for index in order:
        longest = max(len(data[index][0]), len(data[batch[-1]][0]) if batch else 0) + 2
        if batch and longest * (len(batch) + 1) > tokens:
            made.append(batch)
            batch = []
        batch.append(index)
    if batch:
        made.append(batch)
    chance.shuffle(made)
    return made


def pad(ids: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids with [CLS] and [SEP], what is seen, and kinds, as (texts, tokens)."""
    longest = max(map(len, ids)) + 2
    table = torch.zeros((len(ids), longest), dtype=torch.long)
    seen = torch.zeros((len(ids), longest), dtype=torch.long)
    for row, tokens in enumerate(ids):
        whole = [101, *tokens, 102]
        table[row, : len(whole)] = torch.tensor(whole)
        seen[row, : len(whole)] = 1
    return table, seen, torch.zeros_like(table)


def loss_of(logits: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Masked cross-entropy; positives of the rare heads count four times."""
    asked = ~torch.isnan(labels)
    target = torch.nan_to_num(labels)
    # A little smoothing: several sources say that some of their labels are wrong.
    each = F.binary_cross_entropy_with_logits(logits, target * 0.96 + 0.02, reduction="none")
    rare = torch.tensor([4.0 if head in RARE else 1.5 for head in HEADS])
    weight = asked * weights[:, None] * (1.0 + target * (rare - 1.0))
    return (each * weight).sum() / len(labels)


@torch.no_grad()
def score(model: Heads, tool: Tokenizer, texts: list[str]) -> np.ndarray:
    """Logits (texts, heads): the largest over the windows of each text."""
    model.eval()
    cut: list[tuple[int, list[int]]] = []
    for index, ids in enumerate(pieces(tool, texts)):
        cut.extend((index, window) for window in windows(ids or [100]))
    out = np.full((len(texts), len(HEADS)), -20.0, dtype=np.float32)
    data = [(ids, np.zeros(0, np.float32), 1.0) for _, ids in cut]
    for batch in batches(data, random.Random(0), 8192):
        with quickest():
            logits, _ = model(*pad([cut[i][1] for i in batch]))
        for i, values in zip(batch, logits.float().numpy(), strict=True):
            np.maximum(out[cut[i][0]], values, out=out[cut[i][0]])
    return out


def main() -> None:
    """Train as the arguments say."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--own", type=Path, default=Path(__file__).parents[1] / "handwritten")
    ask.add_argument("--base", type=Path, required=True)
    ask.add_argument("--out", type=Path, required=True)
    ask.add_argument("--fold", type=int)
    ask.add_argument("--epochs", type=int, default=2)
    ask.add_argument("--share", type=float, default=1.0, help="share of the rows in each epoch")
    ask.add_argument("--rate", type=float, default=6e-5)
    ask.add_argument("--eval-rows", type=int, default=400)
    ask.add_argument("--threads", type=int, default=2)
    said = ask.parse_args()
    said.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    torch.set_num_threads(said.threads)
    left = FOLDS[said.fold] if said.fold is not None else frozenset[str]()
    rows = [
        row
        for row in compose(said.data, said.own)
        if row.source not in left and not left & set(row.group.split("+"))
    ]
    tool = tokenizer(said.base)
    ids = pieces(tool, [row.text for row in rows])
    print(len(rows), "rows", flush=True)
    encoder = Encoder()
    load_base(encoder, load_file(said.base / "model.safetensors"))
    encoder.words.weight.requires_grad_(False)
    model = Heads(encoder, len(HEADS))
    plans: list[list[list[tuple[list[int], np.ndarray, float]]]] = []
    for epoch in range(said.epochs):
        chance = random.Random(SEED + 10 + epoch)
        data = examples(rows, ids, chance)
        chance.shuffle(data)
        data = data[: int(len(data) * said.share)]
        plans.append([[data[i] for i in batch] for batch in batches(data, chance)])
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
    for epoch in plans:
        for batch in epoch:
            step += 1
            if step <= done:
                continue
            model.train()
            table, seen, kinds = pad([ids for ids, _, _ in batch])
            with quickest():
                logits, _ = model(table, seen, kinds)
            labels = torch.from_numpy(np.stack([labels for _, labels, _ in batch]))
            loss = loss_of(logits.float(), labels, torch.tensor([weight for *_, weight in batch]))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            best.step()
            plan.step()
            best.zero_grad()
            running = 0.98 * running + 0.02 * loss.item()
            if step % 50 == 0:
                pace = (time.time() - start) / (step - done)
                left_s = pace * (steps - step)
                print(
                    f"{step}/{steps} loss {running / (1 - 0.98 ** (step - done)):.4f} {left_s:.0f} s left",
                    flush=True,
                )
            if time.time() - last > 240:
                last = time.time()
                torch.save(
                    {"model": model.state_dict(), "best": best.state_dict(),
                     "plan": plan.state_dict(), "done": step}, saved,
                )  # fmt: skip
    torch.save(model.state_dict(), said.out / "model.pt")
    saved.unlink(missing_ok=True)
    if left:
        model.eval()
        judge(model, tool, said.data, left, said.out / "scores.jsonl", said.eval_rows)


def judge(model: Heads, tool: Tokenizer, data: Path, left: frozenset[str], out: Path, limit: int) -> None:
    """Write the scores of rows that were not learnt from, at most `limit` rows of a source.

    Left-out sources whole; of the others what lies beyond their caps, harmless traffic excepted,
    for thresholds must rest on sources that are strangers.
    """
    with out.open("w", encoding="utf-8") as lines:
        for folder, source, kept, beyond in capped(data):
            if folder == "benign" and source not in left:
                continue
            rows = ([*kept, *beyond] if source in left else beyond)[:limit]
            logits = score(model, tool, [str(row["text"]) for row in rows])
            for row, values in zip(rows, logits, strict=True):
                told = {
                    "id": row["id"], "task": folder, "source": source, "left_out": source in left,
                    "label": row["label"], "role": row["role"],
                    "logits": [round(float(v), 3) for v in values],
                }  # fmt: skip
                lines.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
