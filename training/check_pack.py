"""Hold the rules of packs to their own examples: `python training/check_pack.py [PACK_FILE...]`."""

import sys
from pathlib import Path

from llmobs.detect.tier1_patterns.pack import read_pack
from llmobs.detect.tier1_patterns.proofs import broken_proofs

paths = [Path(p) for p in sys.argv[1:]] or sorted(Path("src/llmobs/data/rules").glob("*.toml"))
bad = 0
for path in paths:
    if path.name == "measured.toml":
        continue
    pack = read_pack(path)
    for rule in pack.rule:
        for problem in broken_proofs(pack, rule):
            bad += 1
            print(f"{path.name}: {rule.id}: {problem}")
    print(path.name, len(pack.rule), "rules")
sys.exit(bool(bad))
