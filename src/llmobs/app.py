"""Wiring, and only here: settings in, application out."""

import asyncio
import ctypes
import gc
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import structlog
from litestar import Litestar
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.plugins.base import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from opentelemetry.sdk.resources import Resource

from llmobs.access.limits import SWEEP_SECONDS
from llmobs.access.persons import person_keys_from
from llmobs.access.setup import Access, installed_access
from llmobs.book import Book
from llmobs.canary import JUDGE_TIER, Canaries
from llmobs.detect.learned import load_learned
from llmobs.detect.pipeline import Allows, Pipeline, Tier
from llmobs.detect.tier1_patterns.book import RuleBook, own_rules, rule_book
from llmobs.detect.tier1_patterns.detector import FormattingDetector, GuardsDetector, RulesDetector
from llmobs.detect.tier1_patterns.engine import RuleSet
from llmobs.detect.tier3_judge.breaker import State as BreakerState
from llmobs.detect.tier3_judge.setup import InstalledJudge, installed_judge
from llmobs.domain.access import EVERYTHING
from llmobs.domain.decision import doubtful_classes
from llmobs.domain.subject import Span
from llmobs.domain.traffic import judge_traffic
from llmobs.errors import StoreUnavailable
from llmobs.http import (
    access,
    admin,
    catalogue,
    detect,
    docs,
    feedback,
    health,
    labelled,
    live,
    logs,
    overview,
    page,
    policy_changes,
    session,
)
from llmobs.http.admission import Admission
from llmobs.http.deadlines import Deadlines
from llmobs.http.edge import Edge
from llmobs.http.problems import EXCEPTION_HANDLERS
from llmobs.http.schemas import Check
from llmobs.http.services import Services
from llmobs.labelled import LabelledTrials
from llmobs.lifecycle import Lifecycle
from llmobs.policies import PolicyBook, classes_by_example, policy_book, policy_deeds, shared_policies
from llmobs.policy_desk import PolicyDesk
from llmobs.remembered import Remembered
from llmobs.screen import Journal, Screen
from llmobs.settings import Settings, load_settings
from llmobs.store.audit import Audit
from llmobs.store.erasure import Erasure
from llmobs.store.feedback import Opinions
from llmobs.store.retention import Retention, periods_from
from llmobs.store.store import Store
from llmobs.supervised import end_with_supervisor, folder_from
from llmobs.telemetry.instruments import Telemetry
from llmobs.telemetry.judging import JudgeTelemetry
from llmobs.telemetry.ledger import Ledger
from llmobs.telemetry.logs import configure_logs
from llmobs.telemetry.otlp import Tracing, metric_exporter_from, resource, tracing_from
from llmobs.traced import TracedEdge, TracedJournal, TracedPipeline, TracedScreen

log = structlog.get_logger("llmobs.app")

NOTE_SECONDS = 5.0
"""How soon the audit log knows of a policy that came into force."""
ROLL_SECONDS = 60.0
"""How often verdicts of a time that is over are counted for long overviews."""
TOUCH_SECONDS = 30.0
"""How often it is written down when keys were last used."""
FORGET_SECONDS = 1.0
"""How soon a process forgets a person whom another has erased."""
GAUGE_SECONDS = 1.0
"""How old another worker's gauges may be in a scrape."""


def build_pipeline(
    settings: Settings,
    rules: RuleBook,
    tiers: frozenset[int] = frozenset({1, 2, 3}),
    judge: InstalledJudge | None = None,
    by_example: Callable[[], frozenset[str]] = frozenset,
    *,
    allows: Allows | None = None,
    crowded: Callable[[], bool] = lambda: False,
) -> Pipeline:
    """The tiers with the detectors that are installed. Adding a tier adds a folder and a line here.

    Raises ArtefactBroken when the trained files are not what they should be.
    """
    tier2_s = settings.tier2_timeout_ms / 1000
    learned = (
        load_learned(settings.heads_path, workers=settings.encoder_threads) if settings.encoder else None
    )
    patterns = (RulesDetector(rules), GuardsDetector(), FormattingDetector())
    every = (
        Tier(
            number=1,
            name="rules",
            # What only clears is worth its time where there is a tier to be spared.
            detectors=patterns if learned is None or 2 not in tiers else (*patterns, learned.lexical),
        ),
        Tier(
            number=2,
            name="encoder",
            detectors=() if learned is None else learned.tier2(tier2_s, by_example),
            deadline_s=tier2_s,
            absent="switched off",
            allows=allows,
        ),
        Tier(
            number=3,
            name="judge",
            detectors=() if judge is None else (judge.detector,),
            deadline_s=settings.tier3_timeout_ms / 1000,
            absent="not configured",
            allows=allows,
            asks=doubtful_classes,
            ends_with_caller=True,
        ),
    )
    return Pipeline([tier for tier in every if tier.number in tiers], crowded)


