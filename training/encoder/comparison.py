"""Train the comparison of a claim with its evidence over the served base encoder, which stays as it is.

`python -m encoder.comparison --data DIR --base DIR --heads src/llmobs/data/heads --out DIR [--leave] [--start FILE | --again]`: learns
from all but the held-out answers and the rows that are kept back (`kept_back`: training/grounded.py weighs by them what
it says of text that it has not seen), and writes `model.pt`, which ships. With `--leave` four public sources and a fifth of
our own passages are left out and scored instead, to tell what to expect of text from elsewhere. Vectors are computed
once, by the graph that serves.

Claim and evidence pass the first layers of the base alone, so that a passage is read once for all claims, and its last
two layers together, which are fine-tuned for it (after DeFormer, Cao et al. 2020). Learning from a few ten thousand pairs
which words to compare takes long, so that is given: before the layers each piece of the claim is compared with what
it finds of its like in the evidence (decomposable attention, Parikh et al. 2016), and in them pieces attend more to
those of the other text that are like them.
"""

from __future__ import annotations

import argparse
import math
import pickle
import random
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from safetensors.torch import load_file
from torch import nn

from llmobs.detect.artefacts import Artefacts
from llmobs.detect.tier2_encoder.comparison import MOST_OF_CLAIM, MOST_OF_EVIDENCE, claim_with, unit_rows
from llmobs.detect.tier2_encoder.embedder import Embedder
from llmobs.detect.tier2_encoder.evidence import Passages, sentences
from llmobs.detect.tier2_encoder.grounded import claims
from llmobs.detect.tier2_encoder.words import Words, load_words

from .bert import Encoder, Layer, load_base
from .export import read_back
from .pace import quickest
from .pairs import swapped
from .singles import SEED, read

OUTPUTS = ("unsupported", "contradicted")
LEFT = frozenset(["fever_symmetric", "begin_cmu", "begin_wow", "halueval_qa"])
"""Public sources that `--leave` leaves out. halueval_summ and wrong answers of several sentences are never learnt
from, for they do not say which sentence is wrong."""
MOST = {
    "squad2_claims": 4000, "begin_wow": 3700, "xquad_claims": 800, "bbq_grounded": 200, "sgd_results": 2400,
    "halueval_qa": 1700, "fever_symmetric": 1378, "begin_cmu": 420, "halueval_summ": 0,
}  # fmt: skip
"""Rows of a source that are learnt from."""
KEPT = 300
NAN = float("nan")
WIDTH = 384


@dataclass(frozen=True, slots=True)
class Asked:
    """One claim with its evidence; labels are those of OUTPUTS, NaN where nobody says."""

    evidence: str
    query: str
    claim: str
    labels: tuple[float, float]
    source: str
    row: str
    weight: float = 1.0
    document: str = ""
    """What the evidence was taken from."""


def _shuffled(path: Path) -> list[dict[str, object]]:
    """The rows of a source in the order in which they are taken."""
    rows = list(read(path))
    if path.name.startswith("halueval_qa"):
        rows = [row for row in rows if row["meta"]["like_length"]]  # type: ignore[index]
    random.Random(SEED).shuffle(rows)
    return rows


def _sources(data: Path) -> list[tuple[str, Path]]:
    return [
        (path.name.removesuffix(".jsonl.gz"), path)
        for path in sorted((data / "groundedness").glob("*.jsonl.gz"))
    ]


def _contradicted(row: dict[str, object]) -> float:
    """Whether the answer says the contrary of its document; NaN where the source does not tell."""
    if not int(str(row["label"])):
        return 0.0
    kind = row["meta"].get("kind")  # type: ignore[attr-defined]
    return NAN if kind is None else float(kind == "contradicted")


def public(data: Path) -> list[Asked]:
    """Claims of the labelled answers that hold a single one: there the answer's label is the claim's."""
    made: list[Asked] = []
    for source, path in _sources(data):
        for row in _shuffled(path)[: MOST[source]]:
            text, query, label = str(row["text"]), str(row.get("query") or ""), int(str(row["label"]))
            found = claims(text)
            if not found or (label and len(found) > 1 and len(text) > 300):
                continue
            claim = text if len(text) <= 300 else text[found[0].start : found[0].end]
            document = str(row["context"])
            evidence = Passages([document]).nearest(claim, query)
            labels = (float(label), _contradicted(row))
            made.append(Asked(evidence, query, claim, labels, source, str(row["id"]), 1.0, document))
    return made


