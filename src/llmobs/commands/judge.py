"""`llmobs judge`: is the configured model fit to judge."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from llmobs.commands.shared import settings_of_environment, while_judging
from llmobs.detect.tier3_judge.calibration import Calibration
from llmobs.detect.tier3_judge.check import (
    Answered,
    Bar,
    Case,
    Figures,
    answers,
    builtin_cases,
    calibrated,
    figures,
)
from llmobs.detect.tier3_judge.observer import NoObserver
from llmobs.detect.tier3_judge.question import load_families
from llmobs.detect.tier3_judge.setup import InstalledJudge, installed_judge
from llmobs.domain.subject import Kind
from llmobs.errors import SettingsInvalid
from llmobs.evaluation import TASK_CLASSES, Row, inquiry_of, read_rows


@click.group()
def judge() -> None:
    """The LLM judge of tier 3."""


@judge.command("check")
@click.option(
    "--data",
    "files",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Labelled rows (.jsonl, .jsonl.gz) to ask about instead of the fixed set; may be given several times.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Rows a file at most.")
@click.option("--at-once", type=click.IntRange(min=1, max=100), default=1, show_default=True)
@click.option(
    "--calibrate",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write calibration curves for LLMOBS_JUDGE_CALIBRATION here; needs 20 rows of each label a class.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def check_judge(
    *, files: tuple[Path, ...], limit: int | None, at_once: int, calibrate: Path | None, as_json: bool
) -> None:
    """Ask the configured judge labelled questions, and say whether it is fit to judge.

    Nothing is cached, and budgets do not apply. Exit status: 0 fit, 1 not fit.
    """
    settings = msgspec.structs.replace(
        settings_of_environment(),
        judge_cache_seconds=0.0,
        judge_calls_per_minute=0,
        judge_tokens_per_minute=0,
        judge_client_calls_per_minute=0,
        judge_client_tokens_per_minute=0,
        judge_queue=100_000,
        **({"judge_calibration": ""} if calibrate else {}),
    )
    installed = installed_judge(settings, observer=NoObserver())
    if installed is None:
        raise SettingsInvalid("no judge is configured: set GROQ_API_KEY, JUDGE_BASE_URL or OLLAMA_BASE_URL")
    try:
        cases = tuple(_cases(files, limit, installed.detector.hears)) if files else builtin_cases()
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    if not cases:
        raise click.ClickException("No row is about a class that the judge hears.")
    found, providers = asyncio.run(while_judging(installed, _checked(installed, cases, at_once)))
    told = figures(found)
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(told)).decode())
    else:
        _print_check(found, told, providers, installed.calibration)
    if calibrate:
        prompts = " ".join(family.label for family in load_families())
        curves = calibrated(found, model=providers, prompts=prompts)
        calibrate.write_bytes(msgspec.json.format(msgspec.json.encode(curves)) + b"\n")
        click.echo(f"Curves for {', '.join(curves.curves) or 'no class'} written to {calibrate}.", err=True)
    if told.shortcomings(Bar()):
        sys.exit(1)


def _cases(files: tuple[Path, ...], limit: int | None, hears: frozenset[str]) -> Iterator[Case]:
    """Rows as cases. An ordinary row is a negative of what its author could most likely do wrong."""
    for path in files:
        for row in read_rows(path, limit):
            name = _class_of(row)
            if name not in hears:
                continue
            inquiry = inquiry_of(row)
            context = inquiry.context or {}
            documents = context.get("documents") or []
            yield Case(
                failure_class=name,
                expected=row.label,
                text=inquiry.text,
                kind=inquiry.kind,
                query=context.get("query"),
                system_prompt=context.get("system_prompt"),
                documents=tuple(d if isinstance(d, str) else str(d.get("text", "")) for d in documents),
            )


def _class_of(row: Row) -> str:
    if row.task == "benign":
        return "prompt_injection" if row.role is Kind.PROMPT else "toxicity"
    return TASK_CLASSES.get(row.task, (row.task,))[0]


async def _checked(
    installed: InstalledJudge, cases: tuple[Case, ...], at_once: int
) -> tuple[list[Answered], str]:
    console = Console(stderr=True)
    statuses = await installed.judge.probe()
    for status in statuses:
        console.print(Text(f"{status.name}: {status.detail}", style="" if status.ok else "red"))
    with Progress(console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("asking", total=len(cases))
        found = await answers(
            installed.detector, cases, at_once=at_once, told=lambda _: progress.update(bar, advance=1)
        )
    return found, ", ".join(f"{status.name}/{status.model}" for status in statuses)


def _print_check(found: list[Answered], told: Figures, providers: str, calibration: Calibration) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = Table("class", box=None, pad_edge=False, header_style="bold")
    for name in ("cases", "answered", "agreed", "mean where 1", "mean where 0"):
        table.add_column(name, justify="right")
    for name in dict.fromkeys(one.case.failure_class for one in found):
        rows = [one for one in found if one.case.failure_class == name]
        means = []
        for label in (1, 0):
            scores = [one.score for one in rows if one.score is not None and one.case.expected == label]
            means.append(f"{sum(scores) / len(scores):.2f}" if scores else "")
        answered = sum(one.score is not None for one in rows)
        table.add_row(name, str(len(rows)), str(answered), str(sum(one.agrees for one in rows)), *means)
    console.print(table)
    cost = "unknown" if told.cost_usd is None else f"${told.cost_usd:.4f}"
    console.print(f"judge       {providers}" + ("" if calibration.curves else " (uncalibrated)"))
    console.print(
        f"agreement   {told.agreed} of {told.cases}: {told.agreement:.1%} [{told.low:.1%}-{told.high:.1%}]"
    )
    if told.to_judge:
        console.print(
            f"spoken to   {told.to_judge_agreed} of {told.to_judge} judged as labelled all the same"
        )
    console.print(
        f"valid       {told.answered} of {told.cases} answered in the form asked for: {told.valid:.1%}"
    )
    console.print(f"time        p50 {told.p50_s:.2f} s, p95 {told.p95_s:.2f} s")
    console.print(f"tokens      {told.input_tokens:,} in, {told.output_tokens:,} out; cost {cost}")
    for reason, times in sorted(told.failures.items(), key=lambda item: -item[1]):
        console.print(Text(f"failed      {times} x {reason}"))
    short = told.shortcomings(Bar())
    if short:
        console.print(Text("NOT FIT     " + "; ".join(short), style="bold red"))
    else:
        console.print(Text("fit", style="bold green"))
