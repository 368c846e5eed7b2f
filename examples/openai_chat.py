"""A chat answer over OpenAI's API, judged before anyone reads it.

    OPENAI_BASE_URL=https://api.openai.com/v1 OPENAI_API_KEY=... python examples/openai_chat.py "Where is Paris?"

With the `openai` package the guarded function is the same; take the text out of the whole answer with
`client.guard(text=lambda answer: answer.choices[0].message.content)`.
"""

import asyncio
import os
import sys

import httpx

from llmobs.client import AsyncClient, DetectAnswer


async def chat(question: str) -> str:
    """The model's answer, as it came."""
    async with httpx.AsyncClient(timeout=60) as http:
        answer = await http.post(
            os.environ.get("OPENAI_BASE_URL", "https://api.openai.com/v1") + "/chat/completions",
            headers={"authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', 'none')}"},
            json={
                "model": os.environ.get("OPENAI_MODEL", "gpt-4o-mini"),
                "messages": [{"role": "user", "content": question}],
            },
        )
        answer.raise_for_status()
        text: str = answer.json()["choices"][0]["message"]["content"]
        return text


def sorry(verdict: DetectAnswer) -> str:
    """What people read in the place of a blocked answer."""
    return f"I cannot show this answer (reference {verdict.request_id})."


async def ask(question: str) -> str:
    """The model's answer, or what is said in its place."""
    async with AsyncClient(os.environ.get("LLMOBS_URL", "http://127.0.0.1:8000")) as client:
        guarded = client.guard(query=lambda question: question, on_block=sorry)(chat)
        return await guarded(question)


if __name__ == "__main__":
    print(asyncio.run(ask(sys.argv[1])))  # noqa: T201
