"""A bounded durable local file for verdicts that the database has not taken yet.

Frames are `marker (4) | length (4) | CRC-32 (4) | JSON of one Record`, appended and flushed to disk
before the request is answered. What is no sound frame is passed over to the next one and kept aside
for people to look at: a torn tail, which was never acknowledged, or a part that the disk spoilt.

One file a process, held by a lock; a file whose process died is adopted by the next that looks.
"""

import fcntl
import os
import struct
import uuid
import zlib
from collections.abc import Generator, Sequence
from pathlib import Path
from time import monotonic

import msgspec
import structlog

from llmobs.domain.record import Record

log = structlog.get_logger("llmobs.spool")

_MARKER = b"\xf1LO1"  # its first byte is in no UTF-8 text, so no payload holds it
_HEAD = struct.Struct(">4sII")
_READ_BYTES = 1 << 20
SUFFIX = ".spool"
REJECTED = ".rejected"
ROOM_SHARE = 0.95
"""So full may the file be before no more requests are asked for."""
REFUSED_SECONDS = 10.0
"""So long after a refusal likewise: what comes later may find that the disk has room again."""

# JSON and not MessagePack: a caller's context may hold integers beyond 64 bits.
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


class SpoolFull(Exception):
    """The spool cannot grow: it has reached its bound, or the disk refuses."""


class Spool:
    """The spool file of this process. Methods block on the disk: call them from a thread."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._file: SpoolFile | None = None
        self._refused_at = -REFUSED_SECONDS

    @property
    def has_room(self) -> bool:
        """Whether it may be expected to take more; after a refusal that is to be seen some time later."""
        if monotonic() - self._refused_at < REFUSED_SECONDS:
            return False
        return self.size < ROOM_SHARE * self._max_bytes

    @property
    def size(self) -> int:
        """Bytes waiting in this process's file."""
        return 0 if self._file is None else self._file.size

    @property
    def own(self) -> "SpoolFile | None":
        """The file of this process, if it has needed one."""
        return self._file

    def append(self, records: Sequence[Record]) -> None:
        """Keep records; returns once they are on disk. SpoolFull when they do not fit."""
        frames = as_frames(records)
        if self.size + len(frames) > self._max_bytes:
            self._refused_at = monotonic()
            raise SpoolFull(f"{self.size} of {self._max_bytes} bytes used")
        try:
            if self._file is None:
                self._file = _created(self._folder)
            self._file.append(frames)
        except OSError as error:
            self._refused_at = monotonic()
            raise SpoolFull(type(error).__name__) from None

    def orphans(self) -> Generator["SpoolFile", None, None]:
        """Files of processes that are gone, each held by us while it is looked at."""
        if not self._folder.is_dir():
            return
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            if self._file is not None and path == self._file.path:
                continue
            found = _taken(path)
            if found is not None:
                try:
                    yield found
                finally:
                    found.close()

    def close(self) -> None:
        """Let go of the file; an empty one is removed, another is left for the next process."""
        if self._file is not None:
            if self._file.size == 0:
                self._file.remove()
            self._file.close()
            self._file = None


class SpoolFile:
    """One spool file, locked by us."""

    def __init__(self, path: Path, handle: int) -> None:
        self.path = path
        self._handle = handle
        self.size = os.fstat(handle).st_size

    def append(self, frames: bytes) -> None:
        """Write and flush to disk. OSError leaves the file as it was."""
        try:
            written = 0
            while written < len(frames):
                written += os.write(self._handle, frames[written:])
            os.fsync(self._handle)
        except OSError:
            os.ftruncate(self._handle, self.size)
            raise
        self.size += len(frames)

    def read(self, offset: int, end: int, limit: int) -> tuple[list[Record], int]:
        """Up to `limit` records from `offset` on, and where to go on; that is `end` when no more come."""
        records: list[Record] = []
        while len(records) < limit and offset < end:
            record, following = self._next(offset, end)
            if record is None:
                log.error("spool is damaged", file=self.path.name, offset=offset, bytes=following - offset)
                self.reject(os.pread(self._handle, following - offset, offset))
            else:
                records.append(record)
            offset = following
        return records, offset

    def reject(self, content: bytes) -> None:
        """Keep aside, beside the spool, what the database will never take."""
        with self.path.with_suffix(REJECTED).open("ab") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def clear(self) -> None:
        """Forget everything: the database has it."""
        os.ftruncate(self._handle, 0)
        os.fsync(self._handle)
        self.size = 0

    def remove(self) -> None:
        """Remove the file: the database has what it held."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)

    def _next(self, offset: int, end: int) -> tuple[Record | None, int]:
        """The record at `offset` and the offset after it; None with the next marker when damaged."""
        head = os.pread(self._handle, _HEAD.size, offset)
        if len(head) == _HEAD.size:
            marker, length, crc = _HEAD.unpack(head)
            following = offset + _HEAD.size + length
            if marker == _MARKER and following <= end:
                payload = os.pread(self._handle, length, offset + _HEAD.size)
                if zlib.crc32(payload) == crc:
                    return _decoded(payload), following
        return None, self._marker_after(offset + 1, end)

    def _marker_after(self, offset: int, end: int) -> int:
        while offset < end:
            found = os.pread(self._handle, min(_READ_BYTES, end - offset), offset).find(_MARKER)
            if found >= 0:
                return offset + found
            # A marker may lie across two reads.
            offset += max(min(_READ_BYTES, end - offset) - len(_MARKER) + 1, 1)
        return end


def as_frames(records: Sequence[Record]) -> bytes:
    """Records as a spool file holds them."""
    payloads = map(_encode, records)
    return b"".join(_HEAD.pack(_MARKER, len(each), zlib.crc32(each)) + each for each in payloads)


def _decoded(payload: bytes) -> Record | None:
    """The record; None when another release wrote it in a form that we do not know."""
    try:
        return _decode(payload)
    except msgspec.MsgspecError:
        return None


def _created(folder: Path) -> SpoolFile:
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        path = folder / f"{uuid.uuid4()}{SUFFIX}"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if _locked(handle) and _is_still(path, handle):
            break
        os.close(handle)  # a process looking for orphans was quicker than we, and removes it
    entry = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(entry)  # or a power cut may take the new file's name
    finally:
        os.close(entry)
    return SpoolFile(path, handle)


def _taken(path: Path) -> SpoolFile | None:
    """The file, if its process is gone."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if _locked(handle) and _is_still(path, handle):
        return SpoolFile(path, handle)
    os.close(handle)
    return None


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: Path, handle: int) -> bool:
    """Whether the path leads to the open file: another may have drained and removed it before our lock."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False
