"""A tier that breaks shows in a metric and in an alert with the next scrape, of the real Prometheus."""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest
from support.judge_server import JudgeServer, judge_server, stopped
from support.observed import Prometheus, Service, prometheus, tool, until

from llmobs.detect.artefacts import shipped

EVERY = 2.0
"""Seconds between two scrapes, and between two evaluations of the alerts."""
PROBED = 0.5
"""Seconds between two looks at the judge's provider; in service as long as a scrape interval."""
RULES = (
    '[pack]\nid = "house"\nfailure_class = "toxicity"\ndescription = "House words."\n'
    '[[rule]]\nid = "house.word"\nnote = "a word"\npattern = "redstart"\nscore = 0.9\n'
    'match = ["a ⟦redstart⟧"]\nskip = ["a finch"]\n'
)


class Scene(NamedTuple):
    folder: Path
    judge: JudgeServer
    prometheus: Prometheus


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    tool("prometheus")
    folder = tmp_path_factory.mktemp("broken")
    (folder / "rules").mkdir()
    (folder / "rules/house.toml").write_text(RULES)
    shutil.copytree(shipped("base").parent, folder / "heads")
    with ExitStack() as stack:
        judge = stack.enter_context(judge_server())
        service = Service(
            folder,
            LLMOBS_RULES_DIR=str(folder / "rules"),
            LLMOBS_HEADS_DIR=str(folder / "heads"),
            JUDGE_BASE_URL=judge.openai_url,
            JUDGE_MODEL="scripted",
            LLMOBS_JUDGE_PROBE_SECONDS=str(PROBED),
            LLMOBS_CANARY_SECONDS="2",
        )
        stack.enter_context(service.running())
        seen = stack.enter_context(prometheus(folder, service.target, every=f"{EVERY:g}s"))
        until(lambda: len(seen.query("detection_tier_ready == 1")) == 3, what="three tiers ready")
        yield Scene(folder, judge, seen)


def _shows(scene: Scene, tier: str, broken_at: float, known_after: float = 0.0) -> None:
    """Every scrape since the break shows it, and the alert fires with the evaluation after the first."""
    alert = ("LlmobsTierNotReady", tier)
    until(lambda: alert in scene.prometheus.firing(), 60, "the alert")
    seen = scene.prometheus.samples(f'detection_tier_ready{{tier="{tier}"}}[2m]')
    shown = min(at for at, value in seen if at > broken_at and not value)
    told = scene.prometheus.samples(f'ALERTS{{alertname="LlmobsTierNotReady",tier="{tier}"}}[2m]')
    fired = min(at for at, _ in told if at > broken_at)
    print(
        f"\ntier {tier}: broken, {shown - broken_at:.1f} s later scraped, {fired - broken_at:.1f} s an alert"
    )
    assert not any(value for at, value in seen if at > broken_at + known_after)
    # The scrape and the evaluation have their own beat; a busy machine may miss one of the latter.
    assert fired - shown <= 2 * EVERY
    others = {found for found in scene.prometheus.firing() if found[0] == "LlmobsTierNotReady"}
    assert others == {alert}


def _well(scene: Scene) -> None:
    until(
        lambda: not any(name == "LlmobsTierNotReady" for name, _ in scene.prometheus.firing()),
        what="all well",
    )


def test_an_empty_rules_folder(scene: Scene) -> None:
    (scene.folder / "rules/house.toml").unlink()
    _shows(scene, "1", time.time())
    (scene.folder / "rules/house.toml").write_text(RULES)
    _well(scene)


def test_a_removed_model_file(scene: Scene) -> None:
    model = scene.folder / "heads/singles/encoder.onnx"
    model.rename(scene.folder / "aside")
    _shows(scene, "2", time.time())
    (scene.folder / "aside").rename(model)
    _well(scene)


def test_a_dead_judge(scene: Scene) -> None:
    with stopped(scene.judge):
        _shows(scene, "3", time.time(), known_after=2 * PROBED + 0.5)
    _well(scene)


def test_a_service_that_cannot_start_without_its_model_is_down(tmp_path: Path) -> None:
    shutil.copytree(shipped("base").parent, tmp_path / "heads")
    (tmp_path / "heads/singles/encoder.onnx").unlink()
    service = Service(tmp_path, LLMOBS_HEADS_DIR=str(tmp_path / "heads"))
    with service.running(wait=False), prometheus(tmp_path, service.target, every="1s") as seen:
        until(lambda: seen.value('up{job="llmobs"}') == 0, what="down")
        until(
            lambda: seen.query('ALERTS{alertname="LlmobsDown"}'), what="the alert, which waits for a minute"
        )
        log = tmp_path / "llmobs.log"
        until(lambda: "singles/encoder.onnx" in log.read_text(), 240, "the reason in the log")
