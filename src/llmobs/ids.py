"""Request ids."""

import os
import time


def new_request_id() -> str:
    """A UUIDv7 (RFC 9562): 48 bits of Unix milliseconds, then 74 random bits, in the usual text form."""
    random = int.from_bytes(_random_bytes())
    value = (time.time_ns() // 1_000_000 & 0xFFFFFFFFFFFF) << 80
    value |= 0x7 << 76 | (random >> 68) << 64 | 0b10 << 62 | random & 0x3FFFFFFFFFFFFFFF
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


_BYTES = 10
_AT_ONCE = 400
_pool: list[bytes] = []
os.register_at_fork(after_in_child=_pool.clear)  # or parent and child would give the same ids


def _random_bytes() -> bytes:
    """Ten bytes of the system's randomness, which is asked for many ids at once: a call each is dear."""
    try:
        return _pool.pop()  # one step, so that no two threads get the same
    except IndexError:
        fresh = os.urandom(_AT_ONCE * _BYTES)
        _pool.extend(fresh[at : at + _BYTES] for at in range(_BYTES, len(fresh), _BYTES))
        return fresh[:_BYTES]
