"""How a worker of `llmobs serve` comes, is replaced, and goes, without a request that is lost.

On SIGTERM it is on notice: `/health/ready` turns 503, requests are still taken, and each answer ends
its connection, so that balancers and pools of connections go elsewhere. `LLMOBS_DRAIN_SECONDS` later
it takes no more, answers what it has, and ends. SIGINT, or SIGTERM again, skips the wait.

On SIGUSR1 it retires: another worker accepts from the same socket already, so this one leaves all new
connections to it, ends those it has with their next answer, and goes. The supervisor sends that after a
worker asked to be replaced (`LLMOBS_RECYCLE_REQUESTS`, `LLMOBS_RECYCLE_MEGABYTES`).
"""

import asyncio
import os
import random
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

import structlog

from llmobs.settings import Settings
from llmobs.supervised import SUPERVISOR

log = structlog.get_logger("llmobs.lifecycle")

TOLD = "_LLMOBS_TOLD"
"""File descriptor that workers tell their supervisor things by. No setting: the supervisor sets it."""
LISTENER = "_LLMOBS_LISTENER"
"""File descriptor of the socket that this worker accepts from, likewise."""
NOTE = struct.Struct("<4sI")
"""What is told, and the process id of who tells it: short enough to be written in one piece."""
SERVES, WISHES_OUT = b"here", b"tire"
RETIRE_SECONDS = 2.0
"""Least time between the last accepted connection and the end: who uses one must get an answer on it,
which tells that it ends. What is idle for longer is closed, as any server closes idle connections."""
LET_GO_SECONDS = 0.3
SWITCH_SECONDS = 0.0005
"""How long the server's own thread, which brings each request in, waits for the interpreter at most while the
event loop is busy. With Python's 5 ms a single text beside batches waited longer for that than for anything else."""
LOOK_SECONDS = 1.0
ASK_AGAIN_SECONDS = 60.0
"""A replacement may fail to start; then the worker stays, and asks once more."""


class Lifecycle:
    """Where this worker is between its start and its end."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        self.on_notice = False
        """Whether this worker was told to end."""
        self.parting = False
        """Whether answers end their connections."""
        self.ending = False
        """Whether what goes on without end, as a stream of events, is to end now."""
        self.requests = 0
        """Taken so far."""
        self._drain = settings.drain_seconds
        # Workers that start together should not be replaced together.
        self._most_requests = round(settings.recycle_requests * random.uniform(0.9, 1.1))  # noqa: S311
        self._most_bytes = settings.recycle_megabytes * 1_000_000
        is_ours = environ.get(SUPERVISOR) == str(os.getppid())
        told, listener = environ.get(TOLD), environ.get(LISTENER)
        self._told = int(told) if told and is_ours else None
        self._listener = int(listener) if listener and is_ours else None
        self._kept: socket.socket | None = None
        self._nobody: socket.socket | None = None

    def start(self) -> None:
        """Take over the signals and the interpreter's pace, where there is a supervisor; on the running loop."""
        if self._told is None:
            return
        sys.setswitchinterval(SWITCH_SECONDS)
        loop = asyncio.get_running_loop()
        # Granian has put its handlers on SIGTERM and SIGINT; it keeps the latter, and `_end` uses it.
        loop.add_signal_handler(signal.SIGTERM, self._notice)
        loop.add_signal_handler(signal.SIGUSR1, self._retire)

    async def watch(self) -> None:
        """Tell the supervisor that requests are taken, and later that it is enough. Runs until cancelled."""
        self._tell(SERVES)
        while self._told is not None:
            await asyncio.sleep(LOOK_SECONDS)
            if self._is_worn() and not self.parting:
                log.info("worker asks to be replaced", requests=self.requests, bytes=memory_bytes())
                self._tell(WISHES_OUT)
                await asyncio.sleep(ASK_AGAIN_SECONDS)

    def _is_worn(self) -> bool:
        if self._most_requests and self.requests >= self._most_requests:
            return True
        return bool(self._most_bytes) and memory_bytes() >= self._most_bytes

    def _tell(self, what: bytes) -> None:
        if self._told is not None:
            os.write(self._told, NOTE.pack(what, os.getpid()))

    def _notice(self) -> None:
        self.ending = True
        if self.parting or not self._drain:
            self._end()
            return
        log.info("on notice", seconds=self._drain)
        self.on_notice = self.parting = True
        asyncio.get_running_loop().call_later(self._drain, self._close)

    def _close(self) -> None:
        """Accept no more, and give those that are accepted a moment to say what they want."""
        self._leave_listener()
        asyncio.get_running_loop().call_later(min(self._drain, RETIRE_SECONDS) / 4, self._end)

    def _retire(self) -> None:
        if self.parting:
            return
        self.ending = True
        log.info("retiring", requests=self.requests)
        self._leave_listener()
        self.parting = True
        asyncio.get_running_loop().call_later(max(self._drain, RETIRE_SECONDS), self._end)

    def _leave_listener(self) -> None:
        """Accept no more: the server's descriptor leads to a socket from now on that nobody connects to.

        Closing the descriptor would not do, for the server goes on to ask it, nor would telling the server
        to stop: that also closes connections on which no byte of a request has come yet.
        """
        if self._listener is None or self._kept is not None:
            return
        self._kept = socket.socket(fileno=os.dup(self._listener))
        nobody = self._nobody = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        nobody.bind("")  # the system picks a name
        nobody.listen(1)
        os.dup2(nobody.fileno(), self._listener)

    def _end(self) -> None:
        os.kill(os.getpid(), signal.SIGINT)  # Granian lets go of its socket and answers what it has
        if self.on_notice and self._kept is not None:
            # Who comes now is refused and does not wait in vain: the supervisor has the socket open, too.
            # Not before the server has let go, for it would ask without end what became of its socket.
            asyncio.get_running_loop().call_later(LET_GO_SECONDS, self._kept.shutdown, socket.SHUT_RD)


def memory_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
