"""Found networks trained alone: their own weights are verified and exported, however often the search is cut."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import safetensors.torch
import torch

from nas.blobs import FolderBlobs
from nas.core.cost_estimate import StageCost
from nas.core.errors import Diverged, HwnasError, InvalidSpec
from nas.core.events import (
    Checkpoint,
    Event,
    Progress,
    SearchState,
    Warned,
    fold_all,
)
from nas.core.ports import Problem, Resources
from nas.core.retraining import RetrainSpec
from nas.core.spec import BudgetSpec, DataSpec, SearchSpec, SpaceSpec, StrategySpec, parse_spec
from nas.engine import run_search, stage_names, stages_of
from nas.stages.fronts import front_of
from nas.stages.results import RetrainResult
from nas.stages.retrain import RetrainStage
from nas.training.standalone import unpack
from server.store.rank_correlation import rank_correlation_schema
from tests.support import fakes
from tests.support.engine import SPEC, RuleDevice, cuts, problem, stored, two_candidates

pytestmark = pytest.mark.usefixtures("one_thread")

RETRAIN_SPEC = RetrainSpec(networks=2, epochs=3, trials=3, seeds=2, batch_size=40, stop_dominated=False)
RETRAINED = SPEC.model_copy(update={"retrain": RETRAIN_SPEC, "budget": BudgetSpec(evaluations=8, verified=2)})


def run(folder: Path, p: Problem, events: Sequence[Event] = (), device: RuleDevice | None = None) -> Iterator[Event]:
    ticks = count()
    resources = Resources(FolderBlobs(folder), device or RuleDevice(), lambda: 100.0 * next(ticks))
    return run_search(p, stages_of(p), resources, fold_all(events))


def retrain(folder: Path, p: Problem, events: Sequence[Event]) -> Iterator[Event]:
    """The stage alone."""
    ticks = count()
    resources = Resources(FolderBlobs(folder), RuleDevice(), lambda: 100.0 * next(ticks))
    return run_search(p, [RetrainStage()], resources, fold_all(events))


@pytest.fixture(scope="module")
def retrained_search(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Path]:
    folder = tmp_path_factory.mktemp("blobs")
    torch.set_num_threads(1)
    return stored(list(run(folder, problem(RETRAINED)))), folder


@pytest.mark.long
def test_the_front_is_that_of_the_retrained(retrained_search: tuple[list[Event], Path]) -> None:
    state = fold_all(retrained_search[0])
    assert list(state.finished) == ["estimate", "train", "explore", "retrain", "verify", "refine", "export"]
    result = state.finished["retrain"]
    for origin in ("search", "baseline"):
        trained = [p for p in state.of(origin) if "trained_accuracy" in p.metrics]
        measured = [p for p in state.of(origin) if p.measurement is not None]
        assert 1 <= len(trained) <= 2
        assert [p.arch for p in trained] == [p.arch for p in measured]
        for p in trained:
            assert p.metrics["trained_accuracy"] == result["networks"][p.arch.id]["trained_accuracy"]
            assert p.metrics["trained_deviation"] >= 0.0
    front = front_of(RETRAINED, state)
    assert front.final
    assert front.members
    ranked = sorted(front.members, key=lambda p: p.metrics["trained_accuracy"])
    assert ranked == sorted(front.members, key=lambda p: p.metrics["measured_ms"])


@pytest.mark.long
def test_search_and_baseline_get_the_same_and_every_trial_is_told_of(
    retrained_search: tuple[list[Event], Path],
) -> None:
    state = fold_all(retrained_search[0])
    result = state.finished["retrain"]
    by_network: dict[str, list[dict[str, object]]] = {}
    for row in result["trials"]:
        by_network.setdefault(row["network"], []).append(row)
    assert set(by_network) == set(result["networks"])
    for rows in by_network.values():
        assert [r["trial"] for r in rows] == [1, 2, 3, 4]
        assert (rows[0]["lr"], rows[0]["status"]) == (0.1, "finished")
        assert rows[-1]["status"] == "finished"  # another seed is never stopped
        assert {r["status"] for r in rows} <= {"finished", "pruned"}
        assert all(r["epochs"] == 3 for r in rows if r["status"] == "finished")
    assert result["epochs"] + result["epochs_saved"] == 3 * 4 * len(by_network)
    assert result["pruned"] == sum(r["status"] == "pruned" for r in result["trials"])
    messages = [e.message for e in retrained_search[0] if isinstance(e, Progress) and e.stage == "retrain"]
    assert sum("pruned" in m for m in messages) == result["pruned"] > 0
    last = [e for e in retrained_search[0] if isinstance(e, Progress) and e.stage == "retrain"][-1]
    assert last.done == last.total


def test_what_is_exported_has_its_own_weights(retrained_search: tuple[list[Event], Path]) -> None:
    events, folder = retrained_search
    state = fold_all(events)
    exported = state.exports[0]
    with zipfile.ZipFile(io.BytesIO(FolderBlobs(folder).get(exported.blob))) as archive:
        out = safetensors.torch.load(archive.read("weights.safetensors"))
    blob = state.finished["retrain"]["networks"][exported.arch.id]["weights"]
    _, weights = unpack(FolderBlobs(folder).get(blob), "cpu")
    assert weights is not None
    same = [k for k, v in out.items() if k in weights["net"] and torch.equal(v, weights["net"][k])]
    assert len(same) >= len(out) - 1
    point = state.candidates["search", exported.arch.id]
    assert point.metrics["test_accuracy"] == pytest.approx(exported.report["accuracy_onnx"], abs=0.9)


@pytest.mark.long
@pytest.mark.slow
def test_a_search_that_is_cut_anywhere_ends_the_same(retrained_search: tuple[list[Event], Path]) -> None:
    events, folder = retrained_search
    expected = fold_all(events)
    marks = [i for i, e in enumerate(events) if getattr(e, "stage", "").startswith("retrain")]
    for cut in (marks[len(marks) // 2], marks[-1], marks[-1] + 3):
        before = events[: cut + 1]
        state = fold_all(run(folder, problem(RETRAINED), before), fold_all(before))
        assert state.candidates == expected.candidates, f"cut after event {cut}: {events[cut]}"
        assert state.exports == expected.exports
        assert state.finished["verify"] == expected.finished["verify"]


@pytest.mark.long
def test_training_that_is_cut_after_any_event_ends_the_same_and_repeats_no_trial(tmp_path: Path) -> None:
    p = problem(RETRAINED.model_copy(update={"retrain": RETRAIN_SPEC.model_copy(update={"trials": 2})}))
    first_events = list(two_candidates(p))
    events = [*first_events, *stored(list(retrain(tmp_path, p, first_events)))]
    expected = fold_all(events)
    begin = len(first_events)
    for cut in sorted({*(i + 1 for i in cuts(events, begin)), *range(begin, len(events), 9)}):
        before = events[:cut]
        after = list(retrain(tmp_path, p, before))
        state = fold_all(after, fold_all(before))
        assert state.candidates == expected.candidates, f"cut after event {cut - 1}: {before[-1]}"
        assert state.checkpoints == expected.checkpoints  # and so all weights, by their sha256
        assert state.finished == expected.finished
        checkpoints = {(e.stage, e.step) for e in before if isinstance(e, Checkpoint)}
        assert not checkpoints & {(e.stage, e.step) for e in after if isinstance(e, Checkpoint)}


@pytest.mark.long
@pytest.mark.slow
def test_cells_that_were_found_by_gradient_are_retrained_as_well(tmp_path: Path) -> None:
    params = {"preset": "darts", "epochs": 2, "tune_epochs": 1, "batch_size": 40}
    spec = RETRAINED.model_copy(
        update={
            "space": SpaceSpec(name="nas_bench_201", params={"preset": "digits", "channels": 4}),
            "data": DataSpec(params={"max_train": 160, "max_val": 80, "max_test": 80}),
            "strategy": StrategySpec(name="darts", params=params),
            "retrain": RetrainSpec(networks=1, epochs=1, trials=1, batch_size=40),
        }
    )
    state = fold_all(run(tmp_path, problem(spec)))
    assert list(state.finished) == [
        "estimate",
        "train",
        "discretize",
        "explore",
        "retrain",
        "verify",
        "refine",
        "export",
    ]
    assert front_of(spec, state).members
    assert {e.arch.id for e in state.exports} <= set(state.finished["retrain"]["networks"])


def test_divergence_is_told_and_if_nothing_is_left_the_search_ends(
    retrained_search: tuple[list[Event], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    events, folder = retrained_search
    retrain_index = next(i for i, e in enumerate(events) if getattr(e, "stage", "") == "retrain")
    events_so_far: list[Event] = []

    def diverges(self: object, number: int) -> float:
        raise Diverged("training diverged")

    monkeypatch.setattr("nas.training.standalone.StandaloneTrainer.epoch", diverges)
    with pytest.raises(HwnasError, match="all trainings of all"):
        _note(run(folder, problem(RETRAINED), events[:retrain_index]), events_so_far)
    assert any(isinstance(e, Warned) and "diverged" in e.message for e in events_so_far)


@pytest.mark.long
def test_training_alone_learns(tmp_path: Path) -> None:
    """On the digits, a network without any inherited weight reaches what chance never does."""
    spec = SPEC.model_copy(
        update={
            "data": DataSpec(params={"max_train": 600, "max_val": 200, "max_test": 100}),
            "retrain": RetrainSpec(networks=1, epochs=8, trials=1, batch_size=32),
            "budget": BudgetSpec(evaluations=8, verified=1),
        }
    )
    p = problem(spec)
    first_events = list(two_candidates(p))
    state = fold_all([*first_events, *retrain(tmp_path, p, first_events)])
    [network] = state.finished["retrain"]["networks"].values()
    assert network["trained_accuracy"] > 60.0
    assert all("trained_deviation" not in point.metrics for point in state.candidates.values())


@pytest.mark.long
def test_networks_that_others_dominate_get_no_further_trials(tmp_path: Path) -> None:
    """However the search is cut; and what that saves is told."""
    settings = RetrainSpec(networks=4, epochs=2, trials=3, seeds=1, batch_size=40)
    p = problem(RETRAINED.model_copy(update={"retrain": settings, "budget": BudgetSpec(evaluations=8, verified=4)}))
    first_events = list(run(tmp_path, p))
    first_events = stored(first_events[: next(i for i, e in enumerate(first_events) if _stage_of(e) == "retrain")])
    events = [*first_events, *stored(list(retrain(tmp_path, p, first_events)))]
    result = fold_all(events).finished["retrain"]
    trials = Counter(row["network"] for row in result["trials"])
    assert set(trials.values()) == {1, 3} or set(trials.values()) == {1, 2, 3}
    assert result["stopped"] == sum(n < 3 for n in trials.values())
    assert result["epochs"] + result["epochs_saved"] == 2 * 3 * len(trials)
    messages = [e for e in events if isinstance(e, Progress) and e.stage == "retrain"]
    assert "early stopping has saved" in messages[-1].message
    assert messages[-1].done == messages[-1].total
    for cut in cuts(events, len(first_events)):
        state = fold_all(retrain(tmp_path, p, events[:cut]), fold_all(events[:cut]))
        assert state.finished["retrain"] == result


def test_retraining_shows_how_well_the_search_had_ranked(retrained_search: tuple[list[Event], Path]) -> None:
    state = fold_all(retrained_search[0])
    ranking = RetrainResult.require(state.finished).ranking
    retrained = state.finished["retrain"]["networks"]
    if len(retrained) < 4:
        assert ranking is None
        return
    assert ranking is not None
    assert set(ranking.archs or ()) == set(retrained)
    by_id = {c.arch.id: c for c in state.candidates.values()}
    rows = zip(ranking.archs or (), ranking.truth or (), ranking.estimates_after or (), strict=True)
    for arch, truth, estimate in rows:
        assert truth == by_id[arch].metrics["trained_accuracy"]
        assert estimate == by_id[arch].metrics["val_accuracy"]
    view = rank_correlation_schema(state.finished)
    assert view is not None
    assert view.partition is None
    assert [n.before for n in view.networks] == [None] * len(retrained)
    assert f"on {len(retrained)} networks" in view.advice or "alike" in view.advice


def test_the_cost_of_retraining_grows_with_trials_and_has_a_range(tmp_path: Path) -> None:
    def estimate_cost(retrain: RetrainSpec) -> StageCost:
        ticks = count()
        resources = Resources(FolderBlobs(tmp_path), RuleDevice(), lambda: float(next(ticks)))
        p = problem(RETRAINED.model_copy(update={"retrain": retrain}))
        return RetrainStage().estimate_cost(p, resources, SearchState())

    small, large = estimate_cost(RETRAIN_SPEC), estimate_cost(RETRAIN_SPEC.model_copy(update={"trials": 9}))
    for cost in (small, large):
        assert cost.low_s is not None
        assert cost.seconds is not None
        assert cost.high_s is not None
        assert 0 < cost.low_s < cost.seconds < cost.high_s
    assert (large.seconds or 0.0) > 1.2 * (small.seconds or 0.0)
    assert (small.steps, small.unit) == (2 * 2 * 4 * 3, "epochs")


def test_the_spec_says_what_is_wrong() -> None:
    assert parse_spec(SearchSpec, {}).retrain is None
    with pytest.raises(InvalidSpec, match=r"at most budget.verified, which is 4, .*got 9"):
        parse_spec(SearchSpec, {"budget": {"verified": 4}, "retrain": {"networks": 9}})
    with pytest.raises(InvalidSpec, match=r"retrain.epochs: .*greater than or equal to 1"):
        parse_spec(SearchSpec, {"retrain": {"epochs": 0}})
    with pytest.raises(InvalidSpec, match="epocs"):
        parse_spec(SearchSpec, {"retrain": {"epocs": 3}})


def test_every_strategy_with_the_closing_stages_retrains(monkeypatch: pytest.MonkeyPatch) -> None:
    assert stage_names(RETRAINED) == ("estimate", "train", "explore", "retrain", "verify", "refine", "export")
    assert "retrain" not in stage_names(SPEC)
    fakes.use_plugins(monkeypatch)
    spec = fakes.search_spec(retrain={"epochs": 1})
    without_end = replace(fakes.PLAIN, stage_names=lambda spec: ("estimate", "train"))
    monkeypatch.setitem(fakes.PLUGINS["nas.strategies"], "plain", without_end)
    with pytest.raises(InvalidSpec, match="retrains networks, got 'plain'"):
        stage_names(spec)


def _stage_of(event: Event) -> str:
    return getattr(event, "stage", "")


def _note(stream: Iterator[Event], events_so_far: list[Event]) -> None:
    for event in stream:
        events_so_far.append(event)
