"""A hook of mkdocs: pages that lie outside docs/ (README, benchmarks, the chart's) become pages of the site."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "index.md": "README.md",
    "bench.md": "bench/README.md",
    "chart.md": "deploy/helm/llmobs/README.md",
}
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#]+)")


def on_files(files: Any, config: Any) -> Any:
    for name, source in ELSEWHERE.items():
        path = ROOT / source
        files.append(File.generated(config, name, content=_moved(path.read_text(encoding="utf-8"), path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Links out of docs/ lead to the page made of what they name."""
    source = page.file.abs_src_path
    return markdown if source is None else _moved(markdown, Path(source))


def _moved(markdown: str, source: Path) -> str:
    """The page with its links as they are from where it stands on the site."""
    docs = ROOT / "docs"
    depth = len(source.relative_to(docs).parents) - 1 if source.is_relative_to(docs) else 0

    def place(found: re.Match[str]) -> str:
        path = (source.parent / found[1]).resolve()
        for name, other in ELSEWHERE.items():
            if path == ROOT / other:
                return "../" * depth + name
        if source.is_relative_to(docs) or not path.is_relative_to(docs):
            return found[1]
        return path.relative_to(docs).as_posix()

    return _LINK.sub(place, markdown)
