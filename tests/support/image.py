"""Builds the Containerfile as it stands, and runs the image, with buildah and podman.

Where no registry is reached the base image is a stand-in from Debian's packages (deploy/image/base.sh, kept in
`.cache/`), and pip inside reads wheels from a folder, filled here with the hashes of the lock.
LLMOBS_TEST_BASE_IMAGE names a base that is to be had, to use in its place.
"""

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from support.helm import ROOT

_BASE = ROOT / "deploy/image/base.sh"
STAND_IN = f"localhost/llmobs-base:{hashlib.sha256(_BASE.read_bytes()).hexdigest()[:12]}"
"""Made again when its recipe changes."""
IMAGE = "localhost/llmobs:test"
CACHE = ROOT / ".cache/image"
STAND_IN_PYTHON = {"python_full_version": "3.11.2", "python_version": "3.11"}


class Builder:
    """A store of images of its own."""

    def __init__(self) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        # podman remembers where its store really lies, so that a link to it must not look like a move.
        places = ((CACHE / name).resolve() for name in ("store", "run"))
        self.options = [
            word
            for option, place in zip(("--root", "--runroot"), places, strict=True)
            for word in (option, str(place))
        ]
        self.env = {**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_OPTIONS": " ".join(self.options)}

    def run(self, tool: str, *arguments: str, check: bool = True, seconds: int = 900) -> str:
        """Standard output; AssertionError with the end of what was said when it fails."""
        done = subprocess.run(
            [tool, *self.options, *arguments],
            env=self.env,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert not check or done.returncode == 0, (done.stdout + done.stderr)[-4000:]
        return done.stdout

    def has(self, image: str) -> bool:
        done = subprocess.run(
            [*("buildah", *self.options), "inspect", "--type", "image", image],
            env=self.env,
            capture_output=True,
        )
        return done.returncode == 0

    def build(self) -> None:
        """Build the unchanged Containerfile as IMAGE; the second test process waits and finds the layers there."""
        with (CACHE / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._build()

    def _build(self) -> None:
        base, more = os.environ.get("LLMOBS_TEST_BASE_IMAGE"), []
        if not base:
            base = STAND_IN
            if not self.has(base):
                subprocess.run([_BASE, base], env=self.env, check=True, timeout=600)
            wheels = self._wheels()
            config = CACHE / "pip.conf"
            config.write_text("[global]\nno-index = true\nfind-links = /wheels\n")
            more = ["--pull-never", "-v", f"{wheels}:/wheels:ro", "-v", f"{config}:/etc/pip.conf:ro"]
        self.run(
            *("buildah", "bud", "--isolation", "chroot", "--format", "docker", "--layers"),
            *("--build-arg", f"BASE_IMAGE={base}", "--build-arg", "REVISION=tested", *more, "-t", IMAGE, "."),
        )

    def _wheels(self) -> Path:
        locks = [(ROOT / "requirements" / name).read_text() for name in ("run.txt", "build.txt")]
        lines = [line for lock in locks for line in _for_stand_in(lock)]
        place = CACHE / ("wheels-" + hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12])
        if not place.exists():
            made = place.with_suffix(".new")
            shutil.rmtree(made, ignore_errors=True)
            made.mkdir()
            (made / "all.txt").write_text("\n".join(lines))
            subprocess.run(
                [
                    *(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"),
                    *(
                        "--only-binary",
                        ":all:",
                        "--python-version",
                        "3.11",
                        "--dest",
                        made,
                        "-r",
                        made / "all.txt",
                    ),
                ],
                check=True,
                timeout=600,
            )
            made.rename(place)
        return place

    def inspect(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("buildah", "inspect", "--type", "image", IMAGE))
        return found


def _for_stand_in(lock: str) -> list[str]:
    """The lines of a lock that hold for the stand-in's Python, without their conditions: pip judges by its own."""
    found = []
    for line in lock.replace("\\\n", " ").splitlines():
        written, *hashes = line.split(" --hash=")
        if not written.strip() or written.startswith("#"):
            continue
        wanted = Requirement(written)
        if wanted.marker is None or wanted.marker.evaluate(STAND_IN_PYTHON):
            found.append(
                f"{wanted.name}{wanted.specifier} " + " ".join(f"--hash={one.strip()}" for one in hashes)
            )
    return found


def builder() -> Builder:
    """Skips the test where an image cannot be built or is not asked for."""
    if os.environ.get("LLMOBS_TEST_IMAGE") != "1":
        pytest.skip(
            "the image is not built: set LLMOBS_TEST_IMAGE=1 (as .ci/run does) or run make test-image"
        )
    if os.geteuid() != 0:
        pytest.skip("building the image needs root here")
    for tool in ("buildah", "mmdebstrap"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}: apt-get install {tool}")
    return Builder()
