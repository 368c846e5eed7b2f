"""`llmobs serve` as processes of its own, to be killed, stopped and started again."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LLMOBS = str(Path(sys.executable).parent / "llmobs")
_START_SECONDS = 240  # a busy machine; a process that ends is seen at once


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Service:
    """One service: a supervisor with its workers, in a process group of their own."""

    def __init__(
        self, folder: Path, database: str, more: Mapping[str, str], *, name: str = "service"
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.log_path = folder / f"{name}.log"
        self.environ = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("LLMOBS_")
            and key not in {"GROQ_API_KEY", "JUDGE_BASE_URL", "OLLAMA_BASE_URL"}
        } | {
            "DATABASE_URL": database,
            "API_PORT": str(self.port),
            "LLMOBS_SPOOL_DIR": str(folder / f"{name}-spool"),
            "LLMOBS_DRAIN_SECONDS": "0",
            **more,
        }
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def spool(self) -> Path:
        return Path(self.environ["LLMOBS_SPOOL_DIR"])

    def llmobs(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [LLMOBS, *arguments],
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def migrate(self) -> None:
        done = self.llmobs("migrate")
        assert done.returncode == 0, done.stderr

    def launch(self, *arguments: str) -> None:
        """Start it and do not wait."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [LLMOBS, "serve", *arguments],
                cwd=self.folder,
                env=self.environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_ready(self, path: str = "/health/ready") -> None:
        """Return once it answers 200 there; AssertionError with the log when it does not."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            assert self.process is not None
            assert self.process.poll() is None, self.log()
            with contextlib.suppress(OSError):
                self.get(path, timeout=5)
                return
            time.sleep(0.05)
        raise AssertionError(self.log())

    def start(self, *arguments: str, path: str = "/health/ready") -> None:
        self.launch(*arguments)
        self.wait_ready(path)

    def get(self, path: str, timeout: float = 10) -> Any:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as answer:
            body = answer.read()
        return json.loads(body) if body[:1] in b"{[" else body.decode()

    def status(self, path: str, timeout: float = 10) -> int:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=timeout) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def workers(self) -> list[int]:
        """Process ids of the workers that live; a dead one has no command line."""
        assert self.process is not None
        told = {pid: command_line(pid) for pid in children(self.process.pid)}
        return [pid for pid, line in told.items() if line and b"resource_tracker" not in line]

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")[-4000:]

    def kill(self) -> None:
        """kill -9 of all of it at once; safe to repeat."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(20)
        self.process = None

    def stop(self, seconds: float = 40) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        status = self.process.wait(seconds)
        self.process = None
        return status


def children(pid: int) -> list[int]:
    found: list[int] = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def memory_bytes(pid: int) -> int:
    """Resident memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> int:
    """Open file descriptors of a process."""
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))
