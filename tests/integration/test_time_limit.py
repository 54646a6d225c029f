"""A search that has used up its hours ends with the front that it has so far, verified and exported."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from nas.blobs import FolderBlobs
from nas.core.events import Checkpoint, Evaluated, Event, Progress, SearchState, StageFinished, Traced, Warned, fold_all
from nas.core.ports import Resources
from nas.core.spec import (
    BudgetSpec,
    DataSpec,
    ExportSpec,
    ResourceSpec,
    RetrainSpec,
    SearchSpec,
    SpaceSpec,
    StrategySpec,
)
from nas.engine import run_search, stages_of
from nas.stages.fronts import front_of
from nas.stages.retrain import RetrainStage
from tests.support.engine import SPEC, RuleDevice, problem, stored, two_candidates
from tests.support.few_shot import PARAMS as FEW_SHOT
from workers import runner

pytestmark = pytest.mark.usefixtures("one_thread")

GRADIENT = SearchSpec(
    space=SpaceSpec(name="nas_bench_201", params={"preset": "digits", "channels": 4}),
    data=DataSpec(params={"max_train": 160, "max_val": 80, "max_test": 80}),
    strategy=StrategySpec(
        name="darts", params={"preset": "darts", "epochs": 2, "tune_epochs": 1, "batch_size": 40, "seeds": 2}
    ),
    budget=BudgetSpec(evaluations=12, verified=3),
    export=ExportSpec(count=1, int8=False),
    resources=ResourceSpec(max_hours=2.0),
)
LIMITED = SPEC.model_copy(update={"resources": ResourceSpec(max_hours=2.0)})


def run_until(folder: Path, spec: SearchSpec, is_over: Callable[[Event], bool]) -> list[Event]:
    """Run a search whose time is up from the first event on that ``is_over``."""
    ticks, events = count(), list[Event]()
    over = False
    p = problem(spec)
    resources = Resources(FolderBlobs(folder), RuleDevice(), lambda: float(next(ticks)), is_out_of_time=lambda: over)
    for event in run_search(p, stages_of(p), resources, SearchState()):
        events.append(event)
        over = over or is_over(event)
    return stored(events)


def require_complete(state: SearchState, spec: SearchSpec) -> None:
    """The search ended well, with a verified front and models."""
    front = front_of(spec, state)
    assert front.final
    assert front.members
    assert all(c.status in ("verified", "violated") for c in front.members)
    assert state.exports
    assert list(state.finished)[-1] == "export"


def warnings_of(events: list[Event]) -> list[Warned]:
    return [e for e in events if isinstance(e, Warned) and "time limit" in e.message]


@pytest.mark.long
def test_exploration_ends_after_the_present_round(tmp_path: Path) -> None:
    events = run_until(tmp_path, LIMITED, lambda e: isinstance(e, Evaluated))
    state = fold_all(events)
    assert len(state.of("search")) == len(state.of("baseline")) == 2  # one of 8 rounds
    [warned] = warnings_of(events)
    assert warned.message == (
        "the time limit of the search, 2 h, was reached at 2 of 16 evaluations: what there is so far is verified and "
        "exported"
    )
    assert warned.message in state.warnings
    require_complete(state, LIMITED)


def test_training_ends_early_and_its_supernet_is_explored_once(tmp_path: Path) -> None:
    events = run_until(tmp_path, LIMITED, lambda e: isinstance(e, Progress) and e.stage == "train")
    state = fold_all(events)
    total = next(e.total for e in events if isinstance(e, Progress) and e.stage == "train")
    assert state.finished["train"]["steps"] < total
    assert [e.stage for e in warnings_of(events)] == ["train", "explore"]
    assert len(state.of("search")) == 2
    require_complete(state, LIMITED)


def test_gradient_search_ends_early_with_the_run_that_it_has(tmp_path: Path) -> None:
    events = run_until(tmp_path, GRADIENT, lambda e: isinstance(e, Progress) and e.stage == "train")
    state = fold_all(events)
    assert [run["seed"] for run in state.finished["train"]["runs"]] == [0]  # of two
    assert [e.stage for e in warnings_of(events)] == ["train", "explore"]
    require_complete(state, GRADIENT)


@pytest.mark.long
def test_search_within_its_time_is_not_changed(tmp_path: Path) -> None:
    events = run_until(tmp_path, LIMITED, lambda _: False)
    assert warnings_of(events) == []
    assert len(fold_all(events).of("search")) == 16


def test_limit_counts_what_earlier_attempts_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(runner.time, "monotonic", lambda: now)
    limits: dict[str, Any] = {
        "none": runner._time_limit(None, 1e9),
        "fresh": runner._time_limit(1.0, 0.0),
        "used": runner._time_limit(1.0, 3500.0),
    }
    assert {name: limit() for name, limit in limits.items()} == {"none": False, "fresh": False, "used": False}
    now += 200.0
    assert {name: limit() for name, limit in limits.items()} == {"none": False, "fresh": False, "used": True}


def with_strategy(name: str, **params: Any) -> SearchSpec:
    return GRADIENT.model_copy(
        update={"strategy": StrategySpec(name=name, params=params), "budget": BudgetSpec(evaluations=8, verified=2)}
    )


SPLIT = with_strategy("few_shot", **{**FEW_SHOT, "subspace_epochs": 2, "split": "random"})
BY_GRADIENT = with_strategy("few_shot", **{**FEW_SHOT, "subspace_epochs": 2, "split": "random", "search": "darts"})
MATCHED = with_strategy("few_shot", **{**FEW_SHOT, "warmup_epochs": 1})
ENSEMBLE = with_strategy("few_shot", **{**FEW_SHOT, "split": "ensemble", "compare_one_shot": False}).model_copy(
    update={"space": SpaceSpec(name="resnet20_downsampling", params={"preset": "digits"})}
)


def is_checkpoint(name: str) -> Callable[[Event], bool]:
    """The first checkpoint of a stage."""
    return lambda e: isinstance(e, Checkpoint) and e.stage == name


@pytest.mark.long
@pytest.mark.parametrize(
    ("spec", "is_over", "cut"),
    [
        (SPLIT, is_checkpoint("train.subspace2"), {"train.subspace1", "explore", "rank_correlation"}),
        (BY_GRADIENT, is_checkpoint("train.subspace2"), {"train.subspace1", "explore", "rank_correlation"}),
        (MATCHED, lambda e: isinstance(e, Traced) and e.stage == "split", {"split", "explore", "rank_correlation"}),
        (ENSEMBLE, is_checkpoint("train"), {"train", "explore", "rank_correlation"}),
    ],
    ids=["sub-supernets", "by gradient", "matching", "ensemble"],
)
def test_few_shot_search_ends_early(
    tmp_path: Path, spec: SearchSpec, is_over: Callable[[Event], bool], cut: set[str]
) -> None:
    events = run_until(tmp_path, spec, is_over)
    assert {e.stage for e in warnings_of(events)} >= cut
    state = fold_all(events)
    assert "tau_after" not in state.finished["rank_correlation"]
    require_complete(state, spec)


@pytest.mark.long
def test_subspaces_take_one_step_each_when_time_is_up(tmp_path: Path) -> None:
    events = run_until(tmp_path, SPLIT, lambda e: isinstance(e, StageFinished) and e.stage == "split")
    state = fold_all(events)
    result = state.finished["train"]
    assert result["steps"] == result["subspaces"]


def test_proxies_of_a_part_of_the_networks_steer(tmp_path: Path) -> None:
    spec = with_strategy("zero_cost", sampled=20, images=8).model_copy(
        update={"retrain": RetrainSpec(networks=2, epochs=2, batch_size=40, trials=1)}
    )
    events = run_until(tmp_path, spec, is_checkpoint("proxies"))
    state = fold_all(events)
    assert state.finished["proxies"]["networks"] == 8
    assert [e.stage for e in warnings_of(events)] == ["proxies", "explore", "retrain"]
    require_complete(state, spec)


RETRAINED = LIMITED.model_copy(
    update={
        "retrain": RetrainSpec(networks=2, epochs=3, trials=3, seeds=2, batch_size=40),
        "budget": BudgetSpec(evaluations=8, verified=2),
    }
)


@pytest.mark.long
def test_retraining_ends_after_the_epoch_with_all_networks_trained(tmp_path: Path) -> None:
    """Time is up in the first trial of the first network: the others get an epoch each, and no second trial."""
    events = run_until(tmp_path, RETRAINED, lambda e: isinstance(e, Progress) and e.stage == "retrain")
    state = fold_all(events)
    result = state.finished["retrain"]
    networks = len(result["networks"])
    assert networks >= 2
    assert [(t["trial"], t["status"]) for t in result["trials"]] == [(1, "cut")] * networks
    assert sorted(t["epochs"] for t in result["trials"]) == [1] * (networks - 1) + [2]
    [warned] = warnings_of(events)
    assert (
        f"0 of {networks * 4} trainings from scratch, so that {networks} of {networks} networks were trained for 1 to 2"
        in warned.message
    )
    trained = [c for c in front_of(RETRAINED, state).members if "trained_accuracy" in c.metrics]
    assert trained
    require_complete(state, RETRAINED)


def retrain(folder: Path, events: list[Event], is_over: Callable[[Event], bool]) -> list[Event]:
    """The stage alone, after ``events``, whose time is up from the first event on that ``is_over``."""
    ticks, new, over = count(), list[Event](), False
    resources = Resources(FolderBlobs(folder), RuleDevice(), lambda: float(next(ticks)), is_out_of_time=lambda: over)
    for event in run_search(problem(RETRAINED), [RetrainStage()], resources, fold_all(events)):
        new.append(event)
        over = over or is_over(event)
    return stored(new)


def test_networks_that_were_trained_to_the_end_stand_by_that(tmp_path: Path) -> None:
    """Time is up after the first trials of both: nothing is cut, the other trials and seeds are left out."""
    before = [*two_candidates(problem(RETRAINED))]
    progress = count(1)
    events = retrain(tmp_path, before, lambda e: isinstance(e, Progress) and next(progress) == 2 * 3)
    result = fold_all([*before, *events]).finished["retrain"]
    assert [(t["trial"], t["status"], t["epochs"]) for t in result["trials"]] == [(1, "finished", 3)] * 2
    [warned] = warnings_of(events)
    assert "was reached at 2 of 8 trainings from scratch: what there is" in warned.message


def test_retraining_that_was_cut_is_not_begun_again_after_a_restart(tmp_path: Path) -> None:
    before = [*two_candidates(problem(RETRAINED))]
    events = retrain(tmp_path, before, lambda e: isinstance(e, Progress))
    result = fold_all([*before, *events]).finished["retrain"]
    checkpoints = [e for e in events if isinstance(e, Checkpoint)]
    again = retrain(tmp_path, [*before, *checkpoints], lambda _: True)
    assert fold_all([*before, *checkpoints, *again]).finished["retrain"] == result
    assert not [e for e in again if isinstance(e, Checkpoint)]