def kept_back(data: Path) -> list[Asked]:
    """All claims of public answers that no comparison learns from: what stands behind MOST, KEPT rows of a source at most.

    Each has the label of its answer.
    """
    made: list[Asked] = []
    for source, path in _sources(data):
        for row in _shuffled(path)[MOST[source] :][:KEPT]:
            text, document = str(row["text"]), str(row["context"])
            query = "" if source == "halueval_summ" else str(row.get("query") or "")
            labels = (float(int(str(row["label"]))), _contradicted(row))
            passages = Passages([document])
            for piece in claims(text)[:12]:
                claim = text[piece.start : piece.end]
                made.append(
                    Asked(
                        passages.nearest(claim, query), query, claim, labels, source, str(row["id"]), 0.0, document
                    )
                )  # fmt: skip
    return made


def own(folder: Path) -> list[Asked]:
    """Our own passages with claims: supported (s), not supported (n), contradicted (c)."""
    made: list[Asked] = []
    chance = random.Random(SEED + 31)
    for path in sorted(folder.glob("*.jsonl")):
        rows = list(read(path))
        for number, row in enumerate(rows):
            passages, query = Passages([str(row["doc"])]), str(row.get("query") or "")
            asked: list[list[str]] = list(row["claims"])  # type: ignore[call-overload]
            # Sentences of the passage itself, and claims about others of the same field: our claims were written so
            # that overlap tells nothing, or the contrary of what it tells elsewhere.
            document = str(row["doc"])
            whole = [document[p.start : p.end] for p in sentences(document) if 25 < p.end - p.start < 260]
            asked += [["s", text] for text in chance.sample(whole, min(2, len(whole)))]
            for _ in range(2):
                stray = chance.choice(rows[chance.randrange(len(rows))]["claims"])  # type: ignore[arg-type]
                if stray[1] not in {text for _, text in asked}:
                    asked.append(["n", stray[1]])
            for kind, claim in asked:
                made.append(
                    Asked(
                        passages.nearest(claim, query), query, claim, (float(kind != "s"), float(kind == "c")),
                        f"own_{path.stem}", f"{path.stem}:{number}", 1.5, str(row["doc"]),
                    )
                )  # fmt: skip
    return made


def answers(path: Path, source: str) -> list[Asked]:
    """The claims of our own answers, each with the label of its answer; never learnt from."""
    made: list[Asked] = []
    for row in read(path):
        document, query, text = str(row["context"]), str(row.get("query") or ""), str(row["text"])
        passages = Passages([document])
        meta: dict[str, str] = row["meta"]  # type: ignore[assignment]
        labels = (float(int(str(row["label"]))), float(meta["kind"] == "contradicted"))
        for piece in claims(text):
            claim = text[piece.start : piece.end]
            made.append(
                Asked(
                    passages.nearest(claim, query),
                    query,
                    claim,
                    labels,
                    source,
                    str(row["id"]),
                    0.0,
                    document,
                )
            )
    return made


def made_pairs(data: Path, count: int) -> list[Asked]:
    """Sentences of harmless passages, as they stand or with a fact changed."""
    return [
        Asked(
            pair.first,
            "",
            pair.second,
            (pair.labels[0], pair.labels[1]),
            "made_swapped",
            f"made{number}",
            0.6,
            pair.first,
        )
        for number, pair in enumerate(swapped(data, count))
    ]


def left_out(one: Asked) -> bool:
    """Whether `--leave` leaves the pair out: by source, our own by passage."""
    if one.source.startswith("own_"):
        return int(one.row.split(":")[1]) % 5 == 0
    return one.source in LEFT or one.source == "halueval_summ" or one.source.startswith("held_")


