"""A policy tried on labelled texts, beside the one in force: the texts are examined, both decide, nothing is kept.

The detectors are the real ones. Each looks at a text once; one that the two policies ask different things (other
examples, other classes still open) is asked for each. The judge is not asked: it costs money, and what it would be
asked about is counted instead.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from time import monotonic
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from llmobs.detect.once import asked_once
from llmobs.detect.pipeline import Departed, Pipeline
from llmobs.domain.decision import decide, doubtful_classes
from llmobs.domain.interval import Interval, wilson
from llmobs.domain.policy import Policy
from llmobs.domain.risk import Action
from llmobs.domain.subject import subject_from_context
from llmobs.domain.urgency import CAN_WAIT
from llmobs.errors import Overloaded
from llmobs.evaluation import Row, inquiry_of

SECONDS = 45.0
"""How long texts are begun: an answer comes before a proxy's usual minute is over."""
LANES = 4
"""Texts under examination at a time."""
STRIDE = 16
"""Every so many-th text goes first, then those beside them: what time leaves out is left out evenly."""
MOST_SHOWN = 50
"""Changed texts that are shown; all are counted."""


class Flags(msgspec.Struct, frozen=True, kw_only=True):
    """What one policy makes of the texts of a task."""

    positives_flagged: Annotated[int, Meta(description="Warned of or blocked, for whatever class.")]
    positives_blocked: int
    negatives_flagged: int
    negatives_blocked: int
    recall: Annotated[
        Interval | None,
        Meta(description="Of the positives, flagged, with its 95 % Wilson interval; null of none."),
    ]
    fpr: Annotated[
        Interval | None, Meta(description="Of the negatives, flagged, likewise: the false-positive rate.")
    ]


class TaskTried(msgspec.Struct, frozen=True, kw_only=True):
    """The texts of one task under both policies."""

    task: str
    positives: int
    negatives: int
    before: Annotated[Flags, Meta(description="By the policy in force.")]
    after: Annotated[Flags, Meta(description="By the policy tried.")]


class ChangedText(msgspec.Struct, frozen=True, kw_only=True):
    """A labelled text of which the two policies make different things."""

    id: str
    task: str
    label: int
    before: Action
    after: Action
    class_before: str | None
    class_after: str | None


