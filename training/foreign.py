"""Fit what is taken off a head's logit on text that is not in English.

`python foreign.py --data DIR --out DIR` reads the served graph under `--out` (the folder of all
heads) and writes `foreign` of each head into its manifest: the least that brings sentences of
harmless text in other languages (xquad, mgsm) down to SHARE of warnings. The model learnt nearly all
from English: some harmless sentences in other languages look to it like anything.

Prints recall on the attacks in other languages before and after.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

import numpy as np
from assemble import WARN, logit
from encoder.singles import SEED, read

from llmobs.detect.artefacts import Artefacts
from llmobs.detect.tier2_encoder.encoder import Encoder
from llmobs.detect.tier2_encoder.evidence import sentences
from llmobs.detect.tier2_encoder.language import is_foreign
from llmobs.detect.tier2_encoder.words import load_words

HARMLESS = ("xquad_passages", "mgsm")
SENTENCES_A_LANGUAGE = 130
SHARE = {"prompt_injection": 0.02, "toxicity": 0.008, "bias": 0.008}
"""Share of harmless sentences that may warn. Heads named here know attacks in other languages and
would lose many with less; the others
saw none and get OTHERS."""
OTHERS = 0.002
ATTACKS = {
    "prompt_injection": ("cyberseceval_pi_ml", "cyberseceval_pi", "deepset", "planted_docs", "promptwl"),
    "dangerous_content": ("catqa",),
    "toxicity": ("identity_templates",),
}


def harmless(data: Path) -> list[str]:
    """Sentences in other languages, as many of each."""
    chance = random.Random(SEED)
    by_language: dict[tuple[str, str], list[str]] = {}
    for name in HARMLESS:
        rows = list(read(data / "benign" / f"{name}.jsonl.gz"))
        chance.shuffle(rows)
        for row in rows:
            text, meta = str(row["text"]), row.get("meta")
            language = str(meta.get("lang")) if isinstance(meta, dict) else ""
            parts = sentences(text)
            for part in chance.sample(parts, min(2, len(parts))):
                sentence = text[part.start : part.end]
                if is_foreign(sentence):
                    by_language.setdefault((name, language), []).append(sentence)
    return [text for found in by_language.values() for text in found[:SENTENCES_A_LANGUAGE]]


def logits(encoder: Encoder, texts: list[str]) -> np.ndarray:
    """(texts, heads) of the first window of each."""
    return np.array([encoder.run(encoder.windows(text)[0].ids)[0] for text in texts])


def main() -> None:
    """Fit, report, write."""
    ask = argparse.ArgumentParser(description=__doc__)
    ask.add_argument("--data", type=Path, required=True)
    ask.add_argument("--out", type=Path, required=True)
    said = ask.parse_args()
    folder = said.out / "singles"
    encoder = Encoder(Artefacts(folder), load_words(Artefacts(said.out / "words")))
    calm = logits(encoder, harmless(said.data))
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    print(len(calm), "harmless sentences")
    least: dict[str, tuple[int, float]] = {}
    for column, head in enumerate(manifest["heads"]):
        how = head["calibration"]
        warns = (logit(WARN.get(head["failure_class"], 0.5)) - how["offset"]) / how["slope"]
        reached = float(np.quantile(calm[:, column], 1 - SHARE.get(head["name"], OTHERS)))
        head["foreign"] = round(max(0.0, reached - warns), 2)
        least.setdefault(head["failure_class"], (column, warns))
        print(f"{head['name']:20s} warned {np.mean(calm[:, column] >= warns):.4f} less {head['foreign']}")
    for name, files in ATTACKS.items():
        column, warns = least[name]
        for file in files:
            rows = [row for row in read(said.data / name / f"{file}.jsonl.gz") if int(str(row["label"]))]
            texts = [str(row["text"])[:1500] for row in rows if is_foreign(str(row["text"]))]
            random.Random(SEED).shuffle(texts)
            found = logits(encoder, texts[:150])[:, column]
            taken = manifest["heads"][column]["foreign"]
            before, after = np.mean(found >= warns), np.mean(found - taken >= warns)
            print(f"{file:20s} {len(found):4d} rows, recall {before:.3f} -> {after:.3f}")
    path.write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