class Together(Layer):
    """A layer of the base over both texts; `leaning` says how much each of its heads attends by likeness of words."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__(width, heads, inner)
        self.leaning = nn.Parameter(torch.tensor([4.0] * 3 + [2.0] * 3 + [0.0] * (heads - 6)))

    def both(self, x: torch.Tensor, mask: torch.Tensor, alike: torch.Tensor) -> torch.Tensor:
        """Map (pairs, pieces, width) to the same shape; `alike` (pairs, pieces, pieces) is 0 within a text."""
        return self.forward(x, mask + alike[:, None] * self.leaning.view(1, -1, 1, 1))


class Compare(nn.Module):
    """See the module's docstring. All inputs are padded; `told` and `known` say where a piece is."""

    def __init__(
        self, layers: int = 2, width: int = 128, looks: int = 4, each: int = 48, drop: float = 0.1
    ) -> None:
        super().__init__()
        self.looks, self.each = looks, each
        self.layers = nn.ModuleList(Together(WIDTH, 12, 4 * WIDTH) for _ in range(layers))
        self.kinds = nn.Parameter(torch.zeros(2, WIDTH))
        self.flags = nn.Parameter(torch.randn(3, WIDTH) * 0.02)
        self.mixed = nn.Linear(2 * WIDTH, width)
        self.context = nn.Linear(WIDTH, looks * each, bias=False)
        self.alone = nn.Linear(WIDTH, looks * each, bias=False)
        self.sharp = nn.Parameter(torch.full((looks, 2), 6.0))
        self.value = nn.Linear(width, width)
        self.compare = nn.Sequential(
            nn.Linear(4 * width + 2 * looks + 3, 2 * width),
            nn.GELU(),
            nn.Dropout(drop),
            nn.Linear(2 * width, WIDTH),
        )
        self.norm = nn.LayerNorm(WIDTH)
        self.look = nn.Linear(WIDTH, len(OUTPUTS))
        wide = 3 * WIDTH + 8
        self.plain = nn.Linear(wide, len(OUTPUTS))
        self.deep = nn.Sequential(
            nn.Linear(wide, 256), nn.GELU(), nn.Dropout(drop), nn.Linear(256, len(OUTPUTS))
        )
        self.drop = nn.Dropout(drop)

    def begin(self, base: Encoder) -> None:
        """Take the last layers of the base."""
        for mine, theirs in zip(self.layers, base.layers[-len(self.layers) :], strict=True):
            mine.load_state_dict(theirs.state_dict(), strict=False)

    def forward(
        self, claim: torch.Tensor, claim_alone: torch.Tensor, evidence: torch.Tensor, evidence_alone: torch.Tensor,
        held: torch.Tensor, asked: torch.Tensor, said: torch.Tensor, told: torch.Tensor, known: torch.Tensor,
    ) -> torch.Tensor:  # fmt: skip
        """Logits (pairs, OUTPUTS)."""
        n, length, _ = claim.shape
        mine = F.gelu(self.mixed(torch.cat([claim, claim_alone], -1)))
        theirs = F.gelu(self.mixed(torch.cat([evidence, evidence_alone], -1)))
        away = (1.0 - known)[:, None, None, :] * -1e4

        def alike(by: nn.Linear, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
            a, b = (
                F.normalize(by(x).reshape(n, -1, self.looks, self.each), dim=-1).transpose(1, 2)
                for x in (one, other)
            )
            return a @ b.transpose(-1, -2)

        context, alone = alike(self.context, claim, evidence), alike(self.alone, claim_alone, evidence_alone)
        raw = claim_alone @ evidence_alone.transpose(1, 2)
        scores = context * self.sharp[:, 0].view(1, -1, 1, 1) + alone * self.sharp[:, 1].view(1, -1, 1, 1)
        weights = torch.softmax(scores + 3.0 * raw[:, None] + away, dim=-1)
        values = self.value(theirs).reshape(n, evidence.shape[1], self.looks, -1).transpose(1, 2)
        found = (weights @ values).transpose(1, 2).reshape(n, length, -1)
        nearest = (raw + away[:, 0]).amax(-1, keepdim=True)
        compared = self.compare(
            torch.cat(
                [
                    mine, found, (mine - found).abs(), mine * found, (context + away).amax(-1).transpose(1, 2),
                    (alone + away).amax(-1).transpose(1, 2), nearest, held[..., None], asked[..., None],
                ],
                -1,
            )
        )  # fmt: skip
        flags = held[..., None] * self.flags[0] + asked[..., None] * self.flags[1]
        x = torch.cat(
            [
                claim + 0.3 * self.norm(compared) + self.kinds[0] + flags,
                evidence + self.kinds[1] + said[..., None] * self.flags[2],
            ],
            1,
        )
        mask = (1.0 - torch.cat([told, known], 1))[:, None, None, :] * -1e4
        # Likeness of claim to evidence and back; nothing within either.
        across = torch.cat([F.pad(raw, (length, 0)), F.pad(raw.transpose(1, 2), (0, evidence.shape[1]))], 1)
        x = self.drop(x)
        for layer in self.layers:
            x = layer.both(x, mask, across)  # type: ignore[operator]
        x = x[:, :length]
        off = (1.0 - told)[..., None] * -1e4
        look = torch.softmax(self.look(x) + off, dim=1)
        pooled = (look.transpose(1, 2) @ x).flatten(1)
        largest = (x + off).amax(1)
        count = told.sum(1).clamp(min=1.0)
        gap = (1.0 - nearest[..., 0]) * told
        new = (1.0 - held) * told
        plain = torch.stack(
            [
                (gap > 0.4).to(gap.dtype).sum(1) / count, new.sum(1) / count, gap.sum(1) / count, gap.amax(1),
                count / 50, known.sum(1) / 150, (asked * told).sum(1) / count, (new * (1.0 - asked)).sum(1) / count,
            ],
            -1,
        )  # fmt: skip
        whole = torch.cat([pooled, largest, plain], -1)
        return self.deep(whole) + self.plain(whole)


class Vectors:
    """Vectors of all texts, computed once by the graph that serves, and batches of pairs made of them."""

    def __init__(self, pairs: list[Asked], heads: Path, kept: Path) -> None:
        self.pairs = pairs
        self.words: Words = load_words(Artefacts(heads / "words"))
        embedder = Embedder(Artefacts(heads / "base"), self.words)
        texts = sorted({t for p in pairs for t in (p.evidence, claim_with(p.query, p.claim)) if t})
        known: dict[str, tuple[tuple[int, ...], Any]] = (
            pickle.loads(kept.read_bytes()) if kept.exists() else {}
        )
        missing = [text for text in texts if text not in known]
        print(len(texts), "texts,", len(missing), "to embed", flush=True)

        def embed(text: str) -> tuple[str, tuple[int, ...], Any]:
            found = embedder(text)
            return text, found.ids, found.halfway.astype(np.float16)

        started = time.time()
        with ThreadPoolExecutor(2) as pool:
            for number, (text, ids, vectors) in enumerate(pool.map(embed, missing, chunksize=64)):
                known[text] = (ids, vectors)
                if number % 5000 == 4999:
                    print(number + 1, f"{time.time() - started:.0f} s", flush=True)
        if missing:
            kept.write_bytes(pickle.dumps(known, protocol=5))
        self.known = known
        self.asked = {query: frozenset(embedder.ids(query)) for query in {p.query for p in pairs}}

    def told(self, index: int) -> tuple[tuple[int, ...], Any]:
        """Word pieces and vectors of a pair's claim."""
        return self.known[claim_with(self.pairs[index].query, self.pairs[index].claim)]

    def length(self, index: int) -> int:
        """Word pieces of a pair."""
        return len(self.known[self.pairs[index].evidence][0]) + len(self.told(index)[0])

    def batch(self, indices: list[int], chance: random.Random | None) -> tuple[torch.Tensor, ...]:
        """Inputs of Compare; in training a question is at times not told."""
        told = [self.told(i) for i in indices]
        known = [self.known[self.pairs[i].evidence] for i in indices]
        size = len(indices)
        n = min(MOST_OF_CLAIM, max(len(ids) for ids, _ in told))
        m = min(MOST_OF_EVIDENCE, max(len(ids) for ids, _ in known))
        claim, claim_alone = np.zeros((2, size, n, WIDTH), np.float32)
        evidence, evidence_alone = np.zeros((2, size, m, WIDTH), np.float32)
        held, asked, here = np.zeros((3, size, n), np.float32)
        said, there = np.zeros((2, size, m), np.float32)
        for row, (index, mine, theirs) in enumerate(zip(indices, told, known, strict=True)):
            a, b = mine[0][:n], theirs[0][:m]
            claim[row, : len(a)], evidence[row, : len(b)] = mine[1][: len(a)], theirs[1][: len(b)]
            claim_alone[row, : len(a)], evidence_alone[row, : len(b)] = (
                unit_rows(self.words, a),
                unit_rows(self.words, b),
            )
            in_claim, in_evidence = frozenset(a), frozenset(b)
            held[row, : len(a)] = [piece in in_evidence for piece in a]
            said[row, : len(b)] = [piece in in_claim for piece in b]
            here[row, : len(a)] = there[row, : len(b)] = 1.0
            query = self.pairs[index].query
            if query and not (chance and chance.random() < 0.2):
                of = self.asked[query]
                asked[row, : len(a)] = [piece in of for piece in a]
        return tuple(
            torch.from_numpy(x)
            for x in (claim, claim_alone, evidence, evidence_alone, held, asked, said, here, there)
        )

    def batches(self, indices: list[int], size: int, chance: random.Random) -> list[list[int]]:
        """Indices by like length, the batches shuffled."""
        order = sorted(indices, key=lambda i: self.length(i) + chance.random() * 12)
        made = [order[at : at + size] for at in range(0, len(order), size)]
        chance.shuffle(made)
        return made


def served(heads: Path) -> Compare:
    """The comparison that ships, as trained but for what int8 rounded away."""
    graph = onnx.load(heads / "comparison" / "comparison.onnx").graph
    held = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    model = Compare()
    state = model.state_dict()
    for name, values in held.items():
        known = name.removeprefix("model.")
        if known in state and state[known].shape == values.shape:
            state[known] = torch.from_numpy(values.copy())
    products = [name.removesuffix("_quantized") for name in held if name.endswith("_quantized")]
    parts = ["mixed", "context", "alone", "value", "compare.0", "compare.3"]
    parts += [f"layers.{i}.{part}" for i in range(2) for part in ("qkv", "out", "up", "down")]
    named = {f"{part}.weight_Transposed": part for part in ("deep.0", "deep.3", "plain")}
    left = iter([*parts, "look"])
    for name in products:
        target = f"{named.get(name.removeprefix('model.')) or next(left)}.weight"
        weights = read_back(held, name)
        if state[target].shape != weights.shape:
            raise SystemExit(f"{name} does not hold {target}")
        state[target] = torch.from_numpy(weights)
    # What is neither a matrix nor named stands in the graph in the order of its use.
    free = [
        torch.from_numpy(values.copy()).flatten()
        for name, values in held.items()
        if name.startswith("onnx::") and values.dtype == np.float32 and name + "_quantized" not in held
        and "_scale" not in name and values.ndim in {4, 1}
    ]  # fmt: skip
    context, alone, held_too, asked, kind, other, said, first, second = free
    state["sharp"] = torch.stack([context, alone], 1)
    state["flags"], state["kinds"] = torch.stack([held_too, asked, said]), torch.stack([kind, other])
    state["layers.0.leaning"], state["layers.1.leaning"] = first, second
    model.load_state_dict(state)
    return model


def train(
    data: Vectors,
    indices: list[int],
    epochs: int,
    rate: float,
    seed: int,
    base: Path,
    start: Compare | None,
    kept: Path,
) -> Compare:
    """Fit from the base, or go on from `start` at half the rate; what each epoch has made is at `kept`."""
    torch.manual_seed(seed)
    chance = random.Random(seed)
    model = start or Compare()
    if start:
        rate /= 2
    else:
        encoder = Encoder()
        load_base(encoder, load_file(base / "model.safetensors"))
        model.begin(encoder)
    old = [p for name, p in model.named_parameters() if name.startswith("layers.") and "leaning" not in name]
    known = {id(p) for p in old}
    fresh = [p for p in model.parameters() if id(p) not in known]
    best = torch.optim.AdamW([{"params": old}, {"params": fresh}], lr=rate, weight_decay=0.02)
    size = 48
    steps = epochs * math.ceil(len(indices) / size)
    plan = torch.optim.lr_scheduler.OneCycleLR(best, [rate, 8 * rate], total_steps=steps + 1, pct_start=0.08)
    started = time.time()
    for epoch in range(epochs):
        model.train()
        total = 0.0
        for number, batch in enumerate(data.batches(indices, size, chance), 1):
            fed = data.batch(batch, chance)
            labels = torch.tensor([data.pairs[i].labels for i in batch])
            weights = torch.tensor([data.pairs[i].weight for i in batch])
            with quickest():
                logits = model(*fed)
            each = F.binary_cross_entropy_with_logits(
                logits.float(), torch.nan_to_num(labels) * 0.94 + 0.03, reduction="none"
            )
            loss = (each * ~torch.isnan(labels) * weights[:, None]).sum() / len(batch)
            best.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            best.step()
            plan.step()
            total += loss.item()
            if number % 100 == 0:
                print(
                    f"epoch {epoch + 1} step {number} loss {total / 100:.4f} {time.time() - started:.0f} s",
                    flush=True,
                )
                total = 0.0
        torch.save(model.state_dict(), kept)
    return model


@torch.no_grad()
def score(model: Compare, data: Vectors, indices: list[int]) -> np.ndarray:
    """Logits (indices, OUTPUTS)."""
    model.eval()
    out = np.zeros((len(data.pairs), len(OUTPUTS)), dtype=np.float32)
    for batch in data.batches(indices, 64, random.Random(0)):
        out[batch] = model(*data.batch(batch, None)).numpy()
    return out[indices]


def auc(y: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve."""
    order = np.argsort(score, kind="stable")
    ranks = np.empty(len(score))
    ranks[order] = np.arange(1, len(score) + 1)
    for value in np.unique(score):
        same = score == value
        ranks[same] = ranks[same].mean()
    positives = y.sum()
    if positives in {0, len(y)}:
        return NAN
    return float((ranks[y == 1].sum() - positives * (positives + 1) / 2) / (positives * (len(y) - positives)))


def told_of(pairs: list[Asked], found: np.ndarray) -> None:
    """Print the AUC of claims by source, of answers for the held-out ones."""
    by_source: dict[str, list[int]] = defaultdict(list)
    for index, one in enumerate(pairs):
        by_source[one.source].append(index)
    for source, places in sorted(by_source.items()):
        rows: dict[str, tuple[float, list[float]]] = {}
        for i in places:
            name = pairs[i].row if source.startswith("held_") else str(i)
            rows.setdefault(name, (pairs[i].labels[0], []))[1].append(float(found[i, 0]))
        y = np.array([label for label, _ in rows.values()])
        worst = np.array([(max(v) + sum(v) / len(v)) / 2 for _, v in rows.values()])
        known = [i for i in places if not math.isnan(pairs[i].labels[1])]
        against = auc(np.array([pairs[i].labels[1] for i in known]), found[known, 1])
        print(
            f"{source:18s} {len(y):5d}  AUC unsupported {auc(y, worst):.3f}  contradicted {against:.3f}",
            flush=True,
        )


def everything(said: argparse.Namespace) -> list[Asked]:
    """All pairs, those for measuring included."""
    hand: Path = said.own
    held = sorted((hand / "held_out").glob("grounded_answers*.jsonl"))
    return (
        public(said.data) + own(hand / "passages") + made_pairs(said.data, said.made)
        + [one for path in held for one in answers(path, f"held_{path.stem}")]
    )  # fmt: skip


def main() -> None:
    """Train as the arguments say."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--own", type=Path, default=Path(__file__).parents[1] / "handwritten")
    ask.add_argument("--heads", type=Path, required=True)
    ask.add_argument("--out", type=Path, required=True)
    ask.add_argument("--base", type=Path, required=True)
    ask.add_argument("--leave", action="store_true")
    ask.add_argument("--start", type=Path, help="a model to go on from")
    ask.add_argument("--again", action="store_true", help="go on from the model that ships")
    ask.add_argument("--new", nargs="*", default=[], help="our own files that all take part, with --old")
    ask.add_argument("--old", type=int, help="how many of the other pairs take part; all without it")
    ask.add_argument("--epochs", type=int, default=2)
    ask.add_argument("--made", type=int, default=2000)
    ask.add_argument("--rate", type=float, default=1e-4)
    said = ask.parse_args()
    said.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    pairs = everything(said)
    data = Vectors(pairs, said.heads, said.out / "vectors.pkl")
    left = [i for i, one in enumerate(pairs) if said.leave and left_out(one)]
    unused = {*left, *(i for i, one in enumerate(pairs) if one.source.startswith("held_"))}
    used = [i for i in range(len(pairs)) if i not in unused]
    if said.old is not None:
        fresh = {f"own_{name}" for name in said.new}
        known = [i for i in used if pairs[i].source not in fresh]
        some = set(random.Random(SEED).sample(known, min(said.old, len(known))))
        used = [i for i in used if pairs[i].source in fresh or i in some]
    print(len(used), "pairs", flush=True)
    kept = said.out / ("left.pt" if said.leave else "model.pt")
    start = served(said.heads) if said.again else None
    if said.start:
        start = Compare()
        start.load_state_dict(torch.load(said.start, weights_only=True))
    model = train(data, used, said.epochs, said.rate, SEED, said.base, start, kept)
    shown = left or sorted(unused)
    told_of([pairs[i] for i in shown], score(model, data, shown))


if __name__ == "__main__":
    main()
