"""Judges over scripted servers, and what they were heard to do."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from support.judge_server import JudgeServer

from llmobs.detect.tier3_judge.setup import InstalledJudge, installed_judge
from llmobs.domain.subject import Doubt, Subject
from llmobs.settings import Settings


class HeardJudge:
    """An observer that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def call(self, provider: str, model: str) -> Any:
        self.told.append(("call", provider))
        return nullcontext(self)

    def replied(self, completion: Any, cost_usd: float | None) -> None:
        self.told.append(("replied", completion.output_tokens, cost_usd))

    def failed(self, reason: str) -> None:
        self.told.append(("failed", reason))

    def failed_over(self, provider: str, reason: str) -> None:
        self.told.append(("failed_over", provider, reason))

    def breaker_moved(self, provider: str, state: Any) -> None:
        self.told.append(("breaker", provider, state.name))

    def looked_up(self, result: str) -> None:
        self.told.append(("looked_up", result))

    def refused(self, reason: str) -> None:
        self.told.append(("refused", reason))

    def mended(self, outcome: str) -> None:
        self.told.append(("mended", outcome))

    def quote_dropped(self) -> None:
        self.told.append(("quote_dropped",))

    def lowering_refused(self) -> None:
        self.told.append(("lowering_refused",))

    def all(self, kind: str) -> list[tuple[Any, ...]]:
        return [one[1:] for one in self.told if one[0] == kind]


def openai_settings(server: JudgeServer, **more: Any) -> Settings:
    return Settings(**{"judge_base_url": server.openai_url, "judge_model": server.model, **more})


def ollama_settings(server: JudgeServer, **more: Any) -> Settings:
    return Settings(**{"ollama_base_url": server.url, "ollama_model": server.model, **more})


@asynccontextmanager
async def judging(
    settings: Settings, heard: HeardJudge | None = None, **more: Any
) -> AsyncIterator[InstalledJudge]:
    made = installed_judge(settings, observer=heard or HeardJudge(), **more)
    assert made is not None
    async with made.judge:
        yield made


def subject(text: str, scores: dict[str, float] | None = None, **more: Any) -> Subject:
    """A subject with doubts of these scores, which act and may be lowered."""
    doubts = {name: Doubt(score=score, acts=True, may_lower=True) for name, score in (scores or {}).items()}
    return Subject(text=text, doubts=doubts, **more)


def scores_of(findings: Any) -> dict[str, float]:
    return {d.failure_class: d.score for d in findings.detections}


def asked(*names: str) -> frozenset[str]:
    return frozenset(names)


def together(servers: Sequence[JudgeServer], **more: Any) -> Settings:
    """Settings with up to three servers: Groq's place, the OpenAI one, Ollama."""
    values: dict[str, Any] = {}
    for server, place in zip(servers, ("groq", "openai", "ollama"), strict=False):
        match place:
            case "groq":
                values |= {
                    "groq_api_key": "test-key",
                    "groq_base_url": server.openai_url,
                    "groq_model": server.model,
                }
            case "openai":
                values |= {"judge_base_url": server.openai_url, "judge_model": server.model}
            case _:
                values |= {"ollama_base_url": server.url, "ollama_model": server.model}
    return Settings(**(values | more))
