"""What runs elsewhere than here is at least of the right form: workflow, compose file, bill of materials."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from support.helm import ROOT

pytestmark = pytest.mark.timeout(240)
"""Programs are started, and CI's cores may be busy."""

BIN = Path(sys.executable).parent
WORKFLOW = ROOT / ".github/workflows/ci.yml"


def _run(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    if not (BIN / tool).exists():
        pytest.skip(f"no {tool} in this environment: install requirements/dev.txt")
    return subprocess.run([BIN / tool, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=200)


@pytest.mark.parametrize(
    ("schema", "file"), [("vendor.github-workflows", str(WORKFLOW)), ("vendor.compose-spec", "compose.yaml")]
)
def test_the_file_holds_to_its_schema(schema: str, file: str) -> None:
    done = _run("check-jsonschema", "--builtin-schema", schema, file)
    assert done.returncode == 0, done.stdout


def test_the_workflow_gives_nothing_away() -> None:
    done = _run("zizmor", "--offline", "--config", ".github/zizmor.yml", ".github/workflows")
    assert done.returncode == 0, done.stdout


def _targets(text: str) -> set[str]:
    return set(re.findall(r"\bmake ([a-z-]+)", text))


def test_the_workflow_does_what_ci_does_here() -> None:
    workflow = WORKFLOW.read_text()
    makefile = (ROOT / "Makefile").read_text()
    here = _targets((ROOT / ".ci/run").read_text())
    assert {"test", "sbom"} <= here <= _targets(workflow)
    assert {"check", "test-chart", "test-image"} <= _targets(workflow)
    for target in here | _targets(workflow):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    # What is installed from Debian there is what .ci/debian.sh installs here.
    here_packages = set(re.findall(r"\]=([a-z-]+)", (ROOT / ".ci/debian.sh").read_text()))
    here_packages -= {
        "etcd-server",
        "containerd",
        "containernetworking-plugins",
    }  # a cluster's, left out there
    there = {word for line in re.findall(r"--no-install-recommends (.+)", workflow) for word in line.split()}
    # Chromium is Chrome there, which the runner has, and curl.
    assert here_packages - {"chromium", "curl"} <= there
    assert "LLMOBS_TEST_CHROMIUM" in workflow
    jobs = yaml.safe_load(workflow)["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13"]
    assert set(jobs["release"]["needs"]) == set(jobs) - {"release"}
    assert "tag" in jobs["release"]["if"]


def test_everything_that_compose_mounts_is_here() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert {"llmobs", "migrate", "postgres", "prometheus", "grafana"} == set(services)
    mounted = [
        volume.split(":")[0]
        for service in services.values()
        for volume in service.get("volumes", ())
        if volume.startswith("./")
    ]
    assert len(mounted) == 3
    for path in mounted:
        assert (ROOT / path).exists(), path
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    scraped = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yml").read_text())["scrape_configs"][0]
    assert scraped["static_configs"][0]["targets"] == ["llmobs:8000"]
    source = yaml.safe_load((ROOT / "deploy/grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"


def test_the_bill_of_materials_names_every_locked_package_and_every_model(tmp_path: Path) -> None:
    if not (BIN / "cyclonedx-py").exists():
        pytest.skip("no cyclonedx-py in this environment: install requirements/dev.txt")
    out = tmp_path / "sbom.json"
    done = subprocess.run(
        [sys.executable, "deploy/image/sbom.py", out], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    found = {one["name"]: one for one in json.loads(out.read_text())["components"]}
    locked = re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "requirements/run.txt").read_text(), re.MULTILINE)
    assert set(locked) <= set(found)
    for path in (ROOT / "src/llmobs/data/heads").rglob("*.onnx"):
        name = path.relative_to(ROOT / "src/llmobs/data/heads").as_posix()
        assert found[name]["type"] == "machine-learning-model"
        assert len(found[name]["hashes"][0]["content"]) == 64
