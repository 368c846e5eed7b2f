"""Health, readiness, statistics and the front page."""

from typing import Any

import msgspec
from litestar import Request, Response, get

from llmobs import __version__
from llmobs.domain.access import EVERYTHING, Need
from llmobs.domain.interval import wilson
from llmobs.domain.traffic import TrafficView, judge_traffic
from llmobs.errors import StoreUnavailable
from llmobs.http.access import needs, principal_of
from llmobs.http.schemas import (
    Check,
    ClassPrecision,
    Health,
    Liveness,
    Readiness,
    Stats,
    TierDistribution,
    TrafficHealth,
    Welcome,
)
from llmobs.http.services import services

AnyRequest = Request[Any, Any, Any]

_encode = msgspec.json.Encoder().encode


def _json(body: Any, status: int = 200) -> Response[bytes]:
    return Response(_encode(body), status_code=status, media_type="application/json")


def _distribution(traffic: TrafficView) -> TierDistribution:
    first, second, third = traffic.percentages
    return TierDistribution(tier1_pct=first, tier2_pct=second, tier3_pct=third)


@get("/", opt=needs(Need.PUBLIC))
async def welcome() -> Response[bytes]:
    """What answers here."""
    return _json(Welcome(service="llmobs", version=__version__, status="running", docs="/docs"))


@get("/health", opt=needs(Need.PUBLIC))
async def health(request: AnyRequest) -> Response[bytes]:
    """How the service is. An odd day of traffic is a message, never a failed probe."""
    parts = services(request)
    try:
        traffic = judge_traffic(await parts.logs.counts(EVERYTHING))
    except StoreUnavailable:
        nothing = TierDistribution(tier1_pct=0.0, tier2_pct=0.0, tier3_pct=0.0)
        return _json(
            Health(
                status="unhealthy", tier_distribution=nothing, health_message="The database does not answer."
            ),
            503,
        )
    refused = [f"{book.name}: {book.refused}" for book in parts.books if book.refused]
    message = traffic.message if not refused else "A changed folder is refused. " + " ".join(refused)
    healthy = traffic.is_healthy and not refused
    return _json(
        Health(
            status="healthy" if healthy else "degraded",
            tier_distribution=_distribution(traffic),
            health_message=message,
        )
    )


@get("/health/live", opt=needs(Need.PUBLIC))
async def live() -> Response[bytes]:
    """The process answers."""
    return _json(Liveness(status="alive"))


@get("/health/ready", opt=needs(Need.PUBLIC))
async def ready(request: AnyRequest) -> Response[bytes]:
    """Whether requests may be sent here: not while shutting down, nor with anything required amiss."""
    if services(request).lifecycle.on_notice:
        # Said at once: the other checks may wait for a database, and nothing that they say would matter.
        ending = Check(name="lifecycle", ok=False, detail="shutting down; requests are still answered")
        return _json(Readiness(ready=False, checks=(ending,)), 503)
    checks = await services(request).checks()
    is_ready = all(check.ok or not check.required for check in checks)
    return _json(Readiness(ready=is_ready, checks=checks), 200 if is_ready else 503)


@get(["/metrics/stats", "/v1/stats"], opt=needs(Need.LOGS_READ))
async def stats(request: AnyRequest) -> Response[bytes]:
    """Counts from the database, and what feedback says of each class."""
    parts, view = services(request), principal_of(request).view
    counts = await parts.logs.counts(view)
    tallies = await parts.opinions.tallies(view)
    traffic = judge_traffic(counts)
    return _json(
        Stats(
            total_detections=counts.total,
            tier1_count=counts.tier1,
            tier2_count=counts.tier2,
            tier3_count=counts.tier3,
            distribution=_distribution(traffic),
            health=TrafficHealth(is_healthy=traffic.is_healthy, message=traffic.message),
            feedback=tuple(
                ClassPrecision(
                    failure_class=tally.failure_class,
                    flagged=tally.flagged,
                    right=tally.right,
                    precision=wilson(tally.right, tally.flagged),
                    missed=tally.missed,
                )
                for tally in tallies
            ),
        )
    )


@get("/metrics", opt=needs(Need.METRICS_READ))
async def metrics(request: AnyRequest) -> Response[bytes]:
    """Prometheus text format."""
    return Response(
        services(request).telemetry.exposition(), media_type="text/plain; version=1.0.0; charset=utf-8"
    )