class Background:
    """What goes on beside requests: reloads, retention, snapshots. One task each, stopped together."""

    def __init__(
        self,
        settings: Settings,
        store: Store,
        books: tuple[Book[Any], ...],
        *,
        judge: InstalledJudge | None = None,
        canaries: Canaries | None = None,
        access: Access | None = None,
        audit: Audit | None = None,
        erasure: Erasure | None = None,
        retention: Retention | None = None,
    ) -> None:
        """`erasure` where persons are told apart, `retention` where anything is deleted after a time."""
        self._retention = retention
        self._erasure = erasure
        self._barred: int | None = None
        """The latest erasure of a person that was dealt with here."""
        self._audit = audit
        self._noted: object = None
        self._settings = settings
        self._judge = judge
        self._canaries = canaries
        self._store = store
        self._access = access
        self._books = books
        self._wanted = asyncio.Event()

    def reload_now(self) -> None:
        """Read rules and policies again, changed or not."""
        self._wanted.set()

    async def run(self) -> None:
        """Run until cancelled."""
        settings = self._settings
        async with asyncio.TaskGroup() as group:
            group.create_task(self._reloads())
            if self._judge is not None:
                group.create_task(self._probes(self._judge))
            if self._erasure is not None:
                group.create_task(_every(FORGET_SECONDS, self._forget))
            if self._audit is not None:
                group.create_task(_every(NOTE_SECONDS, self._note_policies))
            if self._settings.judge_cache_seconds:
                group.create_task(_every(3600.0, self._expire))
            group.create_task(_every(ROLL_SECONDS, self._roll))
            if self._canaries is not None:
                if settings.canary_seconds:
                    group.create_task(_rounds(self._canaries, settings.canary_seconds))
                if settings.canary_judge_seconds and self._judge is not None:
                    # Each process gets its share of what may be spent.
                    group.create_task(
                        _ask_judge(self._canaries, settings.canary_judge_seconds * settings.api_workers)
                    )
            if self._access is not None and not self._access.gate.is_open:
                group.create_task(_every(TOUCH_SECONDS, self._touch))
                group.create_task(_every(SWEEP_SECONDS, self._access.limiter.sweep))
            if self._retention is not None:
                group.create_task(_every(3600.0, self._sweep))
            if settings.snapshot_seconds:
                group.create_task(_every(settings.snapshot_seconds, self._snapshot))

    async def _reloads(self) -> None:
        for book in self._books:
            if isinstance(book.current, RuleSet):
                # Beside the first requests: they are as right before as after, and a little slower.
                await asyncio.to_thread(book.current.warm)
        while True:
            try:
                async with asyncio.timeout(self._settings.reload_seconds or None):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            asked = self._wanted.is_set()
            self._wanted.clear()
            for book in self._books:
                if asked or book.changed():
                    await book.reload()

    async def _probes(self, installed: InstalledJudge) -> None:
        while True:
            await asyncio.sleep(self._settings.judge_probe_seconds)
            await installed.judge.probe()

    async def _note_policies(self) -> None:
        """Tell the audit log of policies that came into force, once for all processes."""
        for book in self._books:
            current = book.current
            if self._audit is not None and book.name == "policies" and current is not self._noted:
                await self._audit.tell_if_new(*policy_deeds(current))
                self._noted = current

    async def _forget(self) -> None:
        """Follow erasures of persons, whoever asked for them: what is remembered here, and what came in between."""
        erasure = self._erasure
        assert erasure is not None  # noqa: S101  # started only with one
        found = await erasure.since(self._barred)
        if not found:
            return
        if self._judge is not None:
            self._judge.judge.forget({barred.subject_key for barred in found})
        for barred in found:
            gone = {table: rows for table, rows in (await erasure.finish(barred)).items() if rows}
            if gone:
                log.info("erasure finished", **gone)
            self._barred = barred.id

    async def _roll(self) -> None:
        await self._store.roll(datetime.now(UTC))
        await self._store.count_kept(datetime.now(UTC))

    async def _expire(self) -> None:
        await self._store.delete_expired_judgements()

    async def _touch(self) -> None:
        assert self._access is not None  # noqa: S101  # started only with a gate
        await self._store.touch_keys(self._access.gate.used())

    async def _sweep(self) -> None:
        assert self._retention is not None  # noqa: S101  # started only with one
        deleted = await self._retention.sweep()
        if deleted:
            log.info("retention", **deleted)

    async def _snapshot(self) -> None:
        counts = await self._store.counts(EVERYTHING)
        traffic = judge_traffic(counts)
        await self._store.snapshot(counts, is_healthy=traffic.is_healthy, message=traffic.message)


