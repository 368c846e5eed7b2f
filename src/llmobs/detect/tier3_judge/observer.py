"""What the judge tells about itself; telemetry listens."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from llmobs.detect.tier3_judge.breaker import State
from llmobs.detect.tier3_judge.provider import Completion


class CallLog(Protocol):
    """Takes down how one call to a provider ended."""

    def replied(self, completion: Completion, cost_usd: float | None) -> None:
        """It brought a reply."""

    def failed(self, reason: str) -> None:
        """It brought none, for a reason out of a bounded set."""


class JudgeObserver(Protocol):
    """Is told what the judge does. No method raises, and none is given text."""

    def call(self, provider: str, model: str) -> AbstractContextManager[CallLog]:
        """Spans one call to a provider."""

    def failed_over(self, provider: str, reason: str) -> None:
        """The next provider was tried; `hedge` is a reason as well."""

    def breaker_moved(self, provider: str, state: State) -> None:
        """A provider's breaker changed its state."""

    def looked_up(self, result: str) -> None:
        """Where a decision came from: `memory`, `database`, `shared` or `miss`."""

    def refused(self, reason: str) -> None:
        """A question was not asked: a budget, as `client calls`, `queue full`, or `no turn` in time."""

    def mended(self, outcome: str) -> None:
        """A reply did not hold the form: `repaired` by a second question, or `given up`."""

    def quote_dropped(self) -> None:
        """A quotation does not occur in the text."""

    def lowering_refused(self) -> None:
        """A score was not lowered, for the judge did not see what it was shown as a control."""


class _Deaf:
    def replied(self, completion: Completion, cost_usd: float | None) -> None: ...
    def failed(self, reason: str) -> None: ...


class NoObserver:
    """Listens to nothing: for the command line."""

    def call(self, provider: str, model: str) -> AbstractContextManager[CallLog]:
        """See JudgeObserver."""
        return nullcontext(_Deaf())

    def failed_over(self, provider: str, reason: str) -> None: ...
    def breaker_moved(self, provider: str, state: State) -> None: ...
    def looked_up(self, result: str) -> None: ...
    def refused(self, reason: str) -> None: ...
    def mended(self, outcome: str) -> None: ...
    def quote_dropped(self) -> None: ...
    def lowering_refused(self) -> None: ...
