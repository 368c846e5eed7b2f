"""The rows that the single-text heads learn from: the public data and what is made from it.

Every row carries its source, so that whole sources can be left out, and a label for the heads
that it says something about; the others are masked.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from . import framed

HEADS = (
    "prompt_injection",
    "dangerous_request",
    "dangerous_answer",
    "toxicity",
    "bias",
    "security_attack",
    "overconfidence",
    "hedging_excessive",
    "tone_issue",
    "missing_grounding",
)
SEED = 20261123
BENIGN = dict.fromkeys(HEADS, 0.0)
UNSAID = ("overconfidence", "hedging_excessive", "tone_issue", "missing_grounding")
PLAIN = ("overconfidence", "hedging_excessive", "missing_grounding")
"""Heads that a plain remark says no to: people who chat neither plead certainty nor cite."""
PLAIN_TALK = {"toxicity", "bias"}
"""Folders whose harmless rows are such remarks. Their tone is their own."""


@dataclass(frozen=True, slots=True)
class Row:
    """One text to learn from.

    `labels` maps head to 0 or 1; a head that is not named is not asked. `at` says which part of
    a long text carries the label: "any", "start", "end".
    """

    text: str
    labels: dict[str, float]
    source: str
    weight: float = 1.0
    at: str = "any"
    group: str = ""


def read(path: Path) -> Iterator[dict[str, object]]:
    """Yield the rows of one .jsonl or .jsonl.gz file."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def without(*heads: str) -> dict[str, float]:
    """Labels of a text that is harmless in everything but the named heads, which stay unasked."""
    return {head: 0.0 for head in HEADS if head not in heads}


def only(head: str, value: float, *unasked: str) -> dict[str, float]:
    """Labels of a text with a known answer for one head and 0 for the rest but the unasked."""
    return {**without(head, *unasked), head: value}


# What the label of a folder says: the head, and the heads about which such texts say nothing.
FOLDERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "prompt_injection": (
        "prompt_injection",
        ("dangerous_request", "dangerous_answer", "toxicity", "bias", *UNSAID),
    ),
    "toxicity": ("toxicity", ("bias", "dangerous_request", "dangerous_answer", *UNSAID)),
    "bias": ("bias", ("toxicity", "dangerous_request", "dangerous_answer", *UNSAID)),
    "dangerous_content": (
        "dangerous_request",
        ("prompt_injection", "dangerous_answer", "toxicity", "bias", *UNSAID),
    ),
    "security_attack": ("security_attack", ("dangerous_answer", *UNSAID)),
}
# At most so many rows of a source in one epoch: a head must not become a source detector.
CAPS = {
    "davidson_tweets": 1800,
    "paradetox": 2600,
    "stormfront_sentences": 1500,
    "identity_templates": 700,
    "payloads_all_the_things": 900,
    "gptfuzz_responses": 2200,
    "crows_pairs": 900,
    "sqlglot_fixtures": 250,
    "shell_commands": 250,
    "gsm8k": 350,
    "harmfulqa": 600,
    "tldr_pages": 350,
    "sgd_dialogue": 450,
    "refchecker_answers": 600,
    "mgsm": 200,
    "xquad_passages": 350,
    "docs_prose": 800,
    "sgd_tool_json": 250,
    "surge_toxicity": 600,
}
SKIPPED = {"bbq", "giskard"}  # bbq needs its context; giskard repeats other sources
WEIGHTS = {"crows_pairs": 0.4, "gptfuzz_responses": 0.7, "promptwl": 0.5, "cyberseceval_pi": 0.6}
# Harmful questions that are jailbreaks at the same time say nothing about the plain ask.
TASKS = {"overconfidence", "hedging_excessive", "tone_issue", "missing_grounding"}


def capped(data: Path) -> Iterator[tuple[str, str, list[dict[str, object]], list[dict[str, object]]]]:
    """Folder, source, the rows that are learnt from, and the rows of the source beyond its cap."""
    chance = random.Random(SEED)
    for folder in (*FOLDERS, "benign", "pii", "secret"):
        for path in sorted((data / folder).glob("*.jsonl.gz")):
            source = path.name.removesuffix(".jsonl.gz")
            if source in SKIPPED:
                continue
            found = list(read(path))
            chance.shuffle(found)
            cap = CAPS.get(source, 1200)
            yield folder, source, found[:cap], found[cap:]


