"""Verdicts that are known already: equal text, context, policy and caller, nothing reloaded since.

A repeated text is answered from memory, and is still counted and recorded. What depends on more than
the text is never kept: a degraded or partial look, the judge's word (it has a memory of its own, with
a lifetime), and what a rule on a percentage roll-out hit.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Container
from typing import Any

import msgspec

from llmobs.domain.decision import JUDGE_TIER
from llmobs.domain.detection import Failed, Findings, Ran, Report
from llmobs.domain.policy import Policy
from llmobs.domain.record import Told, told
from llmobs.domain.subject import Kind
from llmobs.domain.verdict import Decision, Verdict

ENTRY_BYTES = 4_000
"""What a verdict without evidence takes: measured, with the reports, the scores, its place, and what records say of it once
it was asked for again (2,500 before that)."""
EVIDENCE_BYTES = 500
SENSITIVE_BYTES = 150

_encode = msgspec.json.Encoder(order="sorted").encode

Generation = tuple[object, ...]
"""What verdicts rest on beside the policy, told apart by identity: the rules, the policies."""


class Known(msgspec.Struct, gc=False):
    """What was decided of an equal request."""

    decision: Decision
    coverage: tuple[Report, ...]
    """Says of each detector that ran that it did so then."""
    told: Told | None = None
    """What records say of it, from the second equal request on."""


class Remembered:
    """Verdicts of one process, the least recently asked for given up first. Not for several threads."""

    def __init__(
        self,
        max_bytes: int,
        generation: Callable[[], Generation],
        partial: Callable[[], Container[str]],
        count: Callable[[str, tuple[str, ...]], None],
    ) -> None:
        """`partial` names the sources of evidence that hang on the request id; `count` counts metrics."""
        self._max_bytes = max_bytes
        self._of_now = generation
        self._partial = partial
        self._count = count
        self._generation: Generation = ()
        self._entries: OrderedDict[bytes, tuple[Known, int]] = OrderedDict()
        self.size = 0
        """Bytes that the entries take, estimated."""

    def __len__(self) -> int:
        return len(self._entries)

    def generation(self) -> Generation:
        """What verdicts rest on now; everything known from before a change is forgotten."""
        now, before = self._of_now(), self._generation
        if len(now) == len(before):
            for a, b in zip(
                now, before, strict=True
            ):  # in full, for a generator costs as much as the rest of a look
                if a is not b:
                    break
            else:
                return before
        self._generation = now
        self._entries.clear()
        self.size = 0
        return now

    def get(self, key: bytes) -> Known | None:
        """What is known under the key; call `generation` before."""
        found = self._entries.get(key)
        if found is None:
            self._count("result_cache_lookups", ("miss",))
            return None
        self._entries.move_to_end(key)
        self._count("result_cache_lookups", ("hit",))
        known = found[0]
        if known.told is None:
            known.told = told(known.decision, known.coverage)
        return known

    def put(self, key: bytes, verdict: Verdict, made_under: Generation) -> None:
        """Keep a verdict, if it may be kept and nothing was reloaded since its making began."""
        if self.generation() is not made_under or not self._lasts(verdict):
            return
        known = Known(verdict.decision, tuple(_then(report) for report in verdict.coverage))
        size = _size(known)
        if size > self._max_bytes or key in self._entries:
            return
        self._entries[key] = (known, size)
        self.size += size
        while self.size > self._max_bytes:
            _, (_, freed) = self._entries.popitem(last=False)
            self.size -= freed
            self._count("result_cache_evictions", ())

    def _lasts(self, verdict: Verdict) -> bool:
        """Whether another equal request would get the same."""
        if verdict.decision.degraded:
            return False
        for report in verdict.coverage:
            if isinstance(report, Failed):
                return False
            if isinstance(report, Ran) and (
                report.tier == JUDGE_TIER or report.findings.seen < 1.0 or report.findings.unheard
            ):
                return False
        partial = self._partial()
        return not any(piece.source in partial for piece in verdict.decision.evidence)


def key_of(
    text: str, kind: Kind, context: dict[str, Any] | None, policy: Policy, client_id: str | None
) -> bytes:
    """The same for requests that must get the same verdict.

    The caller is a part of it, so that `cached` tells nobody what another has sent.
    """
    digest = hashlib.blake2b(digest_size=24)
    head = (kind, policy.id, policy.version, client_id, len(text))
    digest.update(_encode(head))
    digest.update(text.encode("utf-8", "surrogatepass"))
    if context:
        digest.update(_encode(context))
    return digest.digest()


def _then(report: Report) -> Report:
    """The report as a later equal request tells it: no time was spent, and only what masks is needed."""
    if not isinstance(report, Ran):
        return report
    return msgspec.structs.replace(
        report, ms=0.0, cached=True, findings=Findings(sensitive=report.findings.sensitive)
    )


def _size(known: Known) -> int:
    sensitive = sum(len(r.findings.sensitive) for r in known.coverage if isinstance(r, Ran))
    return (
        ENTRY_BYTES
        + EVIDENCE_BYTES * len(known.decision.evidence)
        + SENSITIVE_BYTES * sensitive
        + len(known.decision.explanation)
    )
