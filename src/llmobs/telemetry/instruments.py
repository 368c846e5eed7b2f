"""Every metric is declared here, with its unit and its bounded attributes.

Counters and histograms are kept as plain tallies and read by the SDK at collection: a tally costs
0.1 to 0.5 µs where a synchronous instrument costs 10, on a path of which all of tier 1 takes 50.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from operator import add
from threading import get_ident
from time import time_ns
from typing import Any, NamedTuple

from opentelemetry import trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk import metrics as sdk
from opentelemetry.sdk.metrics import Exemplar, MeterProvider
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Histogram,
    HistogramDataPoint,
    MetricExporter,
    MetricReader,
    MetricsData,
    PeriodicExportingMetricReader,
    ResourceMetrics,
    ScopeMetrics,
)
from opentelemetry.sdk.metrics.export import Metric as MetricStream
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

from llmobs import __version__
from llmobs.by_identity import ByIdentity
from llmobs.domain.detection import Failed, Ran, Report
from llmobs.domain.risk import Action
from llmobs.domain.verdict import Verdict
from llmobs.telemetry.ledger import Kept, Ledger

SCOPE = "llmobs"
"""Instrumentation scope of all that is declared here."""


_ACROSS: dict[str, Callable[[float, float], float]] = {"sum": add, "max": max, "min": min}


class Metric(NamedTuple):
    """A declared metric; `exported` is its name at /metrics."""

    name: str
    kind: str
    unit: str
    attributes: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()
    across: str = "sum"
    """What one scrape shows of a gauge that several workers have: their sum, max or min."""

    @property
    def exported(self) -> str:
        """The name that Prometheus sees."""
        suffix = {"s": "_seconds", "By": "_bytes"}.get(self.unit, "")
        return self.name.replace(".", "_") + suffix + ("_total" if self.kind == "counter" else "")


_FAST = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)

METRICS = {
    metric.name: metric
    for metric in (
        Metric("http_requests", "counter", "", ("method", "path", "status"), "HTTP requests answered."),
        Metric(
            "http_request_duration",
            "histogram",
            "s",
            ("method", "path"),
            "Time to answer an HTTP request.",
            _FAST,
        ),
        Metric("detection_tier", "counter", "", ("tier",), "Verdicts by the highest tier that looked."),
        Metric("detection_blocked", "counter", "", (), "Verdicts that block."),
        Metric("detection_action", "counter", "", ("policy", "action"), "Verdicts by policy and action."),
        Metric(
            "detection_class",
            "counter",
            "",
            ("policy", "failure_class", "action"),
            "Verdicts beyond allow, by policy and the class that decided.",
        ),
        Metric(
            "detection_degraded", "counter", "", (), "Verdicts in which a failure left an open class unheard."
        ),
        Metric(
            "detection_processing_time",
            "histogram",
            "s",
            ("tier",),
            "Time from reading the text to the decision, the record not counted.",
            _FAST,
        ),
        Metric(
            "detector_reports",
            "counter",
            "",
            ("tier", "detector", "status"),
            "What detectors did: ran, skipped, failed, timed_out, cached (looked at an equal request before).",
        ),
        Metric("rule_hits", "counter", "", ("rule", "trial"), "Texts that a rule hit."),
        Metric(
            "journal_batch_rows",
            "histogram",
            "",
            (),
            "Verdicts written in one transaction.",
            (1, 2, 5, 10, 20, 50, 100, 200, 500),
        ),
        Metric("journal_commit", "histogram", "s", (), "Time of one transaction.", _FAST),
        Metric("journal_pending", "gauge", "", (), "Verdicts waiting for the database."),
        Metric(
            "result_cache_lookups",
            "counter",
            "",
            ("result",),
            "Texts looked up among the verdicts that are known: hit, miss.",
        ),
        Metric("result_cache_evictions", "counter", "", (), "Known verdicts given up for newer ones."),
        Metric("result_cache_size", "gauge", "By", (), "Estimated size of the known verdicts in memory."),
        Metric(
            "rows_deleted",
            "counter",
            "",
            ("table", "reason"),
            "Rows deleted by the service: verdicts, feedback, idempotency_keys, judgements; by retention or erasure.",
        ),
        Metric(
            "rows_kept",
            "gauge",
            "",
            ("table",),
            "Rows in the database: verdicts. Counted every minute; what is deleted of those older than a month shows within "
            "two hours.",
            across="max",
        ),
        Metric("journal_failures", "counter", "", ("reason",), "Transactions that failed."),
        Metric(
            "spool_size", "gauge", "By", (), "Size of the spool of verdicts that the database has not taken."
        ),
        Metric(
            "gen_ai.client.operation.duration",
            "histogram",
            "s",
            ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "error.type"),
            "Time of one call of the judge to a language model.",
            (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92),
        ),
        Metric(
            "gen_ai.client.token.usage",
            "histogram",
            "{token}",
            ("gen_ai.operation.name", "gen_ai.provider.name", "gen_ai.request.model", "gen_ai.token.type"),
            "Tokens of one call, input and output apart.",
            (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536),
        ),
        Metric(
            "judge_cost_usd",
            "counter",
            "",
            ("provider", "model"),
            "Estimated US dollars spent on the judge, by the configured prices.",
        ),
        Metric(
            "judge_lookups",
            "counter",
            "",
            ("result",),
            "Questions to the judge by where the answer came from: memory, database, shared (an equal "
            "question was under way), miss.",
        ),
        Metric(
            "judge_failovers",
            "counter",
            "",
            ("provider", "reason"),
            "Calls that went on to the next provider, by the one that failed or was slow.",
        ),
        Metric(
            "judge_refusals",
            "counter",
            "",
            ("reason",),
            "Questions that were not asked: a budget is spent, or the queue is full.",
        ),
        Metric(
            "judge_bad_replies",
            "counter",
            "",
            ("outcome",),
            "Replies that did not hold the form: repaired by asking again, or given up.",
        ),
        Metric(
            "judge_quotes_dropped", "counter", "", (), "Quotations of the judge that the text does not hold."
        ),
        Metric(
            "judge_lowerings_refused",
            "counter",
            "",
            (),
            "Scores that were not lowered, because the judge did not see the control sentence.",
        ),
        Metric(
            "judge_breaker_state",
            "gauge",
            "",
            ("provider",),
            "State of a provider's breaker: 0 closed, 1 half-open, 2 open.",
            across="max",
        ),
        Metric("judge_breaker_moves", "counter", "", ("provider", "state"), "Breakers' changes of state."),
        Metric("judge_in_flight", "gauge", "", (), "Calls of the judge that are out now."),
        Metric(
            "configuration_refused",
            "gauge",
            "",
            ("book",),
            "1 while a changed folder is refused, else 0.",
            across="max",
        ),
        Metric(
            "requests_shed",
            "counter",
            "",
            ("reason",),
            "Requests refused with 503 at the door, which have no log line: queue, in_flight, journal, batch.",
        ),
        Metric(
            "requests_limited",
            "counter",
            "",
            ("reason",),
            "Requests refused with 429: rate (the burst of ten seconds), quota (the hour's requests), batch_texts (the "
            "hour's texts in batches), sign-in (wrong credentials on the page).",
        ),
        Metric("requests_in_flight", "gauge", "", (), "Requests of one text that are not answered yet."),
        Metric("texts_waiting", "gauge", "", (), "Texts that wait for their turn to be examined."),
        Metric("journal_capacity", "gauge", "", (), "Verdicts that may wait for the database."),
        Metric("spool_capacity", "gauge", "By", (), "Largest size of the spool."),
        Metric(
            "rules_loaded",
            "gauge",
            "",
            ("origin",),
            "Rules in force: builtin, and own of your folder.",
            across="min",
        ),
        Metric(
            "detection_tier_ready",
            "gauge",
            "",
            ("tier",),
            "1 while the tier has what it works with, looked at in each scrape: 1 its rules, 2 its trained "
            "files, 3 a provider that answers. None for a tier that is switched off.",
            across="min",
        ),
        Metric(
            "llmobs_canary_success",
            "gauge",
            "",
            ("tier", "detector", "failure_class", "sample"),
            "1 if the detector told the known sample (bad or good) rightly when it was last sent, else 0.",
            across="min",
        ),
        Metric(
            "llmobs_canary_age",
            "gauge",
            "s",
            ("tier",),
            "Time since a known sample was last sent through the tier, or since the start.",
            across="max",
        ),
    )
}


MOST_REPEATED = 1000
"""Repeated verdicts of which it is known what they count."""


class Distribution:
    """One histogram's tally for one set of attributes."""

    __slots__ = ("_bounds", "counts", "greatest", "least", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """How many values each bucket holds, the one beyond the last bound included."""
        self.total = 0.0
        self.least = float("inf")
        self.greatest = float("-inf")

    def record(self, value: float) -> None:
        """Count a value; a bucket holds its upper bound, as OpenTelemetry has it."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value
        self.least = min(self.least, value)
        self.greatest = max(self.greatest, value)

    def add(self, numbers: Sequence[float]) -> None:
        """Add another's: total, least, greatest, then its buckets."""
        self.total += numbers[0]
        self.least = min(self.least, numbers[1])
        self.greatest = max(self.greatest, numbers[2])
        self.counts = [mine + int(theirs) for mine, theirs in zip(self.counts, numbers[3:], strict=True)]


class SharedDistribution(Distribution):
    """One whose numbers stand in the ledger: total, least, greatest, then the buckets."""

    __slots__ = ("_cells",)

    def __init__(self, bounds: Sequence[float], cells: "memoryview[float]") -> None:
        super().__init__(bounds)
        self._cells = cells
        if any(cells[3:]):
            self.add(cells.tolist())
        else:
            cells[1], cells[2] = self.least, self.greatest

    def record(self, value: float) -> None:
        """See Distribution."""
        super().record(value)
        cells = self._cells
        cells[3 + bisect_left(self._bounds, value)] += 1
        cells[0], cells[1], cells[2] = self.total, self.least, self.greatest


class Histograms:
    """The histograms' tallies, and what an SDK reader exports of them."""

    def __init__(self, metrics: Iterable[Metric], ledger: Ledger | None = None) -> None:
        self._metrics = tuple(metrics)
        self._ledger = ledger
        self._tallies: dict[str, dict[tuple[str, ...], Distribution]] = {
            metric.name: {} for metric in self._metrics
        }
        self._bounds = {metric.name: metric.buckets for metric in self._metrics}
        self._started = time_ns()
        if ledger is not None:  # what a worker before us counted in this slot
            for entry, _ in list(ledger.own("histogram")):
                self._tallies[entry[1]][entry[2:]] = self._new(entry[1], entry[2:])

    def _new(self, name: str, attributes: tuple[str, ...]) -> Distribution:
        bounds = self._bounds[name]
        if self._ledger is None:
            return Distribution(bounds)
        return SharedDistribution(
            bounds, self._ledger.cells(("histogram", name, *attributes), len(bounds) + 4)
        )

    def _all_workers(self) -> dict[str, dict[tuple[str, ...], Distribution]]:
        """The tallies of all workers together."""
        assert self._ledger is not None  # noqa: S101  # asked only where there is one
        summed: dict[str, dict[tuple[str, ...], Distribution]] = {name: {} for name in self._tallies}
        for name, tally in self._tallies.items():
            for attributes, own in list(tally.items()):
                summed[name][attributes] = Distribution(self._bounds[name])
                summed[name][attributes].add([own.total, own.least, own.greatest, *own.counts])
        for entry, numbers, _ in self._ledger.others("histogram"):
            name, key = entry[1], entry[2:]
            if key not in summed[name]:
                summed[name][key] = Distribution(self._bounds[name])
            summed[name][key].add(numbers)
        return summed

    def record(self, name: str, attributes: tuple[str, ...], value: float) -> None:
        """Count a value of the histogram `name`; the attributes in the order of its declaration."""
        tally = self._tallies[name]
        found = tally.get(attributes)
        if found is None:
            found = tally[attributes] = self._new(name, attributes)
        found.record(value)

    def exemplars(self, name: str, attributes: tuple[str, ...]) -> list[Exemplar]:
        """Spans in which values were counted; none here."""
        return []

    def beside(self, collected: MetricsData | None, *, pushed: "Pushed | None" = None) -> MetricsData | None:
        """What a reader collected, with the histograms in the same scope.

        `pushed`: for a reader that pushes, which wants exemplars and perhaps only what is new.
        """
        if collected is None:  # without any instrument that answered
            return None
        now = time_ns()
        # What is pushed names its process; a scrape reaches one worker and must speak for all.
        tallies = self._tallies if self._ledger is None or pushed is not None else self._all_workers()
        streams = [
            self._stream(metric, tallies[metric.name], now, pushed)
            for metric in self._metrics
            if tallies[metric.name]
        ]
        return MetricsData(
            [
                ResourceMetrics(
                    resource=resource.resource,
                    scope_metrics=[
                        ScopeMetrics(
                            scope=scope.scope,
                            metrics=[*scope.metrics, *streams],
                            schema_url=scope.schema_url,
                        )
                        if scope.scope.name == SCOPE
                        else scope
                        for scope in resource.scope_metrics
                    ],
                    schema_url=resource.schema_url,
                )
                for resource in collected.resource_metrics
            ]
        )

    def _stream(
        self,
        metric: Metric,
        tally: dict[tuple[str, ...], Distribution],
        now: int,
        pushed: "Pushed | None",
    ) -> MetricStream:
        points = [
            HistogramDataPoint(
                attributes=dict(zip(metric.attributes, key, strict=True)),
                start_time_unix_nano=self._started,
                time_unix_nano=now,
                count=sum(counts),
                sum=found.total,
                bucket_counts=counts,
                explicit_bounds=metric.buckets,
                min=found.least,
                max=found.greatest,
                exemplars=[] if pushed is None else self.exemplars(metric.name, key),
            )
            for key, found in list(tally.items())
            for counts in [found.counts.copy()]
        ]
        temporality = AggregationTemporality.CUMULATIVE
        if pushed is not None and pushed.only_new:
            temporality = AggregationTemporality.DELTA
            points = [pushed.new(metric.name, point) for point in points]
        data = Histogram(data_points=points, aggregation_temporality=temporality)
        return MetricStream(name=metric.name, description=metric.meaning, unit=metric.unit, data=data)


class ExemplaryHistograms(Histograms):
    """Histograms that remember, a bucket, the span in which a value was last counted."""

    def __init__(self, metrics: Iterable[Metric], ledger: Ledger | None = None) -> None:
        super().__init__(metrics, ledger)
        self._exemplars: dict[tuple[str, tuple[str, ...]], dict[int, Exemplar]] = {}

    def record(self, name: str, attributes: tuple[str, ...], value: float) -> None:
        """See Histograms."""
        super().record(name, attributes, value)
        span = trace.get_current_span().get_span_context()
        if span.trace_flags.sampled:
            bucket = bisect_left(self._bounds[name], value)
            self._exemplars.setdefault((name, attributes), {})[bucket] = Exemplar(
                {}, value, time_ns(), span.span_id, span.trace_id
            )

    def exemplars(self, name: str, attributes: tuple[str, ...]) -> list[Exemplar]:
        """Those since they were last asked for."""
        return list(self._exemplars.pop((name, attributes), {}).values())


class _Reader(PrometheusMetricReader):
    """The SDK's reader, which gets our histograms beside what its own instruments say."""

    def __init__(self, histograms: Histograms, registry: CollectorRegistry) -> None:
        super().__init__(disable_target_info=True, scope_info_enabled=False, registry=registry)
        self._histograms = histograms

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> None:
        told = self._histograms.beside(metrics_data)
        if told is not None:
            super()._receive_metrics(told, timeout_millis, **kwargs)


class Pushed:
    """What a pushing reader sent before, where it sends only what is new since."""

    def __init__(self, *, only_new: bool) -> None:
        self.only_new = only_new
        self._sent: dict[tuple[str, tuple[tuple[str, Any], ...]], HistogramDataPoint] = {}

    def new(self, name: str, point: HistogramDataPoint) -> HistogramDataPoint:
        """The point less what was sent of it before."""
        key = (name, tuple((point.attributes or {}).items()))
        before, self._sent[key] = self._sent.get(key), point
        if before is None:
            return point
        counts = [now - then for now, then in zip(point.bucket_counts, before.bucket_counts, strict=True)]
        return replace(
            point,
            start_time_unix_nano=before.time_unix_nano,
            count=point.count - before.count,
            sum=point.sum - before.sum,
            bucket_counts=counts,
        )


class _Pusher(PeriodicExportingMetricReader):
    """Pushes all metrics at the interval that `OTEL_METRIC_EXPORT_INTERVAL` gives."""

    def __init__(self, histograms: Histograms, exporter: MetricExporter) -> None:
        # What the SDK's reader looks at as well; set before its thread starts.
        preferred = exporter._preferred_temporality or {}  # noqa: SLF001
        delta = AggregationTemporality.DELTA
        self._pushed = Pushed(only_new=preferred.get(sdk.Histogram) is delta)
        self._histograms = histograms
        super().__init__(exporter)

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any
    ) -> None:
        told = self._histograms.beside(metrics_data, pushed=self._pushed)
        if told is not None:
            super()._receive_metrics(told, timeout_millis, **kwargs)


