"""A database with many rows goes from the first migration to head while the first release serves on it."""

import asyncio
import contextlib
import io
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from support.archives import unpack
from support.load import Load
from support.postgres import Server, new_database
from support.service import LLMOBS, Service

from llmobs.settings import Settings
from llmobs.store.migrate import current, upgrade
from llmobs.store.revision import head

ROOT = Path(__file__).parents[3]
ROWS = 100_000
SECOND = "migrations/versions/0002_judgements.py"

FILL = f"""
INSERT INTO detection_logs (request_id, created_at, llm_response, context, kind, action, blocked, tier_used, method,
    confidence, processing_time_ms, failure_class, severity, explanation, scores, evidence, coverage, degraded,
    policy_id, policy_version, client_id)
SELECT 'old-' || n, now() - n * interval '1 second', repeat('An answer of some length. ', 20), '{{"query": "q"}}',
    'response', 'allow', false, 1, 'rules', 0.9, 0.4, NULL, NULL, 'nothing found',
    '{{"toxicity": 0.01, "bias": 0.02}}', '[]', '[]', false, 'default', 1, CASE WHEN n % 3 = 0 THEN 'shop' END
FROM generate_series(1, {ROWS}) AS n
"""


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True).stdout


@pytest.fixture(scope="module")
def first_release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code as it was when there was one migration."""
    try:
        added = _git("log", "--diff-filter=A", "--format=%H", "--", SECOND).split()[-1].decode()
        packed = _git("archive", f"{added}^", "src", "migrations")
    except (OSError, IndexError, subprocess.CalledProcessError):
        pytest.skip("no git history here, so the first release's code is not at hand")
    place = tmp_path_factory.mktemp("first")
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        unpack(archive, place)
    assert [one.name for one in sorted((place / "migrations/versions").glob("0*.py"))] == [
        "0001_first_tables.py"
    ]
    return place


class FirstRelease(Service):
    """Runs the old code, with the libraries of today."""

    def __init__(self, code: Path, folder: Path, database: str) -> None:
        super().__init__(folder, database, {"PYTHONPATH": str(code / "src")}, name="first")
        del self.environ["LLMOBS_DRAIN_SECONDS"]  # a setting that it would not know, and refuse

    def launch(self, *arguments: str) -> None:
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llmobs", "serve", *arguments],
                cwd=self.folder,
                env=self.environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def _start(service: Service, seconds: float = 200) -> None:
    """Start it and wait until it is ready; under load, on a busy machine, that may take a while."""
    service.launch()
    deadline = time.monotonic() + seconds
    while True:
        assert service.process is not None
        assert service.process.poll() is None, service.log()
        assert time.monotonic() < deadline, service.log()
        with contextlib.suppress(OSError):
            if service.status("/health/ready") == 200:
                return
        time.sleep(0.1)


async def _load_while(port: int, work: "asyncio.Future[None]", more: int) -> Load:
    load = Load(lambda _: port, connections=2)
    running = asyncio.create_task(load.run())
    await load.reach(30, 60)
    await work
    await load.reach(len(load.acknowledged) + more, 60)
    load.stop()
    await running
    return load


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_hundred_thousand_rows_are_upgraded_and_no_request_fails(
    first_release: Path, postgres: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = new_database(postgres)
    settings = Settings(database_url=url)
    await asyncio.to_thread(upgrade, settings, "0001")
    server = Server(url)
    await asyncio.to_thread(server.sql, FILL)
    old = FirstRelease(first_release, tmp_path, url)
    new = Service(tmp_path, url, {"LLMOBS_ENCODER": "false"}, name="new")
    try:
        await asyncio.to_thread(_start, old)
        told = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-c", "import llmobs; print(llmobs.__file__)"],
            env=dict(old.environ),
            cwd=os.sep,
            capture_output=True,
            text=True,
        )
        assert str(first_release) in told.stdout
        took = 0.0

        async def migrate() -> None:
            nonlocal took
            began = time.perf_counter()
            done = await asyncio.to_thread(
                subprocess.run,
                [LLMOBS, "migrate"],
                env=new.environ,
                capture_output=True,
                text=True,
                timeout=240,
            )
            took = time.perf_counter() - began
            assert done.returncode == 0, done.stderr

        load = await _load_while(old.port, asyncio.ensure_future(migrate()), 100)
        assert load.errors == {}
        assert await asyncio.to_thread(current, settings) == head()

        # The new release beside the old one, and then alone.
        async def replace() -> None:
            await asyncio.to_thread(_start, new)

        beside = await _load_while(old.port, asyncio.ensure_future(replace()), 30)
        after = await _load_while(new.port, asyncio.ensure_future(asyncio.sleep(0)), 30)
        assert (beside.errors, after.errors) == ({}, {})
        # A key that comes again is answered from the record, so ids are counted and not answers.
        answered = len({request for one in (load, beside, after) for request in one.acknowledged})
        counted = await asyncio.to_thread(new.get, "/metrics/stats")
        assert counted["total_detections"] == ROWS + answered
    finally:
        old.kill()
        new.kill()
    with capsys.disabled():
        print(  # the time is what the test is for
            f"\nupgrade of {ROWS} rows from 0001 to {head()}: {took:.2f} s with the command's start; "
            f"{answered} requests meanwhile and after, 0 failed, longest wait {load.longest:.2f} s"
        )
