"""What `llmobs serve` calls in each of its processes."""

import gc
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmobs.settings import Settings


def create_app(settings: "Settings | None" = None) -> Any:
    """The ASGI application (llmobs.app), loaded without the garbage collector, which would find nothing.

    It would look through modules, rules and models over and over while they are loaded, an eighth of the time of a start.
    """
    gc.disable()
    try:
        from llmobs.app import create_app as make  # noqa: PLC0415  # the point of it

        return make(settings)
    finally:
        gc.enable()