class LabelledTried(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy makes of labelled texts, beside one in force. `rows` is `decided`, `degraded` and `late` together."""

    compared_with: Annotated[str, Meta(description="Id of the policy in force.")]
    compared_version: int
    rows: Annotated[int, Meta(description="Rows that came.")]
    decided: Annotated[int, Meta(description="Those that both policies decided: all figures are of these.")]
    degraded: Annotated[int, Meta(description="Left out: a detector failed, which says nothing of policies.")]
    late: Annotated[int, Meta(description="Not examined, for time was up; spread over the file.")]
    unjudged: Annotated[
        int,
        Meta(
            description="Of those decided, the ones that the judge would be asked about. It was not: "
            "they are decided by what the other tiers said."
        ),
    ]
    unexamined: Annotated[
        tuple[str, ...],
        Meta(description="Classes of the two policies that no detector looked for, the judge apart."),
    ]
    tasks: tuple[TaskTried, ...]
    changed: int
    changes: Annotated[tuple[ChangedText, ...], Meta(description="The first that changed, 50 at most.")]


class Turns(Protocol):
    """Lets texts that can wait be examined between those that cannot."""

    async def item_turn(self) -> None: ...


class _Pair(msgspec.Struct, frozen=True):
    """A text decided twice."""

    row: Row
    before: tuple[Action, str | None]
    """With the class that decided."""
    after: tuple[Action, str | None]
    degraded: bool
    unjudged: bool


class LabelledTrials:
    """One per process."""

    def __init__(
        self,
        pipeline_for: Callable[[frozenset[str]], Pipeline],
        turns: Turns,
        judged: frozenset[str] = frozenset(),
    ) -> None:
        """`pipeline_for` gives the tiers without the judge, looking for these classes by example.

        `judged` are the classes that the judge would be asked about in real traffic.
        """
        self._pipeline_for = pipeline_for
        self._turns = turns
        self._judged = judged
        self._running = asyncio.Lock()

    async def run(
        self, rows: Sequence[Row], before: Policy, after: Policy, departed: Departed | None = None
    ) -> LabelledTried:
        """Try `after` beside `before`. Ends early when whoever asked has gone away.

        One at a time in a process, Overloaded for the next; for SECONDS, patient as a batch is.
        """
        if self._running.locked():
            raise Overloaded("Another policy is being tried on labelled texts; try again when it is done.")
        async with self._running:
            pairs = await self._decided(rows, before, after, departed)
        found = [pair for pair in pairs if not pair.degraded]
        changes = [pair for pair in found if pair.before[0] is not pair.after[0]]
        return LabelledTried(
            compared_with=before.id,
            compared_version=before.version,
            rows=len(rows),
            decided=len(found),
            degraded=len(pairs) - len(found),
            late=len(rows) - len(pairs),
            unjudged=sum(pair.unjudged for pair in found),
            unexamined=tuple(sorted(self._unheard(before) | self._unheard(after))),
            tasks=tuple(_tasks(found)),
            changed=len(changes),
            changes=tuple(map(_change, changes[:MOST_SHOWN])),
        )

    async def _decided(
        self, rows: Sequence[Row], before: Policy, after: Policy, departed: Departed | None
    ) -> list[_Pair]:
        pipeline = self._pipeline_for(frozenset(before.likenesses.keys() | after.likenesses.keys()))
        until = monotonic() + SECONDS
        order = iter([at for first in range(STRIDE) for at in range(first, len(rows), STRIDE)])
        found: dict[int, _Pair] = {}

        async def lane() -> None:
            CAN_WAIT.set(True)  # of this lane's task
            for at in order:
                await self._turns.item_turn()
                if gone.done() or monotonic() >= until:
                    return
                found[at] = await self._pair(pipeline, rows[at], before, after)

        async with asyncio.TaskGroup() as group:
            gone = group.create_task(_wait(departed))
            await asyncio.wait([group.create_task(lane()) for _ in range(LANES)])
            gone.cancel()
        return [found[at] for at in sorted(found)]

    async def _pair(self, pipeline: Pipeline, row: Row, before: Policy, after: Policy) -> _Pair:
        inquiry = inquiry_of(row)
        # Its own id decides which roll-outs by percentage apply, so that the same file gets the same answer again.
        subject = subject_from_context(inquiry.text, inquiry.kind, inquiry.context or {}, row.id)
        once = asked_once(pipeline)
        decisions = []
        unjudged = False
        for policy in (before, after):
            reports, standing = await once.weighed(subject, policy)
            decisions.append(decide(policy, reports, standing))
            unjudged = unjudged or not self._judged.isdisjoint(doubtful_classes(policy, standing))
        first, second = decisions
        return _Pair(
            row,
            (first.action, first.failure_class),
            (second.action, second.failure_class),
            degraded=first.degraded or second.degraded,
            unjudged=unjudged,
        )

    def _unheard(self, policy: Policy) -> set[str]:
        """The classes of a policy that nobody looks for; its own examples alone count for it."""
        tiers = self._pipeline_for(frozenset(policy.likenesses)).tiers
        return set(policy.classes).difference(*(one.hears for tier in tiers for one in tier.detectors))


async def _wait(departed: Departed | None) -> None:
    await (asyncio.Event().wait() if departed is None else departed())


def _tasks(pairs: Sequence[_Pair]) -> Iterable[TaskTried]:
    for task, of in groupby(sorted(pairs, key=lambda pair: pair.row.task), key=lambda pair: pair.row.task):
        negatives: list[_Pair] = []
        positives: list[_Pair] = []
        for pair in of:
            (positives if pair.row.label else negatives).append(pair)
        yield TaskTried(
            task=task,
            positives=len(positives),
            negatives=len(negatives),
            before=_flags([pair.before[0] for pair in positives], [pair.before[0] for pair in negatives]),
            after=_flags([pair.after[0] for pair in positives], [pair.after[0] for pair in negatives]),
        )


def _flags(positives: Sequence[Action], negatives: Sequence[Action]) -> Flags:
    caught, alarms = (sum(a in {Action.WARN, Action.BLOCK} for a in of) for of in (positives, negatives))
    return Flags(
        positives_flagged=caught,
        positives_blocked=positives.count(Action.BLOCK),
        negatives_flagged=alarms,
        negatives_blocked=negatives.count(Action.BLOCK),
        recall=wilson(caught, len(positives)),
        fpr=wilson(alarms, len(negatives)),
    )


def _change(pair: _Pair) -> ChangedText:
    return ChangedText(
        id=pair.row.id,
        task=pair.row.task,
        label=pair.row.label,
        before=pair.before[0],
        after=pair.after[0],
        class_before=pair.before[1],
        class_after=pair.after[1],
    )
