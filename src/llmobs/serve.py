"""`llmobs serve`: Granian with our signals, and workers that are replaced without losing a request."""

import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, cast

import click
from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces, Loops
from granian.log import LogLevels, logger
from granian.server.mp import MPServer, WorkerProcess

from llmobs.access.setup import check_access
from llmobs.errors import StoreUnavailable
from llmobs.lifecycle import LISTENER, NOTE, RETIRE_SECONDS, SERVES, TOLD
from llmobs.settings import Settings
from llmobs.store.migrate import is_current, upgrade
from llmobs.supervised import shared_folder, supervise

START_SECONDS = 180.0
"""How long a replacement may take to load its models, on a busy machine."""
DATABASE_SECONDS = 15.0
"""How long a start waits for a database that does not answer: the two are often started together, or restarted."""
SPARE_SECONDS = 10
"""For flushing and exporting, on top of the drain and the longest request."""


class Supervisor(MPServer):
    """Replaces workers that ask for it, and passes SIGHUP on to them.

    On SIGHUP Granian itself would respawn the workers, and a bad rule pack would then take the service
    down instead of leaving the last good set in force. Its own replacement (a lifetime, a memory limit)
    waits a fixed time for the new worker, then drops what is queued at the old one's socket. Here each
    worker's place has one listening socket, held by the supervisor: whoever is queued there, or connects
    while nobody accepts, waits for the place's next worker.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._places: list[socket.socket] = []
        self._leaving: list[WorkerProcess] = []
        self._serving: set[int] = set()
        """Process ids of workers that have said so."""
        self._worn: set[int] = set()
        """Process ids of workers that asked to be replaced."""
        self._heard = threading.Condition()

    def signal_handler_reload(self, *_: Any) -> None:
        """Forward the signal to every living worker."""
        for worker in self.wrks:
            self._signal(worker, signal.SIGHUP)

    def _signal(self, worker: WorkerProcess, number: int) -> None:
        pid = worker.inner.pid
        if pid is not None and worker.inner.is_alive():
            os.kill(pid, number)

    def _init_shared_socket(self) -> None:
        super()._init_shared_socket()  # type: ignore[no-untyped-call]
        self._ssp = None
        family = socket.AF_INET6 if ":" in self.bind_addr else socket.AF_INET
        for _ in range(self.workers):
            place = socket.socket(family, socket.SOCK_STREAM)
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Several sockets of one port: the system deals connections out among those that listen.
            place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            place.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            place.bind((self.bind_addr, self.bind_port))
            self._places.append(place)
        reader, writer = os.pipe()
        os.environ[TOLD] = str(writer)
        threading.Thread(target=self._listen, args=(reader,), name="workers", daemon=True).start()

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> WorkerProcess:  # type: ignore[override]  # as MPServer has it
        descriptor = self._places[idx].fileno()
        self._shd = cast(Any, SocketHolder)(descriptor, False, self.backlog)
        os.environ[LISTENER] = str(descriptor)
        return super()._spawn_worker(idx, target, callback_loader)

    def _listen(self, reader: int) -> None:
        """What workers tell, in a thread of its own."""
        while True:
            what, pid = NOTE.unpack(os.read(reader, NOTE.size))
            with self._heard:
                if what == SERVES:
                    self._serving.add(pid)
                    self._heard.notify_all()
                    continue
                self._worn.add(pid)
            self.rss_signal = True  # Granian's word for: workers are to be replaced
            self.main_loop_interrupt.set()

    def _handle_rss_signal(self, spawn_target: Any, target_loader: Any) -> None:
        with self._heard:
            worn, self._worn = self._worn, set()
        for worker in [one for one in self.wrks if one.inner.pid in worn]:
            self._replace(worker, spawn_target, target_loader)

    def _watch_workers_rss(self) -> None:
        """Granian's own look at memory: workers look for themselves."""

    def _respawn_workers(
        self, workers: Sequence[int], spawn_target: Any, target_loader: Any, delay: float = 0
    ) -> None:
        for idx in workers:
            if not self.wrks[idx].inner.is_alive():
                # Loading takes seconds: meanwhile connections are for the other workers.
                self._places[idx].shutdown(socket.SHUT_RD)
        super()._respawn_workers(workers, spawn_target, target_loader, delay)

    def _replace(self, old: WorkerProcess, spawn_target: Any, target_loader: Any) -> None:
        """A new worker first, which must serve; then the old one goes. Else the old one stays."""
        new = self._spawn_worker(old.idx, spawn_target, target_loader)
        new.interrupt_by_parent = True  # it may fail, and the service goes on
        new.start()  # type: ignore[no-untyped-call]
        if not self._has_come(new):
            logger.error(f"worker-{old.idx + 1} is not replaced: the new one did not start")
            new.inner.kill()
            new.inner.join()
            return
        self.wrks[self.wrks.index(old)] = new
        new.interrupt_by_parent = False
        old.interrupt_by_parent = True
        self._leaving = [one for one in self._leaving if one.inner.is_alive()] + [old]
        self._signal(old, signal.SIGUSR1)
        overdue = threading.Timer(RETIRE_SECONDS + (self.workers_kill_timeout or 0), old.kill)
        overdue.daemon = True
        overdue.start()
        logger.info(f"Replaced worker-{old.idx + 1}")

    def _has_come(self, new: WorkerProcess) -> bool:
        ends = time.monotonic() + START_SECONDS
        with self._heard:
            while new.inner.pid not in self._serving:
                if self.interrupt_signal or not new.inner.is_alive() or time.monotonic() > ends:
                    return False
                self._heard.wait(0.1)
        return True

    def _stop_workers(self) -> None:
        # One that does not serve yet owes nobody an answer, and Granian may not hear the signal that early.
        with self._heard:
            for worker in [one for one in self.wrks if one.inner.pid not in self._serving]:
                worker.kill()  # type: ignore[no-untyped-call]
        self.wrks += [one for one in self._leaving if one.inner.is_alive()]
        super()._stop_workers()  # type: ignore[no-untyped-call]


