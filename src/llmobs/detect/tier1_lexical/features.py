"""Text to table rows: hashed words, word pairs and character runs, all at once in numpy.

A substring's hash comes from two prefix sums, as in Karp and Rabin (1987): with
S[i] = sum of b[k] * Q^k over k < i, the substring from i to j has the hash
(S[j] - S[i]) * Q^-i, modulo 2^64. So every word and every run costs one subtraction and one
multiplication, and no Python loop goes over the text.

Training uses the very same code.
"""

from typing import NamedTuple

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
    factors = np.full(count, base & _MASK, dtype=np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)  # modulo 2^64, as numpy's unsigned integers are


_UP = _powers(_Q, LONGEST + 1)
_DOWN = _powers(pow(_Q, -1, 1 << 64), LONGEST + 1)
_PAIR = np.uint64(0xC2B2AE3D27D4EB4F)
_SKIP = np.uint64(0x165667B19E3779F9)
_SPREAD = np.uint64(0xD6E8FEB86659FD93)
_RUN_SALT = np.uint64(0xA24BAED4963EE407)
_SHIFT = np.uint64(64 - BITS)
_FOLD = np.uint64(32)

_WORD_BYTES = bytes(byte >= 128 or chr(byte).isalnum() for byte in range(256))


Part = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Table rows of one sort of feature in the order of the text, and the byte where each begins."""


class Hashed(NamedTuple):
    """The table rows of all features of a text, sort after sort."""

    rows: NDArray[np.int64]
    """Of the words, the pairs, the pairs with a gap, the runs, each in the order of the text."""
    starts: NDArray[np.int64]
    """The byte where each word begins."""

    @property
    def parts(self) -> list[Part]:
        """The sorts apart."""
        words = self.starts.size
        cuts = [0, words, max(words, 2 * words - 1), max(words, 2 * words - 1) + max(0, words - 2)]
        runs = self.rows.size - cuts[-1]
        places = (self.starts, self.starts[:-1], self.starts[:-2], np.arange(runs))
        return [
            (rows, at) for rows, at in zip(np.split(self.rows, cuts[1:]), places, strict=True) if rows.size
        ]


def hashed(raw: bytes) -> Hashed | None:
    """Words, word pairs, pairs with a gap, and runs of RUN bytes; None where no letter stands.

    `raw` is lower-cased UTF-8, at most LONGEST bytes. A text of 500 bytes takes as long in numpy's
    calls as in its loops, so the four sorts share one array and each step is one call for all.
    """
    size = len(raw)
    word = np.frombuffer(b"\0%b\0" % raw.translate(_WORD_BYTES), dtype=np.uint8)
    edges = (word[1:] != word[:-1]).nonzero()[0]
    if not edges.size:
        return None
    sums = np.empty(size + 1, dtype=np.uint64)
    sums[0] = 0
    np.multiply(np.frombuffer(raw, dtype=np.uint8), _UP[:size], out=sums[1:])
    sums[1:].cumsum(out=sums[1:])
    starts = edges[::2]
    words = starts.size
    pairs = max(words, 2 * words - 1)
    gaps = pairs + max(0, words - 2)
    mixed = np.empty(gaps + max(0, size - RUN + 1), dtype=np.uint64)
    at_edges = sums.take(edges)
    single = mixed[:words]
    np.subtract(at_edges[1::2], at_edges[::2], out=single)
    single *= _DOWN.take(starts)
    single ^= single >> _FOLD
    if words > 1:
        joined = mixed[words:pairs]
        np.multiply(single[:-1], _PAIR, out=joined)
        joined += single[1:]
    if words > 2:
        joined = mixed[pairs:gaps]
        np.multiply(single[:-2], _SKIP, out=joined)
        joined += single[2:]
    if size >= RUN:
        runs = mixed[gaps:]
        np.subtract(sums[RUN:], sums[: size - RUN + 1], out=runs)
        runs *= _DOWN[: size - RUN + 1]
        runs ^= runs >> _FOLD
        runs *= _RUN_SALT
    mixed *= _SPREAD
    mixed ^= mixed >> _FOLD
    mixed *= _SPREAD
    mixed >>= _SHIFT
    return Hashed(mixed.view(np.int64), starts)


def features(raw: bytes) -> list[Part]:
    """The sorts of features apart, as training wants them; empty where no letter stands."""
    found = hashed(raw)
    return [] if found is None else found.parts


def segments_of(length: int) -> NDArray[np.int64]:
    """Where the segments of so many bytes begin: equal parts of about SEGMENT."""
    count = 1 if length <= SEGMENT * 3 // 2 else round(length / SEGMENT)
    return (np.arange(count) * (length / count)).astype(np.int64)


def lowered(text: str) -> bytes:
    """The bytes that are hashed."""
    return text.lower().encode("utf-8", "surrogatepass")
