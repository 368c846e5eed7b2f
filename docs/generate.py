"""Writes the tables of settings.md, metrics.md, errors.md and evaluation.md from what they describe.

The plots of accuracy and speed are drawn by plots.py from bench/results. The chart's schema, README and copies of alerts and dashboard likewise: deploy/helm/generate.py says how.

python docs/generate.py           write them
python docs/generate.py --check   exit 1 when one is out of date (tests do this)
"""

import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import msgspec
from msgspec import Meta

from llmobs.domain.interval import Interval
from llmobs.errors import Problem
from llmobs.evaluation import FileFigures
from llmobs.http.problems import TYPE_PREFIX
from llmobs.settings import SECRETS, Settings, env_name, file_name
from llmobs.telemetry.instruments import METRICS

HERE = Path(__file__).parent
START, END = "<!-- generated: start -->", "<!-- generated: end -->"


def settings() -> Iterator[str]:
    yield "| variable | default | meaning |"
    yield "|---|---|---|"
    hints = get_type_hints(Settings, include_extras=True)
    for field in Settings.__struct_fields__:
        default = getattr(Settings(), field)
        shown = str(default).lower() if isinstance(default, bool) else str(default)
        meaning = next(
            m.description for m in hints[field].__metadata__ if isinstance(m, Meta) and m.description
        )
        if field in SECRETS:
            meaning += f" Or in a file: `{file_name(field)}`."
        yield f"| `{env_name(field)}` | {f'`{shown}`' if shown else '(empty)'} | {meaning} |"


def metrics() -> Iterator[str]:
    yield "| metric | type | unit | labels | meaning |"
    yield "|---|---|---|---|---|"
    units = {"s": "seconds", "By": "bytes", "{token}": "tokens"}
    for metric in METRICS.values():
        labels = ", ".join(f"`{name.replace('.', '_')}`" for name in metric.attributes) or "none"
        unit = units.get(metric.unit, "")
        yield f"| `{metric.exported}` | {metric.kind} | {unit} | {labels} | {metric.meaning} |"


def problems(kind: type[Problem] = Problem) -> Iterator[type[Problem]]:
    for child in kind.__subclasses__():
        yield child
        yield from problems(child)


def errors() -> Iterator[str]:
    yield "| status | type | title | when | retry |"
    yield "|---|---|---|---|---|"
    for problem in sorted(problems(), key=lambda p: (p.status, p.slug)):
        when = (problem.__doc__ or "").strip().splitlines()[0]
        retry = "" if problem.retry_after is None else f"after {problem.retry_after} s"
        yield f"| {problem.status} | `{TYPE_PREFIX}{problem.slug}` | {problem.title} | {when} | {retry} |"


def evaluation() -> Iterator[str]:
    """The figures that `llmobs eval --json` printed, kept in bench/results/eval-tier1.json."""
    found = msgspec.json.decode(
        (HERE.parent / "bench/results/eval-tier1.json").read_bytes(), type=list[FileFigures]
    )
    yield "| file | rows | positives | blocked % | recall % [95 %] | FPR % [95 %] | AUC | AP | recall % at 1 % FPR |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|"

    def share(interval: Interval | None) -> str:
        if interval is None:
            return ""
        return f"{100 * interval.share:.1f} [{100 * interval.low:.1f}-{100 * interval.high:.1f}]"

    def number(value: float | None, form: str = ".3f", times: float = 1) -> str:
        return "" if value is None else f"{times * value:{form}}"

    for line in found:
        blocked = "" if line.blocked is None else f"{100 * line.blocked.share:.2f}"
        yield (
            f"| {line.file.removesuffix('.jsonl.gz')} | {line.rows} | {line.positives} | {blocked} "
            f"| {share(line.recall)} | {share(line.fpr)} | {number(line.auc)} | {number(line.average_precision)} "
            f"| {number(line.recall_at_1pct_fpr, '.1f', 100)} |"
        )


def learned() -> Iterator[str]:
    """Before (rules alone, all rows) and after (the first 120 rows of a file), as `llmobs eval` said."""
    results = HERE.parent / "bench/results"
    before, default, thorough = (
        {
            line.file: line
            for line in msgspec.json.decode((results / name).read_bytes(), type=list[FileFigures])
        }
        for name in ("eval-tier1.json", "eval-default.json", "eval-thorough.json")
    )
    yield (
        "| file | recall %: rules | default | thorough | FPR %: rules | default [95 %] | thorough "
        "| AUC: rules | default | thorough | ends in tier 1 |"
    )
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"

    def share(interval: Interval | None, *, bounds: bool = False) -> str:
        if interval is None:
            return ""
        told = f"{100 * interval.share:.1f}"
        return told + (f" [{100 * interval.low:.1f}-{100 * interval.high:.1f}]" if bounds else "")

    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    for name, line in default.items():
        old, all_of_it = before[name], thorough[name]
        yield (
            f"| {name.removesuffix('.jsonl.gz')} | {share(old.recall)} | {share(line.recall, bounds=True)} "
            f"| {share(all_of_it.recall)} | {share(old.fpr)} | {share(line.fpr, bounds=True)} "
            f"| {share(all_of_it.fpr)} | {number(old.auc)} | {number(line.auc)} | {number(all_of_it.auc)} "
            f"| {100 * line.tiers['1'] / line.rows:.0f} % |"
        )
    for title, found in (("rules", before), ("default", default), ("thorough", thorough)):
        benign = [line for line in found.values() if line.task == "benign"]
        rows = sum(line.rows for line in benign)
        flagged, blocked = (
            sum((getattr(line, what).share if getattr(line, what) else 0.0) * line.rows for line in benign)
            for what in ("flagged", "blocked")
        )
        ends = sum(line.tiers["1"] for line in benign)
        yield (
            f"| all benign files, {title} | | | | {100 * flagged / rows:.2f}, blocked {100 * blocked / rows:.2f} "
            f"| | | | | | {100 * ends / rows:.0f} % |"
        )


PAGES = {
    "model-card.md": learned,
    "evaluation.md": evaluation,
    "settings.md": settings,
    "metrics.md": metrics,
    "errors.md": errors,
}


def rendered(page: str) -> str:
    text = (HERE / page).read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return before + START + "\n" + "\n".join(PAGES[page]()) + "\n" + END + after


def written() -> dict[Path, str]:
    """Text of every file that is made: the pages here, and what the chart has from elsewhere."""
    chart = runpy.run_path(str(HERE.parent / "deploy/helm/generate.py"))["outputs"]()
    plots = runpy.run_path(str(HERE / "plots.py"))["outputs"]()
    return (
        {HERE / page: rendered(page) for page in PAGES}
        | {HERE / place: drawn for place, drawn in plots.items()}
        | chart
    )


def main() -> None:
    stale = {
        path: text
        for path, text in written().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    if "--check" in sys.argv:
        if stale:
            names = ", ".join(str(path.relative_to(HERE.parent)) for path in stale)
            sys.exit(f"out of date: {names}; run: python docs/generate.py")
        return
    for path, text in stale.items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
