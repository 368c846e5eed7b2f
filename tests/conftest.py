from collections.abc import Iterator

import pytest
from support.postgres import Server, running_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One server a test process; each test takes databases of its own."""
    with running_server() as server:
        yield server