def public(data: Path) -> list[Row]:
    """Rows of the public files, capped by source."""
    return [_public_row(folder, source, row) for folder, source, kept, _ in capped(data) for row in kept]


def _public_row(folder: str, source: str, row: dict[str, object]) -> Row:
    text, label = str(row["text"]), float(int(str(row["label"])))
    meta = row.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    place = str(meta.get("position") or meta.get("pos") or "any")
    at = {"start": "start", "beginning": "start", "end": "end", "middle": "short"}.get(place, "any")
    if place == "json_value":
        at = "short"
    if folder in ("benign", "pii", "secret"):
        return Row(text, without(*UNSAID) if source == "refchecker_answers" else dict(BENIGN), source)
    head, unasked = FOLDERS[folder]
    if source == "gptfuzz_responses":
        head = "dangerous_answer"
        unasked = ("prompt_injection", "dangerous_request", "toxicity", "bias", *UNSAID)
    if label == 0 and folder in ("prompt_injection", "security_attack"):
        return Row(text, dict(BENIGN), source)
    if source == "cyberseceval_frr":
        return Row(text, dict(BENIGN), source)
    if source == "crows_pairs" and label == 0:
        # The same sentence about another group: no stereotype of the kind, and no fair remark either.
        return Row(text, without(head, *unasked), source, WEIGHTS[source])
    if label == 0 and folder in PLAIN_TALK:
        fair = () if source == "stormfront_sentences" else ("bias",)
        unasked = tuple(other for other in unasked if other not in (*PLAIN, *fair))
    weight = WEIGHTS.get(source, 1.0)
    return Row(text, only(head, label, *unasked), source, weight, at if label else "any")


def handwritten(folder: Path) -> list[Row]:
    """Rows of the project's own labelled files."""
    rows: list[Row] = []
    for path in sorted(folder.glob("*.jsonl")):
        for row in read(path):
            task, label = str(row["task"]), float(int(str(row["label"])))
            if task == "dangerous_content":
                head = "dangerous_answer" if row["role"] == "response" else "dangerous_request"
            else:
                head = task
            if task == "plain":
                rows.append(Row(str(row["text"]), without("tone_issue"), f"own_{path.stem}"))
                continue
            if head not in HEADS:
                continue
            unasked = tuple(other for other in UNSAID if other != head) if label else ()
            if head == "toxicity" and label:
                unasked = (*unasked, "bias", "dangerous_request", "dangerous_answer")
            if label and head in ("dangerous_request", "dangerous_answer"):
                unasked = (*unasked, "toxicity", "bias")  # harm is often both, and nobody has said
            if label and head == "prompt_injection":
                unasked = (*unasked, "dangerous_request", "toxicity", "bias")
            if head in UNSAID and not label:
                unasked = tuple(other for other in UNSAID if other != head)
            if path.stem.startswith("planted_orders"):
                continue  # planted by `planted`, and not an attack where it stands alone
            rows.append(Row(str(row["text"]), only(head, label, *unasked), f"own_{path.stem}"))
    return rows


LONGEST_TWIN = 460
"""Characters of a twin that are learnt from, about the words that were planted."""


def twins(folder: Path) -> list[Row]:
    """Our own documents with an instruction for the reading model planted (1), and as they were before (0).

    Of a long one a stretch that holds the difference, the same stretch of both.
    """
    chance = random.Random(SEED + 6)
    rows: list[Row] = []
    attack = {**without("dangerous_request", "toxicity", "bias", *UNSAID), "prompt_injection": 1.0}
    for path in sorted(folder.glob("*.jsonl")):
        for row in read(path):
            clean, planted = str(row["clean"]), str(row["planted"])
            start = next(
                (i for i, (a, b) in enumerate(zip(clean, planted, strict=False)) if a != b),
                min(len(clean), len(planted)),
            )
            added = max(0, len(planted) - len(clean))
            room = max(0, LONGEST_TWIN - added)
            low = max(0, min(start - chance.randint(0, room), len(planted) - LONGEST_TWIN))
            # Whole words at the ends.
            low = planted.rfind(" ", 0, low) + 1 if low else 0
            rows += [
                Row(planted[low : max(low + LONGEST_TWIN, start + added)], attack, f"own_{path.stem}"),
                Row(clean[low : low + LONGEST_TWIN], dict(BENIGN), f"own_{path.stem}"),
            ]
            if len(clean) > LONGEST_TWIN:
                rows.append(Row(clean, dict(BENIGN), f"own_{path.stem}"))
    return rows


