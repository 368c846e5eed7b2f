from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from support.postgres import Server, running_server


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
