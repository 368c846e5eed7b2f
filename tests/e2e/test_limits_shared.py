"""Three services count one client together: what is let in is the limit exactly. Run with `-s` to see the figures."""

from pathlib import Path

import pytest
from support.postgres import Server
from support.together import CALLS, LIMIT, SERVICES, asked_at_once, services_with_a_limit
from support.valkey import missing


@pytest.mark.timeout(180)
@pytest.mark.parametrize("store", ["postgresql", "valkey"])
def test_of_two_thousand_at_once_exactly_five_hundred_are_let_in(
    store: str, postgres: Server, tmp_path: Path
) -> None:
    if store == "valkey" and missing():
        pytest.skip(missing())
    with services_with_a_limit(store, postgres, tmp_path) as (services, key):
        statuses = asked_at_once(services, key)
    print(  # the figures to be reported
        f"\n{store}: {SERVICES} services, {CALLS} requests at once, limit {LIMIT}: "
        f"{statuses[200]} let in, {statuses[429]} told 429, others {CALLS - statuses[200] - statuses[429]}"
    )
    assert statuses == {200: LIMIT, 429: CALLS - LIMIT}
