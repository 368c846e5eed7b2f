"""Changing a policy while the service runs: read it, try it on what is recorded, put it in force.

The operator's folder is the one store of policies. A change is a file written there whole, the one before kept
beside it under `history/`; every process of every machine that reads the folder takes it over by itself.
"""

import asyncio
import fcntl
import hashlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Protocol

import msgspec

from llmobs.domain.access import View
from llmobs.domain.audit import deed
from llmobs.domain.policy import Policy
from llmobs.domain.rerun import Certainty, Rerun, decided_again
from llmobs.domain.risk import Action
from llmobs.errors import EntryConflict, EntryUnknown, PolicyInvalid, PolicyRefused
from llmobs.policies import (
    BUILTIN,
    PolicyBook,
    PolicyFile,
    parsed_policy,
    policy_problems,
    policy_toml,
    sound_policy,
)
from llmobs.settings import Settings
from llmobs.store.audit import Audit
from llmobs.store.records import DecidedRecord

HISTORY = "history"
MOST_SHOWN = 200
"""Changed rows that a dry run shows; it counts them all."""


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """A policy as it stands in a file."""

    text: str
    written: PolicyFile
    own: bool
    """It stands in the operator's folder; a built-in one stands in the package."""


class ChangedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded verdict that would have been another."""

    record: DecidedRecord
    rerun: Rerun


class DryRun(msgspec.Struct, frozen=True, kw_only=True):
    """What a policy would have made of recorded verdicts."""

    searched: int
    """Verdicts of the policy that were looked at."""
    certainty: Counter[Certainty]
    before: Counter[Action]
    """Over the verdicts that were decided again, so that it can be compared with `after`."""
    after: Counter[Action]
    changed: int
    rows: tuple[ChangedRow, ...]
    """The newest of those that changed, MOST_SHOWN at most."""
    unexamined: tuple[str, ...]
    """Classes that nobody looked for then, or by other examples: the scores say nothing of them."""


class DecidedVerdicts(Protocol):
    """Reads how recorded verdicts were decided."""

    def decided(self, view: View, policy_id: str, limit: int) -> AsyncIterator[list[DecidedRecord]]: ...


class PolicyDesk:
    """One per process."""

    def __init__(
        self, settings: Settings, policies: PolicyBook, verdicts: DecidedVerdicts, audit: Audit
    ) -> None:
        self._folder = settings.policies_path
        self._strict = settings.strict_mode
        self._default = settings.default_policy
        self._policies = policies
        self._verdicts = verdicts
        self._audit = audit
        self._running = asyncio.Lock()

    @property
    def writable(self) -> bool:
        """Whether a policy can be put in force here."""
        return self._folder is not None and os.access(self._folder, os.W_OK)

    async def read(self, policy_id: str, version: int | None = None) -> Written:
        """The file of a policy, as in force or as it was in an earlier version. EntryUnknown where there is none."""
        return await asyncio.to_thread(self._read, policy_id, version)

    async def versions(self, policy_id: str) -> tuple[int, ...]:
        """The versions that can be read, newest first."""
        return await asyncio.to_thread(self._versions, policy_id)

    def checked(self, written: PolicyFile) -> Policy:
        """The policy as it would take force. PolicyRefused tells all that is wrong with it."""
        problems = policy_problems(written)
        if written.id == self._default and written.client is not None:
            problems.append("the default policy may belong to no client, for all use it")
        if problems:
            raise PolicyRefused("; ".join(problems[:20]) + ".")
        policy = sound_policy(written, written.id)
        return msgspec.structs.replace(policy, strict_mode=True) if self._strict else policy

    async def dry_run(self, view: View, policy: Policy, rows: int, recorded_under: str) -> DryRun:
        """Decide the newest recorded verdicts of a policy again, by another; nothing is written or examined.

        One at a time in a process, in short transactions, and beside the event loop: it holds nobody up.
        """
        then = self._policies.current.get(recorded_under)
        certainty: Counter[Certainty] = Counter()
        before: Counter[Action] = Counter()
        after: Counter[Action] = Counter()
        changed = 0
        shown: list[ChangedRow] = []
        async with self._running:
            async for chunk in self._verdicts.decided(view, recorded_under, rows):
                for record, rerun in await asyncio.to_thread(_again, policy, chunk, then):
                    certainty[rerun.certainty] += 1
                    if rerun.action is None:
                        continue
                    before[record.decided.action] += 1
                    after[rerun.action] += 1
                    if rerun.action is not record.decided.action:
                        changed += 1
                        if len(shown) < MOST_SHOWN:
                            shown.append(ChangedRow(record=record, rerun=rerun))
        return DryRun(
            searched=certainty.total(),
            certainty=certainty,
            before=before,
            after=after,
            changed=changed,
            rows=tuple(shown),
            unexamined=_unexamined(policy, then),
        )

    async def put(self, written: PolicyFile, text: str, *, based_on: int, by: str) -> Policy:
        """Put a policy in force. `based_on` is the version that it was made from, 0 for a new policy.

        EntryConflict where another version is in force by now, the version does not rise, or the folder cannot be
        written; PolicyRefused where it is unsound, itself or beside the others. What cannot be told in the audit
        log is undone.
        """
        policy = self.checked(written)
        current = self._policies.current.get(policy.id)
        known = 0 if current is None else current.version
        if known != based_on:
            raise EntryConflict(
                f"Version {known} of policy {policy.id} is in force, not {based_on}: read it again."
                if known
                else f"No policy is called {policy.id}; a new one is based on 0."
            )
        if written.version <= known:
            raise EntryConflict(f"Version {known} is in force: a change must have a higher one.")
        with self._alone() as folder:
            path = await asyncio.to_thread(self._place, folder, policy.id)
            old = await asyncio.to_thread(_bytes_of, path)
            await asyncio.to_thread(self._keep_history, folder, policy.id, text, written.version)
            await asyncio.to_thread(_replace, path, text.encode())
            try:
                await self._take_over()
                await self._audit.tell(
                    deed(
                        by,
                        "policy.change",
                        policy.id,
                        version=written.version,
                        replaces=known or None,
                        sha256=hashlib.sha256(text.encode()).hexdigest(),
                    )
                )
            except BaseException:
                await asyncio.shield(
                    self._undo(path, old, folder / HISTORY / _kept(policy.id, written.version))
                )
                raise
        return self._policies.current[policy.id]

    async def _take_over(self) -> None:
        if not await self._policies.reload():
            raise PolicyRefused(f"Not in force: {self._policies.refused}.")

    async def _undo(self, path: Path, old: bytes | None, history: Path) -> None:
        if old is None:
            await asyncio.to_thread(path.unlink, missing_ok=True)
        else:
            await asyncio.to_thread(_replace, path, old)
        await asyncio.to_thread(history.unlink, missing_ok=True)
        await self._policies.reload()

    @contextmanager
    def _alone(self) -> Iterator[Path]:
        """The folder, for one writer at a time, of all processes that share it."""
        if self._folder is None:
            raise EntryConflict("LLMOBS_POLICIES_DIR names no folder, so there is no place for a policy.")
        try:
            handle = os.open(self._folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise EntryConflict(
                f"The policy folder cannot be written here ({error.strerror}): change it where it comes from."
            ) from None
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise EntryConflict("Another change is under way: try again.") from None
            yield self._folder
        finally:
            os.close(handle)

    def _read(self, policy_id: str, version: int | None) -> Written:
        found = self._files().get(policy_id)
        if found is None:
            raise EntryUnknown("No policy has this id.")
        if version is None or found.written.version == version:
            return found
        if self._folder is not None:
            with suppress(OSError, UnicodeDecodeError, PolicyInvalid):
                text = (self._folder / HISTORY / _kept(policy_id, version)).read_text(encoding="utf-8")
                return Written(text=text, written=parsed_policy(text, policy_id), own=True)
        raise EntryUnknown("This version of the policy is not kept.")

    def _versions(self, policy_id: str) -> tuple[int, ...]:
        found = {self._read(policy_id, None).written.version}
        if self._folder is not None:
            for path in (self._folder / HISTORY).glob(f"{policy_id}.*.toml"):
                number = path.name.removeprefix(f"{policy_id}.").removesuffix(".toml")
                if number.isdecimal():
                    found.add(int(number))
        return tuple(sorted(found, reverse=True))

    def _files(self) -> dict[str, Written]:
        found = {}
        for folder, own in ((BUILTIN, False), (self._folder, True)):
            for path in sorted(folder.glob("*.toml")) if folder is not None else ():
                with suppress(OSError, UnicodeDecodeError, PolicyInvalid):
                    text = path.read_text(encoding="utf-8")
                    written = parsed_policy(text, path.name)
                    found[written.id] = Written(text=text, written=written, own=own)
        return found

    def _place(self, folder: Path, policy_id: str) -> Path:
        """The file in which the policy stands or is to stand."""
        for path in sorted(folder.glob("*.toml")):
            with suppress(OSError, UnicodeDecodeError, PolicyInvalid):
                if parsed_policy(path.read_text(encoding="utf-8"), path.name).id == policy_id:
                    return path
        path = folder / f"{policy_id}.toml"
        if path.exists():
            raise EntryConflict(f"{path.name} holds another policy, or one that cannot be read.")
        return path

    def _keep_history(self, folder: Path, policy_id: str, text: str, version: int) -> None:
        """Both versions, the one that goes and the one that comes, so that all can be read from then on."""
        try:
            (folder / HISTORY).mkdir(exist_ok=True)
            known = self._files().get(policy_id)
            if known is not None:
                path = folder / HISTORY / _kept(policy_id, known.written.version)
                if not path.exists():
                    _replace(path, known.text.encode())
            _replace(folder / HISTORY / _kept(policy_id, version), text.encode())
        except OSError as error:
            raise EntryConflict(f"The policy folder cannot be written here ({error.strerror}).") from None


def next_text(text: str | None, written: PolicyFile) -> str:
    """The file for a policy: as somebody wrote it, with its comments, or made from the form."""
    return policy_toml(written) if text is None else text


def _again(
    policy: Policy, records: list[DecidedRecord], then: Policy | None
) -> list[tuple[DecidedRecord, Rerun]]:
    return [
        (
            record,
            decided_again(
                policy,
                record.decided,
                then if then is not None and then.version == record.policy_version else None,
            ),
        )
        for record in records
    ]


def _unexamined(policy: Policy, then: Policy | None) -> tuple[str, ...]:
    """The classes of which the recorded scores say nothing: new ones, and those made of other examples."""
    found = []
    for name, limits in policy.classes.items():
        known = None if then is None else then.classes.get(name)
        if known is None:
            if limits.examples or then is not None:
                found.append(name)
        elif (limits.examples, limits.counter_examples) != (known.examples, known.counter_examples):
            found.append(name)
    return tuple(sorted(found))


def _kept(policy_id: str, version: int) -> str:
    return f"{policy_id}.{version}.toml"


def _bytes_of(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _replace(path: Path, content: bytes) -> None:
    """Write the file whole or not at all, for whoever reads it and through a loss of power."""
    with NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".part", delete=False) as made:
        try:
            made.write(content)
            made.flush()
            os.fsync(made.fileno())
            os.fchmod(made.fileno(), 0o644)
            Path(made.name).replace(path)
        except BaseException:
            Path(made.name).unlink(missing_ok=True)
            raise
