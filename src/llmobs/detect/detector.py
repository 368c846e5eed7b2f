"""The seam of every tier: one method wide."""

from typing import Protocol, runtime_checkable

from llmobs.domain.detection import Findings
from llmobs.domain.subject import Subject


class Detector(Protocol):
    """Looks for some classes in a subject. Gives probabilities with evidence, never actions.

    A detector raises `DetectorFailed` for what it expects to go wrong; anything else is a bug and
    surfaces.
    """

    @property
    def name(self) -> str:
        """Short and stable: shown in `coverage` and in metrics."""

    @property
    def hears(self) -> frozenset[str]:
        """The classes that it looks for."""

    async def detect(self, subject: Subject, asked: frozenset[str]) -> Findings:
        """Look at the whole subject for the classes asked about; more may be reported."""


@runtime_checkable
class Selective(Protocol):
    """A detector that can tell at a glance, without being awaited, that it has nothing to look at."""

    def idle(self, subject: Subject, asked: frozenset[str]) -> str | None:
        """Why there is nothing to look at, or None to be asked."""


@runtime_checkable
class Instant(Protocol):
    """A detector that looks at most subjects without waiting for anything, so that many can be looked at in turn."""

    def at_once(self, subject: Subject, asked: frozenset[str]) -> Findings | None:
        """What `detect` would say, or None where it would wait. Raises DetectorFailed like it."""


class DetectorFailed(Exception):
    """A detector could not look; the message says why and never quotes the subject."""
