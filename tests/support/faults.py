"""What can go wrong, done to real processes under load, and what became of every acknowledged verdict.

A scenario starts what it needs, breaks it while clients post, and lets `Ground.account` compare what
the clients were told with what the database holds. `tests/faults/test_faults.py` asserts on the rows
and `bench/faults.py` prints and keeps them.
"""

import asyncio
import contextlib
import ctypes
import os
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import msgspec
from support.load import Load
from support.postgres import OwnServer, new_database
from support.proxy import Proxy, proxied
from support.service import Service

from llmobs.settings import Settings
from llmobs.store.migrate import upgrade

COMMON = {
    "STORE_TEXT": "full",  # the texts tell the requests apart
    "LLMOBS_ENCODER": "false",  # the promise is the journal's; loading models would only take time
    "LLMOBS_SNAPSHOT_SECONDS": "0",
    "LLMOBS_DATABASE_TIMEOUT_SECONDS": "2",
}
PATIENT = {"LLMOBS_QUEUE_MS": "20000", "LLMOBS_JOURNAL_MAX_WAIT_MS": "20000"}
"""Nobody is refused for a queue on a busy machine: where every single request must be answered."""
FOUND_SECONDS = 30.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the fault table."""

    fault: str
    database: str
    sent: int
    acknowledged: int
    found: int
    """Acknowledged verdicts that the database holds."""
    lost: int
    duplicated: int
    """Rows beyond the first of one text; every text is one request, however often it was retried."""
    longest_wait_ms: float
    errors: dict[str, int]
    note: str = ""


Scenario = Callable[["Ground"], Awaitable[Row]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(fault: str) -> Callable[[Scenario], Scenario]:
    def named(function: Scenario) -> Scenario:
        SCENARIOS[fault] = function
        return function

    return named


class Ground:
    """A folder and a PostgreSQL server for one scenario."""

    def __init__(self, fault: str, folder: Path, postgres: OwnServer, acknowledged: int) -> None:
        self.fault = fault
        self.folder = folder
        self.postgres = postgres
        self.wanted = acknowledged
        """Acknowledged requests that the load goes on for."""
        self._services: list[Service] = []

    def service(self, database: str, name: str = "service", **more: str) -> Service:
        made = Service(self.folder, database, COMMON | more, name=name)
        self._services.append(made)
        return made

    def close(self) -> None:
        for service in self._services:
            service.kill()

    async def under_load(
        self, ports: list[int], break_it: Callable[[Load], Awaitable[None]], *, connections: int = 12
    ) -> Load:
        """Clients post, the fault happens, and they go on until enough was acknowledged."""
        load = Load(lambda number: ports[number % len(ports)], connections=connections)
        running = asyncio.create_task(load.run())
        try:
            await load.reach(self.wanted // 4, 60)
            await break_it(load)
            await load.reach(max(self.wanted, len(load.acknowledged) + self.wanted // 4), 60)
        finally:
            load.stop()
            await running
        return load

    async def account(
        self, load: Load, read: Callable[[], Awaitable[list[tuple[str, str]]]], database: str, note: str = ""
    ) -> Row:
        """Compare; a verdict that was spooled has half a minute to arrive."""
        deadline = time.monotonic() + FOUND_SECONDS
        while True:
            rows = await read()
            held = {request_id for request_id, _ in rows}
            lost = [one for one in load.acknowledged if one not in held]
            if not lost or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.5)  # what comes twice may come late
        rows = await read()
        texts = Counter(text for _, text in rows)
        return Row(
            fault=self.fault,
            database=database,
            sent=load.sent,
            acknowledged=len(load.acknowledged),
            found=len(load.acknowledged) - len(lost),
            lost=len(lost),
            duplicated=sum(count - 1 for count in texts.values()),
            longest_wait_ms=round(load.longest * 1000, 1),
            errors=dict(sorted(load.errors.items())),
            note=note,
        )

    async def account_postgres(self, load: Load, url: str, note: str = "") -> Row:
        async def read() -> list[tuple[str, str]]:
            connection = await asyncpg.connect(url)
            try:
                rows = await connection.fetch("SELECT request_id, llm_response FROM detection_logs")
            finally:
                await connection.close()
            return [(row[0], row[1]) for row in rows]

        return await self.account(load, read, "postgresql", note)

    async def account_sqlite(self, load: Load, path: Path, note: str = "") -> Row:
        def rows() -> list[tuple[str, str]]:
            with contextlib.closing(sqlite3.connect(path, timeout=10)) as connection:
                found = connection.execute("SELECT request_id, llm_response FROM detection_logs").fetchall()
                return [(str(one), str(other)) for one, other in found]

        return await self.account(load, lambda: asyncio.to_thread(rows), "sqlite", note)


async def _aside(work: Callable[[], object]) -> None:
    await asyncio.to_thread(work)


async def _restart(service: Service) -> None:
    await _aside(service.kill)
    await _aside(service.start)


@asynccontextmanager
async def _behind_proxy(ground: Ground) -> AsyncIterator[tuple[Service, Proxy, str]]:
    """A service that reaches its database through a proxy; the database's own URL comes third."""
    direct = new_database(ground.postgres)
    async with proxied("127.0.0.1", ground.postgres.port) as proxy:
        parts = urlsplit(direct)
        through = urlunsplit(parts._replace(netloc=f"llmobs@127.0.0.1:{proxy.port}"))
        service = ground.service(through)
        await _aside(lambda: upgrade(Settings(database_url=service.environ["DATABASE_URL"])))
        await _aside(service.start)
        yield service, proxy, direct


