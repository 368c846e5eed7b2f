"""The judge as the settings describe it."""

from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from llmobs.detect.tier3_judge.budget import Budget, Limits
from llmobs.detect.tier3_judge.cache import DecisionCache, DecisionStore
from llmobs.detect.tier3_judge.calibration import Calibration, load_calibration
from llmobs.detect.tier3_judge.chain import Chain, Limiter, Price
from llmobs.detect.tier3_judge.detector import JudgeDetector
from llmobs.detect.tier3_judge.judge import Judge
from llmobs.detect.tier3_judge.observer import JudgeObserver
from llmobs.detect.tier3_judge.provider import Provider
from llmobs.detect.tier3_judge.question import load_families
from llmobs.domain.subject import Span
from llmobs.errors import SettingsInvalid
from llmobs.settings import Settings


class InstalledJudge(msgspec.Struct, frozen=True, kw_only=True):
    """The judge, which has a life (`async with`), and the detector that asks it."""

    judge: Judge
    detector: JudgeDetector
    fresh: JudgeDetector
    """The same judge, asked past its cache: for canaries."""
    calibration: Calibration


def installed_judge(
    settings: Settings,
    *,
    observer: JudgeObserver,
    store: DecisionStore | None = None,
    find_sensitive: Callable[[str], Iterable[Span]] | None = None,
) -> InstalledJudge | None:
    """The judge, or None where no provider is configured. SettingsInvalid when a setting is bad."""
    families = load_families(Path(settings.judge_prompts_dir) if settings.judge_prompts_dir else None)
    calibration = (
        load_calibration(Path(settings.judge_calibration)) if settings.judge_calibration else Calibration()
    )
    prices = read_prices(settings.judge_prices)
    found = providers(settings)
    if not found:
        return None
    # Budgets are for the service; each of its processes gets its share.
    workers = settings.api_workers
    judge = Judge(
        chain=Chain(
            found,
            observer=observer,
            limiter=Limiter(settings.judge_concurrency, settings.judge_queue),
            call_timeout_s=settings.judge_call_timeout_ms / 1000,
            hedge=settings.judge_hedge,
            prices=prices,
            breaker_failures=settings.judge_breaker_failures,
            breaker_rest_s=settings.judge_breaker_seconds,
        ),
        cache=DecisionCache(
            size=settings.judge_cache_size, seconds=settings.judge_cache_seconds, store=store
        ),
        budget=Budget(
            total=Limits(
                calls=-(-settings.judge_calls_per_minute // workers),
                tokens=-(-settings.judge_tokens_per_minute // workers),
            ),
            client=Limits(
                calls=-(-settings.judge_client_calls_per_minute // workers),
                tokens=-(-settings.judge_client_tokens_per_minute // workers),
            ),
        ),
        observer=observer,
        votes=settings.judge_votes,
        vote_temperature=settings.judge_vote_temperature,
        drain_s=settings.judge_drain_seconds,
    )

    def detector(*, fresh: bool) -> JudgeDetector:
        return JudgeDetector(
            judge,
            families,
            observer=observer,
            calibration=calibration,
            deadline_s=settings.tier3_timeout_ms / 1000,
            max_chars=settings.judge_max_chars,
            find_sensitive=find_sensitive if settings.judge_redact else None,
            fresh=fresh,
        )

    return InstalledJudge(
        judge=judge,
        detector=detector(fresh=False),
        fresh=detector(fresh=True),
        calibration=calibration,
    )


def providers(settings: Settings) -> tuple[Provider, ...]:
    """The configured providers in the order in which they are asked."""
    if settings.judge_base_url and not settings.judge_model:
        raise SettingsInvalid("JUDGE_BASE_URL needs JUDGE_MODEL beside it")
    makers: dict[str, Callable[[], Provider | None]] = {
        "groq": lambda: (
            _openai(
                name="groq",
                base_url=settings.groq_base_url,
                model=settings.groq_model,
                api_key=settings.groq_api_key,
            )
            if settings.groq_api_key
            else None
        ),
        "openai": lambda: (
            _openai(
                name="openai",
                base_url=settings.judge_base_url,
                model=settings.judge_model,
                api_key=settings.judge_api_key,
            )
            if settings.judge_base_url
            else None
        ),
        "ollama": lambda: (
            _ollama(settings.ollama_base_url, settings.ollama_model) if settings.ollama_base_url else None
        ),
    }
    order = [name.strip() for name in settings.judge_order.split(",") if name.strip()]
    unknown = [name for name in order if name not in makers]
    if unknown or len(set(order)) != len(order):
        raise SettingsInvalid(f"LLMOBS_JUDGE_ORDER takes each of {', '.join(makers)} once at most")
    made = [makers[name]() for name in order]
    return tuple(provider for provider in made if provider is not None)


def read_prices(written: str) -> dict[str, Price]:
    """The prices by model. SettingsInvalid names what is none."""
    prices: dict[str, Price] = {}
    for part in filter(None, (part.strip() for part in written.split(","))):
        model, _, amounts = part.rpartition("=")
        into, _, out = amounts.partition("/")
        try:
            price = Price(float(into), float(out))
        except ValueError:
            price = Price(-1, -1)
        if not model or not (0 <= price.input < float("inf") and 0 <= price.output < float("inf")):
            raise SettingsInvalid(f"LLMOBS_JUDGE_PRICES: {part!r} is not of the form model=in/out")
        prices[model] = price
    return prices


def _openai(*, name: str, base_url: str, model: str, api_key: str) -> Provider:
    from llmobs.detect.tier3_judge.openai_wire import OpenAIProvider  # noqa: PLC0415  # brings an HTTP client

    return OpenAIProvider(name=name, base_url=base_url, model=model, api_key=api_key)


def _ollama(base_url: str, model: str) -> Provider:
    # Its client costs 12 MB and a quarter of a second, which only those pay who ask Ollama.
    from llmobs.detect.tier3_judge.ollama_wire import OllamaProvider  # noqa: PLC0415

    return OllamaProvider(base_url=base_url, model=model)
