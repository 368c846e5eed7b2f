"""The client against a real server that goes away, comes back and has too much to do."""

from pathlib import Path

import pytest
from support.client_run import run


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_every_call_ends_in_a_verdict_or_a_typed_error(tmp_path: Path) -> None:
    told = await run(tmp_path, 1500, encoder=False)
    assert told.restarts == 3
    assert told.overload_answers > 0
    assert told.cut_off > 0
    assert told.neither == 0
    assert told.verdicts + sum(told.typed_errors.values()) == 1500
    # How many get through in the overload depends on the machine (1,490 alone, 1,428 beside other
    # tests); what does not must be told so by one of the answers that restarts and overload explain.
    assert set(told.typed_errors) <= {"Unavailable", "DeadlinePassed", "Unreachable"}
    assert told.verdicts >= 1200
    assert told.rows_doubled == 0
    assert told.verdicts_without_row == 0
    assert told.rss_growth_mib < 64
