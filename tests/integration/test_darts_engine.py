"""A differentiable search as a whole: from a spec to a verified front and models, also when it is cut."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.arch import Arch
from nas.core.errors import InvalidSpec
from nas.core.events import Checkpoint, Event, Traced, fold_all
from nas.core.ports import is_relaxed
from nas.core.retraining import RetrainSpec
from nas.core.spec import BudgetSpec, DataSpec, ExportSpec, ObjectiveSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.core.unsupported import ExcludedChoice
from nas.spaces.restricted import restricted, trained_by_gradient
from nas.stages.fronts import front_of
from nas.strategies.darts import DARTS
from nas.training.state import TrainState
from tests.support.engine import RulePredictor, estimate_cost, problem, run, stored

pytestmark = pytest.mark.usefixtures("one_thread")

PARAMS: dict[str, Any] = {"preset": "darts", "epochs": 2, "tune_epochs": 1, "batch_size": 40, "seeds": 2}
SPEC = SearchSpec(
    space=SpaceSpec(name="nas_bench_201", params={"preset": "digits", "channels": 4}),
    data=DataSpec(params={"max_train": 160, "max_val": 80, "max_test": 80}),
    strategy=StrategySpec(name="darts", params={**PARAMS, "tune_epochs": 2, "checkpoint_s": 1e-9}),
    budget=BudgetSpec(evaluations=12, verified=3),
    export=ExportSpec(count=1, int8=False),
)


def with_params(**params: Any) -> SearchSpec:
    return SPEC.model_copy(update={"strategy": StrategySpec(name="darts", params={**PARAMS, **params})})


@pytest.fixture(scope="module")
def finished_search(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Path]:
    folder = tmp_path_factory.mktemp("blobs")
    torch.set_num_threads(1)
    return stored(list(run(folder, problem(SPEC)))), folder


def test_a_search_ends_with_a_verified_front_and_models(finished_search: tuple[list[Event], Path]) -> None:
    events, folder = finished_search
    state = fold_all(events)
    assert list(state.finished) == ["estimate", "train", "discretize", "explore", "verify", "refine", "export"]
    assert len(state.of("search")) == len(state.of("baseline")) == 12
    front = front_of(SPEC, state)
    assert front.final
    assert front.members
    assert all(p.status in ("verified", "violated") for p in front.members)
    assert len(state.exports) == 1
    report = state.exports[0].report
    assert report["accuracy_torch"] == pytest.approx(report["accuracy_onnx"], abs=0.1)
    trained = state.finished["train"]
    assert [r["seed"] for r in trained["runs"]] == [0, 1]
    accuracies = [r["val_accuracy"] for r in trained["runs"]]
    assert trained["mean_val_accuracy"] == pytest.approx(np.mean(accuracies))
    assert trained["deviation_val_accuracy"] == pytest.approx(np.std(accuracies, ddof=1))
    derived = state.finished["discretize"]
    assert [s["val_accuracy"] for s in derived["seeds"]] == accuracies
    assert derived["deviation_val_accuracy"] == trained["deviation_val_accuracy"] > 0
    for r in trained["runs"]:  # each seed's weights are kept for as long as the search
        assert state.checkpoints[f"train.seed{r['seed']}"].blob == r["supernet"]
    networks = state.finished["discretize"]["networks"]
    first = [list(p.arch.genes) for p in state.of("search")][: len(networks)]
    assert sorted(first) == sorted(networks)  # from the middle of their sizes outwards
    blob = TrainState.from_bytes(FolderBlobs(folder).get(trained["supernet"]), "cpu").weights
    assert blob is not None
    best = max(json.loads(blob["runs"]), key=lambda r: r["val_accuracy"])
    point = next(p for p in state.of("search") if list(p.arch.genes) == best["genes"])
    assert point.metrics["val_accuracy"] == pytest.approx(best["val_accuracy"])  # scored on its own run's weights


def test_every_epoch_leaves_a_trace(finished_search: tuple[list[Event], Path]) -> None:
    traces = [e for e in finished_search[0] if isinstance(e, Traced)]
    assert [(t.values["seed"], t.values["epoch"]) for t in traces] == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert [t.step for t in traces] == sorted(t.step for t in traces)
    for t in traces:
        assert len(t.table) == len(t.rows) == 6
        assert len(t.columns) == 5
        assert all(sum(row) == pytest.approx(1.0, abs=1e-3) for row in t.table)
        assert {"entropy", "skip_share", "temperature"} <= set(t.values)


def test_a_search_that_is_cut_while_it_trains_ends_the_same(finished_search: tuple[list[Event], Path]) -> None:
    events, folder = finished_search
    expected = fold_all(events)
    marks = [i for i, e in enumerate(events) if isinstance(e, Checkpoint)]
    for cut in (marks[2], marks[len(marks) // 2], marks[-1]):
        before = events[: cut + 1]
        state = fold_all(_until_derived(run(folder, problem(SPEC), before)), fold_all(before))
        assert state.finished["train"] == expected.finished["train"]
        assert state.finished["discretize"] == expected.finished["discretize"]


def _until_derived(stream: Any) -> Any:
    for event in stream:
        yield event
        if event.kind == "stage_finished" and event.stage == "discretize":
            return


def test_another_bound_on_the_same_relaxation_trains_nothing(finished_search: tuple[list[Event], Path]) -> None:
    events, folder = finished_search
    parent = fold_all(events)
    latencies = sorted(p.metrics["upper_ms"] for p in parent.candidates.values())
    objectives = (ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=latencies[5]))
    child = SPEC.model_copy(update={"objectives": objectives, "budget": BudgetSpec(evaluations=8, verified=2)})
    p = problem(child, parent.finished["train"]["supernet"], parent)
    state = fold_all(run(folder, p))
    assert state.finished["train"]["reused"]
    genes = np.array(state.finished["discretize"]["networks"])
    assert (p.predictor.predict(p.space.features(genes)).upper_ms <= latencies[5]).all()
    seeds = state.finished["discretize"]["seeds"]
    assert {tuple(s["genes"]) for s in seeds} <= {tuple(g) for g in genes.tolist()}
    accuracies = [s["val_accuracy"] for s in seeds]
    assert state.finished["discretize"]["mean_val_accuracy"] == pytest.approx(np.mean(accuracies))
    assert state.finished["discretize"]["deviation_val_accuracy"] == pytest.approx(np.std(accuracies, ddof=1))


@pytest.mark.parametrize("preset", ["gdas", "gold", "modnas"])
def test_presets_reach_their_networks(preset: str, tmp_path: Path) -> None:
    spec = with_params(preset=preset, seeds=1, epochs=3)
    events = list(_until_derived(run(tmp_path, problem(spec))))
    assert fold_all(events).finished["discretize"]["networks"]


@pytest.mark.slow
def test_gold_nas_searches_cells_of_free_topology_for_the_latency_of_a_device(tmp_path: Path) -> None:
    """Its series and what survives are the first candidates, verified and exported as any others."""
    params = {"preset": "gold", "resource": "latency", "seeds": 1, "epochs": 3, "prune_weight": 0.05}
    spec = with_params(**params).model_copy(
        update={
            "space": SpaceSpec(name="free_cell", params={"preset": "digits"}),
            "budget": BudgetSpec(evaluations=8, verified=1),
        }
    )
    state = fold_all(run(tmp_path, problem(spec)))
    [run_of_seed] = state.finished["train"]["runs"]
    first = [list(p.arch.genes) for p in state.of("search")]
    assert all(list(genes) in first for genes in (run_of_seed["genes"], *run_of_seed["series"]))
    report = state.exports[0].report
    assert report["accuracy_torch"] == pytest.approx(report["accuracy_onnx"], abs=0.1)


def test_a_bound_is_met_after_discretisation_or_said_to_be_out_of_reach(tmp_path: Path) -> None:
    objectives = (ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="macs", bound=45_000))
    spec = with_params(preset="la_darts", seeds=1).model_copy(update={"objectives": objectives})
    events = list(_until_derived(run(tmp_path, problem(spec))))
    networks = np.array(fold_all(events).finished["discretize"]["networks"])
    assert (problem(spec).space.costs(networks)["macs"] <= 45_000).all()


def test_weights_that_are_gone_leave_a_network_without_a_score(
    finished_search: tuple[list[Event], Path], tmp_path: Path
) -> None:
    events, folder = finished_search
    parent = fold_all(events)
    weights = TrainState.from_bytes(FolderBlobs(folder).get(parent.finished["train"]["supernet"]), "cpu").weights
    assert weights is not None
    dear = [r | {"genes": [4] * 6} for r in json.loads(weights["runs"])]  # above any bound
    supernet = FolderBlobs(tmp_path).put(TrainState(0, 0, {**weights, "runs": json.dumps(dear)}).to_bytes())
    objectives = (ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="macs", bound=45_000))
    p = problem(SPEC.model_copy(update={"objectives": objectives}), supernet, parent)
    state = fold_all(_until_derived(run(tmp_path, p)))
    seeds = state.finished["discretize"]["seeds"]
    assert [s["val_accuracy"] for s in seeds] == [None, None]
    assert "mean_val_accuracy" not in state.finished["discretize"]
    assert sum("are gone" in w for w in state.warnings) == 2


def test_a_supernet_without_a_relaxation_is_refused(tmp_path: Path) -> None:
    p = problem(SPEC)
    blob = FolderBlobs(tmp_path).put(TrainState(0, 0, {"net": p.space.supernet(0).state_dict()}).to_bytes())
    with pytest.raises(InvalidSpec, match="without architecture parameters"):
        list(run(tmp_path, problem(SPEC, blob)))


def test_a_space_without_relaxations_is_refused() -> None:
    spec = SPEC.model_copy(update={"space": SpaceSpec(name="resnet20_downsampling", params={"preset": "digits"})})
    with pytest.raises(InvalidSpec, match="resnet20_downsampling does not offer"):
        DARTS.stages(problem(spec))


MOBILE_STAGE = {"width": 16, "stride": 2, "act": "relu", "se": False}
MOBILE_PARAMS: dict[str, Any] = {"preset": "digits", "depths": [1, 2, 3], "resolutions": [8], "stages": [MOBILE_STAGE]}
MOBILE = SpaceSpec(name="mobilenet_v3", params=MOBILE_PARAMS)


@pytest.mark.parametrize("preset", ["proxyless", "la_darts"])
def test_a_mobile_network_is_found_by_gradient_within_a_latency_bound(preset: str, tmp_path: Path) -> None:
    """The latency loss is on by default, and the bound is held by the device's predictor."""
    relaxed = registry.build_space(MOBILE, problem(SPEC).space.shape)
    assert is_relaxed(relaxed)
    middle = relaxed.discretise(np.random.default_rng(0).gumbel(size=relaxed.relaxation.shape))
    bound = float(RulePredictor().predict(relaxed.features(middle[None])).upper_ms[0])
    objectives = (ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=bound))
    spec = with_params(preset=preset, seeds=1).model_copy(update={"space": MOBILE, "objectives": objectives})
    events = list(_until_derived(run(tmp_path, problem(spec))))
    traces = [e for e in events if isinstance(e, Traced)]
    assert [t.values["epoch"] for t in traces if "multiplier" in t.values] == [
        2
    ]  # in the first the weights learn alone
    networks = np.array(fold_all(events).finished["discretize"]["networks"])
    assert (RulePredictor().predict(relaxed.features(networks)).upper_ms <= bound).all()