async def _served(ground: Ground, **more: str) -> tuple[Service, str]:
    url = new_database(ground.postgres)
    service = ground.service(url, **more)
    await _aside(lambda: upgrade(Settings(database_url=service.environ["DATABASE_URL"])))
    await _aside(service.start)
    return service, url


@scenario("kill -9 of the server")
async def server_killed(ground: Ground) -> Row:
    service, url = await _served(ground)
    load = await ground.under_load([service.port], lambda _: _restart(service))
    return await ground.account_postgres(load, url)


@scenario("kill -9 of the server, SQLite")
async def server_killed_sqlite(ground: Ground) -> Row:
    path = ground.folder / "llmobs.db"
    service = ground.service(f"sqlite:///{path}")
    await _aside(lambda: upgrade(Settings(database_url=service.environ["DATABASE_URL"])))
    await _aside(service.start)
    load = await ground.under_load([service.port], lambda _: _restart(service))
    return await ground.account_sqlite(load, path)


@scenario("kill -9 of PostgreSQL, restarted")
async def postgres_killed(ground: Ground) -> Row:
    service, url = await _served(ground)

    async def crash(_: Load) -> None:
        await _aside(ground.postgres.kill)
        await asyncio.sleep(1.5)
        await _aside(ground.postgres.start)

    load = await ground.under_load([service.port], crash)
    return await ground.account_postgres(load, url)


@scenario("PostgreSQL turns read-only (failover)")
async def postgres_read_only(ground: Ground) -> Row:
    service, url = await _served(ground)
    name = url.rpartition("/")[2]

    def change(statement: str) -> None:
        ground.postgres.sql(f"ALTER DATABASE {name} {statement}")
        ground.postgres.sql(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )

    async def fail_over(_: Load) -> None:
        await _aside(lambda: change("SET default_transaction_read_only = on"))
        await asyncio.sleep(1.5)
        await _aside(lambda: change("RESET default_transaction_read_only"))

    load = await ground.under_load([service.port], fail_over)
    return await ground.account_postgres(load, url)


@scenario("connections cut mid-transaction")
async def connection_cut(ground: Ground) -> Row:
    async with _behind_proxy(ground) as (service, proxy, url):

        async def cut(load: Load) -> None:
            for _ in range(6):
                proxy.cut_before_question += 1
                await load.reach(len(load.acknowledged) + 15, 20)
                proxy.cut_after_question += 1
                await load.reach(len(load.acknowledged) + 15, 20)
                proxy.cut()
            proxy.cut_before_question = proxy.cut_after_question = 0

        load = await ground.under_load([service.port], cut)
        return await ground.account_postgres(load, url, f"{proxy.cuts} connections cut")


