"""Writes llmobs.json, the Grafana dashboard, from the panels described here.

python deploy/grafana/build.py           write it
python deploy/grafana/build.py --check   exit 1 when it is out of date (a test does this)
"""

import json
import sys
from pathlib import Path
from typing import Any

OUT = Path(__file__).parent / "llmobs.json"
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
HERE = 'namespace=~"$namespace"'
"""Selects what the namespace variable says; without namespaces its `All` matches everything."""
ASKED = 'path=~"(/v1)?/detect(/batch)?"'
RATE = "$__rate_interval"
TIER_COLOURS = {"1": "green", "2": "blue", "3": "purple"}
ACTION_COLOURS = {"allow": "green", "log": "blue", "warn": "orange", "block": "red"}

Panel = dict[str, Any]


def query(expr: str, legend: str = "", *, shape: str = "time_series", now: bool = False) -> Panel:
    """One target of a panel; `now` asks for the latest value alone."""
    return {
        "datasource": SOURCE,
        "editorMode": "code",
        "expr": expr,
        "legendFormat": legend or "__auto",
        "format": shape,
        "instant": now,
        "range": not now,
        "exemplar": "duration_seconds_bucket" in expr or "time_seconds_bucket" in expr,
    }


def colours(by_name: dict[str, str], name: str = "{}") -> list[Panel]:
    """The same thing in the same colour on every panel."""
    return [
        {
            "matcher": {"id": "byName", "options": name.format(value)},
            "properties": [{"id": "color", "value": {"mode": "fixed", "fixedColor": colour}}],
        }
        for value, colour in by_name.items()
    ]


def steps(*pairs: tuple[str, float | None]) -> Panel:
    """Colours from values on; the first has None."""
    return {"mode": "absolute", "steps": [{"color": colour, "value": value} for colour, value in pairs]}


def panel(
    kind: str,
    title: str,
    *targets: Panel,
    width: int,
    height: int = 8,
    unit: str = "short",
    about: str = "",
    options: Panel | None = None,
    custom: Panel | None = None,
    **defaults: Any,
) -> Panel:
    """A panel without its place, which `laid_out` gives."""
    overrides = defaults.pop("overrides", [])
    for letter, target in zip("ABCDEFGH", targets, strict=False):
        target["refId"] = letter
    return {
        "type": kind,
        "title": title,
        "description": about,
        "datasource": SOURCE,
        "gridPos": {"w": width, "h": height},
        "targets": list(targets),
        "fieldConfig": {
            "defaults": {"unit": unit, "custom": custom or {}, **defaults},
            "overrides": overrides,
        },
        "options": options or {},
    }


