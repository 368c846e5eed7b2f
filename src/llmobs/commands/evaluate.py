"""`llmobs eval`: labelled rows through the real pipeline."""

import asyncio
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from llmobs.commands.shared import (
    installed_pipeline,
    number,
    percent,
    settings_of_environment,
    while_judging,
    with_interval,
)
from llmobs.detect.pipeline import Pipeline
from llmobs.domain.policy import Policy
from llmobs.evaluation import FileFigures, Outcome, figures, outcomes, read_rows


@click.command("eval")
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write one JSON line a row here."
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@click.option("--tiers", default="1,2,3", show_default=True, help="Tiers that take part.")
@click.option("--limit", type=click.IntRange(min=1), help="Rows a file at most.")
@click.option("--policy", "policy_name", default=None, help="Id of the policy to decide by.")
def evaluate(
    *,
    files: tuple[Path, ...],
    out: Path | None,
    as_json: bool,
    tiers: str,
    limit: int | None,
    policy_name: str | None,
) -> None:
    """Run labelled rows through the real pipeline and print what it gets right, a line a file."""
    wanted = frozenset(int(part) for part in tiers.split(",") if part.strip() in {"1", "2", "3"})
    if not wanted or len(wanted) != len(tiers.split(",")):
        raise click.UsageError("--tiers takes 1, 2 and 3, comma-separated.")
    pipeline, chosen, installed = installed_pipeline(settings_of_environment(), policy_name, wanted)
    with ExitStack() as stack:
        sink = None if out is None else stack.enter_context(out.open("wb"))
        write = None if sink is None else sink.write
        found = asyncio.run(while_judging(installed, _evaluate(files, pipeline, chosen, limit, write)))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        _print_figures(found)


async def _evaluate(
    files: tuple[Path, ...],
    pipeline: Pipeline,
    chosen: Policy,
    limit: int | None,
    write: Callable[[bytes], int] | None,
) -> list[FileFigures]:
    console = Console(stderr=True)
    found: list[FileFigures] = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("files"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        console=console,
        disable=not console.is_terminal,
    ) as progress:
        bar = progress.add_task("evaluating", total=len(files), rows=0)
        rows = 0
        for path in files:
            progress.update(bar, description=path.name[:40])
            seen: list[Outcome] = []
            try:
                async for outcome in outcomes(pipeline, chosen, read_rows(path, limit)):
                    seen.append(outcome)
                    rows += 1
                    if write is not None:
                        write(msgspec.json.encode(outcome) + b"\n")
                    if rows % 200 == 0:
                        progress.update(bar, rows=rows)
            except ValueError as error:
                raise click.ClickException(str(error)) from None
            found.append(figures(f"{path.parent.name}/{path.name}", seen))
            progress.update(bar, advance=1, rows=rows)
    return found


def _print_figures(found: list[FileFigures]) -> None:
    # A table that is piped into a file keeps its columns.
    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("file", "rows", "pos", "flagged %", "blocked %", "recall % [95 %]", "FPR % [95 %]"):
        table.add_column(name, justify="left" if name == "file" else "right", no_wrap=True)
    for name in ("AUC", "AP", "R@1%", "t1/t2/t3 %", "p50 ms", "p95 ms"):
        table.add_column(name, justify="right", no_wrap=True)
    for line in found:
        table.add_row(
            line.file.removesuffix(".jsonl.gz"),
            str(line.rows),
            str(line.positives),
            percent(line.flagged),
            percent(line.blocked),
            with_interval(line.recall),
            with_interval(line.fpr),
            number(line.auc),
            number(line.average_precision),
            "" if line.recall_at_1pct_fpr is None else f"{100 * line.recall_at_1pct_fpr:.1f}",
            "/".join(f"{100 * count / max(1, line.rows):.0f}" for count in line.tiers.values()),
            f"{line.p50_ms:.2f}",
            f"{line.p95_ms:.2f}",
        )
    console.print(table)
    console.print(f"{sum(line.rows for line in found):,} rows in {len(found)} files")