@scenario("slow database (0.25 s each way), then silent for 4 s")
async def database_slow(ground: Ground) -> Row:
    async with _behind_proxy(ground) as (service, proxy, url):

        async def slow(_: Load) -> None:
            proxy.delay = 0.25
            await asyncio.sleep(2)
            proxy.delay = 4.0  # beyond the timeout
            await asyncio.sleep(4)
            proxy.delay = 0.0
            proxy.cut()

        load = await ground.under_load([service.port], slow)
        return await ground.account_postgres(load, url)


@scenario("table locked, all connections waiting")
async def table_locked(ground: Ground) -> Row:
    service, url = await _served(ground)

    async def lock(_: Load) -> None:
        connection = await asyncpg.connect(url)
        try:
            while True:
                try:
                    async with connection.transaction():
                        await connection.execute(
                            "LOCK TABLE idempotency_keys, detection_logs IN ACCESS EXCLUSIVE MODE"
                        )
                        await asyncio.sleep(4)
                        return
                except asyncpg.DeadlockDetectedError:
                    continue  # the service held one of the two and wanted the other
        finally:
            await connection.close()

    load = await ground.under_load([service.port], lock)
    return await ground.account_postgres(load, url)


@contextmanager
def _small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of that size; the value changes it. Needs root."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield (
            lambda size: (
                subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True) and None
            )
        )
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@scenario("disk full: database, spool and log")
async def disk_full(ground: Ground) -> Row:
    disk = ground.folder / "disk"
    if os.geteuid() != 0:
        return await _file_limit(ground)
    with _small_disk(disk, "16m") as resize:
        service = Service(disk, f"sqlite:///{disk}/llmobs.db", COMMON)
        try:
            await _aside(lambda: upgrade(Settings(database_url=service.environ["DATABASE_URL"])))
            await _aside(service.start)

            async def fill(load: Load) -> None:
                with (disk / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
                    while True:
                        ballast.write(b"\0" * 4096)
                await asyncio.sleep(2.5)
                await _aside(lambda: resize("64m"))

            load = await ground.under_load([service.port], fill)
            return await ground.account_sqlite(load, disk / "llmobs.db", "a tmpfs, filled and then enlarged")
        finally:
            service.kill()


async def _file_limit(ground: Ground) -> Row:
    """Without root: files of the service may not grow beyond what they are, for a while."""
    import resource

    path = ground.folder / "llmobs.db"
    service = ground.service(f"sqlite:///{path}")
    await _aside(lambda: upgrade(Settings(database_url=service.environ["DATABASE_URL"])))
    await _aside(service.start)

    async def fill(_: Load) -> None:
        for pid in service.workers():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (64 * 1024, resource.RLIM_INFINITY))
        await asyncio.sleep(2.5)
        for pid in service.workers():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    load = await ground.under_load([service.port], fill)
    return await ground.account_sqlite(load, path, "a limit on file sizes")


