"""A bounded durable local file for verdicts that the database has not taken yet.

Frames are `length (4) | CRC-32 (4) | MessagePack of one Record`, appended and flushed to disk before
the request is answered. A torn or corrupt frame ends the readable part: what comes after it was never
acknowledged, or cannot be trusted. One file a process, held by a lock; a file whose process died is
adopted by the next one that looks.
"""

import fcntl
import os
import struct
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import structlog

from llmobs.domain.record import Record

log = structlog.get_logger("llmobs.spool")

_HEAD = struct.Struct(">II")
MAX_FRAME = 64 * 1024 * 1024
SUFFIX = ".spool"


class SpoolFull(Exception):
    """The spool may not grow further."""


class Spool:
    """The spool file of this process. Methods block on the disk: call them from a thread."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._file: int | None = None
        self._path: Path | None = None
        self.size = 0
        """Bytes waiting in this process's file."""

    def append(self, records: Sequence[Record]) -> None:
        """Keep records; returns once they are on disk. SpoolFull when they do not fit."""
        frames = b"".join(map(_frame, records))
        if self.size + len(frames) > self._max_bytes:
            raise SpoolFull(f"{self.size} of {self._max_bytes} bytes used")
        handle = self._opened()
        try:
            written = 0
            while written < len(frames):
                written += os.write(handle, frames[written:])
            os.fsync(handle)
        except OSError as error:
            # Half a frame would hide the frames after it from every reader.
            os.ftruncate(handle, self.size)
            raise SpoolFull(type(error).__name__) from None
        self.size += len(frames)

    def read(self) -> list[Record]:
        """What is kept, oldest first."""
        return [] if self._path is None or self.size == 0 else list(_frames(self._path))

    def clear(self) -> None:
        """Forget everything: the database has it."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.fsync(self._file)
            self.size = 0

    def orphans(self) -> Iterator["Orphan"]:
        """Files of processes that are gone, each locked to us while it is looked at."""
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            if path == self._path:
                continue
            try:
                handle = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                continue
            try:
                if _locked(handle):
                    yield Orphan(path)
            finally:
                os.close(handle)

    def close(self) -> None:
        """Let go of the file; an empty one is removed, another is left for the next process."""
        if self._file is not None and self._path is not None:
            if self.size == 0:
                self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def _opened(self) -> int:
        if self._file is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path = self._folder / f"{uuid.uuid4()}{SUFFIX}"
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            _locked(self._file)
        return self._file


class Orphan:
    """A spool file whose process is gone."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[Record]:
        """What is kept, oldest first."""
        return list(_frames(self.path))

    def remove(self) -> None:
        """Forget it: the database has it."""
        self.path.unlink(missing_ok=True)


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _frame(record: Record) -> bytes:
    payload = msgspec.msgpack.encode(record)
    return _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def _frames(path: Path) -> Iterator[Record]:
    decoder = msgspec.msgpack.Decoder(Record)
    with path.open("rb") as file:
        while True:
            head = file.read(_HEAD.size)
            if not head:
                return
            if len(head) == _HEAD.size:
                length, crc = _HEAD.unpack(head)
                payload = file.read(length) if length <= MAX_FRAME else b""
                if len(payload) == length and zlib.crc32(payload) == crc:
                    yield decoder.decode(payload)
                    continue
            log.warning("spool ends in a torn frame", file=path.name, offset=file.tell())
            return
