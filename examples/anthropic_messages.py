"""A message over Anthropic's API, asked and answered under guard, without async.

    ANTHROPIC_API_KEY=... python examples/anthropic_messages.py "Where is Paris?"

The question is judged as a prompt before the model sees it, the answer before anyone reads it.
"""

import os
import sys
from typing import Any

import httpx

from llmobs.client import Blocked, Client


def message(question: str) -> dict[str, Any]:
    """The model's whole answer, as it came."""
    answer = httpx.post(
        os.environ.get("ANTHROPIC_BASE_URL", "https://api.anthropic.com") + "/v1/messages",
        headers={"x-api-key": os.environ.get("ANTHROPIC_API_KEY", "none"), "anthropic-version": "2023-06-01"},
        json={
            "model": os.environ.get("ANTHROPIC_MODEL", "claude-sonnet-4-5"),
            "max_tokens": 1024,
            "messages": [{"role": "user", "content": question}],
        },
        timeout=60,
    )
    answer.raise_for_status()
    body: dict[str, Any] = answer.json()
    return body


def text_of(answer: dict[str, Any]) -> str:
    """The text blocks of an answer, joined."""
    return "".join(block["text"] for block in answer["content"] if block["type"] == "text")


def ask(question: str) -> str:
    """The model's answer. Raises Blocked, with the verdict, for a question or an answer that may not pass."""
    with Client(os.environ.get("LLMOBS_URL", "http://127.0.0.1:8000")) as client:
        client.guard(kind="prompt").check(question)
        guarded = client.guard(query=lambda question: question, text=text_of)(message)
        return text_of(guarded(question))


if __name__ == "__main__":
    try:
        print(ask(sys.argv[1]))  # noqa: T201
    except Blocked as blocked:
        sys.exit(f"{blocked.verdict.failure_class}: {blocked.verdict.explanation}")
