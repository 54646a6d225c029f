"""A trained model is compressed: cuts are measured, networks allocated to budgets, compared, verified and exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.core.arch import as_archs
from nas.core.errors import InvalidSpec
from nas.core.events import Checkpoint, Event, Measured, Progress, StageFinished, fold_all
from nas.core.metrics import spearman
from nas.core.spec import BudgetSpec, ObjectiveSpec, SearchSpec, StrategySpec
from nas.engine import stage_names, stages_of
from nas.explorers.allocation import Allocator
from nas.stages.fronts import front_of
from nas.stages.results import ReferencesResult, SensitivityResult
from nas.stages.sensitivity import DistortionMeter, SensitivityStage, measured_distortions
from nas.strategies.compress import check
from tests.support.compressing import BEST, NO_TRAINING, compress_problem
from tests.support.engine import RuleDevice, estimate_cost, problem, run, stored


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


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
    assert scored[: len(networks)] == list(networks)
    p = compress_problem()
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
