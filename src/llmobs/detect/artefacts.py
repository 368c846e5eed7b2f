"""The trained files: found by name, checked by checksum, and tried before they serve."""

import hashlib
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TypeVar

import msgspec

from llmobs.errors import LlmobsError


class ArtefactBroken(LlmobsError):
    """A trained file is missing, changed, or does not say what it said when it was made."""


class Files(msgspec.Struct, frozen=True, kw_only=True):
    """What every manifest holds; each model adds its own fields, and `training` tells the rest."""

    format: int
    made: str
    files: dict[str, str]
    """SHA-256 in hex of each file beside the manifest."""


FORMAT = 1
Told = TypeVar("Told")


class Artefacts:
    """A folder of trained files with its manifest. Raises ArtefactBroken on the first doubt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._manifest = (folder / "manifest.json").read_bytes()
        except OSError as error:
            raise ArtefactBroken(f"{folder.name}/manifest.json: {error.strerror}") from error
        self._files = self.told(Files)
        self._sizes: dict[str, int] = {"manifest.json": len(self._manifest)}
        if self._files.format != FORMAT:
            raise ArtefactBroken(
                f"{folder.name}/manifest.json: format {self._files.format}, this release reads {FORMAT}"
            )

    def told(self, wanted: type[Told]) -> Told:
        """The manifest's fields that `wanted` names."""
        try:
            return msgspec.json.decode(self._manifest, type=wanted)
        except msgspec.DecodeError as error:
            raise ArtefactBroken(f"{self.folder.name}/manifest.json: {error}") from error

    def read(self, name: str) -> bytes:
        """The bytes of a file whose checksum is right."""
        wanted = self._files.files.get(name)
        if wanted is None:
            raise ArtefactBroken(f"{self.folder.name}/{name}: not in the manifest")
        try:
            content = (self.folder / name).read_bytes()
        except OSError as error:
            raise ArtefactBroken(f"{self.folder.name}/{name}: {error.strerror}") from error
        found = hashlib.sha256(content).hexdigest()
        if found != wanted:
            raise ArtefactBroken(
                f"{self.folder.name}/{name}: SHA-256 {found[:12]}, the manifest says {wanted[:12]}"
            )
        self._sizes[name] = len(content)
        return content

    def disturbed(self) -> tuple[str, ...]:
        """The files read that are gone from the disk or have another size by now.

        What serves is in memory; what is told here is that the next start would fail.
        """
        return tuple(name for name, size in self._sizes.items() if _size(self.folder / name) != size)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


@cache
def shipped(name: str) -> Path:
    """The folder of that name that comes with the package."""
    return Path(str(resources.files("llmobs"))) / "data" / "heads" / name
