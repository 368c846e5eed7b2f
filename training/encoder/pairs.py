"""Pairs made from the public data: sentences against their passage, answers against questions."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

from llmobs.detect.tier2_encoder.evidence import Passages, sentences

from .singles import SEED, read

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts, and what the second does to the first.

    Labels: is not supported by it, contradicts it, does not answer it; NaN where nobody says.
    """

    first: str
    second: str
    labels: tuple[float, float, float]
    source: str
    weight: float = 1.0
    group: str = ""


NUMBER = re.compile(r"\b\d[\d,.]*\d\b|\b\d\b")
NAME = re.compile(r"(?<![.!?]\s)(?<!^)\b[A-Z][a-z]{2,}(?:\s[A-Z][a-z]+)*\b")
POSITIVE = (
    (" is ", " is not "), (" was ", " was not "), (" are ", " are not "), (" were ", " were not "),
    (" can ", " cannot "), (" has ", " has never "), (" will ", " will not "), (" did not ", " did "),
    (" not ", " "), (" never ", " always "), (" more ", " less "), (" before ", " after "),
    (" increase", " decrease"), (" all ", " no "), (" first ", " last "), (" often ", " rarely "),
    (" higher ", " lower "), (" largest ", " smallest "), (" with ", " without "), (" must ", " need not "),
    (" north", " south"), (" east", " west"), (" most ", " few "), (" many ", " no "),
)  # fmt: skip
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def twist(sentence: str, context: str, chance: random.Random) -> tuple[str, float] | None:
    """Change one fact of the sentence; None where nothing could be changed.

    Comes with whether the change contradicts the context (1) or is merely unsupported (0).
    """
    ways = ["number", "name", "word", "month"]
    chance.shuffle(ways)
    for way in ways:
        if way == "number" and (found := list(NUMBER.finditer(sentence))):
            spot = chance.choice(found)
            old = spot.group()
            digits = [c for c in old if c.isdigit()]
            if len(digits) == 4 and old.isdigit():
                new = str(int(old) + chance.choice((-30, -11, -7, -3, -1, 1, 2, 5, 8, 12, 40)))
            elif old.isdigit():
                new = str(max(0, int(old) + chance.choice((-3, -2, -1, 1, 2, 3, 7, 10, 25))))
            else:
                at = chance.choice([i for i, c in enumerate(old) if c.isdigit()])
                new = old[:at] + str((int(old[at]) + chance.randint(1, 8)) % 10) + old[at + 1 :]
            if new == old:
                continue
            return sentence[: spot.start()] + new + sentence[spot.end() :], 1.0
        if way == "name" and (found := list(NAME.finditer(sentence))):
            spot = chance.choice(found)
            others = {m.group() for m in NAME.finditer(context)} - {spot.group()}
            others = {o for o in others if o not in sentence}
            if not others:
                continue
            return sentence[: spot.start()] + chance.choice(sorted(others)) + sentence[spot.end() :], 1.0
        if way == "month":
            for month in MONTHS:
                if month in sentence:
                    other = chance.choice([m for m in MONTHS if m != month])
                    return sentence.replace(month, other, 1), 1.0
        if way == "word":
            fits = [pair for pair in POSITIVE if pair[0] in sentence]
            if fits:
                old, new = chance.choice(fits)
                return sentence.replace(old, new, 1), 1.0
    return None


LEADS = ("", "", "", "", "According to the text, ", "The document says that ", "Yes, ", "In short: ",
         "As stated, ", "It is said that ", "Sure! ", "Based on the context, ")  # fmt: skip
SYNONYMS = (
    (" approximately ", " about "), (" located ", " found "), (" however", " though"), (" because ", " since "),
    (" began ", " started "), (" large ", " big "), (" commonly ", " often "), (" such as ", " like "),
    (" also ", " as well "), (" many ", " a lot of "), (" received ", " got "), (" several ", " a number of "),
    (" help ", " aid "), (" usually ", " generally "), (" must ", " has to "), (" require", " need"),
    (" use ", " make use of "), (" show ", " display "), (" children ", " kids "), (" known as ", " called "),
)  # fmt: skip
SOURCES = (
    "benign/squad_passages", "benign/medquad", "benign/docs_prose", "benign/recipes",
    "benign/refchecker_answers", "benign/vicuna_bench", "benign/eng_practices", "benign/sgd_dialogue",
    "benign/tldr_pages", "security_attack/owasp_cheatsheets",
)  # fmt: skip


