"""Real Prometheus and VictoriaMetrics, where they are installed (`make tools`), and a real service to look at."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[2]
DEPLOY = REPO / "deploy"


def tool(name: str) -> str:
    """The path of a program, or a skip that says how to get it."""
    own = Path(os.environ.get("LLMOBS_TEST_TOOLS") or REPO / "var/tools") / "usr/bin" / name
    found = str(own) if own.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: run make tools")
    return found


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def get(url: str, timeout: float = 10) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except (urllib.error.URLError, OSError):
        return 0, b""


def until(condition: Callable[[], Any], seconds: float = 60, what: str = "it") -> Any:
    """What the condition answers once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what} never came true")


@contextmanager
def process(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A server for the time of the block."""
    with log.open("ab") as out:
        # A group of its own, so that no worker outlives a supervisor that had to be killed.
        running = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, **options
        )
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(20)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)


class Prometheus:
    """Queries a server that speaks Prometheus's API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The instant vector; a scalar as a vector of one. AssertionError when it is refused."""
        status, body = get(f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
        told = json.loads(body or b"{}")
        assert status == 200, f"{expression}: {told}"
        found = told["data"]
        return found["result"] if found["resultType"] != "scalar" else [{"value": found["result"]}]

    def value(self, expression: str) -> float | None:
        """The one value, or None."""
        found = self.query(expression)
        assert len(found) <= 1, f"{expression}: {found}"
        return float(found[0]["value"][1]) if found else None

    def samples(self, selector: str) -> list[tuple[float, float]]:
        """The raw samples that a range selector of one series covers: time and value."""
        return sorted(
            (float(at), float(value)) for series in self.query(selector) for at, value in series["values"]
        )

    def names(self) -> set[str]:
        _, body = get(f"{self.url}/api/v1/label/__name__/values")
        return set(json.loads(body)["data"])

    def firing(self) -> set[tuple[str, str]]:
        """Alerts that fire, each with its tier or an empty string."""
        _, body = get(f"{self.url}/api/v1/alerts")
        return {
            (alert["labels"]["alertname"], alert["labels"].get("tier", ""))
            for alert in json.loads(body)["data"]["alerts"]
            if alert["state"] == "firing"
        }


@contextmanager
def prometheus(folder: Path, target: str, *, every: str = "1s") -> Iterator[Prometheus]:
    """Prometheus with the shipped alerts, scraping one target as often as `every`."""
    binary = tool("prometheus")
    shipped = (DEPLOY / "prometheus/prometheus.yml").read_text()
    assert "llmobs:8000" in shipped
    config = shipped.replace("llmobs:8000", target).replace("15s", every)
    (folder / "prometheus.yml").write_text(config)
    shutil.copy(DEPLOY / "prometheus/alerts.yml", folder)
    port = free_port()
    command = [
        binary,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/tsdb",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    url = f"http://127.0.0.1:{port}"
    with process(command, folder / "prometheus.log"):
        until(lambda: get(f"{url}/-/ready")[0] == 200, what="Prometheus ready")
        yield Prometheus(url)


@contextmanager
def victoria_metrics(folder: Path, target: str) -> Iterator[Prometheus]:
    """VictoriaMetrics, which scrapes a target and takes OTLP at `/opentelemetry/v1/metrics`."""
    binary = tool("victoria-metrics")
    (folder / "scrape.yml").write_text(
        "global: {scrape_interval: 1s}\n"
        f'scrape_configs: [{{job_name: llmobs, static_configs: [{{targets: ["{target}"]}}]}}]\n'
    )
    port = free_port()
    command = [
        binary,
        f"-httpListenAddr=127.0.0.1:{port}",
        f"-storageDataPath={folder}/vm",
        f"-promscrape.config={folder}/scrape.yml",
        "-search.latencyOffset=0s",
        "-loggerLevel=WARN",
    ]
    url = f"http://127.0.0.1:{port}"
    with process(command, folder / "vm.log"):
        until(lambda: get(f"{url}/health")[0] == 200, what="VictoriaMetrics ready")
        yield Prometheus(url)


class Service:
    """`llmobs serve` as a process of its own."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.target = f"127.0.0.1:{self.port}"
        self.url = f"http://{self.target}"
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("LLMOBS_", "OTEL_", "JUDGE_"))}
        self.environ = inherited | {
            "DATABASE_URL": f"sqlite:///{folder}/llmobs.db",
            "LLMOBS_SPOOL_DIR": str(folder / "spool"),
            "LLMOBS_SQLITE_SYNCHRONOUS": "normal",
            "API_PORT": str(self.port),
            "LLMOBS_DRAIN_SECONDS": "0",
            **environ,
        }
        self.llmobs = str(Path(os.sys.executable).parent / "llmobs")  # type: ignore[attr-defined]

    @contextmanager
    def running(self, *, wait: bool = True) -> Iterator[subprocess.Popen[bytes]]:
        subprocess.run(
            [self.llmobs, "migrate"], env=self.environ, check=True, capture_output=True, cwd=self.folder
        )
        with process(
            [self.llmobs, "serve"], self.folder / "llmobs.log", env=self.environ, cwd=self.folder
        ) as one:
            if wait:
                until(lambda: get(f"{self.url}/health/ready")[0] == 200, 240, "the service ready")
            yield one

    def post(self, body: dict[str, Any], path: str = "/v1/detect") -> int:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                answer.read()
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