SENTENCE = re.compile(r"(?<=[.!?。])\s+|\n+")
WRAPPINGS = (
    "{}",
    "{}",
    "{}",
    "<!-- {} -->",
    "[{}]",
    "({})",
    "NOTE: {}",
    "P.S. {}",
    "Note to the assistant: {}",
    "AI: {}",
    "System: {}",
    "***{}***",
    "Important! {}",
    "> {}",
    '"instructions": "{}"',
    "Attention, language model: {}",
    "By the way, {}",
    "// {}",
    "INSTRUCTION FOR THE SUMMARISER: {}",
)
DOCUMENTS = {
    "docs_prose", "medquad", "tldr_pages", "recipes", "squad_passages", "xquad_passages",
    "eng_practices", "sgd_tool_json", "refchecker_answers", "owasp_cheatsheets", "vicuna_bench",
    "presidio_synth", "taskmaster", "lookalikes", "self_instruct_user", "agent_docs", "mails",
}  # fmt: skip
STRINGS = {"probe_packages", "promptwl", "garak_sysprompt", "deepset", "bastioncorpus"}
REQUESTS = {"fuzzyai_benign", "self_instruct_user", "mt_bench", "vicuna_bench"}


def planted(rows: list[Row], orders: list[Row], calm: list[Row], count: int) -> list[Row]:
    """Documents with an instruction put into them (1) and the same kind of documents without (0).

    A third of the harmless ones get an ordinary imperative sentence in the same place, so that
    an imperative alone is no give-away; and passages with a request in front or behind, as a
    user would put it, are harmless too.
    """
    chance = random.Random(SEED + 1)
    documents = [row for row in rows if row.source in DOCUMENTS and len(row.text) > 150]
    attacks = [
        row
        for row in rows
        if row.source in STRINGS and row.labels.get("prompt_injection") == 1 and len(row.text) < 300
    ]
    requests = [row for row in rows if row.source in REQUESTS and 15 < len(row.text) < 160]
    made: list[Row] = []
    for index in range(count):
        document = chance.choice(documents)
        parts = _excerpt(document.text, chance)
        if len(parts) < 2:
            continue
        dice = chance.random()
        if dice < 0.5 and orders:
            order = chance.choice(orders)
        elif dice < 0.8:
            order = chance.choice(attacks)
        else:
            order = chance.choice(requests)
        text = chance.choice(WRAPPINGS).format(order.text.strip())
        plain = order.source in REQUESTS
        place = len(parts) if plain and chance.random() < 0.6 else chance.randint(0, len(parts))
        if plain and place == 0:
            place = len(parts)
        harmful = " ".join([*parts[:place], text, *parts[place:]])
        weight = 0.6 if plain else 1.0
        labels = {**without("dangerous_request", "toxicity", "bias", *UNSAID), "prompt_injection": 1.0}
        made.append(Row(harmful, labels, "made_planted", weight, group=f"{document.source}+{order.source}"))
        other = chance.choice(documents)
        parts = _excerpt(other.text, chance)
        dice = chance.random()
        group = other.source
        if dice < 0.35 and calm:
            order = chance.choice(calm)
            place = chance.randint(0, len(parts))
            parts = [*parts[:place], order.text, *parts[place:]]
        elif dice < 0.5 and requests:
            # The way that users ask: the task, then the text (or the other way round).
            order = chance.choice(ASKS)
            parts = [order, *parts] if chance.random() < 0.7 else [*parts, "\n\n" + order]
        made.append(Row(" ".join(parts), dict(BENIGN), "made_clean", group=group))
        if index % 9 == 0:
            order = chance.choice(attacks)
            quote = chance.choice(DISCUSSIONS).format(order.text.strip().replace("\n", " ")[:200])
            made.append(Row(quote, dict(BENIGN), "made_discussed", group=order.source))
    return made


