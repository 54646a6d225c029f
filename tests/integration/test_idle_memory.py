"""What an idle service occupies: no processes that nobody uses, and no more memory than promised."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.idle_memory import GOAL_MB, idle_service, sizes_mb

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]
UNUSED = ("dashboard.py", "monitor.py", "log_monitor.py", "ray::IDLE")  # of Ray


@pytest.mark.long
def test_idle_service_runs_little_and_takes_little_memory(tmp_path: Path) -> None:
    with idle_service(tmp_path) as pid:
        sizes = sizes_mb(pid)
    assert [name for name in sizes if any(unused in name for unused in UNUSED)] == []
    assert any("raylet" in name for name in sizes), sizes
    assert sum(sizes.values()) <= GOAL_MB, sizes
