"""Request ids."""

import os
import time


def new_request_id() -> str:
    """A UUIDv7 (RFC 9562): 48 bits of Unix milliseconds, then 74 random bits, in the usual text form."""
    drawn = _random_bytes()
    text = drawn.hex()
    at = f"{time.time_ns() // 1_000_000 & 0xFFFFFFFFFFFF:012x}"
    # Version 7, and two bits of the variant 0b10 with two random ones.
    return f"{at[:8]}-{at[8:]}-7{text[:3]}-{'89ab'[drawn[-1] & 3]}{text[3:6]}-{text[6:18]}"


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
