"""An application that runs beside the test, for test clients with loops of their own."""

import asyncio
import threading
from typing import Any

from support.app import started


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