def run(settings: Settings, *, migrate: bool) -> None:
    """Serve until a signal ends it. Refuses to start on a database that is not at head.

    SettingsInvalid where the service would be open to strangers, StoreUnavailable where the database does not
    answer in DATABASE_SECONDS, both before any worker starts.
    """
    check_access(settings)
    if not _is_current_soon(settings):
        if not migrate:
            click.echo("llmobs: the database is not at the newest schema; run: llmobs migrate", err=True)
            sys.exit(2)
        upgrade(settings, "head")
    if not _is_free(settings.api_host, settings.api_port):
        click.echo(
            f"llmobs: something listens on {settings.api_host} port {settings.api_port} already", err=True
        )
        sys.exit(2)
    supervise()
    # Several workers count together, at a time or one after the other, so that a scrape shows their sum whichever it reaches.
    counting = settings.api_workers > 1 or settings.recycle_requests or settings.recycle_megabytes
    with shared_folder() if counting else nullcontext():
        _server(settings).serve()


def _is_current_soon(settings: Settings) -> bool:
    """See is_current; a database that is away is asked again, and the operator told why nothing happens."""
    until = time.monotonic() + DATABASE_SECONDS
    told = False
    while True:
        try:
            return is_current(settings)
        except StoreUnavailable as error:
            if time.monotonic() > until:
                raise StoreUnavailable(f"the database does not answer: {error}") from None
            if not told:
                click.echo(
                    f"llmobs: the database does not answer ({error}); asking again for {DATABASE_SECONDS:.0f} s",
                    err=True,
                )
                told = True
            time.sleep(0.25)


def _server(settings: Settings) -> Supervisor:
    return Supervisor(
        "llmobs.worker:create_app",
        factory=True,
        address=settings.api_host,
        port=settings.api_port,
        interface=Interfaces.ASGI,
        loop=Loops.uvloop,
        http=HTTPModes.auto,
        workers=settings.api_workers,
        log_level=LogLevels(settings.log_level),
        respawn_failed_workers=True,
        workers_kill_timeout=math.ceil(settings.drain_seconds + settings.request_timeout_seconds)
        + SPARE_SECONDS,
    )


def _is_free(host: str, port: int) -> bool:
    """Whether nobody listens there. Workers share the port, so a second service would share it as well."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((host, port))
        except OSError:
            return False
    return True
