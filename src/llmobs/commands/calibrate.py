"""`llmobs calibrate`: thresholds for one's own traffic."""

import asyncio
import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.table import Table

from llmobs.calibration import Calibrated, calibrate, flagged, written
from llmobs.commands.shared import installed_pipeline, settings_of_environment, with_interval
from llmobs.domain.interval import wilson
from llmobs.evaluation import Outcome, outcomes, read_rows


@click.command("calibrate")
@click.option(
    "--benign",
    "benign_files",
    multiple=True,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Harmless texts of your own traffic, in the form of docs/evaluation.md; may be given again.",
)
@click.option(
    "--labelled",
    "labelled_files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Labelled texts on which to show what recall the new thresholds cost; may be given again.",
)
@click.option(
    "--target-fpr",
    type=click.FloatRange(0.0, 0.5, min_open=True),
    default=0.005,
    show_default=True,
    help="Share of the harmless texts that may be warned of or blocked, all classes together.",
)
@click.option("--policy", "policy_name", default=None, help="Id of the policy to start from.")
@click.option("--limit", type=click.IntRange(min=1), help="Rows a file at most.")
@click.option(
    "--out",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where the new policy goes; put it into LLMOBS_POLICIES_DIR to use it.",
)
def calibrate_command(
    *,
    benign_files: tuple[Path, ...],
    labelled_files: tuple[Path, ...],
    target_fpr: float,
    policy_name: str | None,
    limit: int | None,
    out: Path,
) -> None:
    """Fit a policy's thresholds to your own harmless traffic and write it as a new version."""
    pipeline, chosen, _ = installed_pipeline(settings_of_environment(), policy_name, frozenset({1, 2}))
    # Nothing may be cleared early here: a class that tier 2 did not score has no score to fit.
    open_policy = msgspec.structs.replace(
        chosen,
        classes={n: msgspec.structs.replace(limits, clear=0.0) for n, limits in chosen.classes.items()},
    )

    async def gather(files: tuple[Path, ...]) -> list[Outcome]:
        return [o for path in files async for o in outcomes(pipeline, open_policy, read_rows(path, limit))]

    try:
        benign = asyncio.run(gather(benign_files))
        labelled = asyncio.run(gather(labelled_files))
        found = calibrate(chosen, benign, target_fpr)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(written(found.policy), encoding="utf-8")
    _print_calibrated(found, labelled)
    click.echo(f"Wrote {out}: policy {found.policy.id}, version {found.policy.version}.")


def _print_calibrated(found: Calibrated, labelled: list[Outcome]) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("class", "warn", "block", "benign flagged"):
        table.add_column(name, justify="left" if name == "class" else "right", no_wrap=True)

    def change(before: float | None, after: float | None) -> str:
        return "" if before is None else f"{before:g} -> {after:g}"

    for line in found.changes:
        table.add_row(
            line.failure_class,
            change(line.before.warn, line.after.warn),
            change(line.before.block, line.after.block),
            f"{line.flagged_before} -> {line.flagged_after}",
        )
    console.print(table)
    before, after = (wilson(n, found.benign) for n in (found.flagged_before, found.flagged_after))
    console.print(
        f"harmless texts flagged, of {found.benign:,}: {with_interval(before)} -> {with_interval(after)} %"
    )
    if not labelled:
        return
    console.print("\nrecall on the labelled texts, flagged before -> after:")
    tasks = sorted({o.task for o in labelled if o.label})
    starting = {**found.policy.classes, **{c.failure_class: c.before for c in found.changes}}
    old = msgspec.structs.replace(found.policy, classes=starting)
    for task in tasks:
        positives = [o for o in labelled if o.task == task and o.label]
        was, now = (wilson(flagged(p, positives), len(positives)) for p in (old, found.policy))
        console.print(
            f"  {task:20s} {len(positives):6,} rows  {with_interval(was)} -> {with_interval(now)} %"
        )
