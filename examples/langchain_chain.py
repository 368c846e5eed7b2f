"""A chain of LangChain's kind (anything with `ainvoke`), its answer held to the documents it was given.

    from examples.langchain_chain import grounded
    safe = grounded(client, chain)
    answer = await safe({"question": "When do you open?", "documents": [...]})

`chain` is any runnable that takes a dict and returns a message with `.content`. No LangChain is needed
here: the guard wraps its bound method `ainvoke`.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from llmobs.client import AsyncClient


class Message(Protocol):
    """What a chat model of LangChain's returns."""

    @property
    def content(self) -> str: ...


class Runnable(Protocol):
    """The part of LangChain's Runnable that is used here."""

    async def ainvoke(self, given: dict[str, Any]) -> Message: ...


def documents_of(given: dict[str, Any]) -> Sequence[str]:
    """The passages' text: strings, or LangChain's documents with `page_content`."""
    return [one if isinstance(one, str) else one.page_content for one in given.get("documents", ())]


def grounded(client: AsyncClient, chain: Runnable) -> Callable[[dict[str, Any]], Awaitable[Message]]:
    """The chain's `ainvoke`, which raises Blocked where the answer may not pass."""
    guard = client.guard(
        query=lambda given: given["question"], documents=documents_of, text=lambda message: message.content
    )
    return guard(chain.ainvoke)
