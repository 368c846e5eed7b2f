"""What a node does with a pod, played with local processes: environment, commands, volumes, probes, the end.

The container's entrypoint is the Containerfile's, found in this environment; a volume is a folder, put in place of
its mount path wherever that occurs in the environment.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from support.helm import ROOT, Manifest, environment
from support.service import free_port

ENTRYPOINT = [
    str(Path(sys.executable).parent / word)
    for word in json.loads(
        re.findall(r"^ENTRYPOINT (.+)$", (ROOT / "Containerfile").read_text(), re.MULTILINE)[-1]
    )
]


class Pod:
    """The containers of a pod spec as processes in a folder."""

    def __init__(self, manifests: Sequence[Manifest], spec: Manifest, folder: Path, **more: str) -> None:
        self.spec = spec
        self._manifests = manifests
        self._folder = folder
        self._more = more
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "log"

    def environ(self, container: Manifest) -> dict[str, str]:
        """The container's environment here: volumes are folders, the port is a free one on loopback."""
        told = environment(self._manifests, container) | self._more
        places = {mount["mountPath"]: self._folder / mount["name"] for mount in container["volumeMounts"]}
        for place in places.values():
            place.mkdir(parents=True, exist_ok=True)
        path = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, places))})(?=/|$)")
        told = {name: path.sub(lambda found: str(places[found[1]]), value) for name, value in told.items()}
        kept = {
            name: os.environ[name] for name in ("PATH", "HOME", "LANG", "SSL_CERT_FILE") if name in os.environ
        }
        return kept | told | {"API_PORT": str(self.port), "API_HOST": "127.0.0.1"}

    def run(self, container: Manifest) -> subprocess.CompletedProcess[str]:
        """Run a container to its end, as for an init container or a Job."""
        return subprocess.run(
            [*ENTRYPOINT, *container["args"]],
            env=self.environ(container),
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=120,
        )

    def start(self) -> None:
        """Init containers in order, then the first container, until its startup probe succeeds."""
        for container in self.spec.get("initContainers", ()):
            done = self.run(container)
            assert done.returncode == 0, done.stderr
        container = self.spec["containers"][0]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*ENTRYPOINT, *container["args"]],
                env=self.environ(container),
                cwd=self._folder,
                stdout=log,
                stderr=log,
            )
        probe = container["startupProbe"]
        for _ in range(probe["failureThreshold"]):
            if self.probe("startupProbe"):
                return
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(probe["periodSeconds"])
        raise AssertionError(self.log.read_text())

    def probe(self, name: str) -> bool:
        """Whether the probe succeeds, asked as the kubelet asks."""
        probe = self.spec["containers"][0][name]
        try:
            return 200 <= self.get(probe["httpGet"]["path"], probe["timeoutSeconds"])[0] < 400
        except OSError:
            return False

    def ready(self, seconds: float = 60) -> None:
        """Wait for the readiness probe."""
        deadline = time.monotonic() + seconds
        while not self.probe("readinessProbe"):
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def get(self, path: str, timeout: float = 20) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def post(self, body: dict[str, Any]) -> tuple[int, Any]:
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/detect",
            json.dumps(body).encode(),
            {"content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())

    def end(self) -> int:
        """The preStop hook, SIGTERM, and the exit status; TimeoutExpired past the grace period."""
        assert self.process is not None
        deadline = time.monotonic() + self.spec["terminationGracePeriodSeconds"]
        hook = self.spec["containers"][0].get("lifecycle", {}).get("preStop")
        if hook is not None:
            subprocess.run(hook["exec"]["command"], check=True)
        self.process.terminate()
        try:
            return self.process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            self.kill()

    def kill(self) -> None:
        """Whatever happened; safe to repeat."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def run_script(
    command: Sequence[str], args: Sequence[str], environ: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a container that has its own command, which is Python's."""
    assert command[0] == "python3", shlex.join(command)
    return subprocess.run(
        [sys.executable, *command[1:], *args], env=environ, capture_output=True, text=True, timeout=60
    )
