"""The image: built from the unchanged Containerfile, small, without tools, and run as it is run in production."""

import json
import os
import shutil
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.helm import CHART, ROOT
from support.image import IMAGE, Builder, builder
from support.service import free_port

from llmobs import __version__

MEGABYTES = 350
"""Unpacked, models inside."""
HADOLINT = Path(sys.executable).parent / "hadolint"


@pytest.fixture(scope="module")
def built() -> Builder:
    made = builder()
    made.build()
    return made


@pytest.fixture(scope="module")
def root(built: Builder) -> Iterator[Path]:
    """The image's files."""
    container = built.run("buildah", "from", "--pull-never", IMAGE).strip()
    try:
        yield Path(built.run("buildah", "mount", container).strip())
    finally:
        built.run("buildah", "rm", container)


def test_hadolint_has_nothing_to_say() -> None:
    if not HADOLINT.exists():
        pytest.skip("no hadolint in this environment")
    done = subprocess.run([HADOLINT, ROOT / "Containerfile"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.timeout(1500)
def test_the_image_says_how_it_is_to_be_run(built: Builder) -> None:
    config = built.inspect()["Docker"]["config"]
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["llmobs"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][:2] == ["CMD", "python3"]
    assert config["Labels"]["org.opencontainers.image.version"] == __version__
    assert config["Labels"]["org.opencontainers.image.revision"] == "tested"
    assert config["Labels"]["org.opencontainers.image.licenses"] == "MIT"


@pytest.mark.timeout(1500)
def test_the_image_is_small_holds_the_models_and_no_tools(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [path for path in root.rglob("*") if path.is_file() and not path.is_symlink()]
    sizes = {(one.st_dev, one.st_ino): one.st_size for one in (path.stat() for path in files)}
    megabytes = sum(sizes.values()) / 1e6
    with capsys.disabled():
        print(f"\nimage: {megabytes:.0f} MB unpacked")  # the size is to be seen
    assert megabytes < MEGABYTES
    names = {path.name for path in files}
    assert not names & {"gcc", "cc", "g++", "ld", "make", "hatchling", "uv"}
    programs = {path.name for path in files if path.parent.name in {"bin", "sbin"}}
    assert programs & {"sh", "python3.11", "python3.12"}
    assert not programs & {"pip", "pip3", "perl", "apt", "apt-get", "dpkg"}
    # No program makes somebody else of who starts it.
    assert not [path for path in files if path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID)]
    # Nothing tells where it was built.
    assert [(root / "etc" / name).read_text() for name in ("hostname", "hosts", "resolv.conf")] == [""] * 3
    # What scanners read stays.
    assert "Package: libc6" in (root / "var/lib/dpkg/status").read_text()
    installed = next((root / "opt/llmobs/lib").glob("python3.*/site-packages"))
    assert not (installed / "pip").exists()
    assert (installed / "llmobs/data/heads/singles/encoder.onnx").stat().st_size > 1_000_000
    for path in (root / "opt/llmobs").rglob("*"):
        if not path.is_symlink():
            told = path.stat()
            assert told.st_uid == 0, path
            assert not told.st_mode & 0o022, path


@pytest.mark.timeout(1500)
def test_the_image_runs_read_only_as_nobody_special_answers_and_drains(built: Builder) -> None:
    for tool in ("podman", "runc"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: apt-get install {tool}")
    port = free_port()
    name = f"llmobs-{os.getpid()}"
    runtime = ("--runtime", "runc", "--cgroup-manager", "cgroupfs")
    built.run(
        *("podman", *runtime, "run", "-d", "--name", name, "--network", "host", "--cgroupns=host"),
        *("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--read-only", "--tmpfs", "/tmp"),
        *("--cap-drop", "ALL", "--security-opt", "no-new-privileges"),
        *("-e", "API_HOST=127.0.0.1", "-e", f"API_PORT={port}", IMAGE),
    )
    try:
        _await(f"http://127.0.0.1:{port}/health/ready", built, name)
        environ = {"SERVICE_URL": f"http://127.0.0.1:{port}"}
        done = subprocess.run(
            [sys.executable, CHART / "files/smoke.py"], env=environ, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        for page in ("docs", "openapi.json", "metrics", "logs/recent"):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}", timeout=30) as answer:
                assert answer.status == 200

        def inside(*command: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["podman", *built.options, *runtime, "exec", name, *command],
                env=built.env,
                capture_output=True,
                text=True,
            )

        assert inside("id", "-u").stdout.strip() == "10001"
        assert inside("touch", "/opt/llmobs/x").returncode != 0
        assert inside("touch", "/x").returncode != 0
        assert inside("llmobs", "--version").stdout.strip().endswith(__version__)
        told = json.loads(built.run("podman", *runtime, "inspect", name))[0]
        health = told["Config"]["Healthcheck"]["Test"]
        assert inside(*health[1:]).returncode == 0
        built.run("podman", *runtime, "stop", "-t", "40", name)
        assert json.loads(built.run("podman", *runtime, "inspect", name))[0]["State"]["ExitCode"] == 0
    finally:
        built.run("podman", *runtime, "rm", "-f", name, check=False)


def _await(url: str, built: Builder, name: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert answer.status == 200
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise AssertionError(built.run("podman", "logs", name, check=False)) from error
            time.sleep(0.3)
