"""Forks that train networks of a front in another space, such as found cells in a larger network."""

from __future__ import annotations

import pytest

from nas.core.errors import InvalidSpec
from nas.core.retraining import RetrainSpec
from nas.core.spec import BudgetSpec, ObjectiveSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.schemas.searches import ForkBody
from server.api.child_specs import evaluation_spec

PARENT = SearchSpec(
    name="cells",
    space=SpaceSpec(name="darts_cell", params={"preset": "digits"}),
    strategy=StrategySpec(name="darts", params={"preset": "pc_darts", "partial": 2}),
    objectives=(ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=0.2)),
    budget=BudgetSpec(evaluations=16, verified=4),
)
EVALUATION = SpaceSpec(name="darts_cell", params={"preset": "evaluation"})


def test_cells_of_the_front_are_trained_in_the_other_space_under_bounds_of_its_own() -> None:
    body = ForkBody(space=EVALUATION, retrain=RetrainSpec(networks=2, epochs=600))
    child = evaluation_spec("parent", PARENT, body, [(0,) * 24, (1,) * 24])
    assert child.space == EVALUATION
    assert child.strategy.name == "zero_cost"
    assert child.strategy.params == {"networks": [",".join("0" * 24), ",".join("1" * 24)]}
    assert child.supernet is None
    assert child.name == "cells, evaluated"
    assert child.bound("latency") is None  # that of the small network says nothing of the large one
    assert child.retrain is not None
    assert child.retrain.epochs == 600
    bounded = body.model_copy(
        update={"objectives": [ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=9.0)]}
    )
    assert evaluation_spec("parent", PARENT, bounded, [(0,) * 24]).bound("latency") == 9.0


def test_a_search_without_a_front_cannot_be_evaluated() -> None:
    with pytest.raises(InvalidSpec, match="its front is empty"):
        evaluation_spec("parent", PARENT, ForkBody(space=EVALUATION), [])
