"""Any server that speaks the OpenAI chat protocol, Groq among them."""

import email.utils
import time
from typing import Any

import httpx
import msgspec

from llmobs.detect.tier3_judge.provider import (
    MAX_REPLY_BYTES,
    Ask,
    Completion,
    ProviderFailed,
    Trouble,
)

MAX_LIST_BYTES = 4_194_304
FORMS = 4
_LIMITS = ("maxLength", "minimum", "maximum")


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Tokens(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Answer(msgspec.Struct):
    choices: tuple[_Choice, ...]
    usage: _Tokens | None = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: tuple[_Model, ...]


class OpenAIProvider:
    """One model behind `{base_url}/chat/completions`.

    Servers differ in how much of JSON Schema they take. The first form that a server does not
    answer with 400 stays in use: the full schema, the schema without limits, any JSON object, free text.
    The reply is held to the schema in any case.
    """

    def __init__(
        self,
        *,
        name: str,
        base_url: str,
        model: str,
        api_key: str = "",
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self._form = 0
        self._client = client or httpx.AsyncClient(
            base_url=base_url.rstrip("/") + "/",
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            timeout=httpx.Timeout(None, connect=5.0),  # the caller's deadline bounds the rest
        )

    async def complete(self, ask: Ask) -> Completion:
        """One completion; see `Provider`."""
        refused = ProviderFailed(Trouble.REFUSED, "the server takes no form of reply")
        for form in range(self._form, FORMS):
            try:
                raw = await self._exchange(
                    "POST", "chat/completions", MAX_REPLY_BYTES, _request(self.model, ask, form)
                )
            except _BadRequest as error:
                refused = error
                continue
            self._form = form
            return _completion(raw)
        raise refused

    async def probe(self) -> str:
        """Look for the model in the server's list; a server without a list is only seen to answer."""
        try:
            raw = await self._exchange("GET", "models", MAX_LIST_BYTES)
        except _NotFound:
            return f"answers; it lists no models, so {self.model} is not checked"
        try:
            known = {model.id for model in msgspec.json.decode(raw, type=_Models).data}
        except msgspec.DecodeError:
            raise ProviderFailed(Trouble.MALFORMED, "the list of models is not readable") from None
        if self.model not in known:
            raise ProviderFailed(Trouble.REFUSED, f"the server has no model {self.model}")
        return f"{self.model} is there"

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _exchange(self, method: str, path: str, most: int, body: Any = None) -> bytes:
        """The body of a good answer, at most `most` bytes of it."""
        try:
            request = self._client.build_request(
                method,
                path,
                content=None if body is None else msgspec.json.encode(body),
                headers=None if body is None else {"content-type": "application/json"},
            )
            answer = await self._client.send(request, stream=True)
            try:
                if answer.status_code != 200:
                    raise failure_of(answer.status_code, answer.headers)
                received = bytearray()
                async for chunk in answer.aiter_bytes():
                    received += chunk
                    if len(received) > most:
                        raise ProviderFailed(Trouble.TOO_LONG, f"the answer is longer than {most} bytes")
                return bytes(received)
            finally:
                await answer.aclose()
        except httpx.HTTPError as error:
            raise transport_failure(error) from None


class _BadRequest(ProviderFailed):
    """400 or 422: perhaps the form of the reply is more than the server knows."""


class _NotFound(ProviderFailed):
    """404."""


def failure_of(status: int, headers: httpx.Headers) -> ProviderFailed:
    """The failure that an HTTP status other than 200 means."""
    said = f"the server answered {status}"
    if status == 429:
        return ProviderFailed(Trouble.RATE_LIMITED, said, retry_after=retry_after(headers))
    if status in {400, 422}:
        return _BadRequest(Trouble.REFUSED, said)
    if status == 404:
        return _NotFound(Trouble.REFUSED, said)
    if status >= 500 or status == 408:
        return ProviderFailed(Trouble.SERVER_ERROR, said, retry_after=retry_after(headers))
    return ProviderFailed(Trouble.REFUSED, said)


def transport_failure(error: httpx.HTTPError) -> ProviderFailed:
    """The failure below HTTP; the class name only, for messages may hold addresses."""
    if isinstance(error, httpx.TimeoutException):
        return ProviderFailed(Trouble.TIMEOUT, "no answer in time")
    if isinstance(error, httpx.DecodingError | httpx.RemoteProtocolError):
        return ProviderFailed(Trouble.CONNECTION, f"the connection broke ({type(error).__name__})")
    return ProviderFailed(Trouble.CONNECTION, f"no connection ({type(error).__name__})")


def retry_after(headers: httpx.Headers) -> float | None:
    """Seconds in a `Retry-After` header, given as seconds or as a date; None when there is none."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.replace(".", "", 1).isdigit() and value.isascii():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return None


def _request(model: str, ask: Ask, form: int) -> dict[str, Any]:
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            {"role": "system", "content": ask.system},
            {"role": "user", "content": ask.user},
        ],
        "temperature": ask.temperature,
        "max_tokens": ask.max_tokens,
        "stream": False,
    }
    response_format = _response_format(ask, form)
    return body if response_format is None else body | {"response_format": response_format}


def _response_format(ask: Ask, form: int) -> dict[str, Any] | None:
    match form:
        case 0 | 1:
            schema = ask.schema if form == 0 else without_limits(ask.schema)
            return {
                "type": "json_schema",
                "json_schema": {"name": "verdicts", "strict": True, "schema": schema},
            }
        case 2:
            return {"type": "json_object"}
        case _:
            return None


def without_limits(schema: Any) -> Any:
    """The schema without the keywords that some servers refuse in strict mode."""
    if isinstance(schema, dict):
        return {key: without_limits(value) for key, value in schema.items() if key not in _LIMITS}
    if isinstance(schema, list):
        return [without_limits(item) for item in schema]
    return schema


def _completion(raw: bytes) -> Completion:
    try:
        answer = msgspec.json.decode(raw, type=_Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise ProviderFailed(Trouble.MALFORMED, "the answer is not a chat completion") from None
    if not answer.choices or answer.choices[0].message.content is None:
        raise ProviderFailed(Trouble.MALFORMED, "the answer holds no text")
    choice = answer.choices[0]
    if choice.finish_reason == "length":
        raise ProviderFailed(Trouble.TOO_LONG, "the reply was cut off at its token limit")
    used = answer.usage or _Tokens()
    return Completion(
        text=choice.message.content or "",
        input_tokens=used.prompt_tokens,
        output_tokens=used.completion_tokens,
    )
