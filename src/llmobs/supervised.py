"""What the workers of one `llmobs serve` share beside the database: a folder, and an end."""

import contextlib
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

SERVICE_DIR = "_LLMOBS_SERVICE_DIR"
"""Names the folder to the workers. No setting: the supervisor sets it and nobody else."""
SUPERVISOR = "_LLMOBS_SUPERVISOR"
"""Process id of the supervisor, likewise."""
GRACE = 10
"""Seconds that a worker gets to end in order once its supervisor is gone."""
LOOK_EVERY = 0.25
"""Seconds between two looks at who the parent is."""


@contextlib.contextmanager
def shared_folder() -> Iterator[Path]:
    """A folder for as long as the service runs, in memory where the system has such a place."""
    memory = Path("/dev/shm")  # noqa: S108  # mkdtemp makes an unguessable name that only we may enter
    place = memory if os.access(memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="llmobs-", dir=place))
    os.environ[SERVICE_DIR] = str(folder)
    try:
        yield folder
    finally:
        os.environ.pop(SERVICE_DIR, None)
        shutil.rmtree(folder, ignore_errors=True)


def folder_from(environ: Mapping[str, str]) -> Path | None:
    """The folder that the workers share; None where there is only one."""
    named = environ.get(SERVICE_DIR)
    return Path(named) if named else None


def supervise() -> None:
    """Tell the workers to come who their supervisor is: this process."""
    os.environ[SUPERVISOR] = str(os.getpid())


def end_with_supervisor(environ: Mapping[str, str]) -> None:
    """End this worker, as SIGINT would, when its supervisor dies, however it dies.

    Else workers whose supervisor got `kill -9` would serve on, beside those of the next start.
    What is still in flight `GRACE` seconds later is cut.
    """
    supervisor = environ.get(SUPERVISOR)
    if supervisor is None:
        return
    if os.getppid() != int(supervisor):  # it died before we could ask
        sys.exit("llmobs: the supervisor is gone")
    threading.Thread(target=_watch, args=(int(supervisor),), name="supervisor", daemon=True).start()


def _watch(supervisor: int) -> None:
    while os.getppid() == supervisor:
        time.sleep(LOOK_EVERY)
    # The system's own end for a process that nobody handles SIGALRM in. No thread of ours would do:
    # Granian can hang on a SIGTERM with the interpreter's lock held (its issue 875).
    signal.alarm(GRACE)
    # SIGINT ends it without `LLMOBS_DRAIN_SECONDS`: nobody supervises what it would still take.
    os.kill(os.getpid(), signal.SIGINT)
