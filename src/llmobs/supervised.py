"""What the workers of one `llmobs serve` share beside the database: a folder, and an end."""

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

SERVICE_DIR = "_LLMOBS_SERVICE_DIR"
"""Names the folder to the workers. No setting: the supervisor sets it and nobody else."""
SUPERVISOR = "_LLMOBS_SUPERVISOR"
"""Process id of the supervisor, likewise."""
_PR_SET_PDEATHSIG = 1


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
    """Have the system send SIGTERM to this worker when its supervisor dies, however it dies.

    Else workers whose supervisor got `kill -9` would serve on, beside those of the next start.
    """
    supervisor = environ.get(SUPERVISOR)
    if supervisor is None or os.uname().sysname != "Linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != int(supervisor):  # it died before we could ask
        sys.exit("llmobs: the supervisor is gone")
