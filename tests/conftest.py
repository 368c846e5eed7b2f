from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from support.postgres import Server, running_server, unpacked
from xdist.scheduler import LoadFileScheduling

LONGEST_FIRST = (
    "faults/test_faults.py",
    "docs/test_blocks.py",
    "chart/test_node.py",
    "browser/",
    "chart/test_cluster.py",
    "image/test_image.py",
    "integration/judge/test_local_model.py",
    "chart/test_process.py",
    "e2e/",
    "integration/observe/",
    "integration/http/test_openapi.py",
    "integration/http/test_detect.py",
    "integration/store/",
    "integration/",
    "chart/",
)
"""Files go whole to one of the test processes, in this order: the longest last would run alone."""


IN_TURN = ("tests/chart/test_node.py", "tests/browser/")
"""One test process runs these, one after the other: while a node's pods come and go the addresses of this machine
change, and Chromium cuts off whatever a page is loading (ERR_NETWORK_CHANGED)."""


class Scheduling(LoadFileScheduling):
    """Whole files, and those of IN_TURN together, to a test process."""

    def _split_scope(self, nodeid: str) -> str:
        return "in turn" if nodeid.startswith(IN_TURN) else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling | None:
    """Ours, where whole files were asked for."""
    return Scheduling(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        # Unpacked on first use, by whoever comes first: test processes would find half of it.
        unpacked()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def turn(item: pytest.Item) -> int:
        file = item.nodeid.removeprefix("tests/")
        return next(
            (i for i, start in enumerate(LONGEST_FIRST) if file.startswith(start)), len(LONGEST_FIRST)
        )

    items.sort(key=turn)  # stable: within a file the order is kept


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One server a test process; each test takes databases of its own."""
    with running_server() as server:
        yield server


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The fault table and what became of the documentation's blocks, from whichever processes ran them."""

    def told(name: str) -> list[Any]:
        return [
            value
            for reports in terminalreporter.stats.values()
            for report in reports
            for key, value in getattr(report, "user_properties", ())
            if key == name and report.when == "call"
        ]

    if rows := told("fault"):
        from support.faults import table

        terminalreporter.section("faults")
        terminalreporter.write_line(table(rows))
    if pages := told("blocks"):
        terminalreporter.section("code blocks of the documentation")
        for fate, count in sorted(sum(map(Counter, pages), Counter()).items()):
            terminalreporter.write_line(f"{count:4} {fate}")
