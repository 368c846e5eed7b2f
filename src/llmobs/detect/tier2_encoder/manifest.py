"""What the manifest of a trained encoder says: windows, heads, calibration, probes."""

import msgspec

LONG = 240
"""Characters; longer texts are judged as documents."""


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Maps a head's logit to a score: `1 / (1 + exp(-(slope * logit + offset)))`.

    Fitted on sources that the model had not seen (docs/model-card.md), so that 0.5 and 0.8 are
    reached by the shares of harmless text that the manifest names. Slope is positive.
    """

    slope: float
    offset: float


class Head(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One output of the graph."""

    name: str
    failure_class: str
    kinds: tuple[str, ...]
    """Texts that it judges: `prompt`, `response` or both."""
    calibration: Calibration
    note: str
    """Evidence note, in a few words."""
    foreign: float = 0.0
    """Taken off the logit of a text that is not in English, so that harmless text in other languages
    warns no more often than docs/model-card.md says."""
    long: float = 0.0
    """Taken off the logit of a text of more than LONG characters: documents hold imperatives that short prompts do not."""
    worded: float = 1.0
    """`long` is not taken off a text that the lexical classifier of tier 1 gives this score or more: unlike a
    document with one order in it, a long jailbreak is worded as an attack from end to end."""
    needs_no_documents: bool = False
    """True for a head that has nothing to say once there are documents to compare with."""


class Probe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text with the logits that the very graph gave when it was made."""

    text: str
    logits: tuple[float, ...]


class EncoderManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What the manifest of an encoder says beyond checksums."""

    window: int = 126
    """Word pieces of one window, without the two special ones."""
    stride: int = 96
    heads: tuple[Head, ...] = ()
    probes: tuple[Probe, ...] = ()
