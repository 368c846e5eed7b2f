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
    """The fault table, from whichever processes ran its tests."""
    rows = [
        value
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, value in getattr(report, "user_properties", ())
        if name == "fault" and report.when == "call"
    ]
    if rows:
        from support.faults import table

        terminalreporter.section("faults")
        terminalreporter.write_line(table(rows))
