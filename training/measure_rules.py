"""Measure every rule on the labelled data and write src/llmobs/data/rules/measured.toml.

    python training/measure_rules.py [DATA_FOLDER] [--pack ID] [--show]

A rule's score is P(class | rule hits) at a declared prevalence: one inspected text in ten carries
the class. With hit rates on the positives and the negatives of the class,

    precision = p * tpr / (p * tpr + (1 - p) * fpr),        p = 0.1

and, since many rules hit few rows, that figure is drawn towards the precision of the whole pack as
if the pack's had been seen on 5 further rows (an empirical-Bayes shrinkage). `silence` is
P(class | no rule of the class hits) at the same prevalence. Positives are the rows labelled 1 of the
class's tasks; negatives are the rows labelled 0 of those tasks and all benign rows. Classes without
public data are measured on rows that we wrote ourselves (training/handwritten/), and OWN names our own
files that are counted beside the public ones.
"""

import argparse
import gzip
import json
import os
import sys
from collections import Counter, defaultdict
from pathlib import Path

from needs import write_needs

from llmobs.detect.tier1_patterns.engine import RuleSet
from llmobs.detect.tier1_patterns.pack import Measured, read_packs
from llmobs.domain.subject import Kind, Subject

ROOT = Path(__file__).parent.parent
RULES = ROOT / "src/llmobs/data/rules"
HANDWRITTEN = ROOT / "training/handwritten"
PREVALENCE = 0.1
SHRINKAGE_ROWS = 5
TASKS = {
    "prompt_injection": ["prompt_injection"],
    "dangerous_content": ["dangerous_content"],
    "toxicity": ["toxicity"],
    "bias": ["bias"],
    "security_attack": ["security_attack"],
    "pii_leak": ["pii", "pii_leak"],
    "secret_leak": ["secret", "secret_leak"],
}
OWN = ("payloads", "code", "personal_data", "secrets")
"""Files of ours, by the start of their names, that are counted for classes with public data: what it lacks."""


def rows_of(path: Path):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)


def precision(tpr: float, fpr: float) -> float:
    hit = PREVALENCE * tpr
    alarm = (1 - PREVALENCE) * fpr
    return hit / (hit + alarm) if hit + alarm else 0.0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "data", nargs="?", default=os.environ.get("LLMOBS_DATA", str(ROOT.parent / "shared/data"))
    )
    parser.add_argument("--pack", help="measure and show this pack only; writes nothing")
    parser.add_argument("--show", action="store_true", help="print false alarms of the pack")
    args = parser.parse_args()
    packs = read_packs(RULES)
    if args.pack:
        packs = tuple(p for p in packs if p.pack.id == args.pack)
    rules = RuleSet(packs, Measured(rules={}, silence={}))
    names = {rule.rule.id: rule.failure_class for rule in rules.rules}
    tp, fp = Counter(), Counter()
    class_tp, class_fp = Counter(), Counter()
    pos, neg = Counter(), Counter()
    per_file = defaultdict(lambda: [0, 0, 0, 0])
    files = sorted(Path(args.data).glob("*/*.jsonl.gz")) + sorted(HANDWRITTEN.glob("*.jsonl"))
    files += [path for path in sorted((HANDWRITTEN / "train").glob("*.jsonl")) if path.stem.startswith(OWN)]
    for path in files:
        for row in rows_of(path):
            task, label = row["task"], row["label"]
            bearing = [c for c in rules.classes if task in TASKS.get(c, [c])]
            if task != "benign" and not bearing:
                continue
            kind = Kind(row["role"])
            hits = rules.hits(Subject(text=row["text"], kind=kind))
            for name in rules.classes if task == "benign" else bearing:
                (pos if label else neg)[name] += 1
                ours = [h for h in hits if h.failure_class == name]
                cell = per_file[(name, path.name)]
                cell[0 if label else 2] += 1
                if ours:
                    cell[1 if label else 3] += 1
                    (class_tp if label else class_fp)[name] += 1
                    for hit in ours:
                        (tp if label else fp)[hit.rule.id] += 1
                        if args.show and not label:
                            span = hit.spans[0]
                            shown = row["text"][max(0, span.start - 60) : span.end + 60]
                            print(f"FALSE ALARM {hit.rule.id} {path.name}: {shown!r}")
    if args.pack:
        for (name, file), (p, hp, n, hn) in sorted(per_file.items()):
            print(f"{name:20} {file:36} positives {hp}/{p}  negatives flagged {hn}/{n}")
        for rule_id in sorted(names):
            print(f"{rule_id:56} tp {tp[rule_id]:5} fp {fp[rule_id]:5}")
        for name in sorted(rules.classes):
            print(f"{name}: recall {class_tp[name]}/{pos[name]}, false alarms {class_fp[name]}/{neg[name]}")
        return
    lines = ["# Made by training/measure_rules.py; its docstring says how. Do not edit.", "", "[silence]"]
    for name in sorted(rules.classes):
        if pos[name] and neg[name]:
            missed = PREVALENCE * (1 - class_tp[name] / pos[name])
            quiet = (1 - PREVALENCE) * (1 - class_fp[name] / neg[name])
            lines.append(f"{name} = {missed / (missed + quiet):.4f}")
    lines += ["", "[rules]"]
    for rule_id, name in sorted(names.items()):
        if not (pos[name] and neg[name]):
            print(f"no labelled rows for {name}: {rule_id} stays on trial", file=sys.stderr)
            continue
        pack_level = precision(class_tp[name] / pos[name], (class_fp[name] + 0.5) / neg[name])
        seen = tp[rule_id] + fp[rule_id]
        own = precision(tp[rule_id] / pos[name], fp[rule_id] / neg[name])
        score = (seen * own + SHRINKAGE_ROWS * pack_level) / (seen + SHRINKAGE_ROWS)
        lines.append(
            f'"{rule_id}" = {score:.4f}  # {tp[rule_id]} of {pos[name]}, {fp[rule_id]} of {neg[name]}'
        )
    write_needs()
    (RULES / "measured.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    for name in sorted(rules.classes):
        print(f"{name}: recall {class_tp[name]}/{pos[name]}, false alarms {class_fp[name]}/{neg[name]}")


if __name__ == "__main__":
    main()
