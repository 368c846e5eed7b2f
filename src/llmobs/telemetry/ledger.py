"""Counts of all workers of one service, in files that they share: one scrape shows the sum.

Each worker holds a slot: a file, kept by a lock, that is mapped into memory. What it counts stands
in the map the moment it is counted, so `kill -9` takes no count with it; the worker that takes the
slot next goes on from there. A reader maps the others' files and adds up.

A file is `magic (8) | bytes used (8)`, then entries: `bytes of the key (4) | cells (4) | key, JSON,
padded to 8 | cells (8 each, doubles)`. An entry is written before `bytes used` takes it in.
"""

import contextlib
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

MAGIC = b"llmobs\x001"
_HEAD = struct.Struct("<8sQ")
_ENTRY = struct.Struct("<II")
_USED = 8
"""Where `bytes used` stands."""
SIZE = 8 * 1024 * 1024
"""Of one file, sparse: what is not used takes no memory. Some 40,000 counters."""
SUFFIX = ".slot"
Key = tuple[str, ...]
"""Kind of value, metric, then the values of its attributes."""

_decode = msgspec.json.Decoder(tuple[str, ...]).decode


class Ledger:
    """The slot of this process, and a view of the others."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path, self._handle = _claimed(folder)
        self._map = mmap.mmap(self._handle, SIZE)
        self._bytes = memoryview(self._map)
        self._cells = self._bytes.cast("d")
        if self._map[:8] != MAGIC:
            self._map[: _HEAD.size] = _HEAD.pack(MAGIC, _HEAD.size)
        self._known = {key: (at, count) for key, at, count in _entries(self._map)}

    def cells(self, key: Key, count: int) -> "memoryview[float]":
        """Numbers under a key: those that were there, or zeros. They count once they are written.

        When the file is full the cells are this process's own, and no other worker sees them.
        """
        found = self._known.get(key)
        if found is None:
            at = self._added(key, count)
            if at is None:
                return memoryview(bytearray(8 * count)).cast("d")
            found = self._known[key] = (at, count)
        at, held = found
        if held != count:
            raise ValueError(f"{key} has {held} numbers, not {count}")
        return self._cells[at // 8 : at // 8 + count]

    def own(self, kind: str) -> Iterator[tuple[Key, Sequence[float]]]:
        """What stands in this process's slot, of one kind."""
        return _values(self._map, kind)

    def others(self, kind: str) -> Iterator[tuple[Key, Sequence[float], bool]]:
        """What stands in the other slots, of one kind, and whether a living process holds the slot."""
        for path in sorted(self._folder.glob(f"*{SUFFIX}")):
            if path == self.path:
                continue
            with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
                alive = _is_held(file.fileno())
                with mmap.mmap(file.fileno(), SIZE, access=mmap.ACCESS_READ) as mapped:
                    if mapped[:8] == MAGIC:
                        for key, values in _values(mapped, kind):
                            yield key, values, alive

    def close(self) -> None:
        """Let go of the slot; what it holds still counts."""
        fcntl.flock(self._handle, fcntl.LOCK_UN)  # the map has the file open as well
        os.close(self._handle)

    def _added(self, key: Key, count: int) -> int | None:
        name = msgspec.json.encode(key)
        name += b" " * (-len(name) % 8)
        (used,) = struct.unpack_from("<Q", self._map, _USED)
        at = used + _ENTRY.size + len(name)
        end = at + 8 * count
        if end > SIZE:
            return None
        self._map[used:at] = _ENTRY.pack(len(name), count) + name
        self._map[at:end] = bytes(8 * count)
        struct.pack_into("<Q", self._map, _USED, end)
        return int(at)


class Kept(dict[Key, float]):
    """A counter's values by attributes; each change stands in the ledger as well."""

    def __init__(self, ledger: Ledger, metric: str) -> None:
        self._ledger = ledger
        self._metric = metric
        self._cells: dict[Key, memoryview[float]] = {}
        super().__init__()
        for (_, name, *attributes), values in list(ledger.own("counter")):
            if name == metric:
                self._cells[tuple(attributes)] = ledger.cells(("counter", name, *attributes), 1)
                dict.__setitem__(self, tuple(attributes), values[0])

    def __missing__(self, key: Key) -> float:
        return 0.0

    def __setitem__(self, key: Key, value: float) -> None:
        cells = self._cells.get(key)
        if cells is None:
            cells = self._cells[key] = self._ledger.cells(("counter", self._metric, *key), 1)
        cells[0] = value
        dict.__setitem__(self, key, value)


def _claimed(folder: Path) -> tuple[Path, int]:
    """The first slot that nobody holds."""
    number = 0
    while True:
        path = folder / f"{number}{SUFFIX}"
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            number += 1
            continue
        if os.fstat(handle).st_size < SIZE:
            os.ftruncate(handle, SIZE)
        return path, handle


def _is_held(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(handle, fcntl.LOCK_UN)
    return False


def _entries(mapped: mmap.mmap) -> Iterator[tuple[Key, int, int]]:
    """Keys with where their cells stand and how many there are."""
    (used,) = struct.unpack_from("<Q", mapped, _USED)
    at = _HEAD.size
    while at < min(used, SIZE):
        length, count = _ENTRY.unpack_from(mapped, at)
        start = at + _ENTRY.size + length
        yield _decode(mapped[at + _ENTRY.size : start]), start, count
        at = start + 8 * count


def _values(mapped: Any, kind: str) -> Iterator[tuple[Key, Sequence[float]]]:
    for key, at, count in _entries(mapped):
        if key[0] == kind:
            yield key, struct.unpack_from(f"<{count}d", mapped, at)