async def _rounds(canaries: Canaries, seconds: float) -> None:
    while True:
        await canaries.round()
        await asyncio.sleep(seconds)


async def _ask_judge(canaries: Canaries, seconds: float) -> None:
    """Not at once: a fleet that starts together would ask together."""
    while True:
        await asyncio.sleep(seconds)
        await canaries.ask_judge()


async def _every(seconds: float, call: Callable[[], Awaitable[None]]) -> None:
    """Call again and again; a database that is away for a while is told and waited out.

    When cancelled, the call that is under way is let finish (the store bounds its time): cut in
    its midst, a SQLite connection would still be at work in its thread when the loop closes.
    """
    while True:
        under_way = asyncio.ensure_future(call())
        try:
            await asyncio.shield(under_way)
        except asyncio.CancelledError:
            with suppress(StoreUnavailable):
                await under_way
            raise
        except StoreUnavailable as error:
            log.warning("background work put off", work=call.__name__, reason=str(error))
        await asyncio.sleep(seconds)


def create_app(settings: Settings | None = None) -> Edge | TracedEdge:
    """The ASGI application. `llmobs serve` calls it in every worker."""
    settings = settings or load_settings(os.environ)
    end_with_supervisor(os.environ)
    lifecycle = Lifecycle(settings, os.environ)
    request_log = configure_logs(settings.log_level, settings.log_format)
    rules = rule_book(settings.rules_path, settings.excluded_rules)
    policies = policy_book(
        settings.policies_path, default=settings.default_policy, strict_mode=settings.strict_mode
    )
    books: tuple[Book[Any], ...] = (rules, policies)
    who = resource()
    tracing = tracing_from(os.environ, who)
    telemetry = _telemetry(who, exemplars=tracing is not None)
    store = Store(settings, telemetry)
    door, admission = (
        installed_access(settings, store, telemetry.count),
        _admission(settings, telemetry, store),
    )
    persons, periods = person_keys_from(settings), periods_from(settings)

    def find_sensitive(text: str) -> Iterable[Span]:
        return rules.current.sensitive(text)  # not bound once: a reload replaces the rules

    listening = JudgeTelemetry(telemetry, None if tracing is None else tracing.tracer)
    judge = installed_judge(settings, observer=listening, store=store, find_sensitive=find_sensitive)
    if judge is not None:
        chain = judge.judge.chain
        listening.watch((seat.provider.name for seat in chain.seats), lambda: chain.in_flight)
    pipeline = build_pipeline(
        settings,
        rules,
        judge=judge,
        by_example=lambda: classes_by_example(policies.current),
        allows=door.limiter.allows,
        crowded=lambda: admission.is_crowded,
    )
    canaries = Canaries(
        pipeline,
        lambda: policies.current[settings.default_policy],
        excluded_rules=settings.excluded_rules,
        judge=None if judge is None else judge.fresh,
    )
    make_screen, seen_pipeline, journal = _traced(tracing, pipeline, store)
    screen = make_screen(
        pipeline=seen_pipeline,
        policies=policies,
        journal=journal,
        observer=telemetry,
        find_sensitive=find_sensitive,
        default_policy=settings.default_policy,
        store_text=settings.store_text,
        remembered=_remembered(settings, rules, policies, telemetry),
        persons=persons,
    )
    _show(telemetry, settings, store, books=(rules, policies), judge=judge, canaries=canaries)

    async def checks() -> tuple[Check, ...]:
        return (
            Check(name="rules", ok=True, detail=f"{len(rules.current.rules)} rules loaded"),
            Check(name="policies", ok=True, detail=", ".join(shared_policies(policies.current))),
            *await _store_checks(store),
            _judge_check(judge, required=settings.judge_required),
            _canary_check(canaries, settings),
        )

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        background = Background(
            settings,
            store,
            books,
            judge=judge,
            canaries=canaries,
            access=door,
            audit=services.audit,
            erasure=None if persons is None else services.erasure,
            retention=None if periods.all_for_ever else Retention(store.database, periods, telemetry.count),
        )
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, background.reload_now)
        async with store, nullcontext() if judge is None else judge.judge, _gauges_shown(telemetry):
            if judge is not None:
                for status in await judge.judge.probe():
                    level = log.info if status.ok else log.warning
                    level("judge", provider=status.name, model=status.model, detail=status.detail)
            try:
                async with _beside(background.run(), lifecycle.watch()):
                    lifecycle.start()
                    _give_back()
                    yield
            finally:
                await door.limiter.close()
        # What waits to be exported may take the exporter's whole timeout.
        await asyncio.to_thread(telemetry.close)
        if tracing is not None:
            await asyncio.to_thread(tracing.close)

    services = Services(
        settings=settings,
        screen=screen,
        logs=store,
        telemetry=telemetry,
        gate=door.gate,
        limiter=door.limiter,
        registry=door.registry,
        sessions=door.sessions,
        opinions=Opinions(store.database),
        erasure=Erasure(store.database, telemetry.count),
        persons=persons,
        admission=admission,
        deadlines=Deadlines(),
        audit=Audit(store.database),
        desk=PolicyDesk(settings, policies, store, Audit(store.database)),
        labelled=_labelled(settings, rules, admission, judge),
        books=books,
        rules=rules,
        policies=policies,
        lifecycle=lifecycle,
        watchers=live.Watchers(),
        checks=checks,
    )
    app = _litestar(services, lifespan)
    # With CORS the framework has a part in every answer.
    quick = {} if settings.cors else dict.fromkeys(detect.PATHS, detect.quick_detect(services))
    edge = Edge(
        cast(Any, app),
        telemetry,
        request_log,
        quick,
        detect.shedding(services.admission),
        lifecycle=lifecycle,
    )
    return edge if tracing is None else TracedEdge(edge, tracing.tracer)