def swapped(data: Path, count: int) -> list[Pair]:
    """Sentences of harmless passages against their passage.

    As they stand or reworded a little (supported), with one fact changed (contradicted), or from
    another passage on the same subject (not supported).
    """
    chance = random.Random(SEED + 21)
    texts: list[tuple[str, str]] = []
    for name in SOURCES:
        found = [
            str(row["text"])
            for row in read(data / f"{name}.jsonl.gz")
            if row["role"] == "response" or name.endswith("squad_passages")
        ]
        found = [text for text in found if len(text) > 250]
        chance.shuffle(found)
        texts += [(name.split("/")[1], text) for text in found[:450]]
    chance.shuffle(texts)
    made: list[Pair] = []
    while len(made) < count:
        source, text = chance.choice(texts)
        parts = [p for p in sentences(text) if 30 < p.end - p.start < 260]
        if len(parts) < 2:
            continue
        part = chance.choice(parts)
        sentence = text[part.start : part.end]
        dice = chance.random()
        labels: tuple[float, float, float] = (0.0, 0.0, NAN)
        claim = sentence
        if dice < 0.45:
            for old, new in SYNONYMS:
                if chance.random() < 0.5:
                    claim = claim.replace(old, new)
            claim = re.sub(r"\s*\([^)]*\)", "", claim) if chance.random() < 0.5 else claim
        elif dice < 0.8:
            twisted = twist(sentence, text, chance)
            if twisted is None:
                continue
            claim, labels = twisted[0], (1.0, twisted[1], NAN)
        else:
            other_source, other = chance.choice(texts)
            others = [p for p in sentences(other) if 30 < p.end - p.start < 260]
            if other_source != source or other == text or not others:
                continue
            spot = chance.choice(others)
            claim, labels = other[spot.start : spot.end], (1.0, 0.0, NAN)
        lead = chance.choice(LEADS)
        if lead:
            claim = lead + claim[0].lower() + claim[1:]
        evidence = Passages([text]).nearest(claim, "")
        made.append(Pair(evidence, claim, labels, "made_swapped", 1.0, source))
    return made


QUESTIONS = (
    "gsm8k", "medquad", "tldr_pages", "recipes", "humaneval", "self_instruct_user", "sgd_dialogue",
    "taskmaster", "vicuna_bench",
)  # fmt: skip


def answered(data: Path, own: Path) -> list[Pair]:
    """Questions with their answer (0) or with that of another question (1).

    Half of the others come from the same source, so that the subject alone does not give it away.
    """
    chance = random.Random(SEED + 22)
    made: list[Pair] = []
    everything: list[str] = []
    kept: list[tuple[str, list[tuple[str, str]]]] = []
    for name in QUESTIONS:
        rows = [
            (str(row["query"]), str(row["text"]))
            for row in read(data / "benign" / f"{name}.jsonl.gz")
            if row.get("query") and row["role"] == "response"
        ]
        chance.shuffle(rows)
        rows = rows[:240]
        kept.append((name, rows))
        everything += [text for _, text in rows]
    for name, rows in kept:
        for query, text in rows:
            made.append(Pair(query[:400], text[:360], (NAN, NAN, 0.0), name))
            if chance.random() < 0.5:
                other = chance.choice(rows)[1]
                if name in ("sgd_dialogue", "taskmaster"):
                    other = chance.choice(everything)
            else:
                other = chance.choice(everything)
            if other != text:
                made.append(Pair(query[:400], other[:360], (NAN, NAN, 1.0), name))
    path = own / "train" / "domain_mismatch.jsonl"
    if path.exists():
        made += [
            Pair(
                str(row["query"]),
                str(row["text"]),
                (NAN, NAN, float(int(str(row["label"])))),
                "own_domain",
                2.0,
            )
            for row in read(path)
        ]
    return made
