"""Ollama, through its own client."""

from typing import Any

import httpx
import ollama

from llmobs.detect.tier3_judge.openai_wire import failure_of, retry_after, transport_failure
from llmobs.detect.tier3_judge.provider import (
    MAX_REPLY_BYTES,
    Ask,
    Completion,
    ProviderFailed,
    Trouble,
)


class OllamaProvider:
    """One model of an Ollama server.

    Replies are streamed, so that one that does not end can be dropped in the middle.
    """

    name = "ollama"

    def __init__(self, *, base_url: str, model: str, context_tokens: int = 8192) -> None:
        self.model = model
        self._context_tokens = context_tokens
        self._client = ollama.AsyncClient(
            host=base_url,
            timeout=httpx.Timeout(None, connect=5.0),
            event_hooks={"response": [_told_to_wait]},
        )

    async def complete(self, ask: Ask) -> Completion:
        """One completion; see `Provider`."""
        try:
            stream = await self._client.chat(
                model=self.model,
                messages=[
                    {"role": "system", "content": ask.system},
                    {"role": "user", "content": ask.user},
                ],
                stream=True,
                format=dict(ask.schema),
                # Ollama cuts a prompt that is longer than its window without a word.
                options={
                    "temperature": ask.temperature,
                    "num_predict": ask.max_tokens,
                    "num_ctx": max(self._context_tokens, ask.estimated_tokens),
                },
            )
            return await _gathered(stream)
        except ProviderFailed:
            raise
        except ollama.ResponseError as error:
            raise _failure(error) from None
        except (ConnectionError, httpx.HTTPError) as error:
            if isinstance(error, httpx.HTTPError):
                raise transport_failure(error) from None
            raise ProviderFailed(Trouble.CONNECTION, "no connection") from None
        except (ValueError, AttributeError, TypeError):  # json and pydantic raise kinds of ValueError
            raise ProviderFailed(Trouble.MALFORMED, "the answer is not Ollama's protocol") from None

    async def probe(self) -> str:
        """Ask the server for the model."""
        try:
            known = {model.model for model in (await self._client.list()).models}
        except ProviderFailed:
            raise
        except ollama.ResponseError as error:
            raise _failure(error) from None
        except (ConnectionError, httpx.HTTPError) as error:
            raise ProviderFailed(Trouble.CONNECTION, f"no connection ({type(error).__name__})") from None
        except (ValueError, AttributeError, TypeError):
            raise ProviderFailed(Trouble.MALFORMED, "the list of models is not readable") from None
        if self.model not in known and f"{self.model}:latest" not in known:
            raise ProviderFailed(Trouble.REFUSED, f"the server has no model {self.model}")
        return f"{self.model} is there"

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]  # the library has no types there


async def _told_to_wait(response: httpx.Response) -> None:
    # The client's own error drops the headers, and with them Retry-After.
    if response.status_code in {429, 503} and retry_after(response.headers) is not None:
        raise failure_of(response.status_code, response.headers)


async def _gathered(stream: Any) -> Completion:
    parts: list[str] = []
    size = 0
    last: ollama.ChatResponse | None = None
    try:
        async for last in stream:
            piece = last.message.content or ""
            parts.append(piece)
            size += len(piece.encode()) + 1
            if size > MAX_REPLY_BYTES:
                raise ProviderFailed(Trouble.TOO_LONG, f"the reply is longer than {MAX_REPLY_BYTES} bytes")
    finally:
        await stream.aclose()
    if last is None or not last.done:
        raise ProviderFailed(Trouble.MALFORMED, "the reply broke off")
    if last.done_reason == "length":
        raise ProviderFailed(Trouble.TOO_LONG, "the reply was cut off at its token limit")
    return Completion(
        text="".join(parts),
        input_tokens=last.prompt_eval_count or 0,
        output_tokens=last.eval_count or 0,
    )


def _failure(error: ollama.ResponseError) -> ProviderFailed:
    if error.status_code < 100:  # an error line inside a stream that began well
        return ProviderFailed(Trouble.SERVER_ERROR, "the server broke off with an error")
    return failure_of(error.status_code, httpx.Headers())
