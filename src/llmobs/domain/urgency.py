"""Whether whoever asks can wait: items of batches can, and let single texts go first."""

from contextvars import ContextVar

CAN_WAIT: ContextVar[bool] = ContextVar("can_wait", default=False)
