"""Move condition patterns that several rules of a pack share into its [pack.phrases].

    python training/name_phrases.py PACK.toml NAME=SUBSTRING...

Each shared pattern that contains SUBSTRING is called NAME; the rest get a number. Rewrites the file.
"""

import sys
import tomllib
from collections import Counter
from pathlib import Path

path = Path(sys.argv[1])
wanted = dict(argument.split("=", 1) for argument in sys.argv[2:])
text = path.read_text(encoding="utf-8")
pack = tomllib.loads(text)
shared = Counter(
    pattern
    for rule in pack["rule"]
    for field in ("require", "unless", "unless_text")
    for pattern in rule.get(field, [])
    if not pattern.startswith("@")
)
lines = []
for number, (pattern, count) in enumerate(
    ((p, c) for p, c in shared.most_common() if c > 1 and len(p) > 30), 1
):
    name = next((n for n, part in wanted.items() if part in pattern), f"phrase-{number}")
    quoted = f"'''{pattern}'''"
    if text.count(quoted) < count:
        continue
    text = text.replace(quoted, f'"@{name}"')
    lines.append(f"{name} = {quoted}")
    print(f"{name}: {count} rules: {pattern[:90]}")
head, marker, rest = text.partition("\n[[rule]]")
if lines:
    path.write_text(
        f"{head.rstrip()}\n\n[pack.phrases]\n" + "\n".join(lines) + f"\n{marker}{rest}", encoding="utf-8"
    )
