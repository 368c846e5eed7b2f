"""A real browser in front of a real service. Without Chromium or Playwright these tests say so and skip."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.service import Service

CHROMIUM = os.environ.get("LLMOBS_TEST_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")

WATCH = """
window.__ran = [];
window.__violations = [];
window.canary = (what) => window.__ran.push(String(what));
for (const name of ["alert", "confirm", "prompt"]) window[name] = window.canary;
document.addEventListener("securitypolicyviolation", (event) => window.__violations.push(
  `${event.effectiveDirective} ${event.blockedURI} ${event.sample}`));
"""


class Watched:
    """A page with all that must not happen on it."""

    def __init__(self, page: Any, origin: str) -> None:
        self.page = page
        self.origin = origin
        self.elsewhere: list[str] = []
        self.console: list[str] = []
        page.add_init_script(WATCH)
        page.on("request", self._request)
        page.on("console", lambda m: self.console.append(m.text) if m.type in {"error", "warning"} else None)
        page.on("pageerror", lambda error: self.console.append(str(error)))

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.origin, "blob:" + self.origin, "data:")):
            self.elsewhere.append(request.url)

    def goto(self, place: str) -> None:
        self.page.goto(f"{self.origin}/ui{place}")

    def assert_clean(self) -> None:
        """No request left for another host, nothing in the console, nothing refused by the policy, no canary."""
        assert self.elsewhere == []
        assert self.console == []
        assert self.page.evaluate("window.__violations") == []
        assert self.page.evaluate("window.__ran") == []


# Not for the session: while it is open, Playwright's own loop runs in this thread, and the
# asynchronous tests that follow in the same process could not start theirs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium, or set LLMOBS_TEST_CHROMIUM")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no Playwright here: pip install playwright"
    )
    with playwright.sync_playwright() as started:
        made = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield made
        made.close()


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("ui")
    made = Service(folder, f"sqlite:///{folder / 'l.db'}", {"LLMOBS_SNAPSHOT_SECONDS": "0"})
    try:
        made.start("--migrate")
        yield made
    finally:
        made.kill()


@pytest.fixture
def opened(browser: Any, service: Service) -> Iterator[Callable[..., Watched]]:
    """Opens pages; each is held to be clean at the end."""
    pages: list[tuple[Any, Watched]] = []

    def make(**options: Any) -> Watched:
        context = browser.new_context(**options)
        context.set_default_timeout(30_000)
        watched = Watched(context.new_page(), f"http://127.0.0.1:{service.port}")
        pages.append((context, watched))
        return watched

    yield make
    try:
        for _, watched in pages:
            watched.assert_clean()
    finally:
        for context, _ in pages:
            context.close()
