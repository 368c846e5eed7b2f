"""An acknowledged verdict is in the database, once, whatever broke in between.

Real processes and a real PostgreSQL; `support/faults.py` has the scenarios, `bench/faults.py` prints
the same table and keeps it.
"""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from support.faults import SCENARIOS, play
from support.postgres import OwnServer, own_server

ACKNOWLEDGED = 400
"""Acknowledged requests a fault, at least."""


@pytest.fixture(scope="module")
def durable() -> Iterator[OwnServer]:
    """A server that these tests crash; each scenario leaves it running."""
    with own_server(durable=True) as server:
        yield server


@pytest.mark.slow
@pytest.mark.timeout(150)
@pytest.mark.parametrize("fault", SCENARIOS)
async def test_nothing_acknowledged_is_lost_or_kept_twice(
    fault: str, durable: OwnServer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    if "clock" in fault and shutil.which("cc") is None:
        pytest.skip("the moved clock needs a C compiler")
    row = await play(fault, tmp_path, durable, ACKNOWLEDGED)
    record_property("fault", msgspec.to_builtins(row))
    assert row.acknowledged >= ACKNOWLEDGED
    assert row.lost == 0, row
    assert row.duplicated == 0, row
