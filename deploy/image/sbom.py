"""Writes the bill of materials of the image as CycloneDX JSON: python deploy/image/sbom.py OUT.

The locked packages with their hashes, from requirements/run.txt, and the trained files with theirs.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from llmobs import __version__

ROOT = Path(__file__).parents[2]
HEADS = ROOT / "src/llmobs/data/heads"

LENT = {"encoder.onnx", "tokenizer.json", "words.npy"}
"""Made from all-MiniLM-L6-v2, under its licence; the rest is ours."""


def packages() -> dict[str, Any]:
    """The packages, as cyclonedx-py reads them from the lock."""
    done = subprocess.run(  # noqa: S603  # our own arguments
        [
            *(
                str(Path(sys.executable).parent / "cyclonedx-py"),
                "requirements",
                "--pyproject",
                "pyproject.toml",
            ),
            *("--mc-type", "application", "--sv", "1.6", "--of", "JSON", "--output-reproducible"),
            "requirements/run.txt",
        ],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def models() -> list[dict[str, Any]]:
    """The trained files that come with the package."""
    return [
        {
            "type": "machine-learning-model" if path.suffix in {".onnx", ".npy"} else "data",
            "bom-ref": f"model:{path.relative_to(HEADS).as_posix()}",
            "name": path.relative_to(HEADS).as_posix(),
            "version": __version__,
            "licenses": [{"license": {"id": "Apache-2.0" if path.name in LENT else "MIT"}}],
            "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}],
        }
        for path in sorted(HEADS.rglob("*"))
        if path.is_file()
    ]


def bill() -> dict[str, Any]:
    """All of it; SystemExit when it does not hold to the CycloneDX schema."""
    made = packages()
    made["metadata"]["component"]["version"] = __version__
    made["components"] += models()
    wrong = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(made))
    if wrong is not None:
        sys.exit(f"sbom: {wrong}")
    return made


def main() -> None:
    out = Path(sys.argv[1])
    out.parent.mkdir(parents=True, exist_ok=True)
    made = bill()
    out.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(f"{out}: {len(made['components'])} components")


if __name__ == "__main__":
    main()
