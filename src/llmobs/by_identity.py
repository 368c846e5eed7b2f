"""What was made of an object, for as long as the very same object comes again."""

from typing import Generic, TypeVar

Made = TypeVar("Made")


class ByIdentity(Generic[Made]):
    """Remembers by identity, without a hash over what the object holds.

    The verdicts of a repeated text share what the first one said. The object is held with what was made of it, so nothing else
    gets its identity meanwhile. It must not change.
    """

    __slots__ = ("_held", "_most")

    def __init__(self, most: int) -> None:
        """When `most` objects are held, all are let go of."""
        self._most = most
        self._held: dict[int, tuple[object, Made]] = {}

    def __len__(self) -> int:
        return len(self._held)

    def get(self, thing: object) -> Made | None:
        """What was made of it, if that is known."""
        found = self._held.get(id(thing))
        return found[1] if found is not None and found[0] is thing else None

    def put(self, thing: object, made: Made) -> None:
        """Keep what was made of it."""
        if len(self._held) >= self._most:
            self._held.clear()
        self._held[id(thing)] = thing, made
