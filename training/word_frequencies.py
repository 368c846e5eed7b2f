"""Count how often ordinary texts hold the words that rules need; write word_frequencies.json.

    python training/word_frequencies.py [DATA_FOLDER]

The figure decides which of a rule's words are looked for first (tier1_patterns/literals.py). It
changes speed, never what a rule matches. Words in fewer than 2 % of the benign texts are left out.
"""

import gzip
import json
import os
import re
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
DATA = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("LLMOBS_DATA", ROOT.parent / "shared/data"))
RULES = ROOT / "src/llmobs/data/rules"
LEAST_SHARE = 0.02

written = " ".join(path.read_text(encoding="utf-8") for path in RULES.glob("*.toml")).lower()
# Parts of words count as well, for that is how they are looked for.
words = {run[:end] for run in re.findall(r"[^\W\d_]{2,}", written) for end in range(2, len(run) + 1)}
found: Counter[str] = Counter()
texts = 0
for path in sorted((DATA / "benign").glob("*.jsonl.gz")):
    for line in gzip.decompress(path.read_bytes()).splitlines():
        text = json.loads(line)["text"].lower()[:2000]
        texts += 1
        parts = set()
        for run in set(re.findall(r"[^\W\d_]{2,}", text)):
            for start in range(len(run)):
                for end in range(start + 2, min(len(run), start + 14) + 1):
                    parts.add(run[start:end])
        found.update(parts & words)
kept = {w: round(n / texts, 3) for w, n in sorted(found.items()) if n / texts >= LEAST_SHARE}
(RULES / "word_frequencies.json").write_text(json.dumps(kept, ensure_ascii=False) + "\n", encoding="utf-8")
print(f"{len(kept)} of {len(words)} words occur in at least {LEAST_SHARE:.1%} of {texts} texts")
