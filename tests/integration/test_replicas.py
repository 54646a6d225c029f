"""Two servers, two dispatchers and two Ray nodes on one PostgreSQL, one of each killed in the middle."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")
from benchmarks import replicas
from tests.support.databases import postgres_missing

SEARCHES = 6  # `python -m benchmarks.replicas --searches N` runs more


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.postgres
@pytest.mark.skipif(postgres_missing() is not None, reason="no PostgreSQL server")
def test_no_search_is_lost_or_doubled_when_one_of_each_process_is_killed() -> None:
    ended = replicas.run(SEARCHES, seconds=400.0)
    assert ended["statuses"] == {"succeeded": SEARCHES}
    assert (ended["lost"], ended["doubled"], ended["fronts"]) == (0, 0, 1)
