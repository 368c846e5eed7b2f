"""Configuration that is read from a folder and may change while we run: swapped whole, last good kept."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from llmobs.errors import ConfigurationError

log = structlog.get_logger("llmobs.book")

T = TypeVar("T")
Fingerprint = tuple[tuple[str, int, int], ...]


class Book(Generic[T]):
    """The value in force. Reading `current` is safe at any time; a reload replaces it whole.

    `load` receives the value in force (None at first) and raises ConfigurationError to refuse.
    """

    def __init__(self, name: str, folder: Path | None, load: Callable[[T | None], T]) -> None:
        self.name = name
        self._folder = folder
        self._load = load
        self._seen = fingerprint(folder)
        self.current: T = load(None)
        self.refused: str | None = None
        """Why the latest change was not taken over; None when the folder is in force."""

    @property
    def bereft(self) -> bool:
        """Whether a folder is configured and holds nothing, looked at now."""
        return self._folder is not None and not fingerprint(self._folder)

    def changed(self) -> bool:
        """Whether the folder differs from what was last read."""
        return fingerprint(self._folder) != self._seen

    async def reload(self) -> bool:
        """Read everything again; False when it was refused and the last good value stays."""
        self._seen = fingerprint(self._folder)
        try:
            self.current = await asyncio.to_thread(self._load, self.current)
        except ConfigurationError as error:
            self.refused = str(error)
            log.error("refused, the last good one stays in force", book=self.name, reason=self.refused)
            return False
        self.refused = None
        log.info("loaded", book=self.name)
        return True


def fingerprint(folder: Path | None) -> Fingerprint:
    """Names, sizes and modification times of the folder's TOML files; empty without a folder."""
    if folder is None or not folder.is_dir():
        return ()
    found = []
    for path in sorted(folder.glob("*.toml")):
        try:
            state = path.stat()
        except FileNotFoundError:
            continue  # deleted between listing and looking: the next look sees it gone
        found.append((path.name, state.st_size, state.st_mtime_ns))
    return tuple(found)
