"""Archives, unpacked by any Python that we support: `filter` came with 3.11.4, and Debian 12 has 3.11.2."""

import tarfile
from pathlib import Path
from typing import Any


def unpack(archive: tarfile.TarFile, place: Path) -> None:
    """All of an archive of our own or of a pinned wheel, into a folder."""
    plainly: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    archive.extractall(place, **plainly)  # the hash of the wheel, or our own git, vouches for it