def _give_back() -> None:
    """Hand memory that only loading needed back to the system, where the C library can do that.

    What is left stays: the collector would look through rules and models again and again, and nobody is answered meanwhile.
    """
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class _Application(Litestar):
    """Litestar without its plugins for pydantic and attrs, of whose models there are none here.

    It imports pydantic wherever that is installed, which costs every start a tenth of a second.
    """

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        return [*plugins, MsgspecDIPlugin()]


def _litestar(
    services: Services, lifespan: Callable[[Litestar], AbstractAsyncContextManager[None]]
) -> Litestar:
    cors = services.settings.cors
    app = _Application(
        route_handlers=[
            detect.detect,
            detect.detect_batch,
            logs.recent_logs,
            logs.logs,
            logs.erase_verdict,
            health.welcome,
            health.health,
            health.live,
            health.ready,
            health.stats,
            health.metrics,
            docs.openapi,
            docs.docs,
            docs.redoc,
            docs.assets,
            page.page,
            page.part,
            overview.overview,
            catalogue.policies,
            catalogue.rules,
            catalogue.rule_hits,
            live.overview_stream,
            *admin.HANDLERS,
            *feedback.HANDLERS,
            *labelled.HANDLERS,
            *policy_changes.HANDLERS,
            *session.HANDLERS,
        ],
        guards=[access.guard],
        exception_handlers=EXCEPTION_HANDLERS,
        lifespan=[lifespan],
        cors_config=CORSConfig(allow_origins=list(cors)) if cors else None,
        openapi_config=None,
        logging_config=None,
        state=State({"services": services, "failed_sign_ins": session.FailedSignIns()}),
    )
    list(access.route_needs(app))  # a route without a need ends the start, not a request
    return app


