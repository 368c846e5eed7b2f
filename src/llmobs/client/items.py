"""What is asked: texts with what is known of them, as the service's own request type."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from llmobs.domain.subject import Kind
from llmobs.http.schemas import NO_CONTEXT, DetectRequest

_HALF = re.compile("[\ud800-\udfff]")
"""Half a surrogate pair, which models do produce and no JSON can carry."""

Documents = Iterable[str | Mapping[str, Any]]


def item(
    text: str,
    *,
    query: str | None = None,
    documents: Documents | None = None,
    context: Mapping[str, Any] | None = None,
    kind: Kind | str = Kind.RESPONSE,
    policy: str | None = None,
) -> DetectRequest:
    """One text to screen. `query` and `documents` go into the context, over what it says of them.

    Half a surrogate pair becomes U+FFFD, so that offsets into the text stay true.
    """
    whole = dict(context or {})
    if query is not None:
        whole["query"] = query
    if documents is not None:
        whole["documents"] = list(documents)
    return DetectRequest(
        llm_response=_sound(text),
        context=msgspec.Raw(msgspec.json.encode(_sound(whole))) if whole else NO_CONTEXT,
        kind=Kind(kind),
        policy=policy,
    )


def _sound(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.isascii() else _HALF.sub("\ufffd", value)
    if isinstance(value, Mapping):
        return {_sound(key): _sound(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_sound(one) for one in value]
    return value
