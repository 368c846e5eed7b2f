"""The seam to a language model: one question in, one reply out, and what can go wrong."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Any, Protocol

import msgspec

MAX_REPLY_BYTES = 65_536
"""A reply is a few hundred bytes of JSON; what goes on for longer is cut off and refused."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One chat completion."""

    system: str
    user: str
    schema: Mapping[str, Any]
    """JSON Schema of the reply."""
    max_tokens: int
    temperature: float = 0.0

    @property
    def estimated_tokens(self) -> int:
        """Tokens that the call may take in all: four characters each, and a full-length reply."""
        return (len(self.system) + len(self.user)) // 4 + self.max_tokens


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """What came back. Tokens are as the server counts them, 0 where it does not say."""

    text: str
    input_tokens: int = 0
    output_tokens: int = 0


class Trouble(StrEnum):
    """Kinds of failure, as metrics and `coverage` name them."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    RATE_LIMITED = "rate_limited"
    SERVER_ERROR = "server_error"
    REFUSED = "refused"
    """The server takes the request amiss: wrong key, unknown model, bad parameter."""
    MALFORMED = "malformed"
    """What came is not the protocol."""
    TOO_LONG = "too_long"
    """The reply went over its limit and was cut off."""
    BUSY = "busy"
    """We did not send it: more calls wait for their turn than may."""


class ProviderFailed(Exception):
    """A provider gave no reply. The message never quotes what was sent or received."""

    def __init__(self, trouble: Trouble, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.trouble = trouble
        self.retry_after = retry_after
        """Seconds that the server asks to be left alone, where it says so."""

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed a moment later."""
        return self.trouble in {
            Trouble.TIMEOUT,
            Trouble.CONNECTION,
            Trouble.RATE_LIMITED,
            Trouble.SERVER_ERROR,
            Trouble.MALFORMED,
        }


class Provider(Protocol):
    """A server with one model. Safe for concurrent use; cancelling `complete` drops the connection."""

    @property
    def name(self) -> str:
        """`groq`, `openai` or `ollama`."""

    @property
    def model(self) -> str:
        """The model as the server knows it."""

    async def complete(self, ask: Ask) -> Completion:
        """The reply. Raises ProviderFailed; deadlines are the caller's."""

    async def probe(self) -> str:
        """What a look at the server shows, in words. ProviderFailed when it or the model is missing."""

    async def close(self) -> None:
        """Close the connections."""
