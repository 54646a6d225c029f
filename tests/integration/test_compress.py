"""A trained model is compressed: cuts are measured, networks allocated to budgets, compared, verified and exported."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.blobs import FolderBlobs
from nas.core.arch import as_archs
from nas.core.errors import InvalidSpec
from nas.core.events import Checkpoint, Event, Measured, Progress, SearchState, StageFinished, Warned, fold_all
from nas.core.metrics import spearman
from nas.core.ports import Resources
from nas.core.spec import BudgetSpec, ObjectiveSpec, ResourceSpec, SearchSpec, StrategySpec
from nas.engine import run_search, stage_names, stages_of
from nas.explorers.allocation import Allocator
from nas.explorers.uniform_scaling import uniform_copies
from nas.stages.adaptation import Adaptation
from nas.stages.explore import quality_of
from nas.stages.fronts import front_of
from nas.stages.results import ReferencesResult, SensitivityResult
from nas.stages.sensitivity import DistortionMeter, SensitivityStage, measured_distortions
from nas.stages.subnets import load_subnets
from nas.strategies.compress import check
from tests.support.compressing import BEST, NO_TRAINING, compress_problem
from tests.support.engine import RuleDevice, estimate_cost, problem, run, stored

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Path]:
    folder = tmp_path_factory.mktemp("blobs")
    torch.set_num_threads(1)
    return stored(list(run(folder, compress_problem()))), folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Path]:
    folder = tmp_path_factory.mktemp("blobs")
    torch.set_num_threads(1)
    return stored(list(run(folder, compress_problem(BEST)))), folder


def test_without_training_a_verified_front_comes_out(compressed: tuple[list[Event], Path]) -> None:
    state = fold_all(compressed[0])
    assert tuple(state.finished) == stage_names(NO_TRAINING)
    assert tuple(state.finished) == ("estimate", "sensitivity", "explore", "references", "verify", "refine", "export")
    front = front_of(NO_TRAINING, state)
    assert front.final
    assert front.members
    assert all(c.measurement is not None for c in front.members)
    assert len(state.exports) == 1


def test_the_first_networks_are_those_that_distort_least_for_their_cost(
    compressed: tuple[list[Event], Path],
) -> None:
    state = fold_all(compressed[0])
    networks = SensitivityResult.require(state.finished).networks
    assert len(networks) >= 3
    scored = [c.arch.genes for c in state.of("search")]
    result = SensitivityResult.require(state.finished)
    derived = [*result.networks, *result.scaled]
    assert set(scored[: len(set(derived))]) == set(derived)
    p = compress_problem()
    macs_N = p.space.costs(np.array(derived))["macs"]
    assert p.space.costs(np.array(scored[:1]))["macs"][0] == np.sort(macs_N)[len(derived) // 2]  # from the middle on
    distortions = measured_distortions(p.space, state)
    assert distortions is not None
    genes_NG = np.array(networks)
    predicted_N = p.predictor.predict(p.space.features(genes_NG)).mean_ms
    assert spearman(predicted_N, distortions.total(genes_NG)) < -0.9  # what is faster distorts more
    random_NG = np.array([c.arch.genes for c in state.of("baseline")])
    random_ms_N = p.predictor.predict(p.space.features(random_NG)).mean_ms
    allocator = Allocator(
        distortions, p.space.canonical, lambda genes_NG: p.predictor.predict(p.space.features(genes_NG)).mean_ms
    )
    allocated_NG = np.array([allocator.allocate(latency_ms) for latency_ms in random_ms_N.tolist()])
    assert (p.predictor.predict(p.space.features(allocated_NG)).mean_ms <= random_ms_N).all()
    assert (distortions.total(allocated_NG) <= distortions.total(random_NG)).all()


def test_the_parent_is_the_first_reference_as_it_came(compressed: tuple[list[Event], Path]) -> None:
    state, p = fold_all(compressed[0]), compress_problem()
    names = ReferencesResult.require(state.finished).names
    references = {names[c.arch.id]: c for c in state.of("reference")}
    assert next(iter(references)) == "parent"
    assert len(references) >= 3
    assert all(c.measurement is not None for c in references.values())
    assert references["parent"].arch.genes == p.space.pretrained_genes
    [arch] = as_archs(p.space.id, np.array([p.space.pretrained_genes]))
    module = p.space.supernet(0).subnet(arch).eval()
    images = torch.from_numpy(p.data.val.images_NCHW).float()
    mean, std = (
        torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1)
        for values in (p.data.train.images_NCHW.mean((0, 2, 3)), p.data.train.images_NCHW.std((0, 2, 3)))
    )
    with torch.no_grad():
        answers_N = module((images - mean) / std).argmax(1).numpy()
    accuracy = 100.0 * (answers_N == p.data.val.labels).mean()
    assert references["parent"].metrics["val_accuracy"] == pytest.approx(accuracy, abs=2.6)  # one image


@pytest.mark.long
def test_the_whole_pipeline_fine_tunes_and_retrains_all_but_the_parent(trained: tuple[list[Event], Path]) -> None:
    state = fold_all(trained[0])
    assert tuple(state.finished) == stage_names(BEST)
    assert {"sensitivity", "train", "references", "retrain"} <= set(state.finished)
    retrained = state.finished["retrain"]
    assert (retrained["start"], retrained["teacher"]) == ("inherited", "the model that the space starts from")
    result = SensitivityResult.require(state.finished)
    assert state.finished["train"]["supernet"] != result.supernet
    names = ReferencesResult.require(state.finished).names
    for candidate in state.of("reference"):
        own = names[candidate.arch.id] == "parent"
        assert (candidate.metrics["trained_accuracy"] == candidate.metrics["val_accuracy"]) or not own
        assert (candidate.arch.id in state.finished["retrain"]["networks"]) != own
    assert front_of(BEST, state).members


def test_networks_are_adapted_before_they_are_scored(trained: tuple[list[Event], Path]) -> None:
    state, p = fold_all(trained[0]), compress_problem(BEST)
    resources = Resources(FolderBlobs(trained[1]), RuleDevice(), time.monotonic)
    adaptation = Adaptation(p, resources, state.finished["train"]["supernet"], 40)
    before = {name: result for name, result in state.finished.items() if name != "retrain"}
    as_cut = quality_of(p, load_subnets(p, resources, replace(state, finished=before)))
    candidates = [*state.of("search")[-2:], state.of("baseline")[0], state.of("reference")[1]]
    for candidate in candidates:
        assert candidate.metrics["val_accuracy"] == adaptation.scores(candidate.arch).quality
    assert any(c.metrics["val_loss"] != as_cut(c.arch)["val_loss"] for c in candidates)


def test_uniform_copies_are_among_the_first_networks(tmp_path: Path) -> None:
    assert SensitivityResult.parse(sensitivity_of(tmp_path, NO_TRAINING)).scaled == ()
    result = SensitivityResult.parse(sensitivity_of(tmp_path, BEST))
    space = compress_problem().space
    assert 1 <= len(result.scaled) <= 4
    assert 1 <= len(result.networks) <= 8
    copies_RSG = uniform_copies(space.decisions, np.array(space.pretrained_genes))
    copies = {tuple(genes) for genes in space.canonical(copies_RSG.reshape(-1, len(space.decisions))).tolist()}
    assert set(result.scaled) <= copies - {space.pretrained_genes}
    depths = [g for g, decision in enumerate(space.decisions) if decision.axis == "depth"]
    whole = [genes for genes in result.networks if all(genes[g] == 1 for g in depths)]
    assert any(
        np.abs(copies_RSG[-1] - np.array(genes)).max(axis=1).min() == 1 for genes in whole
    )  # near a copy, but none of them


def test_cuts_are_measured_no_longer_than_the_time_limit(tmp_path: Path) -> None:
    limited = NO_TRAINING.model_copy(update={"resources": ResourceSpec(max_hours=2.0)})
    p, ticks = compress_problem(limited), count()
    over: list[Event] = []
    resources = Resources(
        FolderBlobs(tmp_path), RuleDevice(), lambda: float(next(ticks)), is_out_of_time=lambda: bool(over)
    )
    events: list[Event] = []
    for event in run_search(p, stages_of(p), resources, SearchState()):
        events.append(event)
        if isinstance(event, Checkpoint) and event.step > 0:
            over.append(event)
    state = fold_all(events)
    result = SensitivityResult.require(state.finished)
    assert (dict(result.distortions), result.networks) == ({}, ())
    assert result.scaled
    [warning] = [e.message for e in events if isinstance(e, Warned) and e.stage == "sensitivity"]
    assert "cuts: what there is so far is verified and exported" in warning
    assert sum(isinstance(e, Checkpoint) for e in events) == 2  # the order, and one batch of cuts
    scored = [c.arch.genes for c in state.of("search")]
    assert len(scored) == 2
    assert set(scored) <= set(result.scaled)
    assert front_of(NO_TRAINING, state).members


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("search", ["compressed", "trained"])
def test_a_search_that_is_cut_anywhere_ends_the_same(search: str, request: pytest.FixtureRequest) -> None:
    events, folder = request.getfixturevalue(search)
    spec = NO_TRAINING if search == "compressed" else BEST
    expected = fold_all(events)
    marks = [i for i, e in enumerate(events) if not isinstance(e, Progress)]
    sensitivity = [i for i in marks if isinstance(events[i], Checkpoint) and events[i].stage == "sensitivity"]  # type: ignore[union-attr]
    cuts = [*sensitivity[:3], *marks[len(sensitivity) :: max(1, len(marks) // 5)]]
    for cut in cuts if search == "compressed" else cuts[1:4]:
        device, before = RuleDevice(), events[: cut + 1]
        state = fold_all(run(folder, compress_problem(spec), before, device), fold_all(before))
        assert state.finished["sensitivity"] == expected.finished["sensitivity"], f"cut after event {cut}"
        assert state.candidates == expected.candidates, f"cut after event {cut}: {events[cut]}"
        assert state.exports == expected.exports
        done = sum(isinstance(e, Measured) for e in before)
        assert device.measured == sum(isinstance(e, Measured) for e in events) - done


def test_networks_keep_to_a_bound(tmp_path: Path) -> None:
    p = compress_problem()
    parent_ms = float(p.predictor.predict(p.space.features(np.array([p.space.pretrained_genes]))).upper_ms[0])
    bound = ObjectiveSpec(name="latency", bound=0.6 * parent_ms)
    bounded = NO_TRAINING.model_copy(update={"objectives": (ObjectiveSpec(name="accuracy"), bound)})
    p = compress_problem(bounded)
    networks = np.array(SensitivityResult.parse(sensitivity_of(tmp_path, bounded)).networks)
    upper_ms_N = p.predictor.predict(p.space.features(networks)).upper_ms
    assert (upper_ms_N <= 0.6 * parent_ms).all()
    assert upper_ms_N[0] > 0.4 * parent_ms  # the budget is used


def sensitivity_of(folder: Path, spec: SearchSpec) -> dict[str, object]:
    """The result of the sensitivity stage."""
    for event in run(folder, compress_problem(spec)):
        if isinstance(event, StageFinished) and event.stage == "sensitivity":
            return dict(event.result)
    raise AssertionError("expected the stage to finish")


@pytest.mark.parametrize("model", ["unet", "detector", "vit_fused", "resnet"])
def test_distortions_of_other_outputs_are_relative(model: str) -> None:
    p = compress_problem(model=model)
    meter = DistortionMeter(p, "cpu", 8)
    genes_NG = p.space.canonical(np.stack([np.array(p.space.pretrained_genes), np.zeros(len(p.space.decisions), int)]))
    parent, narrowest = as_archs(p.space.id, genes_NG)
    assert meter.distortion(parent) == pytest.approx(0.0, abs=1e-6)
    assert meter.distortion(narrowest) > 0.01


def test_every_stage_has_a_price(tmp_path: Path) -> None:
    for spec in (NO_TRAINING, BEST):
        p = compress_problem(spec)
        cost = estimate_cost(tmp_path, p, stages_of(p))
        assert tuple(s.stage for s in cost.stages) == stage_names(spec)
        assert cost.confidence == "measured"
        sensitivity = next(s for s in cost.stages if s.stage == "sensitivity")
        assert sensitivity.steps == len(SensitivityStage("l2", 16, 2, 8)._cuts(p.space))
        assert sensitivity.seconds is not None
        assert sensitivity.seconds > 0


def test_what_contradicts_itself_is_refused() -> None:
    space = compress_problem().space
    with pytest.raises(InvalidSpec, match=r"expected a space of your model.*mobilenet_v3"):
        check(NO_TRAINING, problem().space)
    with pytest.raises(InvalidSpec, match="preset no_training trains nothing"):
        check(NO_TRAINING.model_copy(update={"retrain": BEST.retrain}), space)
    with pytest.raises(InvalidSpec, match="expected `retrain`"):
        check(BEST.model_copy(update={"retrain": None}), space)
    check(BEST.model_copy(update={"retrain": None, "supernet": "abc"}), space)
    contradictory = StrategySpec(name="compress", params={"preset": "no_training", "fine_tune_epochs": 3})
    with pytest.raises(InvalidSpec, match="expected fine_tune_epochs 0"):
        check(NO_TRAINING.model_copy(update={"strategy": contradictory}), space)
    contradictory = StrategySpec(name="compress", params={"preset": "no_training", "adapt_images": 3})
    with pytest.raises(InvalidSpec, match="expected adapt_images 0"):
        check(NO_TRAINING.model_copy(update={"strategy": contradictory}), space)


def test_an_extension_goes_on_from_the_same_weights_and_trains_nothing(compressed: tuple[list[Event], Path]) -> None:
    events, folder = compressed
    parent = fold_all(events)
    supernet = SensitivityResult.require(parent.finished).supernet
    inherited = tuple(c for c in parent.candidates.values() if c.origin != "reference")
    child = NO_TRAINING.model_copy(update={"budget": BudgetSpec(evaluations=8, verified=1), "supernet": "abc"})
    p = replace(compress_problem(child), supernet_blob=supernet, inherited=inherited)
    state = fold_all(run(folder, p))
    assert SensitivityResult.require(state.finished) == SensitivityResult(supernet)
    assert len(state.of("search")) == len(parent.of("search")) + 8
    assert [c.arch for c in state.of("reference")] == [c.arch for c in parent.of("reference")]


def test_an_extension_without_retraining_scores_adapted_networks_as_they_are_exported(
    trained: tuple[list[Event], Path],
) -> None:
    events, folder = trained
    parent = fold_all(events)
    inherited = tuple(c for c in parent.candidates.values() if c.origin != "reference")
    update = {"budget": BudgetSpec(evaluations=8, verified=1), "supernet": "abc", "retrain": None}
    p = compress_problem(BEST.model_copy(update=update))
    p = replace(p, supernet_blob=parent.finished["train"]["supernet"], inherited=inherited)
    state = fold_all(run(folder, p))
    as_cut = quality_of(p, load_subnets(p, Resources(FolderBlobs(folder), RuleDevice(), time.monotonic), state))
    for candidate in state.of("search"):
        assert candidate.metrics["val_accuracy"] == as_cut(candidate.arch)["val_accuracy"]


@pytest.mark.parametrize("importance", ["trainable_gate", "bip"])
def test_the_first_networks_come_from_the_methods_that_the_spec_names(importance: str, tmp_path: Path) -> None:
    params = {
        "preset": "no_training",
        "images": 16,
        "importance": importance,
        "first_networks": ["pre_cropping", "layer_tickets"],
    }
    p = compress_problem(NO_TRAINING.model_copy(update={"strategy": StrategySpec(name="compress", params=params)}))
    stage = next(stage for stage in stages_of(p) if isinstance(stage, SensitivityStage))
    resources = Resources(FolderBlobs(tmp_path), RuleDevice(), lambda: 0.0)
    state = fold_all(list(stage.run(p, resources, SearchState())))
    networks = SensitivityResult.require(state.finished).networks
    is_depth = np.array([decision.axis == "depth" for decision in p.space.decisions])
    genes_NG, parent_G = np.array(networks), np.array(p.space.pretrained_genes)
    has_all_blocks = (genes_NG[:, is_depth] == 1).all(axis=1)
    cropped_NG, tickets_NG = genes_NG[has_all_blocks], genes_NG[~has_all_blocks]
    assert len(tickets_NG) == is_depth.sum() - 1  # one block stays
    assert len(cropped_NG) >= 3
    ms_N = p.predictor.predict(p.space.features(cropped_NG)).upper_ms
    assert (ms_N < p.predictor.predict(p.space.features(parent_G[None])).upper_ms).all()
    assert estimate_cost(tmp_path, p, [stage]).seconds > 0
