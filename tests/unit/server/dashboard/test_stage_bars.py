"""Bars of stages are full only where all was done."""

from __future__ import annotations

import pytest

from nas.schemas.jobs import StageSchema
from server.dashboard.formatting import fraction
from server.dashboard.job_stages import is_cut_off


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


@pytest.mark.parametrize(
    ("status", "done", "total", "cut"),
    [("finished", 4, 10, True), ("finished", 10, 10, False), ("finished", 0, 0, False), ("running", 4, 10, False)],
)
def test_a_stage_that_ended_early_is_told_from_one_that_did_all(status: str, done: int, total: int, cut: bool) -> None:
    assert is_cut_off(StageSchema(name="train", status=status, done=done, total=total)) is cut
