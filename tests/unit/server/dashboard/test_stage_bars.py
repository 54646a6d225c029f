"""Bars of stages are full only where all was done."""

from __future__ import annotations

import pytest

from nas.schemas.jobs import StageSchema
from server.dashboard.formatting import fraction


@pytest.mark.parametrize(
    ("status", "done", "total", "share"),
    [
        ("finished", 10, 10, 1.0),
        ("finished", 0, 0, 1.0),
        ("finished", 4, 10, 0.4),  # it was cut off
        ("running", 4, 10, 0.4),
        ("waiting", 10, 10, 0.97),  # its job was cancelled before it ended
        ("running", 0, 0, 0.0),
    ],
)
def test_a_bar_is_full_only_when_all_is_done(status: str, done: int, total: int, share: float) -> None:
    stage = StageSchema(name="train", status=status, done=done, total=total)
    assert fraction(stage) == pytest.approx(share)