def _admission(settings: Settings, telemetry: Telemetry, store: Store) -> Admission:
    admission = Admission(settings, telemetry, lambda: store.is_late)
    if settings.encoder:  # here, and not for `llmobs eval`: that has time
        learned = load_learned(settings.heads_path, workers=settings.encoder_threads)
        learned.workers.longest_wait = settings.tier2_queue_ms / 1000
    telemetry.gauges["requests_in_flight"] = lambda: [((), admission.inside)]
    telemetry.gauges["texts_waiting"] = lambda: [((), admission.waiting)]
    return admission


def _labelled(
    settings: Settings, rules: RuleBook, admission: Admission, judge: InstalledJudge | None
) -> LabelledTrials:
    """Tries policies on labelled texts: by detectors of its own making, which no metric or trace hears of."""
    return LabelledTrials(
        lambda by_example: build_pipeline(settings, rules, frozenset({1, 2}), by_example=lambda: by_example),
        admission,
        frozenset() if judge is None else judge.detector.hears,
    )


def _telemetry(who: Resource, *, exemplars: bool) -> Telemetry:
    """The instruments, which count with those of the other workers where there are any."""
    shared = folder_from(os.environ)
    return Telemetry(
        resource=who,
        pushed_by=metric_exporter_from(os.environ),
        exemplars=exemplars,
        ledger=None if shared is None else Ledger(shared),
    )


@asynccontextmanager
async def _gauges_shown(telemetry: Telemetry) -> AsyncIterator[None]:
    """Meanwhile other workers' scrapes see this one's gauges."""

    async def publish() -> None:
        while telemetry.is_shared:
            telemetry.publish_gauges()
            await asyncio.sleep(GAUGE_SECONDS)

    async with _beside(publish()):
        yield


def _remembered(
    settings: Settings, rules: RuleBook, policies: PolicyBook, telemetry: Telemetry
) -> Remembered | None:
    """The memory for verdicts that are known, unless it is switched off."""
    if not settings.result_cache_bytes:
        return None
    made = Remembered(
        settings.result_cache_bytes,
        lambda: (rules.current, policies.current),
        lambda: rules.current.partial,
        telemetry.count,
    )
    telemetry.gauges["result_cache_size"] = lambda: [((), made.size)]
    return made


def _show(
    telemetry: Telemetry,
    settings: Settings,
    store: Store,
    *,
    books: tuple[RuleBook, PolicyBook],
    judge: InstalledJudge | None,
    canaries: Canaries,
) -> None:
    """Where the gauges read their values."""
    rules, policies = books
    telemetry.expect(policies.current)
    telemetry.gauges["journal_pending"] = lambda: [((), store.pending)]
    telemetry.gauges["rows_kept"] = lambda: [] if store.kept is None else [(("verdicts",), store.kept)]
    telemetry.gauges["spool_size"] = lambda: [((), store.spooled_bytes)]
    telemetry.gauges["journal_capacity"] = lambda: [((), settings.journal_max_pending)]
    telemetry.gauges["spool_capacity"] = lambda: [((), settings.spool_max_bytes)]
    telemetry.gauges["configuration_refused"] = lambda: [
        ((book.name,), 1.0 if book.refused else 0.0) for book in (rules, policies)
    ]
    telemetry.gauges["rules_loaded"] = lambda: _rules_loaded(rules)
    telemetry.gauges["detection_tier_ready"] = lambda: _tiers_ready(settings, rules, judge)
    telemetry.gauges["llmobs_canary_success"] = canaries.successes
    telemetry.gauges["llmobs_canary_age"] = lambda: _ages(settings, canaries)


