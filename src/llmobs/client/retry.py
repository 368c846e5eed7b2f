"""When to try again, and after how long."""

import random
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import msgspec


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """How a client repeats calls that failed in a way that may pass. Times are in seconds."""

    attempts: int = 10
    """Tries in all, the first one included. The deadline may end them sooner."""
    first: float = 0.1
    """The longest wait before the second try; it doubles with each further one."""
    longest: float = 5.0
    """No wait of our own choosing is longer."""

    def wait(self, tried: int, retry_after: float | None, draw: Callable[[], float] = random.random) -> float:
        """Seconds to wait after the `tried`-th try.

        The whole of a wait is drawn by lot, so that clients which failed together do not come back
        together; a time that the service named is kept to, and the lot comes on top of it.
        """
        most = min(self.longest, self.first * 2.0 ** min(tried - 1, 30))
        return draw() * most + (retry_after or 0.0)


def retry_after_seconds(value: str, now: datetime | None = None) -> float | None:
    """The header `Retry-After`, seconds or a date, as seconds from now; None for anything else."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        when = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())
