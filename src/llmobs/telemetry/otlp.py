"""OTLP export of traces and metrics, by the standard `OTEL_*` variables. Without them nothing leaves.

The SDK and its exporters read most of the variables themselves: endpoints, headers, certificates,
timeouts, compression, sampler, batch sizes, export interval, temporality, resource. Here it is
decided whether there is anything to export, and over which protocol.
"""

from collections.abc import Mapping
from uuid import uuid4

import msgspec
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Tracer

from llmobs import __version__
from llmobs.errors import SettingsInvalid
from llmobs.telemetry.instruments import SCOPE

HTTP, GRPC = "http/protobuf", "grpc"


def wanted(environ: Mapping[str, str], signal: str) -> bool:
    """Whether `TRACES` or `METRICS` are to be exported. SettingsInvalid for an exporter that is not here.

    Where `OTEL_TRACES_EXPORTER` does not say, an endpoint does; the specification's default, to export to
    localhost, would have every installation knock at a door that nobody told it of.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    variable = f"OTEL_{signal}_EXPORTER"
    named = {name.strip().lower() for name in environ.get(variable, "").split(",") if name.strip()}
    # Prometheus scrapes /metrics in any case.
    unknown = named - {"otlp", "none", "prometheus"}
    if unknown:
        raise SettingsInvalid(f"{variable}: {', '.join(sorted(unknown))} is not here; use otlp or none")
    if named:
        return "otlp" in named
    return any(
        environ.get(name, "").strip()
        for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", f"OTEL_EXPORTER_OTLP_{signal}_ENDPOINT")
    )


def protocol(environ: Mapping[str, str], signal: str) -> str:
    """`http/protobuf` or `grpc`. SettingsInvalid for another."""
    for variable in (f"OTEL_EXPORTER_OTLP_{signal}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        given = environ.get(variable, "").strip().lower()
        if given in {HTTP, GRPC}:
            return given
        if given:
            raise SettingsInvalid(f"{variable}: {given} is not here; use {HTTP} or {GRPC}")
    return HTTP


def resource() -> Resource:
    """Who exports. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win over our own words."""
    own = {"service.name": SCOPE, "service.version": __version__, "service.instance.id": str(uuid4())}
    return Resource.create(own | dict(OTELResourceDetector().detect().attributes))


class Tracing(msgspec.Struct, frozen=True):
    """The tracer that the service's spans come from."""

    tracer: Tracer
    provider: TracerProvider

    def close(self) -> None:
        """Send what waits, then stop. Blocks for as long as the exporter's timeout."""
        self.provider.shutdown()


def tracing_from(environ: Mapping[str, str], who: Resource) -> Tracing | None:
    """Tracing as the environment wants it, or None where no span is to be made."""
    if not wanted(environ, "TRACES"):
        return None
    provider = TracerProvider(resource=who)
    provider.add_span_processor(BatchSpanProcessor(_span_exporter(protocol(environ, "TRACES"))))
    return Tracing(tracer=provider.get_tracer(SCOPE, __version__), provider=provider)


def metric_exporter_from(environ: Mapping[str, str]) -> MetricExporter | None:
    """What pushes metrics, or None where none are to be pushed."""
    if not wanted(environ, "METRICS"):
        return None
    if protocol(environ, "METRICS") == GRPC:
        try:
            from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import (  # noqa: PLC0415
                OTLPMetricExporter as OverGrpc,
            )
        except ImportError:
            raise _no_grpc() from None
        return OverGrpc()
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import (  # noqa: PLC0415
        OTLPMetricExporter as OverHttp,
    )

    return OverHttp()


def _span_exporter(over: str) -> SpanExporter:
    # Imported where it is used: an installation that exports nothing should not pay for it at start.
    if over == GRPC:
        try:
            from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (  # noqa: PLC0415
                OTLPSpanExporter as OverGrpc,
            )
        except ImportError:
            raise _no_grpc() from None
        return OverGrpc()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
        OTLPSpanExporter as OverHttp,
    )

    return OverHttp()


def _no_grpc() -> SettingsInvalid:
    return SettingsInvalid("OTLP over gRPC is not installed; use http/protobuf, or install llmobs[otlp-grpc]")
