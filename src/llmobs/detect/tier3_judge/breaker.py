"""Leaves a failing provider alone for a while, then tries it with one call."""

from collections.abc import Callable
from enum import IntEnum
from time import monotonic


class State(IntEnum):
    """The number is what the metric shows."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class Breaker:
    """Opens after some failures in a row; each failed trial doubles the rest, up to a limit."""

    def __init__(
        self,
        *,
        failures: int = 5,
        rest_s: float = 5.0,
        longest_rest_s: float = 60.0,
        clock: Callable[[], float] = monotonic,
        changed: Callable[[State], None] = lambda _: None,
    ) -> None:
        self._most = failures
        self._shortest = rest_s
        self._longest = longest_rest_s
        self._clock = clock
        self._changed = changed
        self._row = 0
        self._rest = rest_s
        self._until = 0.0
        self._trial = False
        self._state = State.CLOSED

    @property
    def state(self) -> State:
        """The state now."""
        if self._state is State.OPEN and self._clock() >= self._until:
            self._to(State.HALF_OPEN)
        return self._state

    @property
    def free_in(self) -> float:
        """Seconds until a call may be let through; 0 when one may now."""
        return max(0.0, self._until - self._clock()) if self.state is State.OPEN else 0.0

    def admit(self) -> bool:
        """Whether a call may go out. One admitted must end in `succeeded`, `failed` or `dropped`."""
        match self.state:
            case State.CLOSED:
                return True
            case State.OPEN:
                return False
            case State.HALF_OPEN:
                if self._trial:
                    return False
                self._trial = True
                return True

    def succeeded(self) -> None:
        """The call brought a reply."""
        self._row = 0
        self._rest = self._shortest
        self._trial = False
        self._to(State.CLOSED)

    def failed(self) -> None:
        """The provider failed the call."""
        self._row += 1
        state = self.state
        if state is State.HALF_OPEN and self._trial:
            self._trial = False
            self._rest = min(self._longest, self._rest * 2)
            self._open()
        elif state is State.CLOSED and self._row >= self._most:
            self._open()

    def dropped(self) -> None:
        """The call was cancelled, or failed by no fault of the provider: nothing is learnt."""
        self._trial = False

    def _open(self) -> None:
        self._until = self._clock() + self._rest
        self._to(State.OPEN)

    def _to(self, state: State) -> None:
        if state is not self._state:
            self._state = state
            self._changed(state)