def _traced(
    tracing: Tracing | None, pipeline: Pipeline, store: Store
) -> tuple[Callable[..., Screen], Pipeline, Journal]:
    """The parts that make spans, or the plain ones where none are exported. Canaries get the plain ones."""
    if tracing is None:
        return Screen, pipeline, store
    tracer = tracing.tracer
    return partial(TracedScreen, tracer), TracedPipeline(pipeline, tracer), TracedJournal(store, tracer)


async def _store_checks(store: Store) -> tuple[Check, Check]:
    """A database that was there and goes away takes no worker out of service that can do without.

    It is the same database for all of them: each would turn unready, and nobody would be left to answer.
    """
    try:
        await store.ping()
        at_head = await store.is_at_head()
    except StoreUnavailable as error:
        required = not store.does_without
        detail = str(error) if required else f"{error}; requests are answered without it"
        return (
            Check(name="database", ok=False, detail=detail, required=required),
            Check(
                name="migrations",
                ok=False,
                detail="unknown: the database does not answer",
                required=required,
            ),
        )
    return (
        Check(name="database", ok=True, detail="answers"),
        Check(name="migrations", ok=at_head, detail="at head" if at_head else "behind; run: llmobs migrate"),
    )


def _judge_check(installed: InstalledJudge | None, *, required: bool) -> Check:
    """What the last look at the judge's providers showed; one that answers is enough."""
    if installed is None:
        return Check(name="judge", ok=not required, detail="not configured", required=required)
    found = installed.judge.statuses
    told = "; ".join(f"{status.name}: {status.detail}" for status in found)
    return Check(name="judge", ok=any(status.ok for status in found), detail=told, required=required)


def _canary_check(canaries: Canaries, settings: Settings) -> Check:
    """Whether tiers 1 and 2 tell known samples rightly."""
    failing = canaries.failing()
    if failing:
        told = ", ".join("/".join(key) for key in failing[:5])
        detail = f"{len(failing)} of {canaries.sent} fail: {told}"
    elif canaries.rounds:
        detail = f"{canaries.sent} told rightly"
    else:
        detail = "not sent yet" if settings.canary_seconds else "switched off"
    return Check(
        name="canaries",
        ok=not failing and (bool(canaries.rounds) or not settings.canary_seconds),
        detail=detail,
        required=settings.canary_required,
    )


def _rules_loaded(rules: RuleBook) -> list[tuple[tuple[str], float]]:
    own = own_rules(rules.current)
    return [(("builtin",), len(rules.current.rules) - own), (("own",), own)]


def _tiers_ready(
    settings: Settings, rules: RuleBook, judge: InstalledJudge | None
) -> list[tuple[tuple[str], float]]:
    """What can be told at a glance, in every scrape; canaries tell the rest, at their own pace."""
    ready = {"1": bool(rules.current.rules) and not rules.bereft}
    if settings.encoder:
        ready["2"] = not load_learned(settings.heads_path, workers=settings.encoder_threads).disturbed()
    if judge is not None:
        ready["3"] = _judge_check(judge, required=True).ok and any(
            seat.breaker.state is not BreakerState.OPEN for seat in judge.judge.chain.seats
        )
    return [((tier,), 1.0 if fine else 0.0) for tier, fine in ready.items()]


def _ages(settings: Settings, canaries: Canaries) -> list[tuple[tuple[str], float]]:
    """Only of tiers whose canaries are sent."""
    return [
        (labels, age)
        for labels, age in canaries.ages()
        if (settings.canary_judge_seconds if labels == (str(JUDGE_TIER),) else settings.canary_seconds)
    ]


@asynccontextmanager
async def _beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Work that goes on during the block and is cancelled at its end."""
    tasks = [asyncio.create_task(one) for one in work]
    for task in tasks:
        task.add_done_callback(_tell)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _tell(task: asyncio.Task[None]) -> None:
    """A bug in the background must be seen, not wait for the shutdown."""
    if not task.cancelled() and task.exception() is not None:
        log.error("background work stopped", exc_info=task.exception())
