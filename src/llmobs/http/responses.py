"""Answers that are bytes already: the framework's response object would cost more than tier 1."""

from typing import Any


class JsonAnswer:
    """A status with a JSON body, as an ASGI application."""

    __slots__ = ("body", "headers", "status")

    def __init__(
        self,
        body: bytes,
        *headers: tuple[bytes, bytes],
        status: int = 200,
        media_type: bytes = b"application/json",
    ) -> None:
        self.status = status
        self.body = body
        self.headers = [
            (b"content-type", media_type),
            (b"content-length", b"%d" % len(body)),
            *headers,
        ]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})
