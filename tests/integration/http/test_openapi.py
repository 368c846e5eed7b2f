"""The document tells the truth: schemathesis finds no answer that it does not describe."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, seed, settings
from schemathesis import GenerationMode
from support.app import started

from llmobs.app import create_app
from llmobs.http.openapi import openapi_document
from llmobs.settings import Settings, StoreOnFailure
from llmobs.store.migrate import upgrade


class Running:
    """An application whose lifespan runs in a thread of its own, callable from any loop."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._loop = asyncio.new_event_loop()
        self._ready, self._over = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        assert self._ready.wait(20)

    def _run(self) -> None:
        async def life() -> None:
            async with started(self._app):
                self._ready.set()
                await self._over.wait()

        self._loop.run_until_complete(life())

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(20)
        self._loop.close()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve on the application's own loop, whatever loop the caller is on."""
        if scope["type"] != "http":
            await started_already(scope, receive, send)
            return
        caller = asyncio.get_running_loop()

        def over(call: Any) -> Any:
            async def crossing(*args: Any) -> Any:
                return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(call(*args), caller))

            return crossing

        await asyncio.wrap_future(
            asyncio.run_coroutine_threadsafe(self._app(scope, over(receive), over(send)), self._loop)
        )


async def started_already(_: Any, receive: Any, send: Any) -> None:
    """The lifespan that the test client asks for; the application's own runs already."""
    for name in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{name}.complete"})


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    folder: Path = tmp_path_factory.mktemp("openapi")
    chosen = Settings(
        database_url=f"sqlite:///{folder}/llmobs.db",
        spool_dir=str(folder / "spool"),
        store_on_failure=StoreOnFailure.REFUSE,
        log_level="error",
    )
    upgrade(chosen, "head")
    running = Running(create_app(chosen))
    yield schemathesis.openapi.from_asgi("/openapi.json", running)
    running.stop()


POSITIVE, NEGATIVE = GenerationMode.POSITIVE, GenerationMode.NEGATIVE
# An operation that takes nothing cannot be called wrongly.
CALLS = [
    pytest.param(path, method.upper(), mode, id=f"{method} {path} {mode.value}")
    for path, item in openapi_document(50_000, ["default", "monitor"])["paths"].items()
    for method, operation in item.items()
    for mode in ((POSITIVE, NEGATIVE) if {"parameters", "requestBody"} & set(operation) else (POSITIVE,))
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("path", "method", "mode"), CALLS)
def test_no_answer_is_undescribed(api: Any, path: str, method: str, mode: GenerationMode) -> None:
    operation = api[path][method]

    # The document is generated from, not written for, this test: same seed, same cases.
    @seed(1)
    @settings(max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def call(case: Any) -> None:
        case.call_and_validate()

    call()