def lines(
    title: str, *targets: Panel, stack: str = "none", limits: Panel | None = None, **more: Any
) -> Panel:
    """Values over time."""
    custom: Panel = {
        "drawStyle": "line",
        "lineWidth": 1,
        "fillOpacity": 10 if stack == "none" else 60,
        "showPoints": "never",
        "stacking": {"mode": stack, "group": "A"},
    }
    if limits is not None:
        custom["thresholdsStyle"] = {"mode": "line"}
        more["thresholds"] = limits
    more.setdefault("min", 0)
    options = {
        "legend": {"displayMode": "table", "placement": "bottom", "calcs": ["lastNotNull", "max"]},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return panel("timeseries", title, *targets, options=options, custom=custom, **more)


def stat(title: str, expr: str, *, unit: str, limits: Panel, about: str = "", **more: Any) -> Panel:
    """One figure of this moment."""
    options = {
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "colorMode": "background",
        "graphMode": "area",
        "textMode": "auto",
    }
    return panel(
        "stat",
        title,
        query(expr),
        width=4,
        height=4,
        unit=unit,
        about=about,
        options=options,
        thresholds=limits,
        **more,
    )


def heat_map(tier: str) -> Panel:
    """How long verdicts take that end in a tier."""
    return panel(
        "heatmap",
        f"Tier {tier}: time to the verdict",
        query(
            f'sum by (le) (rate(detection_processing_time_seconds_bucket{{{HERE}, tier="{tier}"}}[{RATE}]))',
            "{{le}}",
            shape="heatmap",
        ),
        width=8,
        about="Verdicts a second in each bucket. The record is not counted: see the journal.",
        options={
            "calculate": False,
            "cellGap": 1,
            "color": {"mode": "scheme", "scheme": "Turbo", "steps": 64, "exponent": 0.5},
            "yAxis": {"unit": "s"},
            "cellValues": {"unit": "reqps"},
            "exemplars": {"color": "rgba(255,255,255,0.7)"},
            "tooltip": {"mode": "single", "yHistogram": True},
            "legend": {"show": True},
        },
    )


def quantiles(metric: str, matchers: str = "", by: str = "") -> list[Panel]:
    """50th, 95th and 99th percentile of a histogram."""
    inner = f"{HERE}, {matchers}" if matchers else HERE
    grouped = f"le, {by}" if by else "le"
    legend = f" {{{{{by}}}}}" if by else ""
    return [
        query(
            f"histogram_quantile({q / 100}, sum by ({grouped}) (rate({metric}_bucket{{{inner}}}[{RATE}])))",
            f"p{q}{legend}",
        )
        for q in (50, 95, 99)
    ]


def overview() -> list[Panel]:
    verdicts = f"sum(rate(detection_tier_total{{{HERE}}}[{RATE}]))"
    failed = f'sum(rate(http_requests_total{{{HERE}, {ASKED}, status=~"5.."}}[{RATE}])) or vector(0)'
    return [
        stat("Verdicts a second", verdicts, unit="reqps", limits=steps(("blue", None))),
        stat(
            "Blocked, 15 minutes",
            f'sum(increase(detection_action_total{{{HERE}, policy=~"$policy", action="block"}}[15m]))'
            f' / sum(increase(detection_action_total{{{HERE}, policy=~"$policy"}}[15m]))',
            unit="percentunit",
            limits=steps(("green", None), ("orange", 0.05), ("red", 0.2)),
        ),
        stat(
            "Requests that fail",
            f"({failed}) / sum(rate(http_requests_total{{{HERE}, {ASKED}}}[{RATE}]))",
            unit="percentunit",
            limits=steps(("green", None), ("orange", 0.001), ("red", 0.02)),
        ),
        stat(
            "95th percentile of requests",
            f"histogram_quantile(0.95, sum by (le) (rate(http_request_duration_seconds_bucket{{{HERE}, {ASKED}}}[{RATE}])))",
            unit="s",
            limits=steps(("green", None), ("orange", 0.25), ("red", 1)),
        ),
        stat(
            "Tiers not ready",
            f"sum(1 - detection_tier_ready{{{HERE}}})",
            unit="none",
            limits=steps(("green", None), ("red", 1)),
            about="Rules folder empty, trained file gone, no provider of the judge: looked at in every scrape.",
        ),
        stat(
            "Canaries failing",
            f"sum(1 - llmobs_canary_success{{{HERE}}})",
            unit="none",
            limits=steps(("green", None), ("red", 1)),
        ),
    ]


def traffic() -> list[Panel]:
    return [
        lines(
            "Requests by status",
            query(f"sum by (status) (rate(http_requests_total{{{HERE}, {ASKED}}}[{RATE}]))", "{{status}}"),
            width=8,
            unit="reqps",
            stack="normal",
        ),
        lines(
            "Verdicts by action",
            query(
                f'sum by (action) (rate(detection_action_total{{{HERE}, policy=~"$policy"}}[{RATE}]))',
                "{{action}}",
            ),
            width=8,
            unit="reqps",
            stack="normal",
            overrides=colours(ACTION_COLOURS),
        ),
        lines(
            "Verdicts by policy",
            query(
                f'sum by (policy) (rate(detection_action_total{{{HERE}, policy=~"$policy"}}[{RATE}]))',
                "{{policy}}",
            ),
            width=8,
            unit="reqps",
            stack="normal",
        ),
    ]


def latency() -> list[Panel]:
    return [
        *(heat_map(tier) for tier in TIER_COLOURS),
        lines(
            "Time to answer a request",
            *quantiles("http_request_duration_seconds", ASKED),
            width=12,
            unit="s",
        ),
        lines(
            "95th percentile to the verdict, by the highest tier used",
            query(
                "histogram_quantile(0.95, sum by (le, tier) "
                f"(rate(detection_processing_time_seconds_bucket{{{HERE}}}[{RATE}])))",
                "tier {{tier}}",
            ),
            width=12,
            unit="s",
            overrides=colours(TIER_COLOURS, "tier {}"),
        ),
    ]


def tier_split() -> list[Panel]:
    share = (
        f"sum by (tier) (increase(detection_tier_total{{{HERE}}}[1h]))"
        f" / ignoring (tier) group_left () sum(increase(detection_tier_total{{{HERE}}}[1h]))"
    )

    def against(tier: str, low: float, high: float) -> Panel:
        band = (
            steps(("orange", None), ("green", low), ("orange", high))
            if low
            else steps(("green", None), ("orange", high))
        )
        only = share.replace(HERE, f'{HERE}, tier="{tier}"', 1)
        return lines(
            f"Tier {tier}: expected {low:.0%} to {high:.0%}",
            query(only, "tier {{tier}}"),
            width=6,
            unit="percentunit",
            limits=band,
            overrides=colours({tier: TIER_COLOURS[tier]}, "tier {}"),
            about="Share of verdicts of the last hour, with the default policy's expected range as lines.",
        )

    return [
        lines(
            "Share of verdicts by the highest tier used",
            query(share, "tier {{tier}}"),
            width=6,
            unit="percentunit",
            stack="normal",
            max=1,
            overrides=colours(TIER_COLOURS, "tier {}"),
        ),
        against("1", 0.90, 0.98),
        against("2", 0.02, 0.08),
        against("3", 0.0, 0.05),
    ]


def classes() -> list[Panel]:
    found = f'detection_class_total{{{HERE}, policy=~"$policy"}}'
    return [
        lines(
            "Classes found",
            query(f"sum by (failure_class) (rate({found}[{RATE}]))", "{{failure_class}}"),
            width=8,
            unit="reqps",
            stack="normal",
        ),
        lines(
            "Actions beyond allow, by class",
            query(f"sum by (failure_class, action) (rate({found}[{RATE}]))", "{{action}}: {{failure_class}}"),
            width=8,
            unit="reqps",
            stack="normal",
        ),
        lines(
            "Block ratio, now and over the day",
            query(
                f'sum(increase(detection_action_total{{{HERE}, policy=~"$policy", action="block"}}[15m]))'
                f' / sum(increase(detection_action_total{{{HERE}, policy=~"$policy"}}[15m]))',
                "15 minutes",
            ),
            query(
                f'sum(increase(detection_action_total{{{HERE}, policy=~"$policy", action="block"}}[1d]))'
                f' / sum(increase(detection_action_total{{{HERE}, policy=~"$policy"}}[1d]))',
                "a day",
            ),
            width=8,
            unit="percentunit",
        ),
        lines(
            "Rules that hit most",
            query(f"topk(10, sum by (rule) (rate(rule_hits_total{{{HERE}}}[{RATE}])))", "{{rule}}"),
            width=12,
            unit="reqps",
        ),
        lines(
            "Detectors that could not look",
            query(
                "sum by (detector, status) "
                f'(rate(detector_reports_total{{{HERE}, status=~"failed|timed_out"}}[{RATE}])) or vector(0)',
                "{{detector}} {{status}}",
            ),
            query(f"sum(rate(detection_degraded_total{{{HERE}}}[{RATE}]))", "degraded verdicts"),
            width=12,
            unit="reqps",
        ),
    ]


def judge() -> list[Panel]:
    calls = "gen_ai_client_operation_duration_seconds"
    model = "gen_ai_request_model"
    return [
        lines("Time of a call", *quantiles(calls, by=model), width=8, unit="s"),
        lines(
            "Calls by outcome",
            query(
                f"sum by ({model}, error_type) (rate({calls}_count{{{HERE}}}[{RATE}]))",
                "{{" + model + "}} {{error_type}}",
            ),
            width=8,
            unit="reqps",
            stack="normal",
        ),
        lines(
            "Tokens",
            query(
                f"sum by (gen_ai_token_type) (rate(gen_ai_client_token_usage_sum{{{HERE}}}[{RATE}]))",
                "{{gen_ai_token_type}} a second",
            ),
            width=8,
        ),
        lines(
            "Cost an hour",
            query(
                f"sum by (provider, model) (rate(judge_cost_usd_total{{{HERE}}}[{RATE}])) * 3600"
                " or vector(0)",
                "{{provider}} {{model}}",
            ),
            width=6,
            unit="currencyUSD",
            about="By the configured prices; a model without a price costs nothing here.",
        ),
        panel(
            "state-timeline",
            "Breakers",
            query(f"max by (provider) (judge_breaker_state{{{HERE}}})", "{{provider}}"),
            width=6,
            options={"showValue": "auto", "mergeValues": True, "legend": {"displayMode": "list"}},
            custom={"fillOpacity": 70},
            thresholds=steps(("green", None), ("orange", 1), ("red", 2)),
            color={"mode": "thresholds"},
            mappings=[
                {
                    "type": "value",
                    "options": {
                        "0": {"text": "closed"},
                        "1": {"text": "half-open"},
                        "2": {"text": "open"},
                    },
                }
            ],
        ),
        lines(
            "Where answers came from",
            query(f"sum by (result) (rate(judge_lookups_total{{{HERE}}}[{RATE}]))", "{{result}}"),
            width=6,
            unit="reqps",
            stack="normal",
        ),
        lines(
            "Trouble",
            query(
                f"sum by (reason) (rate(judge_failovers_total{{{HERE}}}[{RATE}])) or vector(0)",
                "failed over {{reason}}",
            ),
            query(
                f"sum by (reason) (rate(judge_refusals_total{{{HERE}}}[{RATE}])) or vector(0)",
                "not asked {{reason}}",
            ),
            query(
                f"sum by (outcome) (rate(judge_bad_replies_total{{{HERE}}}[{RATE}])) or vector(0)",
                "bad reply {{outcome}}",
            ),
            width=6,
            unit="reqps",
        ),
    ]


def journal() -> list[Panel]:
    return [
        lines("Time of a commit", *quantiles("journal_commit_seconds"), width=6, unit="s"),
        lines(
            "Verdicts a commit",
            query(
                f"sum(rate(journal_batch_rows_sum{{{HERE}}}[{RATE}]))"
                f" / sum(rate(journal_batch_rows_count{{{HERE}}}[{RATE}]))",
                "mean",
            ),
            width=6,
        ),
        lines(
            "Waiting for the database",
            query(f"sum(journal_pending{{{HERE}}})", "waiting"),
            query(f"sum(journal_capacity{{{HERE}}})", "may wait"),
            query(
                f"sum by (reason) (rate(journal_failures_total{{{HERE}}}[{RATE}])) or vector(0)",
                "failures a second {{reason}}",
            ),
            width=6,
        ),
        lines(
            "Spool",
            query(f"sum(spool_size_bytes{{{HERE}}})", "used"),
            query(f"sum(spool_capacity_bytes{{{HERE}}})", "may be used"),
            width=6,
            unit="bytes",
        ),
    ]


def canaries() -> list[Panel]:
    states = [{"type": "value", "options": {"0": {"text": "wrong"}, "1": {"text": "right"}}}]
    ready = [{"type": "value", "options": {"0": {"text": "not ready"}, "1": {"text": "ready"}}}]

    def states_over_time(title: str, target: Panel, mappings: list[Panel], width: int) -> Panel:
        return panel(
            "state-timeline",
            title,
            target,
            width=width,
            options={"showValue": "never", "mergeValues": True, "legend": {"displayMode": "list"}},
            custom={"fillOpacity": 70},
            thresholds=steps(("red", None), ("green", 1)),
            color={"mode": "thresholds"},
            mappings=mappings,
        )

    return [
        states_over_time(
            "Known samples, by detector",
            query(f"min by (tier, detector) (llmobs_canary_success{{{HERE}}})", "tier {{tier}} {{detector}}"),
            states,
            10,
        ),
        states_over_time(
            "Tiers that have what they need",
            query(f"min by (tier) (detection_tier_ready{{{HERE}}})", "tier {{tier}}"),
            ready,
            7,
        ),
        lines(
            "Since the last known sample",
            query(f"max by (tier) (llmobs_canary_age_seconds{{{HERE}}})", "tier {{tier}}"),
            query(f"max by (book) (configuration_refused{{{HERE}}})", "{{book}} refused"),
            width=7,
            unit="s",
            overrides=colours(TIER_COLOURS, "tier {}"),
        ),
    ]


ROWS = {
    "Overview": overview,
    "Traffic": traffic,
    "Latency": latency,
    "Tier split": tier_split,
    "Classes and actions": classes,
    "Judge": judge,
    "Journal and spool": journal,
    "Canaries": canaries,
}


def laid_out() -> list[Panel]:
    """Every row's title and panels, left to right and top to bottom, with ids."""
    placed: list[Panel] = []
    top = 0
    for title, build in ROWS.items():
        placed.append(
            {
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1},
            }
        )
        top += 1
        left = tallest = 0
        for one in build():
            width, height = one["gridPos"]["w"], one["gridPos"]["h"]
            if left + width > WIDTH:
                top, left, tallest = top + tallest, 0, 0
            one["gridPos"] = {"x": left, "y": top, "w": width, "h": height}
            left += width
            tallest = max(tallest, height)
            placed.append(one)
        top += tallest
    for number, one in enumerate(placed, 1):
        one["id"] = number
    return placed