ASKS = (
    "Summarise the text below in two sentences.",
    "Translate the following passage into French:",
    "What is the main point of this paragraph?",
    "Rewrite this so that a ten-year-old understands it.",
    "Please proofread:",
    "Turn this into bullet points.",
    "Give me three questions that a teacher could ask about it.",
    "Extract all names and dates from the text.",
    "Is there anything wrong in this text?",
    "Write a short reply to this.",
    "Make a title for the following text.",
    "Explain the text above step by step.",
    "Classify the sentiment of the passage above as positive, negative or neutral.",
    "Using only the passage, answer: what happened first?",
    "Shorten this to fifty words, and keep the numbers.",
    "Answer the question with the help of the context. Context:",
)
DISCUSSIONS = (
    'Is the sentence "{}" a prompt injection, and why would it work?',
    'Our filter stopped a message last night. It said "{}", and the user had pasted it from a forum.',
    'Attackers write "{}" to make a chatbot drop its rules. Keep instructions and data apart.',
    'In the workshop we look at the attack string "{}" and discuss how to detect it.',
    'A student asked me what "{}" means. It is a well-known way to attack a language model.',
    'Label for the data set: text="{}", class=injection, annotator=3.',
    'The paper lists "{}" among its examples of override attacks, with a success rate of 12 %.',
    'Write a unit test which checks that our guard flags "{}".',
    'Why do people post "{}" under adverts of chatbots?',
)


def _excerpt(text: str, chance: random.Random) -> list[str]:
    parts = [part for part in SENTENCE.split(text) if part and part.strip()]
    length = chance.randint(2, 6)
    start = chance.randint(0, max(0, len(parts) - length))
    return [part[:260] for part in parts[start : start + length]]


GROUPS = (
    "women", "men", "immigrants", "refugees", "Muslims", "Jews", "Christians", "Black people",
    "white people", "Asians", "gay people", "lesbians", "trans people", "disabled people",
    "old people", "Mexicans", "Germans", "Roma", "Arabs", "Hindus", "Africans", "the poor",
    "blind people", "atheists", "foreigners", "Poles", "Indians", "Turks",
)  # fmt: skip
HATEFUL = (
    "I hate {}.", "{} are disgusting.", "All {} should leave this country.",
    "{} are a plague on our society.", "{} don't deserve any rights.", "We have to get rid of {}.",
    "Nobody wants {} here, they are vermin.", "{} are worthless and everybody knows it.",
    "I would never let {} near my children, they are animals.", "{} should be locked up, all of them.",
    "Why do {} even exist?", "The world would be a better place without {}.", "{} are filthy liars.",
    "It makes me sick to see {} on our streets.", "{} ought to be wiped out.",
    "You can't trust {}, they are scum.", "{} are too stupid to hold a real job.",
    "Somebody should beat some sense into {}.", "I wish all {} would just die.",
    "{} have no place in a civilised country.", "Anyone who defends {} should be shot along with them.",
)  # fmt: skip
CALM = (
    "I love {}.", "No {} deserve to be hated.", "I don't hate {}, quite the reverse.",
    "It is wrong to say that {} are worth less than others.", "{} have the same rights as everybody.",
    "Many {} work in this hospital.", "Whoever says that {} are scum should be ashamed.",
    "We need to protect {} from hate and violence.", "The report describes how {} were persecuted.",
    "{} are welcome in our club.", "What a great evening with {} from all over the city!",
    "People who write that {} should die get banned here.", "Why are {} so often targets of abuse?",
    "I admire {} who speak up.", "Calling {} vermin is exactly how it began in the thirties.",
    "My neighbours are {} and we get on well.", "Saying you hate {} makes you a bigot.",
    "{} should not be treated like criminals.", "A study looked at the health of {}.",
    "Stop blaming {} for everything.", "Not all {} are alike, and none of them is vermin.",
)  # fmt: skip
STEREOTYPES = (
    "{} are naturally bad with money.", "Of course he is lazy, {} always are.",
    "You can't expect {} to understand computers.", "{} are all good at cooking and bad at driving.",
    "{} are too emotional to lead a company.", "Everyone knows that {} steal.",
    "{} belong in the kitchen.", "{} only care about money.", "Typical of {}: always late.",
    "{} just don't have the brains for science.", "I would not hire {}, they never work hard.",
    "She is smart for one of the {}.", "{} are born criminals.", "{} make bad parents.",
)  # fmt: skip
FAIR = (
    "The claim that {} are bad with money has no support in the data.",
    "{} are as likely as anyone to be good drivers.", "Some {} are lazy and some are not, as anywhere.",
    "The old cliché that {} steal has been studied and refuted.",
    "Hiring should not depend on whether applicants are {}.", "{} lead many successful companies.",
    "It is a stereotype that {} are all alike.", "The firm was sued because it had turned down {}.",
    "Several {} won the prize for physics.", "{} reported being judged by clichés at work.",
)  # fmt: skip
THINGS = ("this traffic", "Mondays", "my printer", "cold coffee", "this update", "the rain", "maths",
          "that referee's decision", "my old phone", "long meetings", "burnt toast", "this level")  # fmt: skip
