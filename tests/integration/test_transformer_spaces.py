"""Spaces with transformer blocks, from training to verified and exported networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nas.core.events import Exported, fold_all
from nas.core.spec import BudgetSpec, SpaceSpec, StrategySpec
from nas.stages.fronts import front_of
from tests.support.engine import SPEC, problem, run

SPACES: list[tuple[str, str, dict[str, Any]]] = [
    ("elastic_vit", "progressive", {"preset": "digits", "widths": [16, 32], "depths": [1, 2], "heads": [1, 2]}),
    ("elastic_vit", "coordinated", {"preset": "digits", "slices": "isolated", "sharing": "linear"}),
    ("hybrid", "progressive", {"preset": "digits", "depths": [1, 2]}),
    ("hybrid", "progressive", {"preset": "digits-operators", "depths": [1, 2]}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "schedule", "params"), SPACES)
def test_a_search_trains_verifies_and_exports(name: str, schedule: str, params: dict[str, Any], tmp_path: Path) -> None:
    strategy = StrategySpec(params={"epochs": 2, "batch_size": 40, "schedule": schedule})
    budget = BudgetSpec(evaluations=8, verified=2)
    space = SpaceSpec(name=name, params=params)
    spec = SPEC.model_copy(update={"space": space, "strategy": strategy, "budget": budget})
    events = list(run(tmp_path, problem(spec)))
    front = front_of(spec, fold_all(events))
    assert front.final
    assert all({"test_accuracy", "measured_ms"} <= member.metrics.keys() for member in front.members)
    assert {member.status for member in front.members} <= {"verified", "violated"}  # all were measured
    assert any(isinstance(event, Exported) for event in events)
