"""Text to table rows: hashed words, word pairs and character runs, all at once in numpy.

A substring's hash comes from two prefix sums, as in Karp and Rabin (1987): with
S[i] = sum of b[k] * Q^k over k < i, the substring from i to j has the hash
(S[j] - S[i]) * Q^-i, modulo 2^64. So every word and every run costs one subtraction and one
multiplication, and no Python loop goes over the text.

Training uses the very same code.
"""

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]

BITS = 17
"""The table has 2^BITS rows."""
RUN = 5
"""Length of the character runs, in bytes."""
SEGMENT = 640
"""Bytes that are summed together: what is odd in one place must not drown in a long text."""
LONGEST = 65_536
"""Bytes hashed at a time; longer texts are taken in parts."""

_Q = 0x9E3779B97F4A7C15 | 1
_MASK = (1 << 64) - 1


def _powers(base: int, count: int) -> U64:
    found = np.empty(count, dtype=np.uint64)
    value = 1
    for index in range(count):
        found[index] = value
        value = value * base & _MASK
    return found


_UP = _powers(_Q, LONGEST + 1)
_DOWN = _powers(pow(_Q, -1, 1 << 64), LONGEST + 1)
_PAIR = np.uint64(0xC2B2AE3D27D4EB4F)
_SKIP = np.uint64(0x165667B19E3779F9)
_SPREAD = np.uint64(0xD6E8FEB86659FD93)
_RUN_SALT = np.uint64(0xA24BAED4963EE407)
_SHIFT = np.uint64(64 - BITS)
_FOLD = np.uint64(32)

_IS_WORD = np.zeros(256, dtype=np.int8)
for _byte in range(256):
    if _byte >= 128 or chr(_byte).isalnum():
        _IS_WORD[_byte] = 1


Part = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Table rows of one sort of feature in the order of the text, and the byte where each begins."""


def features(raw: bytes) -> list[Part]:
    """Words, word pairs, pairs with a gap, and runs of RUN bytes; empty where no letter stands.

    `raw` is lower-cased UTF-8, at most LONGEST bytes.
    """
    table = np.frombuffer(raw, dtype=np.uint8)
    word = _IS_WORD[table]
    edges = np.flatnonzero(np.diff(word, prepend=np.int8(0), append=np.int8(0)))
    if edges.size == 0:
        return []
    sums = np.zeros(table.size + 1, dtype=np.uint64)
    np.cumsum(table * _UP[: table.size], out=sums[1:])
    starts, ends = edges[::2], edges[1::2]
    words = (sums[ends] - sums[starts]) * _DOWN[starts]
    words ^= words >> _FOLD
    parts = [(_rows(words), starts)]
    if words.size > 1:
        parts.append((_rows(words[:-1] * _PAIR + words[1:]), starts[:-1]))
    if words.size > 2:
        parts.append((_rows(words[:-2] * _SKIP + words[2:]), starts[:-2]))
    if table.size >= RUN:
        count = table.size - RUN + 1
        runs = (sums[RUN:] - sums[:count]) * _DOWN[:count]
        runs ^= runs >> _FOLD
        parts.append((_rows(runs * _RUN_SALT), np.arange(count)))
    return parts


def segments_of(length: int) -> NDArray[np.int64]:
    """Where the segments of so many bytes begin: equal parts of about SEGMENT."""
    count = 1 if length <= SEGMENT * 3 // 2 else round(length / SEGMENT)
    return (np.arange(count) * (length / count)).astype(np.int64)


def _rows(hashed: U64) -> NDArray[np.int64]:
    mixed = hashed * _SPREAD
    mixed ^= mixed >> _FOLD
    return ((mixed * _SPREAD) >> _SHIFT).astype(np.int64)


def lowered(text: str) -> bytes:
    """The bytes that are hashed."""
    return text.lower().encode("utf-8", "surrogatepass")