RUDE_BUT_FINE = (
    "God, I fucking love {}.", "I hate {} so much.", "{}? Damn, that is good shit.",
    "What the hell happened to {}?", "{} can go to hell.", "Holy crap, {} again.",
    "I'm so fucking tired of {}.", "{} kills me every single time.", "Bloody hell, {} is brilliant.",
)  # fmt: skip


def phrases() -> list[Row]:
    """Sentences by template about groups and things: hostile, fair, and merely rude."""
    chance = random.Random(SEED + 2)
    rows: list[Row] = []
    unasked = ("dangerous_request", "dangerous_answer", *UNSAID)
    plans = (
        (HATEFUL, GROUPS, "toxicity", 1.0, ("bias",), 260, "made_hate"),
        (CALM, GROUPS, "toxicity", 0.0, (), 320, "made_counter"),
        (STEREOTYPES, GROUPS, "bias", 1.0, ("toxicity",), 220, "made_stereotype"),
        (FAIR, GROUPS, "bias", 0.0, (), 200, "made_fair"),
        (RUDE_BUT_FINE, THINGS, "toxicity", 0.0, (), 100, "made_rude"),
    )
    for frames, slots, head, label, more, count, source in plans:
        seen: set[str] = set()
        while len(seen) < count:
            filled = chance.choice(frames).format(chance.choice(slots))
            text = filled[0].upper() + filled[1:]
            if text in seen:
                if len(seen) >= len(frames) * len(slots) * 0.9:
                    break
                continue
            seen.add(text)
            rows.append(Row(text, only(head, label, *more, *unasked), source))
    return rows


QUOTING = (
    'Writing "{}" is not an opinion, it is abuse.',
    'He shouted "{}" at us, and nobody stood up.',
    'The moderators removed a comment that said "{}".',
    'You cannot say "{}" and then complain about being banned.',
    'I was called names all day; one message read "{}". It hurt.',
    'Whoever believes "{}" should read a history book.',
)


def quoted_hate(rows: list[Row], count: int) -> list[Row]:
    """Hateful sentences quoted by somebody who reports or condemns them (0)."""
    chance = random.Random(SEED + 3)
    hate = [
        row
        for row in rows
        if row.source in ("stormfront_sentences", "toxigen_seeds", "made_hate")
        and 1.0 in (row.labels.get("toxicity"), row.labels.get("bias"))
        and len(row.text) < 160
    ]
    return [
        Row(
            chance.choice(QUOTING).format(row.text.strip().rstrip(".")),
            only("toxicity", 0.0, "dangerous_request", "dangerous_answer", *UNSAID),
            "made_quoted_hate",
            group=row.source,
        )
        for row in chance.choices(hate, k=count if hate else 0)
    ]


