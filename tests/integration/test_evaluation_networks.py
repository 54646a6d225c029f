"""From a cell that gradient search has found to the network that papers train: searched, forked, trained, exported."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas.core.events import Event, fold_all
from nas.core.retraining import RetrainSpec
from nas.core.spec import (
    BudgetSpec,
    DataSpec,
    ExportSpec,
    ObjectiveSpec,
    ResourceSpec,
    SearchSpec,
    SpaceSpec,
    StrategySpec,
)
from nas.engine import stages_of
from nas.schemas.searches import ForkBody
from nas.stages.fronts import front_of
from search_spaces.darts_cell.cell import from_genotype, genotype
from server.api.child_specs import evaluation_spec
from tests.support.darts import DARTS_V2
from tests.support.engine import estimate_cost, problem, run

pytestmark = pytest.mark.usefixtures("one_thread")

SEARCH = SearchSpec(
    name="cells",
    space=SpaceSpec(name="darts_cell", params={"preset": "digits"}),
    data=DataSpec(params={"max_train": 160, "max_val": 80, "max_test": 80}),
    strategy=StrategySpec(
        name="darts", params={"preset": "pc_darts", "partial": 2, "epochs": 1, "tune_epochs": 0, "alpha_warmup": 0}
    ),
    objectives=(ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=5.0)),
    budget=BudgetSpec(evaluations=8, verified=1),
    export=ExportSpec(count=1, int8=False),
)
RETRAIN = RetrainSpec(networks=1, trials=1, epochs=1, batch_size=40)


@pytest.mark.long
def test_a_found_cell_is_trained_verified_and_exported_as_an_evaluation_network(tmp_path: Path) -> None:
    events: list[Event] = list(run(tmp_path, problem(SEARCH)))
    best = max(front_of(SEARCH, fold_all(events)).members, key=lambda member: member.metrics["val_accuracy"])
    space = SpaceSpec(name="darts_cell", params={"channels": 8, "cells": 5, "evaluation": True})
    child = evaluation_spec("parent", SEARCH, ForkBody(space=space, retrain=RETRAIN), [best.arch.genes])
    large = problem(child)
    state = fold_all(run(tmp_path, large))
    [exported] = state.exports
    assert exported.arch.space == large.space.id
    assert genotype(exported.arch.genes) == genotype(best.arch.genes)
    [trained] = [c for c in state.candidates.values() if c.arch == exported.arch and c.origin == "search"]
    assert "trained_accuracy" in trained.metrics
    assert trained.measurement is not None
    # 5 cells of 8, 16 and 32 channels have far more parameters than 3 of 4, 8 and 16
    assert trained.metrics["params"] > 4 * best.metrics["params"]
    assert exported.report["accuracy_torch"] == pytest.approx(exported.report["accuracy_onnx"], abs=0.1)


@pytest.mark.long
def test_the_published_evaluation_network_has_a_price_before_it_runs(tmp_path: Path) -> None:
    """20 cells of 36 channels, 600 epochs on two GPUs that are not there: some steps are timed, nothing is trained."""
    body = ForkBody(
        space=SpaceSpec(name="darts_cell", params={"preset": "evaluation"}),
        retrain=RETRAIN.model_copy(update={"epochs": 600, "batch_size": 16}),
        resources=ResourceSpec(gpus=2),
    )
    child = evaluation_spec("parent", SEARCH, body, [from_genotype(DARTS_V2)])
    large = problem(child)
    cost = estimate_cost(tmp_path, large, [stage for stage in stages_of(large) if stage.name == "retrain"])
    [retraining] = cost.stages
    assert retraining.seconds is not None
    # 600 epochs of 10 steps, each a second of the test's clock, of one network after the other on the two GPUs
    assert retraining.seconds >= 600 * 10 / 2
    assert cost.gpu_hours == pytest.approx(2 * cost.seconds / 3600)
