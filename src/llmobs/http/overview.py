"""GET /v1/overview: what came through in a span of time, from the database."""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from msgspec import Meta

from llmobs.domain.access import Need
from llmobs.domain.risk import Action
from llmobs.domain.traffic import EXPECTED
from llmobs.errors import ParameterInvalid
from llmobs.http.access import needs, principal_of
from llmobs.http.services import services
from llmobs.store.summary import Groups, Key, Slice, quantile_ms

SPANS = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "1d": timedelta(days=1),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
}
ENOUGH = 20
"""Verdicts that a slice must hold before its block rate counts towards the usual range."""
FEWEST_SLICES = 5

AnyRequest = Request[Any, Any, Any]


class SliceCounts(msgspec.Struct, frozen=True, kw_only=True):
    """A sixtieth of the span."""

    begins: datetime
    total: int
    blocked: int


class TierFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What ended in one tier. Shares are in percent, latencies in milliseconds, true to a latency class."""

    tier: int
    count: int
    share: float
    expected_low: float
    expected_high: float
    p50_ms: float | None
    p95_ms: float | None


class UsualRange(msgspec.Struct, frozen=True, kw_only=True):
    """Between which percentages the block rate lay in nine tenths of the slices before the newest."""

    low: float
    high: float


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """What came through in a span of time."""

    span: str
    total: int
    blocked: int
    block_rate: Annotated[float, Meta(description="Percent.")]
    usual_block_rate: Annotated[
        UsualRange | None, Meta(description="Null where there is too little history.")
    ]
    actions: dict[str, int]
    classes: Annotated[dict[str, int], Meta(description="By deciding failure class, most frequent first.")]
    tiers: tuple[TierFigures, ...]
    slices: Annotated[tuple[SliceCounts, ...], Meta(description="Oldest first; the last is not over.")]


@get("/v1/overview", opt=needs(Need.LOGS_READ))
async def overview(request: AnyRequest) -> Response[bytes]:
    """What came through in the last `span`, as far as the caller may see it."""
    span = span_of(request)
    slices = await services(request).logs.slices(principal_of(request).view, SPANS[span], datetime.now(UTC))
    return Response(written(span, slices), media_type="application/json")


def span_of(request: AnyRequest) -> str:
    """The span that the query asks for. ParameterInvalid where it is none of ours."""
    given = list(request.query_params.multi_items())
    span: str = dict(given).get("span", "1d")
    if span not in SPANS or len(given) > 1 or (given and given[0][0] != "span"):
        raise ParameterInvalid(f"The only parameter is span, one of {', '.join(SPANS)}.")
    return span


def written(span: str, slices: list[Slice]) -> bytes:
    """The overview as JSON."""
    return msgspec.json.encode(_overview(span, slices))


def _overview(span: str, slices: list[Slice]) -> Overview:
    every: Counter[Key] = Counter()
    for one in slices:
        every.update(one.groups)
    total, blocked = every.total(), _blocked(every)
    classes = _by(every, lambda key: key[1])
    return Overview(
        span=span,
        total=total,
        blocked=blocked,
        block_rate=round(100 * blocked / total, 3) if total else 0.0,
        usual_block_rate=_usual(slices[:-1]),
        actions={action.value: _by(every, lambda key: key[0]).get(action.value, 0) for action in Action},
        classes={name: count for name, count in classes.most_common() if name is not None},
        tiers=tuple(_tier(every, tier, total) for tier in (1, 2, 3)),
        slices=tuple(
            SliceCounts(begins=one.begins, total=sum(one.groups.values()), blocked=_blocked(one.groups))
            for one in slices
        ),
    )


def _by(groups: Groups, name: Callable[[Key], Any]) -> Counter[Any]:
    found: Counter[Any] = Counter()
    for key, count in groups.items():
        found[name(key)] += count
    return found


def _blocked(groups: Groups) -> int:
    return sum(count for key, count in groups.items() if key[0] == Action.BLOCK)


def _tier(groups: Groups, tier: int, total: int) -> TierFigures:
    latencies: Counter[int] = Counter()
    for (_, _, number, slow), count in groups.items():
        if number == tier:
            latencies[slow] += count
    count = latencies.total()
    low, high = EXPECTED[tier - 1]
    return TierFigures(
        tier=tier,
        count=count,
        share=round(100 * count / total, 2) if total else 0.0,
        expected_low=low,
        expected_high=high,
        p50_ms=_rounded(quantile_ms(latencies, 0.5)),
        p95_ms=_rounded(quantile_ms(latencies, 0.95)),
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _usual(slices: Iterable[Slice]) -> UsualRange | None:
    rates = sorted(
        100 * _blocked(one.groups) / count for one in slices if (count := sum(one.groups.values())) >= ENOUGH
    )
    if len(rates) < FEWEST_SLICES:
        return None
    last = len(rates) - 1
    return UsualRange(low=round(rates[round(0.05 * last)], 2), high=round(rates[round(0.95 * last)], 2))
