"""Alerts, scrape configuration, collector configuration and dashboard, as far as files can tell."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from support.observed import DEPLOY, REPO, tool

from llmobs.telemetry.instruments import METRICS

PROMETHEUS = DEPLOY / "prometheus"
ALERTS = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
BOARD = json.loads((DEPLOY / "grafana/llmobs.json").read_text())
TARGETS = [
    (panel["title"], target["expr"]) for panel in BOARD["panels"] for target in panel.get("targets", ())
]


def _promtool(*arguments: str, cwd: Path = PROMETHEUS) -> str:
    done = subprocess.run([tool("promtool"), *arguments], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(180)
def test_the_alerts_pass_their_unit_tests() -> None:
    assert "SUCCESS" in _promtool("test", "rules", "alerts_test.yml")


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("(llmobs_canary_success) == 0", "(llmobs_canary_success) == 2"),
        ("/ llmobs:requests:rate5m > 0.02", "/ llmobs:requests:rate5m > 0.2"),
        ("(judge_breaker_state) == 2", "(judge_breaker_state) == 1"),
    ],
)
def test_the_unit_tests_see_an_alert_that_is_wrong(tmp_path: Path, old: str, new: str) -> None:
    shutil.copy(PROMETHEUS / "alerts_test.yml", tmp_path)
    text = (PROMETHEUS / "alerts.yml").read_text()
    assert text.count(old) == 1
    (tmp_path / "alerts.yml").write_text(text.replace(old, new))
    done = subprocess.run(
        [tool("promtool"), "test", "rules", "alerts_test.yml"], cwd=tmp_path, capture_output=True
    )
    assert done.returncode == 1
    assert b"FAILED" in done.stdout + done.stderr


def test_promtool_takes_the_scrape_configuration() -> None:
    assert "SUCCESS" in _promtool("check", "config", "prometheus.yml")


def test_every_alert_is_tested_and_told_in_the_docs() -> None:
    tests = (PROMETHEUS / "alerts_test.yml").read_text()
    page = (REPO / "docs/observability.md").read_text()
    alerts = [rule["alert"] for rule in RULES if "alert" in rule]
    assert len(set(alerts)) == len(alerts)
    for name in alerts:
        fired = re.search(rf'alertname[=:]~? ?"?(?:{name}|Llmobs\.\*LatencyHigh)\b', tests)
        assert fired, name
        assert f"`{name}`" in page, name
    for rule in RULES:
        if "alert" in rule:
            assert rule["labels"]["severity"] in {"warning", "critical"}
            assert {"summary", "description"} <= set(rule["annotations"])


def _selected(expression: str) -> set[str]:
    """The metrics that an expression reads."""
    found: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.add(node.name)
        for name in ("expr", "lhs", "rhs", "vector_selector"):
            child = getattr(node, name, None)
            if child is not None:
                walk(child)
        for child in getattr(node, "args", None) or ():
            walk(child)

    walk(promql_parser.parse(expression))
    return found


def test_only_metrics_that_exist_are_asked_for() -> None:
    exported = {"up"} | {rule["record"] for rule in RULES if "record" in rule}
    for metric in METRICS.values():
        if metric.kind == "histogram":
            exported |= {f"{metric.exported}_{part}" for part in ("bucket", "sum", "count")}
        else:
            exported.add(metric.exported)
    asked = [(rule.get("alert") or rule["record"], rule["expr"]) for rule in RULES]
    asked += [(title, expr.replace("$__rate_interval", "1m")) for title, expr in TARGETS]
    for name, expression in asked:
        selected = _selected(expression)
        assert selected, name
        assert selected <= exported, (name, selected - exported)


def test_the_dashboard_is_what_its_script_writes() -> None:
    done = subprocess.run(
        [sys.executable, DEPLOY / "grafana/build.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_dashboard_that_was_edited_by_hand_is_seen(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "grafana/build.py", tmp_path)
    (tmp_path / "llmobs.json").write_text(
        (DEPLOY / "grafana/llmobs.json").read_text().replace("Canaries", "Birds")
    )
    done = subprocess.run([sys.executable, tmp_path / "build.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "out of date" in done.stderr


def test_the_dashboard_is_whole() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(ids) == len(set(ids))
    assert BOARD["uid"] == "llmobs"
    assert [v["name"] for v in BOARD["templating"]["list"]] == ["datasource", "namespace", "policy"]
    rows = [panel["title"] for panel in BOARD["panels"] if panel["type"] == "row"]
    assert rows == [
        "Overview",
        "Traffic",
        "Latency",
        "Tier split",
        "Classes and actions",
        "Judge",
        "Journal and spool",
        "Canaries",
    ]
    assert [p["title"][:6] for p in BOARD["panels"] if p["type"] == "heatmap"] == [
        "Tier 1",
        "Tier 2",
        "Tier 3",
    ]
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"
            assert 'namespace=~"$namespace"' in target["expr"], panel["title"]
    judged = " ".join(expr for _, expr in TARGETS)
    assert judged.count('policy=~"$policy"') > 5


def test_the_collector_configuration_holds_together() -> None:
    config = yaml.safe_load((DEPLOY / "otel/collector.yaml").read_text())
    for name, pipeline in config["service"]["pipelines"].items():
        for kind in ("receivers", "processors", "exporters"):
            assert set(pipeline[kind]) <= set(config[kind]), (name, kind)
    assert set(config["receivers"]["otlp"]["protocols"]) == {"grpc", "http"}
    assert config["service"]["pipelines"]["metrics"]["receivers"] == ["prometheus", "otlp"]
    assert config["service"]["pipelines"]["traces"]["receivers"] == ["otlp"]


def test_promtool_takes_the_collectors_scrape_configuration(tmp_path: Path) -> None:
    config = yaml.safe_load((DEPLOY / "otel/collector.yaml").read_text())
    (tmp_path / "scrape.yml").write_text(yaml.safe_dump(config["receivers"]["prometheus"]["config"]))
    assert "SUCCESS" in _promtool("check", "config", "scrape.yml", cwd=tmp_path)