def variable(name: str, label: str, expr: str) -> Panel:
    """A list of a label's values, several at once, `All` first; series without the label match `All`."""
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": SOURCE,
        "query": {"query": expr, "refId": name},
        "definition": expr,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def dashboard() -> Panel:
    return {
        "uid": "llmobs",
        "title": "llmobs",
        "description": "What language models say, inspected. Built by deploy/grafana/build.py.",
        "tags": ["llmobs"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "timezone": "browser",
        "time": {"from": "now-3h", "to": "now"},
        "annotations": {"list": []},
        "templating": {
            "list": [
                {
                    "type": "datasource",
                    "name": "datasource",
                    "label": "Data source",
                    "query": "prometheus",
                    "current": {},
                },
                variable("namespace", "Namespace", "label_values(detection_tier_total, namespace)"),
                variable("policy", "Policy", f"label_values(detection_action_total{{{HERE}}}, policy)"),
            ]
        },
        "panels": laid_out(),
    }


def rendered() -> str:
    return json.dumps(dashboard(), indent=2) + "\n"


def main() -> None:
    if "--check" in sys.argv:
        if not OUT.exists() or OUT.read_text(encoding="utf-8") != rendered():
            sys.exit("llmobs.json is out of date; run: python deploy/grafana/build.py")
        return
    OUT.write_text(rendered(), encoding="utf-8")


if __name__ == "__main__":
    main()
