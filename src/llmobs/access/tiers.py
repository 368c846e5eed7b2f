"""Rate-limit tiers as data."""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from llmobs.errors import SettingsInvalid

BUILTIN = Path(str(files("llmobs") / "data" / "tiers.toml"))

Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class Tier(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client may use; 0 means no limit."""

    requests: Count
    """An hour."""
    burst: Count = 0
    """Requests in ten seconds."""
    batch_texts: Count = 0
    """Texts in batches, an hour."""
    tier2: Count = 0
    """Texts that tier 2 reads, an hour."""
    tier3: Count = 0
    """Texts that tier 3 is asked about, an hour."""


Tiers = Mapping[str, Tier]


def load_tiers(path: Path | None = None) -> Tiers:
    """The built-in tiers, or those of the operator's file in their place. SettingsInvalid says what is wrong."""
    place = path or BUILTIN
    try:
        return msgspec.convert(
            tomllib.loads(place.read_text(encoding="utf-8")),
            dict[Annotated[str, Meta(pattern="^[a-z][a-z0-9_-]{0,31}$")], Tier],
        )
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise SettingsInvalid(f"LLMOBS_TIERS_FILE: {place.name}: {error}") from None