def test_a_mobile_network_that_was_found_by_gradient_is_trained_on_and_exported(tmp_path: Path) -> None:
    retrain = RetrainSpec(networks=1, trials=1, epochs=1, start="inherited")
    budget = BudgetSpec(evaluations=8, verified=1)
    spec = with_params(preset="proxyless", seeds=1, epochs=1)
    spec = spec.model_copy(update={"space": MOBILE, "retrain": retrain, "budget": budget})
    state = fold_all(run(tmp_path, problem(spec)))
    assert "retrain" in state.finished
    report = state.exports[0].report
    assert report["accuracy_torch"] == pytest.approx(report["accuracy_onnx"], abs=0.1)


@pytest.mark.slow
def test_networks_that_gradient_search_has_not_trained_are_not_explored(tmp_path: Path) -> None:
    space = SpaceSpec(name="mobilenet_v3", params={**MOBILE_PARAMS, "resolutions": [6, 8], "widths": [0.5, 1.0]})
    budget = BudgetSpec(evaluations=16, verified=1)
    spec = with_params(preset="proxyless", seeds=1, epochs=1, rank_networks=4, rank_epochs=1)
    p = problem(spec.model_copy(update={"space": space, "budget": budget}))
    state = fold_all(run(tmp_path, p))
    choices = [
        {d.axis: d.choices[g] for d, g in zip(p.space.decisions, candidate.arch.genes, strict=True)}
        for candidate in state.candidates.values()
    ]
    assert len(choices) >= 16
    assert {(c["resolution"], c["width"]) for c in choices} == {(8, 1.0)}
    assert {c["depth"] for c in choices} == {1, 2, 3}
    inherited = problem(p.spec, state.finished["train"]["supernet"], state)
    narrow = replace(inherited.inherited[0], arch=Arch(p.space.id, (0,) * len(p.space.decisions)))
    again = fold_all(run(tmp_path, replace(inherited, inherited=(*inherited.inherited, narrow))))
    assert narrow.arch not in [candidate.arch for candidate in again.candidates.values()]


