"""`llmobs detect`: one text and its verdict."""

import asyncio
import sys
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmobs.commands.shared import installed_pipeline, settings_of_environment, while_judging
from llmobs.domain.record import coverage_entry, evidence_entry
from llmobs.domain.risk import Action
from llmobs.domain.subject import Kind
from llmobs.domain.verdict import Verdict
from llmobs.screen import Inquiry, examine

ACTION_COLOURS = {Action.ALLOW: "green", Action.LOG: "cyan", Action.WARN: "yellow", Action.BLOCK: "red"}


@click.command()
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
    settings = settings_of_environment()
    if text == "-":
        text = sys.stdin.read()
    if not text:
        raise click.UsageError("The text is empty.")
    pipeline, policy, installed = installed_pipeline(settings, policy_name)
    context: dict[str, Any] = {}
    if query:
        context["query"] = query
    if documents:
        context["documents"] = list(documents)
    inquiry = Inquiry(text=text, kind=Kind(kind), context=context or None)
    verdict = asyncio.run(while_judging(installed, examine(pipeline, policy, inquiry)))
    if as_json:
        click.echo(msgspec.json.format(msgspec.json.encode(_verdict_json(verdict))).decode())
    else:
        _print_verdict(Console(), verdict, text)
    sys.exit({Action.WARN: 1, Action.BLOCK: 3}.get(verdict.decision.action, 0))


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
