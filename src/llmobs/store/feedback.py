"""Opinions on verdicts: kept, listed, counted, and read out beside the texts that they label."""

import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from sqlalchemy import Row, Select, func, select
from sqlalchemy.dialects import postgresql, sqlite

from llmobs.domain.access import View
from llmobs.domain.feedback import FLAGGED, Judged, KeptOpinion, LabelledText, Opinion, Tally
from llmobs.domain.risk import Action
from llmobs.domain.subject import Kind
from llmobs.store.database import Database, retried, without_nul
from llmobs.store.records import cursor_of
from llmobs.store.tables import detection_logs, feedback
from llmobs.store.tenancy import visible

EXPORT_ROWS = 500
_HASHED = re.compile("sha256:[0-9a-f]{64}")
"""What STORE_TEXT=hash keeps instead of a text."""
_FIELDS = KeptOpinion.__struct_fields__


class OpinionFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which opinions; what is None does not matter."""

    correct: bool | None = None
    failure_class: str | None = None
    """The verdict's."""
    true_class: str | None = None
    harmless: bool | None = None
    """Whether the text is harmless by the opinion."""
    request_id: str | None = None
    client_id: str | None = None


class Opinions:
    """The table of opinions. Raises StoreUnavailable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def judged(self, view: View, request_id: str) -> Judged | None:
        """The verdict of that request, where the view shows it."""
        row_ = detection_logs.c
        query = select(row_.request_id, row_.client_id, row_.action, row_.failure_class)
        query = query.where(row_.request_id == without_nul(request_id))
        async with self._database.transaction() as connection:
            row = (await connection.execute(visible(query, detection_logs, view))).one_or_none()
        if row is None:
            return None
        return Judged(
            request_id=row.request_id,
            client_id=row.client_id,
            action=Action(row.action),
            failure_class=row.failure_class,
        )

    @retried
    async def keep(self, opinion: Opinion) -> tuple[KeptOpinion, bool]:
        """Write an opinion, in place of an earlier one on the verdict. As kept, and whether it is new."""
        values = msgspec.structs.asdict(opinion)
        values["note"] = without_nul(opinion.note)
        logs = detection_logs.c
        of_verdict = select(logs.subject_key).where(logs.request_id == opinion.request_id)
        values["subject_key"] = of_verdict.scalar_subquery()
        async with self._database.transaction() as connection:
            make = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            mine = feedback.c.request_id == opinion.request_id
            known = await connection.scalar(select(feedback.c.id).where(mine))
            await connection.execute(
                make(feedback)
                .values(values)
                .on_conflict_do_update(
                    index_elements=["request_id"],
                    set_={name: value for name, value in values.items() if name != "request_id"},
                )
            )
            row = (await connection.execute(select(feedback).where(mine))).one()
        return _kept(row), known is None

    async def page(
        self, view: View, filters: OpinionFilter, before_id: int | None, limit: int
    ) -> tuple[list[KeptOpinion], str | None]:
        """Opinions that match, newest first, and the cursor of the next page, None at the end."""
        query = _filtered(select(feedback), view, filters, before_id).limit(limit + 1)
        async with self._database.transaction() as connection:
            rows = [_kept(row) for row in await connection.execute(query)]
        more = len(rows) > limit
        rows = rows[:limit]
        return rows, cursor_of(rows[-1].id) if more else None

    async def labelled(
        self, view: View, filters: OpinionFilter, before_id: int | None = None
    ) -> AsyncIterator[list[LabelledText]]:
        """The texts that opinions label, newest first, in chunks, each read in a transaction of its own.

        Texts that are gone, or were kept only as a hash, are left out.
        """
        logs = detection_logs.c
        wanted = select(
            feedback.c.id,
            feedback.c.request_id,
            feedback.c.true_class,
            logs.kind,
            logs.llm_response,
            logs.context,
        ).join(detection_logs, logs.request_id == feedback.c.request_id)
        before = before_id
        while True:
            query = _filtered(wanted, view, filters, before).limit(EXPORT_ROWS)
            async with self._database.transaction() as connection:
                rows = (await connection.execute(query)).all()
            texts = [
                LabelledText(
                    id=row.id,
                    request_id=row.request_id,
                    kind=Kind(row.kind),
                    text=row.llm_response,
                    context=row.context,
                    true_class=row.true_class,
                )
                for row in rows
                if not _HASHED.fullmatch(row.llm_response)
            ]
            if texts:
                yield texts
            if len(rows) < EXPORT_ROWS:
                return
            before = rows[-1].id

    async def tallies(self, view: View) -> list[Tally]:
        """Opinions counted by class, in order of its name."""
        by = feedback.c
        query = select(by.action, by.failure_class, by.true_class, func.count()).group_by(
            by.action, by.failure_class, by.true_class
        )
        async with self._database.transaction() as connection:
            rows = (await connection.execute(visible(query, feedback, view))).all()
        flagged: dict[str, int] = {}
        right: dict[str, int] = {}
        missed: dict[str, int] = {}
        for action, said, truth, count in rows:
            named = said if Action(action) in FLAGGED else None
            if named is not None:
                flagged[named] = flagged.get(named, 0) + count
                right[named] = right.get(named, 0) + (count if truth == named else 0)
            if truth is not None and truth != named:
                missed[truth] = missed.get(truth, 0) + count
        return [
            Tally(
                failure_class=name,
                flagged=flagged.get(name, 0),
                right=right.get(name, 0),
                missed=missed.get(name, 0),
            )
            for name in sorted({*flagged, *missed})
        ]


def _filtered(query: Select[Any], view: View, filters: OpinionFilter, before_id: int | None) -> Select[Any]:
    by = feedback.c
    query = visible(query, feedback, view).order_by(by.id.desc())
    for name in ("correct", "failure_class", "true_class", "request_id", "client_id"):
        wanted = getattr(filters, name)
        if wanted is not None:
            query = query.where(by[name] == (without_nul(wanted) if isinstance(wanted, str) else wanted))
    if filters.harmless is not None:
        query = query.where(by.true_class.is_(None) if filters.harmless else by.true_class.is_not(None))
    return query if before_id is None else query.where(by.id < before_id)


def _kept(row: Row[Any]) -> KeptOpinion:
    values = {name: row._mapping[name] for name in _FIELDS}  # noqa: SLF001  # SQLAlchemy's documented name for it
    return KeptOpinion(**(values | {"action": Action(row.action)}))
