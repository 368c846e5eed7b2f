"""The `llmobs` command."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from llmobs import __version__
from llmobs.app import build_pipeline
from llmobs.audit_cli import audit
from llmobs.calibration import Calibrated, calibrate, flagged, written
from llmobs.detect.pipeline import Pipeline
from llmobs.detect.tier1_patterns.book import BUILTIN as BUILTIN_RULES
from llmobs.detect.tier1_patterns.book import load_rules, rule_book
from llmobs.detect.tier1_patterns.pack import Status, read_packs
from llmobs.detect.tier1_patterns.proofs import broken_proofs
from llmobs.detect.tier3_judge.calibration import Calibration
from llmobs.detect.tier3_judge.check import (
    Answered,
    Bar,
    Case,
    Figures,
    answers,
    builtin_cases,
    calibrated,
)
from llmobs.detect.tier3_judge.check import figures as judge_figures
from llmobs.detect.tier3_judge.observer import NoObserver
from llmobs.detect.tier3_judge.question import load_families
from llmobs.detect.tier3_judge.setup import InstalledJudge, installed_judge
from llmobs.domain.interval import Interval, wilson
from llmobs.domain.policy import Policy
from llmobs.domain.record import coverage_entry, evidence_entry
from llmobs.domain.risk import Action
from llmobs.domain.subject import Kind
from llmobs.domain.verdict import Verdict
from llmobs.erase_cli import erase
from llmobs.errors import LlmobsError, SettingsInvalid
from llmobs.evaluation import (
    TASK_CLASSES,
    FileFigures,
    Outcome,
    Row,
    figures,
    inquiry_of,
    outcomes,
    read_rows,
)
from llmobs.feedback_cli import feedback
from llmobs.keys_cli import clients, keys
from llmobs.policies import classes_by_example, load_policies
from llmobs.screen import Inquiry, examine
from llmobs.settings import Settings, effective, load_settings

ACTION_COLOURS = {Action.ALLOW: "green", Action.LOG: "cyan", Action.WARN: "yellow", Action.BLOCK: "red"}


def main() -> None:
    """Run the command; what we expect to go wrong is told in one line."""
    try:
        cli()
    except LlmobsError as error:
        click.echo(f"llmobs: {error}", err=True)
        sys.exit(2)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="llmobs")
def cli() -> None:
    """Inspects what language models say, before people read it, and keeps the record."""


cli.add_command(clients)
cli.add_command(keys)
cli.add_command(feedback)
cli.add_command(audit)
cli.add_command(erase)


@cli.group()
def config() -> None:
    """The settings."""


@config.command("show")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show_config(*, as_json: bool) -> None:
    """Every setting as it is in force and where it comes from, secrets masked."""
    found = effective(os.environ)
    if as_json:
        click.echo(msgspec.json.encode(found))
        return
    for each in found:
        click.echo(f"{each.name}={each.value}  ({each.source})")


@cli.command()
@click.option("--migrate", is_flag=True, help="Bring the database to the newest schema first.")
def serve(*, migrate: bool) -> None:
    """Serve the HTTP API. Settings come from the environment; docs/settings.md lists them."""
    from llmobs.serve import run  # noqa: PLC0415  # the server's imports cost the other commands half a second

    run(_settings(), migrate=migrate)


@cli.command()
@click.option(
    "--revision", default="head", show_default=True, help="Revision to go to; `base` is the empty schema."
)
@click.option("--down", is_flag=True, help="Go down to the revision instead of up.")
def migrate(*, revision: str, down: bool) -> None:
    """Bring the database of DATABASE_URL to a schema revision."""
    from llmobs.store.migrate import current, downgrade, head, serves, upgrade  # noqa: PLC0415  # as above

    settings = _settings()
    (downgrade if down else upgrade)(settings, revision)
    found = current(settings)
    later = found != head() and serves(found, head())
    click.echo(
        f"The database is at {found or 'the empty schema'}"
        + (
            f", which a later release made: this one knows {head()} and works on it as it is."
            if later
            else "."
        )
    )


@cli.command()
@click.argument("text")
@click.option(
    "--kind", type=click.Choice([k.value for k in Kind]), default=Kind.RESPONSE.value, show_default=True
)
@click.option("--query", help="The question that the text answers.")
@click.option(
    "--document", "documents", multiple=True, help="A reference passage; may be given several times."
)
@click.option("--policy", "policy_name", default=None, help="Id of the policy to decide by.")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def detect(
    *,
    text: str,
    kind: str,
    query: str | None,
    documents: tuple[str, ...],
    policy_name: str | None,
    as_json: bool,
) -> None:
    """Screen TEXT (`-` reads standard input) and print the verdict. Nothing is recorded.

    Exit status: 0 allow or log, 1 warn, 3 block.
    """
    settings = _settings()
    if text == "-":
        text = sys.stdin.read()
    if not text:
        raise click.UsageError("The text is empty.")
    pipeline, policy, installed = _installed(settings, policy_name)
    context: dict[str, Any] = {}
    if query:
        context["query"] = query
    if documents:
        context["documents"] = list(documents)
    inquiry = Inquiry(text=text, kind=Kind(kind), context=context or None)
    verdict = asyncio.run(_alive(installed, examine(pipeline, policy, inquiry)))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(_verdict_json(verdict))).decode())
    else:
        _print_verdict(Console(), verdict, text)
    sys.exit({Action.WARN: 1, Action.BLOCK: 3}.get(verdict.decision.action, 0))


@cli.group()
def rules() -> None:
    """Rule packs."""


@rules.command("check")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
def check_rules(*, folder: Path | None) -> None:
    """Hold the built-in packs, and those in FOLDER, to their own examples."""
    settings = _settings()
    folders = [
        BUILTIN_RULES,
        *([folder] if folder else []),
        *([settings.rules_path] if settings.rules_path else []),
    ]
    known = set().union(*(policy.classes for policy in load_policies(settings.policies_path).values()))
    loaded = load_rules(None)
    unmeasured = {r.rule.id for r in loaded.rules if r.score is None and r.rule.status is Status.STABLE}
    table = Table("pack", "class", "rules", "trial", "broken", title="Rule packs")
    broken: list[str] = []
    for place in folders:
        for pack in read_packs(place):
            found = [f"{r.id}: {problem}" for r in pack.rule for problem in broken_proofs(pack, r)]
            classes = {rule.failure_class or pack.pack.failure_class for rule in pack.rule}
            found += [f"{pack.pack.id}: no policy knows the class {name}" for name in sorted(classes - known)]
            trial = sum(
                r.status is Status.TRIAL
                or (r.score is None and (place != BUILTIN_RULES or r.id in unmeasured))
                for r in pack.rule
            )
            table.add_row(
                pack.pack.id, pack.pack.failure_class, str(len(pack.rule)), str(trial), str(len(found) or "")
            )
            broken += found
    console = Console()
    console.print(table)
    for line in broken:
        console.print(Text(line, style="red"))
    if broken:
        sys.exit(1)


@cli.group()
def policy() -> None:
    """Policies."""


@policy.command("check")
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path), required=False)
def check_policy(*, folder: Path | None) -> None:
    """Validate the built-in policies, and those in FOLDER, with their examples."""
    settings = _settings()
    found = load_policies(folder or settings.policies_path, strict_mode=settings.strict_mode)
    for name, loaded in sorted(found.items()):
        table = Table(
            "class",
            "severity",
            "clear",
            "log",
            "warn",
            "block",
            "on failure",
            title=f"{name} version {loaded.version}",
        )
        for class_name, limits in loaded.classes.items():
            cells = [limits.clear, limits.log, limits.warn, limits.block]
            table.add_row(
                class_name,
                limits.severity,
                *("" if value is None else f"{value:g}" for value in cells),
                limits.on_failure,
            )
        Console().print(table)


@cli.group()
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
        _settings(),
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
    found, providers = asyncio.run(_alive(installed, _checked(installed, cases, at_once)))
    told = judge_figures(found)
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


@cli.command("eval")
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
    pipeline, chosen, installed = _installed(_settings(), policy_name, wanted)
    with ExitStack() as stack:
        sink = None if out is None else stack.enter_context(out.open("wb"))
        write = None if sink is None else sink.write
        found = asyncio.run(_alive(installed, _evaluate(files, pipeline, chosen, limit, write)))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(found)).decode())
    else:
        _print_figures(found)


@cli.command("calibrate")
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
    pipeline, chosen, _ = _installed(_settings(), policy_name, frozenset({1, 2}))
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
        f"harmless texts flagged, of {found.benign:,}: {_with_interval(before)} -> {_with_interval(after)} %"
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
            f"  {task:20s} {len(positives):6,} rows  {_with_interval(was)} -> {_with_interval(now)} %"
        )


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
            _percent(line.flagged),
            _percent(line.blocked),
            _with_interval(line.recall),
            _with_interval(line.fpr),
            _number(line.auc),
            _number(line.average_precision),
            "" if line.recall_at_1pct_fpr is None else f"{100 * line.recall_at_1pct_fpr:.1f}",
            "/".join(f"{100 * count / max(1, line.rows):.0f}" for count in line.tiers.values()),
            f"{line.p50_ms:.2f}",
            f"{line.p95_ms:.2f}",
        )
    console.print(table)
    console.print(f"{sum(line.rows for line in found):,} rows in {len(found)} files")


def _percent(interval: Interval | None) -> str:
    return "" if interval is None else f"{100 * interval.share:.2f}"


def _with_interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    return f"{100 * interval.share:.1f} [{100 * interval.low:.1f}-{100 * interval.high:.1f}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _settings() -> Settings:
    return load_settings(os.environ)


def _installed(
    settings: Settings, policy_name: str | None, tiers: frozenset[int] = frozenset({1, 2, 3})
) -> tuple[Pipeline, Policy, InstalledJudge | None]:
    """The pipeline as the service would run it, a policy, and the judge, which wants to be entered."""
    policies = load_policies(settings.policies_path, strict_mode=settings.strict_mode)
    name = policy_name or settings.default_policy
    if name not in policies:
        raise click.UsageError(f"No policy is called {name}; there are {', '.join(sorted(policies))}.")
    book = rule_book(settings.rules_path, settings.excluded_rules)
    installed = None
    if 3 in tiers:
        installed = installed_judge(settings, observer=NoObserver(), find_sensitive=book.current.sensitive)
    pipeline = build_pipeline(
        settings, book, tiers, installed, by_example=lambda: classes_by_example(policies)
    )
    return pipeline, policies[name], installed


T = TypeVar("T")


async def _alive(installed: InstalledJudge | None, work: Awaitable[T]) -> T:
    """Do the work while the judge lives."""
    async with nullcontext() if installed is None else installed.judge:
        return await work


def _verdict_json(verdict: Verdict) -> dict[str, Any]:
    decision = verdict.decision
    return {
        "action": decision.action,
        "blocked": decision.action is Action.BLOCK,
        "tier_used": decision.tier_used,
        "method": decision.method,
        "failure_class": decision.failure_class,
        "severity": decision.severity,
        "confidence": round(decision.confidence, 4),
        "processing_time_ms": round(verdict.processing_time_ms, 3),
        "explanation": decision.explanation,
        "scores": {name: round(score, 4) for name, score in decision.scores.items()},
        "evidence": [evidence_entry(piece) for piece in decision.evidence],
        "coverage": [coverage_entry(report) for report in verdict.coverage],
        "degraded": decision.degraded,
        "policy": {"id": verdict.policy_id, "version": verdict.policy_version},
    }


def _print_verdict(console: Console, verdict: Verdict, text: str) -> None:
    decision = verdict.decision
    colour = ACTION_COLOURS[decision.action]
    what = "" if decision.failure_class is None else f"  {decision.failure_class} ({decision.severity})"
    console.print(Text(f"{decision.action.upper()}{what}", style=f"bold {colour}"))
    console.print(Text(decision.explanation))
    if decision.evidence:
        table = Table("class", "score", "where", "text", "why", box=None, pad_edge=False, header_style="bold")
        for piece in decision.evidence:
            where, shown = "", ""
            if piece.span is not None:
                where = f"{piece.span.start}-{piece.span.end}"
                shown = text[piece.span.start : piece.span.end][:60]
            trial = " (trial)" if piece.trial else ""
            table.add_row(
                piece.failure_class,
                f"{piece.score:.2f}",
                where,
                Text(shown),
                f"{piece.note}{trial}  {piece.source}",
            )
        console.print(table)
    looked = Table("tier", "detector", "status", "ms", box=None, pad_edge=False, header_style="bold")
    for entry in map(coverage_entry, verdict.coverage):
        status = entry.status if entry.reason is None else f"{entry.status}: {entry.reason}"
        looked.add_row(str(entry.tier), entry.detector, status, "" if entry.ms is None else f"{entry.ms:.3f}")
    console.print(looked)
    console.print(
        Text(
            f"confidence {decision.confidence:.2f}, {verdict.processing_time_ms:.2f} ms, "
            f"policy {verdict.policy_id} version {verdict.policy_version}",
            style="dim",
        )
    )