class Telemetry:
    """The instruments of one process."""

    def __init__(
        self,
        *,
        resource: Resource | None = None,
        pushed_by: MetricExporter | None = None,
        exemplars: bool = False,
        ledger: Ledger | None = None,
    ) -> None:
        """`pushed_by` gets all metrics at an interval; `exemplars` where spans are made.

        With a `ledger` a scrape shows the sum over all workers that share its folder.
        """
        self._registry = CollectorRegistry()
        self._ledger = ledger
        self._scraping: int | None = None
        """The thread that answers a scrape, while it does: what it reads is all workers'."""
        self._elsewhere: dict[tuple[str, str], list[tuple[tuple[str, ...], Sequence[float]]]] = {}
        """What the other workers' slots hold during a scrape, by kind and metric."""
        self._shown: dict[tuple[str, ...], memoryview[float]] = {}
        if ledger is not None:
            for key, _ in list(ledger.own("gauge")):  # of the worker that had the slot before
                self._shown[key] = ledger.cells(key, 2)
                self._shown[key][1] = 0.0
        histograms = ExemplaryHistograms if exemplars else Histograms
        self._histograms = histograms(
            (metric for metric in METRICS.values() if metric.kind == "histogram"), ledger
        )
        readers: list[MetricReader] = [_Reader(self._histograms, self._registry)]
        if pushed_by is not None:
            readers.append(_Pusher(self._histograms, pushed_by))
        self._provider = MeterProvider(
            resource=resource or Resource.create({"service.name": "llmobs", "service.version": __version__}),
            metric_readers=readers,
        )
        meter = self._provider.get_meter(SCOPE, __version__)
        self._tallies: dict[str, dict[tuple[str, ...], float]] = {}
        self._labels: dict[tuple[int, str, type[Report], bool], tuple[str, str, str]] = {}
        """Of the reports met so far: what ran or was skipped, of which there are few."""
        self._repeated: ByIdentity[list[tuple[dict[tuple[str, ...], float], tuple[str, ...]]]] = ByIdentity(
            MOST_REPEATED
        )
        """What repeated verdicts add one to, by the reports that they share."""
        self.gauges: dict[str, Callable[[], Iterable[tuple[tuple[str, ...], float]]]] = {}
        """Where the gauges read their values; set by whoever owns the value."""
        for metric in METRICS.values():
            match metric.kind:
                case "counter":
                    self._tallies[metric.name] = (
                        defaultdict(float) if ledger is None else Kept(ledger, metric.name)
                    )
                    meter.create_observable_counter(
                        metric.name,
                        [self._tally_reader(metric)],
                        unit=metric.unit,
                        description=metric.meaning,
                    )
                case "gauge":
                    meter.create_observable_gauge(
                        metric.name,
                        [self._gauge_reader(metric)],
                        unit=metric.unit,
                        description=metric.meaning,
                    )
                case _:
                    pass  # histograms are tallied by `Histograms`
        # Present from the first scrape on, so that rates and absent-alerts work before traffic.
        for metric in METRICS.values():
            if metric.kind == "counter" and not metric.attributes:
                self._tallies[metric.name][()] += 0
        for tier in ("1", "2", "3"):
            self._tallies["detection_tier"][(tier,)] += 0
        for reason in ("queue", "in_flight", "journal", "batch"):
            self._tallies["requests_shed"][(reason,)] += 0
        for reason in ("rate", "quota", "batch_texts", "sign-in"):
            self._tallies["requests_limited"][(reason,)] += 0
        for table in ("verdicts", "feedback", "idempotency_keys", "judgements"):
            for reason in ("retention", "erasure"):
                self._tallies["rows_deleted"][table, reason] += 0

    def expect(self, policies: Iterable[str]) -> None:
        """Show these policies' actions from the first scrape on."""
        for policy in policies:
            for action in Action:
                self.count("detection_action", (policy, action.value), 0)

    def _tally_reader(self, metric: Metric) -> Callable[[CallbackOptions], Sequence[Observation]]:
        tally = self._tallies[metric.name]

        def read(_: CallbackOptions) -> Sequence[Observation]:
            values = dict(tally)
            if self._ledger is not None and self._scraping == get_ident():
                for key, numbers in self._elsewhere.get(("counter", metric.name), ()):
                    values[key] = values.get(key, 0.0) + numbers[0]
            return [
                Observation(value, dict(zip(metric.attributes, key, strict=True)))
                for key, value in values.items()
            ]

        return read

    def _gauge_reader(self, metric: Metric) -> Callable[[CallbackOptions], Sequence[Observation]]:
        def read(_: CallbackOptions) -> Sequence[Observation]:
            source = self.gauges.get(metric.name)
            if source is None:
                return ()
            values = dict(source())
            if self._ledger is not None and self._scraping == get_ident():
                merge = _ACROSS[metric.across]
                for key, numbers in self._elsewhere.get(("gauge", metric.name), ()):
                    if numbers[1]:
                        values[key] = merge(values[key], numbers[0]) if key in values else numbers[0]
            return [
                Observation(value, dict(zip(metric.attributes, key, strict=True)))
                for key, value in values.items()
            ]

        return read

    @property
    def is_shared(self) -> bool:
        """Whether other workers count beside this one."""
        return self._ledger is not None

    def publish_gauges(self) -> None:
        """Put the gauges where the other workers' scrapes find them; counts are there in any case."""
        if self._ledger is None:
            return
        for cells in self._shown.values():
            cells[1] = 0.0  # what is not told now is not there
        for name, source in self.gauges.items():
            for attributes, value in source():
                key = ("gauge", name, *attributes)
                if key not in self._shown:
                    self._shown[key] = self._ledger.cells(key, 2)
                self._shown[key][0], self._shown[key][1] = value, 1.0

    def request(self, method: str, path: str, status: int, seconds: float) -> None:
        """An HTTP request was answered; `path` is the route's template, never the path itself."""
        self._tallies["http_requests"][method, path, str(status)] += 1
        self._histograms.record("http_request_duration", (method, path), seconds)

    def verdict(self, verdict: Verdict) -> None:
        """A verdict was given."""
        counts = self._repeated.get(verdict.coverage) if verdict.repeated else None
        if counts is None:
            counts = self._counts_of(verdict)
            if verdict.repeated:
                self._repeated.put(verdict.coverage, counts)
        for tally, key in counts:
            tally[key] += 1
        self._histograms.record(
            "detection_processing_time", (str(verdict.decision.tier_used),), verdict.processing_time_ms / 1000
        )

    def _counts_of(self, verdict: Verdict) -> "list[tuple[dict[tuple[str, ...], float], tuple[str, ...]]]":
        """What the verdict adds one to."""
        tallies = self._tallies
        decision = verdict.decision
        action = decision.action.value
        counts: list[tuple[dict[tuple[str, ...], float], tuple[str, ...]]] = [
            (tallies["detection_tier"], (str(decision.tier_used),)),
            (tallies["detection_action"], (verdict.policy_id, action)),
        ]
        if decision.action is Action.BLOCK:
            counts.append((tallies["detection_blocked"], ()))
        if decision.failure_class is not None:
            counts.append((tallies["detection_class"], (verdict.policy_id, decision.failure_class, action)))
        if decision.degraded:
            counts.append((tallies["detection_degraded"], ()))
        reports = tallies["detector_reports"]
        for report in verdict.coverage:
            kind = type(report)
            key = (report.tier, report.detector, kind, isinstance(report, Ran) and report.cached)
            labels = self._labels.get(key)
            if labels is None:
                labels = (str(report.tier), report.detector, _status(report))
                if kind is not Failed:  # there are two ways to fail
                    self._labels[key] = labels
            counts.append((reports, labels))
        if decision.evidence:
            for source, trial in {(piece.source, piece.trial) for piece in decision.evidence}:
                if source.startswith("rule:"):
                    hit = (source.removeprefix("rule:"), "true" if trial else "false")
                    counts.append((tallies["rule_hits"], hit))
        return counts

    def committed(self, rows: int, seconds: float) -> None:
        """The journal wrote a batch in one transaction."""
        self._histograms.record("journal_batch_rows", (), rows)
        self._histograms.record("journal_commit", (), seconds)

    def commit_failed(self, reason: str) -> None:
        """A transaction failed; `reason` is the error's class name."""
        self._tallies["journal_failures"][(reason,)] += 1

    def count(self, name: str, attributes: tuple[str, ...], amount: float = 1) -> None:
        """Add to a counter; the attributes in the order of its declaration."""
        self._tallies[name][attributes] += amount

    def observe(self, name: str, attributes: tuple[str, ...], value: float) -> None:
        """Count a value of a histogram, likewise."""
        self._histograms.record(name, attributes, value)

    def exposition(self) -> bytes:
        """All metrics in the Prometheus text format, of all workers together."""
        if self._ledger is None:
            return generate_latest(self._registry)
        self._elsewhere = {}
        for kind in ("counter", "gauge"):
            for (_, name, *attributes), numbers, alive in self._ledger.others(kind):
                if alive or kind == "counter":  # the dead have counted, and have no state
                    self._elsewhere.setdefault((kind, name), []).append((tuple(attributes), numbers))
        self._scraping = get_ident()
        try:
            return generate_latest(self._registry)
        finally:
            self._scraping = None
            self._elsewhere = {}

    def close(self) -> None:
        """Stop the SDK."""
        self._provider.shutdown()
        if self._ledger is not None:
            self._ledger.close()


def _status(report: Report) -> str:
    if isinstance(report, Ran):
        return "cached" if report.cached else "ran"
    if isinstance(report, Failed):
        return "timed_out" if report.timed_out else "failed"
    return "skipped"
