"""Erasing a verdict, or all of a person: rows, what was said of them, and the keys that would answer them again."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import msgspec
from sqlalchemy import delete, insert, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from llmobs.domain.access import View
from llmobs.domain.audit import Deed, deed
from llmobs.store import audit, rollup
from llmobs.store.database import Database, retried, told_plainly, without_nul
from llmobs.store.tables import detection_logs, erased_subjects, feedback, idempotency_keys, judgements
from llmobs.store.tenancy import visible

ACTION = "verdict.erase"
PERSON_BEGUN, PERSON_DONE = "subject.erase", "subject.erased"
ROWS = 1000
"""Verdicts that one transaction erases."""


class Erased(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows of each table are gone."""

    request_id: str
    verdicts: int
    feedback: int
    idempotency_keys: int


class ErasedPerson(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows of each table are gone."""

    verdicts: int
    feedback: int
    idempotency_keys: int
    judgements: int
    """Decisions of the judge that were first made for this person."""


class Barred(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody was erased: nothing of theirs that was made until then is written any more."""

    id: int
    """Larger than that of every earlier one."""
    subject_key: str
    client_id: str | None
    """Of one client's rows; None: of all."""
    erased_at: datetime


Count = Callable[[str, tuple[str, ...], float], None]
"""Adds to a metric: its name, its attributes in the order of declaration, how much."""


class Erasure:
    """Erases by request id or by person. Raises StoreUnavailable."""

    def __init__(self, database: Database, count: Count = lambda *_: None) -> None:
        self._database = database
        self._count = count

    async def of_request(self, view: View, request_id: str, *, by: str) -> Erased | None:
        """Erase that request's verdict, told in the audit log by its id; None where the view shows none.

        What still waits in a spool is not seen; it can be erased once the database has taken it.
        """
        erased = await self._erase(view, without_nul(request_id), by)
        if erased is not None:
            self._told({name: getattr(erased, name) for name in ("verdicts", "feedback", "idempotency_keys")})
            await self._empty_log()
        return erased

    async def of_person(self, view: View, subject_key: str, *, by: str) -> ErasedPerson:
        """Erase all that the view shows of a person, by the keyed hash that their rows carry.

        First it is written, with who asked, that nothing made until now is to come back: what waits in a spool
        or is under way is not written any more. Then the rows go, some at a time, and the audit log tells how
        many. Cut off in between, it is finished by any process that serves.
        """
        at = datetime.now(UTC)
        barred = await self._bar(view, subject_key, at, by)
        gone: Counter[str] = Counter()
        for one in barred:
            gone.update(await self.finish(one))
        erased = ErasedPerson(**{name: gone[name] for name in ErasedPerson.__struct_fields__})
        await self._tell(deed(by, PERSON_DONE, subject_key, **msgspec.structs.asdict(erased)))
        await self._empty_log()
        return erased

    async def finish(self, barred: Barred) -> dict[str, int]:
        """Delete what is there of somebody who was erased. How many rows of each table."""
        gone: Counter[str] = Counter()
        while True:
            some = await self._erase_some(barred)
            gone.update(some)
            if some["verdicts"] < ROWS:
                break
        gone.update(await self._erase_rest(barred))
        self._told(gone)
        return dict(gone)

    async def since(self, last_id: int | None) -> list[Barred]:
        """Who was erased after that one; None: in the last day."""
        barred = erased_subjects.c
        recent = datetime.now(UTC) - timedelta(days=1)
        query = select(erased_subjects).order_by(barred.id)
        query = query.where(barred.erased_at >= recent if last_id is None else barred.id > last_id)
        async with self._database.transaction() as connection:
            return [Barred(**row._mapping) for row in await connection.execute(query)]  # noqa: SLF001  # SQLAlchemy's documented name for it

    def _told(self, gone: Mapping[str, int]) -> None:
        for table, rows in gone.items():
            if rows:
                self._count("rows_deleted", (table, "erasure"), rows)

    @retried
    async def _bar(self, view: View, subject_key: str, at: datetime, by: str) -> list[Barred]:
        clients: Sequence[str | None] = [None] if view.clients is None else sorted(view.clients)
        async with self._database.transaction() as connection:
            for client in clients:
                await connection.execute(
                    insert(erased_subjects).values(subject_key=subject_key, client_id=client, erased_at=at)
                )
            await audit.append(connection, deed(by, PERSON_BEGUN, subject_key))
            mine = erased_subjects.c
            query = select(erased_subjects).where(mine.subject_key == subject_key, mine.erased_at == at)
            return [Barred(**row._mapping) for row in await connection.execute(query)]  # noqa: SLF001  # as above

    @retried
    async def _tell(self, done: Deed) -> None:
        async with self._database.transaction() as connection:
            await audit.append(connection, done)

    @retried
    async def _erase_some(self, barred: Barred) -> dict[str, int]:
        logs = detection_logs.c
        view = View(None if barred.client_id is None else frozenset({barred.client_id}))
        mine = select(logs.id, logs.request_id).where(
            logs.subject_key == barred.subject_key, logs.created_at <= barred.erased_at
        )
        async with self._database.transaction() as connection:
            found = (await connection.execute(visible(mine, detection_logs, view).limit(ROWS))).all()
            return await delete_verdicts(connection, [row.id for row in found], [r.request_id for r in found])

    @retried
    async def _erase_rest(self, barred: Barred) -> dict[str, int]:
        """What was said of verdicts that are gone since, and what the judge remembers."""
        said = feedback.c
        view = View(None if barred.client_id is None else frozenset({barred.client_id}))
        opinions = delete(feedback).where(
            said.subject_key == barred.subject_key, said.created_at <= barred.erased_at
        )
        async with self._database.transaction() as connection:
            return {
                "feedback": (await connection.execute(visible(opinions, feedback, view))).rowcount,
                "judgements": (
                    await connection.execute(
                        delete(judgements).where(judgements.c.subject_key == barred.subject_key)
                    )
                ).rowcount,
            }

    @retried
    async def _erase(self, view: View, request_id: str, by: str) -> Erased | None:
        async with self._database.transaction() as connection:
            logs = detection_logs.c
            mine = visible(
                select(logs.id, logs.created_at).where(logs.request_id == request_id), detection_logs, view
            )
            if connection.dialect.name == "postgresql":
                mine = mine.with_for_update()  # of two that erase at once, one finds it gone
            found = (await connection.execute(mine)).one_or_none()
            if found is None:
                return None
            row_id, made_at = found
            gone: Mapping[str, int] = {
                name: (await connection.execute(delete(table).where(wanted))).rowcount
                for name, table, wanted in (
                    ("feedback", feedback, feedback.c.request_id == request_id),
                    ("idempotency_keys", idempotency_keys, idempotency_keys.c.request_id == request_id),
                    ("verdicts", detection_logs, logs.id == row_id),
                )
            }
            if not gone["verdicts"]:  # SQLite: another was quicker between the look and the deletion
                return None
            await rollup.forget(connection, [made_at])
            await audit.append(connection, deed(by, ACTION, request_id, **gone))
        return Erased(request_id=request_id, **gone)

    async def _empty_log(self) -> None:
        """Have SQLite move its write-ahead log, where old pages stand, into the file, and empty it.

        As far as nobody reads an older state: the next erasure or restart does it otherwise. PostgreSQL
        leaves dead rows to its own vacuum.
        """
        if self._database.engine.dialect.name != "sqlite":
            return
        with told_plainly():
            async with (
                asyncio.timeout(self._database.seconds),
                self._database.engine.connect() as connection,
            ):
                await connection.execution_options(isolation_level="AUTOCOMMIT")
                await connection.execute(text("PRAGMA wal_checkpoint(TRUNCATE)"))


async def delete_verdicts(
    connection: AsyncConnection, ids: Sequence[int], request_ids: Sequence[str], *, opinions: bool = True
) -> dict[str, int]:
    """Delete verdicts with their idempotency keys and, unless told otherwise, opinions. How many of each.

    A key that outlived its verdict could neither be answered nor used again.
    """
    keys, said, logs = idempotency_keys.c, feedback.c, detection_logs.c
    gone = {"verdicts": 0, "feedback": 0, "idempotency_keys": 0}
    if not ids:
        return gone
    await rollup.forget(connection, await rollup.times_of(connection, ids))
    if opinions:
        gone["feedback"] = (
            await connection.execute(delete(feedback).where(said.request_id.in_(request_ids)))
        ).rowcount
    gone["idempotency_keys"] = (
        await connection.execute(delete(idempotency_keys).where(keys.request_id.in_(request_ids)))
    ).rowcount
    gone["verdicts"] = (await connection.execute(delete(detection_logs).where(logs.id.in_(ids)))).rowcount
    return gone