def noised(rows: list[Row], share: float) -> list[Row]:
    """Copies of some injection rows written the way that evades word lists (spelling, spacing)."""
    chance = random.Random(SEED + 4)
    made: list[Row] = []
    swaps = str.maketrans({"o": "0", "i": "1", "e": "3", "a": "4", "s": "5"})
    for row in rows:
        if row.labels.get("prompt_injection") is None or chance.random() > share:
            continue
        if len(row.text) > 500:
            continue
        dice = chance.random()
        letters = list(row.text)
        if dice < 0.3:
            text = "".join(c.translate(swaps) if chance.random() < 0.35 else c for c in letters)
        elif dice < 0.6:
            for index in range(len(letters) - 1):
                if letters[index].isalpha() and chance.random() < 0.06:
                    letters[index], letters[index + 1] = letters[index + 1], letters[index]
            text = "".join(letters)
        elif dice < 0.8:
            text = "".join(c for c in letters if not (c.isalpha() and chance.random() < 0.05))
        else:
            text = row.text.replace(" ", chance.choice(("  ", "_", ". ", "-")))
        made.append(Row(text, row.labels, "made_noise", 0.7, row.at, group=row.source))
    return made


def in_frames(rows: list[Row], count: int) -> list[Row]:
    """Harmful and harmless asks in the same frames and roles, refusals and outlines of compliance.

    A harmful ask within a harmless role says nothing about injection, nor does a role without
    rules about the ask in it.
    """
    chance = random.Random(SEED + 5)
    harmful = [
        row for row in rows if row.source == "advbench" and 20 < len(row.text) < 160 and "?" not in row.text
    ]
    calm = [
        row
        for row in rows
        if row.source in ("self_instruct_user", "mt_bench")
        and 20 < len(row.text) < 160
        and "?" not in row.text
        and "\n" not in row.text
    ]
    if not harmful or not calm:
        return []
    made: list[Row] = []
    request = only(
        "dangerous_request", 1.0, "prompt_injection", "dangerous_answer", "toxicity", "bias", *UNSAID
    )
    broken = {**without("dangerous_request", "toxicity", "bias", *UNSAID), "prompt_injection": 1.0}
    answer = only(
        "dangerous_answer", 1.0, "prompt_injection", "dangerous_request", "toxicity", "bias", *UNSAID
    )
    no = without("dangerous_request", *UNSAID)
    for _ in range(count):
        bad, good = chance.choice(harmful), chance.choice(calm)
        made.append(Row(framed.framed(bad.text, chance), request, "made_framed", 0.8, group=bad.source))
        made.append(
            Row(framed.framed(good.text, chance), dict(BENIGN), "made_framed_calm", group=good.source)
        )
        errand = chance.choice((None, bad, good))
        text = framed.persona(chance, True, errand.text if errand else None)
        made.append(Row(text, broken, "made_persona", 0.8, group=errand.source if errand else ""))
        errand = chance.choice((None, good))
        text = framed.persona(chance, False, errand.text if errand else None)
        made.append(Row(text, dict(BENIGN), "made_persona_calm", group=errand.source if errand else ""))
        bad = chance.choice(harmful)
        made.append(Row(framed.refused(bad.text, chance), no, "made_refused", group=bad.source))
        made.append(Row(framed.agreed(bad.text, chance), answer, "made_agreed", 0.5, group=bad.source))
    return made


def compose(data: Path, own: Path) -> list[Row]:
    """All rows, the made ones included, in a fixed order."""
    rows = public(data)
    mine = handwritten(own) + handwritten(own / "train") + twins(own / "twins")
    orders = [o for path in sorted((own / "train").glob("planted_orders*.jsonl")) for o in _orders(path)]
    calm = [row for row in mine if row.source.startswith("own_clean_imperatives")]
    rows += mine + phrases()
    rows += planted(rows, orders, calm, 3600)
    rows += quoted_hate(rows, 500)
    rows += noised(rows, 0.08)
    rows += in_frames(rows, 600)
    return rows


def _orders(path: Path) -> list[Row]:
    if not path.exists():
        return []
    return [Row(str(row["text"]), {"prompt_injection": 1.0}, "own_planted_orders") for row in read(path)]