def test_a_device_that_does_not_run_what_gradient_search_trains_is_told() -> None:
    narrow = SpaceSpec(name="mobilenet_v3", params={**MOBILE_PARAMS, "widths": [0.5, 1.0]})
    space = problem(with_params().model_copy(update={"space": narrow})).space
    excluded = ExcludedChoice("stage1.width", 1, "too wide")
    with pytest.raises(InvalidSpec, match=r"trains stage1.width 1.0 alone"):
        trained_by_gradient(restricted(space, [excluded]))


def test_one_training_gives_the_networks_of_every_bound(tmp_path: Path) -> None:
    """MODNAS: what is read off for another bound costs no training, and meets it."""
    spec = with_params(preset="modnas", seeds=1, epochs=4, hypernetwork_lr=0.1)
    parent = fold_all(_until_derived(run(tmp_path, problem(spec))))
    networks = np.array(parent.finished["discretize"]["networks"])
    space = problem(spec).space
    upper_ms = RulePredictor().predict(space.features(networks)).upper_ms
    bound = float(np.median(upper_ms))
    objectives = (ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=bound))
    child = problem(spec.model_copy(update={"objectives": objectives}), parent.finished["train"]["supernet"], parent)
    state = fold_all(_until_derived(run(tmp_path, child)))
    assert state.finished["train"]["reused"]
    read_off = np.array(state.finished["discretize"]["networks"])
    assert (RulePredictor().predict(space.features(read_off)).upper_ms <= bound).all()
    assert {tuple(g) for g in networks[upper_ms <= bound].tolist()} <= {tuple(g) for g in read_off.tolist()}


def test_it_has_a_price(tmp_path: Path) -> None:
    spec = with_params(preset="darts_pt", seeds=1, select_epochs=1)
    cost = estimate_cost(tmp_path, problem(spec), DARTS.stages(problem(spec))[:3])
    assert [s.stage for s in cost.stages] == ["estimate", "train", "discretize"]
    assert all(s.seconds is not None and s.seconds > 0 for s in cost.stages)
    assert cost.stages[1].steps == 2 + 6 + 1
    assert cost.stages[1].timed == 9
