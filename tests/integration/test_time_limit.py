"""A search that has used up its hours ends with the front that it has so far, verified and exported."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.blobs import FolderBlobs
from nas.core.events import Evaluated, Event, Progress, SearchState, Warned, fold_all
from nas.core.ports import Resources
from nas.core.spec import BudgetSpec, DataSpec, ExportSpec, ResourceSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.engine import run_search, stages_of
from nas.stages.fronts import front_of
from tests.support.engine import SPEC, RuleDevice, problem, stored
from workers import runner

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


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


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