CLOCK = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
/* The wall clock, moved by as many seconds as a shared file says. */
static volatile long long *offset;
static int (*real)(clockid_t, struct timespec *);
__attribute__((constructor)) static void begin(void) {
  int file = open(getenv("MOVED_CLOCK"), O_RDONLY);
  if (file >= 0) offset = mmap(0, 8, PROT_READ, MAP_SHARED, file, 0);
  real = dlsym(RTLD_NEXT, "clock_gettime");
}
int clock_gettime(clockid_t clock, struct timespec *told) {
  if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
  int done = real(clock, told);
  if (!done && clock == CLOCK_REALTIME && offset && offset != MAP_FAILED) told->tv_sec += *offset;
  return done;
}
time_t time(time_t *told) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  if (told) *told = now.tv_sec;
  return now.tv_sec;
}
int gettimeofday(struct timeval *told, void *zone) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  told->tv_sec = now.tv_sec;
  told->tv_usec = now.tv_nsec / 1000;
  return 0;
}
"""


@scenario("clock jumps: an hour back, a day on")
async def clock_jumps(ground: Ground) -> Row:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise LookupError("no C compiler, which the moved clock needs")
    (ground.folder / "clock.c").write_text(CLOCK)
    library = ground.folder / "clock.so"
    command = [
        compiler,
        "-shared",
        "-fPIC",
        "-O1",
        "-o",
        str(library),
        str(ground.folder / "clock.c"),
        "-ldl",
    ]
    await _aside(lambda: subprocess.run(command, check=True, capture_output=True))
    offset = ground.folder / "offset"
    offset.write_bytes(bytes(8))

    def move(seconds: int) -> None:
        with offset.open("r+b") as file:
            file.write(ctypes.c_longlong(seconds))

    url = new_database(ground.postgres)
    service = ground.service(url, LD_PRELOAD=str(library), MOVED_CLOCK=str(offset))
    await _aside(lambda: upgrade(Settings(database_url=service.environ["DATABASE_URL"])))
    await _aside(service.start)

    async def jump(load: Load) -> None:
        for seconds in (-3600, 86_400, -86_400, 0):
            move(seconds)
            await load.reach(len(load.acknowledged) + 60, 20)

    load = await ground.under_load([service.port], jump)
    row = await ground.account_postgres(load, url)
    connection = await asyncpg.connect(url)
    try:
        spread = await connection.fetchval("SELECT max(created_at) - min(created_at) FROM detection_logs")
    finally:
        await connection.close()
    if spread.total_seconds() < 86_400:
        raise AssertionError(f"the clock did not move: {spread}")
    return row


@scenario("two servers start at once on an empty database")
async def two_starts(ground: Ground) -> Row:
    url = new_database(ground.postgres)
    services = [ground.service(url, f"service{number}") for number in range(2)]
    for service in services:
        service.launch("--migrate")
    await asyncio.gather(*(_aside(service.wait_ready) for service in services))

    async def nothing(_: Load) -> None: ...

    load = await ground.under_load([service.port for service in services], nothing)
    return await ground.account_postgres(load, url)


@scenario("SIGTERM under load, started again")
async def terminated(ground: Ground) -> Row:
    service, url = await _served(ground)
    statuses: list[int] = []

    async def stop(_: Load) -> None:
        await _aside(lambda: statuses.append(service.stop()))
        await _aside(service.start)

    load = await ground.under_load([service.port], stop)
    if statuses != [0]:
        raise AssertionError(f"exit status {statuses}: {service.log()}")
    return await ground.account_postgres(load, url, "exit status 0")


@scenario("SIGTERM under load, drained")
async def drained(ground: Ground) -> Row:
    """Not ready at once, all requests answered for as long as the drain takes, then the end."""
    service, url = await _served(ground, LLMOBS_DRAIN_SECONDS="4", **PATIENT)
    load = Load(lambda _: service.port)
    running = asyncio.create_task(load.run())
    await load.reach(ground.wanted, 60)
    assert service.process is not None
    service.process.terminate()
    ends = time.monotonic() + 2
    while await asyncio.to_thread(service.status, "/health/ready") != 503:
        if time.monotonic() > ends:
            raise AssertionError("ready after SIGTERM")
    meanwhile = len(load.acknowledged)
    await asyncio.sleep(2)
    load.stop()
    await running
    meanwhile = len(load.acknowledged) - meanwhile
    status = await asyncio.to_thread(service.process.wait, 30)
    if load.errors or meanwhile < ground.wanted // 10 or status:
        raise AssertionError(f"{load.errors}, {meanwhile} while draining, exit status {status}")
    return await ground.account_postgres(
        load, url, f"not ready at once, {meanwhile} acknowledged all the same, exit status 0"
    )


async def _replaced(ground: Ground, **more: str) -> Row:
    """Load goes on until some workers were replaced; no client may have seen an error."""
    service, url = await _served(ground, **more, **PATIENT)
    load = Load(lambda _: service.port)
    running = asyncio.create_task(load.run())
    seen = set(service.workers())
    at_first = len(seen)
    ends = time.monotonic() + 90
    while len(seen) < at_first + 3 or len(load.acknowledged) < ground.wanted:
        if time.monotonic() > ends:
            raise AssertionError(f"workers {seen}, {len(load.acknowledged)} acknowledged: {service.log()}")
        await asyncio.sleep(0.1)
        seen |= set(service.workers())
    load.stop()
    await running
    if load.errors:
        raise AssertionError(f"{load.errors}: {service.log()}")
    counted = await asyncio.to_thread(service.get, "/metrics")
    wanted = f'http_requests_total{{method="POST",path="/v1/detect",status="200"}} {load.sent}.0'
    if wanted not in counted:
        raise AssertionError(f"{wanted} is not what /metrics says")
    return await ground.account_postgres(load, url, f"{len(seen) - at_first} workers replaced")


@scenario("worker replaced every 300 requests")
async def replaced_alone(ground: Ground) -> Row:
    return await _replaced(ground, LLMOBS_RECYCLE_REQUESTS="300")


@scenario("two workers replaced for their memory")
async def replaced_beside(ground: Ground) -> Row:
    return await _replaced(ground, LLMOBS_RECYCLE_MEGABYTES="50", API_WORKERS="2")


@scenario("kill -9 of one of two workers")
async def worker_killed(ground: Ground) -> Row:
    service, url = await _served(ground, API_WORKERS="2")

    async def kill_one(load: Load) -> None:
        before = service.workers()
        os.kill(before[0], signal.SIGKILL)
        await load.reach(len(load.acknowledged) + 100, 20)

    load = await ground.under_load([service.port], kill_one)
    return await ground.account_postgres(load, url)


@scenario("spool's tail corrupted, server killed while the database is away")
async def spool_spoilt(ground: Ground) -> Row:
    async with _behind_proxy(ground) as (service, proxy, url):

        async def spoil(load: Load) -> None:
            proxy.refuse = True
            proxy.cut()
            await load.reach(len(load.acknowledged) + 100, 30)
            await _aside(service.kill)
            [file] = service.spool.glob("*.spool")
            content = file.read_bytes()
            with file.open("ab") as tail:
                tail.write(content[: len(content) // 2 + 7][-300:] + b"\xf1LO1\xff\xff\x00\x00torn")
            service.launch()
            await asyncio.sleep(0.5)
            proxy.refuse = False
            await _aside(service.wait_ready)

        load = await ground.under_load([service.port], spoil)
        return await ground.account_postgres(load, url)


@scenario("kill -9 of server and PostgreSQL together")
async def both_killed(ground: Ground) -> Row:
    service, url = await _served(ground)

    async def kill(_: Load) -> None:
        other = threading.Thread(target=ground.postgres.kill)
        other.start()
        await _aside(service.kill)
        await _aside(other.join)
        await _aside(ground.postgres.start)
        await _aside(service.start)

    load = await ground.under_load([service.port], kill)
    return await ground.account_postgres(load, url)


async def play(fault: str, folder: Path, postgres: OwnServer, acknowledged: int) -> Row:
    """Run one scenario to its end and clear up after it."""
    ground = Ground(fault, folder, postgres, acknowledged)
    try:
        return await SCENARIOS[fault](ground)
    finally:
        ground.close()


def table(rows: list[Mapping[str, object]]) -> str:
    """The rows as text."""
    lines = [
        f"{'fault':<64}{'sent':>6}{'acked':>7}{'found':>7}{'lost':>5}{'dupl.':>6}{'longest':>9}  errors that clients saw"
    ]
    for row in rows:
        errors = row["errors"]
        assert isinstance(errors, dict)
        told = ", ".join(f"{name} x{count}" for name, count in errors.items()) or "none"
        lines.append(
            f"{row['fault']:<64}{row['sent']:>6}{row['acknowledged']:>7}{row['found']:>7}{row['lost']:>5}"
            f"{row['duplicated']:>6}{row['longest_wait_ms']:>7.0f}ms  {told}"
        )
    total = [
        sum(int(str(row[name])) for row in rows)
        for name in ("sent", "acknowledged", "found", "lost", "duplicated")
    ]
    lines.append(f"{'in all':<64}{total[0]:>6}{total[1]:>7}{total[2]:>7}{total[3]:>5}{total[4]:>6}")
    return "\n".join(lines)
