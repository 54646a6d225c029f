"""Whole searches for tasks other than classification, from labels in files to models that answer in onnxruntime."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from nas import exported_run
from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.arch import Arch
from nas.core.device import Latency
from nas.core.errors import InvalidSpec
from nas.core.events import Checkpoint, SearchState, fold_all
from nas.core.parent import ParentModel
from nas.core.ports import Dataset, Problem
from nas.core.spec import BudgetSpec, DataSpec, ExportSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.core.tasks import load_task
from nas.engine import stages_of
from nas.stages.fronts import front_of
from nas.stages.parent_labels import with_parent_labels
from nas.stages.subnets import Subnets
from tests.support import engine
from tests.support.models import SIDE
from tests.support.parents import FINE, parent_of

COUNT = 120


def images_and_brightness() -> tuple[np.ndarray, np.ndarray]:
    """Images whose top and bottom halves are of random brightness, shapes (N, 8, 8, 1) and (N, 2)."""
    rng = np.random.default_rng(0)
    brightness_N2 = rng.uniform(20, 230, (COUNT, 2))
    images = np.repeat(brightness_N2, 4, axis=1)[:, :, None, None].repeat(8, axis=2) + rng.normal(
        0, 6, (COUNT, 8, 8, 1)
    )
    return images.clip(0, 255).astype(np.uint8), brightness_N2


def spec_of(path: Path, task: str, labels: np.ndarray, epochs: int = 2) -> SearchSpec:
    images, _ = images_and_brightness()
    np.savez(path / "data.npz", images=images, labels=labels)
    return SearchSpec(
        space=SpaceSpec(params={**engine.SPACE, "depths": [1]}),
        data=DataSpec(name="npz", path=str(path / "data.npz"), task=task, params={"flip": False}),
        strategy=StrategySpec(params={"epochs": epochs, "batch_size": 24}),
        budget=BudgetSpec(evaluations=8, verified=2),
        export=ExportSpec(count=1, int8=False),
    )


def searched(folder: Path, spec: SearchSpec) -> tuple[SearchState, Dataset]:
    problem = engine.problem(spec)
    return fold_all(engine.stored(list(engine.run(folder, problem)))), problem.data


def exported(folder: Path, state: SearchState) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The report of the first exported network, and the files of its package."""
    first = state.exports[0]
    with zipfile.ZipFile(io.BytesIO(FolderBlobs(folder).get(first.blob))) as archive:
        return dict(first.report), {name: archive.read(name) for name in archive.namelist()}


def answers(files: dict[str, bytes], data: Dataset) -> list[np.ndarray]:
    """What the exported model gives for the test images."""
    size = json.loads(files["manifest.json"])["preprocessing"]
    session = onnxruntime.InferenceSession(files["model.onnx"], providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(
        None, {"image": exported_run.resize(data.test.images_NCHW, size["height"], size["width"])}
    )
    return outputs


@pytest.fixture(scope="module")
def regression(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SearchSpec, SearchState, Dataset]:
    folder = tmp_path_factory.mktemp("regression")
    spec = spec_of(folder, "regression", images_and_brightness()[1], epochs=24)
    return (folder, spec, *searched(folder, spec))


@pytest.mark.long
def test_a_search_minimises_the_error_of_a_regression(
    regression: tuple[Path, SearchSpec, SearchState, Dataset],
) -> None:
    _, spec, state, data = regression
    assert [o.name for o in spec.objectives] == ["mae", "latency"]
    front = front_of(spec, state)
    assert front.metrics == ("test_mae", "measured_ms")
    by_latency = sorted(front.members, key=lambda c: c.metrics["measured_ms"])
    errors = [c.metrics["val_mae"] for c in by_latency]
    assert errors == sorted(errors, reverse=True)  # what is slower errs less
    guess = load_task("regression").guess(data.test.labels, 2)
    assert min(c.metrics["test_mae"] for c in front.members) < 0.8 * guess
    assert front.reference[0] == pytest.approx(load_task("regression").guess(data.val.labels, 2))
    assert front.hypervolume is not None
    assert 0 < front.hypervolume < 1
    assert not any("accuracy" in name for c in state.candidates.values() for name in c.metrics)
    assert state.conclusions == ()


@pytest.mark.long
def test_an_exported_regression_answers_in_the_units_of_its_labels(
    regression: tuple[Path, SearchSpec, SearchState, Dataset],
) -> None:
    folder, _, state, data = regression
    report, files = exported(folder, state)
    [value_NT] = answers(files, data)
    assert np.abs(value_NT - data.test.labels).mean() == pytest.approx(report["mae_onnx"], rel=1e-4)
    assert report["mae_onnx"] == pytest.approx(report["mae_torch"], rel=0.02)
    manifest = json.loads(files["manifest.json"])
    assert manifest["task"] == {"name": "regression", "labels": "values", "by_class": ""}
    assert manifest["metrics"]["test_mae"]["value"] == report["mae_onnx"]
    assert "# Regression network" in files["model_card.md"].decode()
    assert exported_run.describe([value_NT[0]], "values", ["top", "bottom"]).startswith("top ")


@pytest.mark.long
def test_a_search_for_several_labels_is_judged_by_average_precision(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "multi_label", (images_and_brightness()[1] > 120).astype(np.uint8))
    state, data = searched(tmp_path, spec)
    best = max(state.of("search"), key=lambda c: c.metrics["val_map"])
    assert best.metrics["val_map"] > load_task("multi_label").guess(data.val.labels, 2) + 5
    assert front_of(spec, state).metrics == ("test_map", "measured_ms")
    report, files = exported(tmp_path, state)
    assert set(report["average_precision_by_class"]) == {"0", "1"}
    assert "Average_precision" not in files["model_card.md"].decode()


def test_what_a_strategy_or_space_cannot_do_is_refused(tmp_path: Path) -> None:
    tags = (images_and_brightness()[1] > 120).astype(np.uint8)
    spec = spec_of(tmp_path, "multi_label", tags)
    for strategy in ("darts", "few_shot"):
        changed = spec.model_copy(update={"strategy": StrategySpec(name=strategy)})
        with pytest.raises(InvalidSpec, match=f"strategy {strategy} trains for single_label alone, got multi_label"):
            stages_of(engine.problem(changed))
    spec = spec_of(tmp_path, "segmentation", np.zeros((COUNT, 8, 8), np.uint8) + (np.arange(8) > 3))
    with pytest.raises(InvalidSpec, match="segmentation expects networks that give a map of classes, and those of"):
        stages_of(engine.problem(spec))
    spec = SearchSpec(data=DataSpec(task="agreement"), space=engine.SPEC.space)
    with pytest.raises(InvalidSpec, match="agreement judges networks by a model of yours: expected its name in space"):
        stages_of(engine.problem(spec))


def shapes(count: int = 96) -> tuple[np.ndarray, np.ndarray]:
    """Grey images (N, H, W, 3) with a bright square and a dark disc on noise, and their masks (N, H, W)."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    images, masks = np.empty((count, SIDE, SIDE), np.float64), np.zeros((count, SIDE, SIDE), np.uint8)
    for image, mask in zip(images, masks, strict=True):
        image[:] = rng.normal(128, 12, image.shape)
        top, left, y, x = rng.integers(2, 20, 4)
        for number, (inside, shift) in enumerate(
            [
                ((abs(rows - top - 4) < 5) & (abs(columns - left - 4) < 5), 80),
                ((rows - y - 5) ** 2 + (columns - x - 5) ** 2 < 25, -80),
            ],
            start=1,
        ):
            image[inside] += shift
            mask[inside] = number
    return images.clip(0, 255).astype(np.uint8)[..., None].repeat(3, axis=-1), masks


class CautiousPredictor(engine.RulePredictor):
    """Does not know the device's rule in the space of a model, and has a bound that holds all the same."""

    def predict(self, features_NF: np.ndarray) -> Latency:
        mean_ms = super().predict(features_NF).mean_ms
        return Latency(mean_ms, 2 * mean_ms)


def own_problem(folder: Path, model: str, task: str, strategy: StrategySpec, parent: ParentModel) -> Problem:
    images, masks = shapes()
    np.savez(folder / "shapes.npz", images=images, labels=masks)
    params = {"class_names": ["background", "square", "disc"]} if task == "segmentation" else {}
    spec = SearchSpec(
        space=SpaceSpec(name="own_model", model=model, params=FINE),
        data=DataSpec(name="npz", path=str(folder / "shapes.npz"), task=task, params=params),
        strategy=strategy,
        budget=BudgetSpec(evaluations=8, verified=3),
        export=ExportSpec(count=1, int8=False),
    )
    data = registry.load_dataset("npz").load(spec.data, 0)
    space = registry.build_space(spec.space, data.shape, parent)
    return Problem(spec, space, data, engine.PROFILE, CautiousPredictor())


def ran(folder: Path, problem: Problem) -> SearchState:
    return fold_all(engine.stored(list(engine.run(folder, problem))))


def test_a_unet_is_searched_for_segmentation_from_masks_to_an_exported_model(tmp_path: Path) -> None:
    strategy = StrategySpec(params={"epochs": 7, "batch_size": 16})
    problem = own_problem(tmp_path, "unet", "segmentation", strategy, parent_of("unet"))
    state = ran(tmp_path, problem)
    front = front_of(problem.spec, state)
    assert front.metrics == ("test_miou", "measured_ms")
    assert {c.status for c in front.members} == {"verified"}
    best = max(c.metrics["test_miou"] for c in front.members)
    assert best > load_task("segmentation").guess(problem.data.test.labels, 3) + 15
    report, files = exported(tmp_path, state)
    assert set(report["IoU_by_class"]) == {"background", "square", "disc"}
    [logits] = answers(files, problem.data)
    assert logits.shape == (len(problem.data.test), 3, SIDE, SIDE)
    right = (logits.argmax(axis=1) == problem.data.test.labels).mean()
    assert 100 * right == pytest.approx(report["pixel_accuracy"], abs=1e-6)
    card = files["model_card.md"].decode()
    assert "# Segmentation network" in card
    assert "IoU by class, the lowest first:" in card


def test_a_detector_is_compressed_by_agreement_with_itself(tmp_path: Path) -> None:
    strategy = StrategySpec(name="compress", params={"preset": "no_training"})
    problem = own_problem(tmp_path, "detector", "output_error", strategy, parent_of("detector"))
    state = ran(tmp_path, problem)
    front = front_of(problem.spec, state)
    assert front.metrics == ("test_output_error", "measured_ms")
    assert {c.status for c in front.members} == {"verified"}
    [parent] = [c for c in state.of("reference") if c.arch.genes == problem.space.pretrained_genes]
    assert parent.metrics["test_output_error"] == pytest.approx(0.0, abs=1e-3)
    by_latency = sorted(front.members, key=lambda c: c.metrics["measured_ms"])
    errors = [c.metrics["val_output_error"] for c in by_latency]
    assert errors == sorted(errors, reverse=True)
    assert min(errors) > 0
    report, files = exported(tmp_path, state)
    fine, coarse = answers(files, problem.data)
    assert (fine.shape[1:], coarse.shape[1:]) == ((6, SIDE // 2, SIDE // 2), (6, SIDE // 4, SIDE // 4))
    labelled = with_parent_labels(problem, "cpu").data.test.labels
    scorer = load_task("output_error").scorer(0)
    scorer.add([fine, coarse], labelled)
    assert scorer.scores().quality == pytest.approx(report["output_error_onnx"], rel=1e-4)
    assert "It answers as the model that it was made from" in files["model_card.md"].decode()


@pytest.mark.long
def test_a_restart_takes_the_answers_of_the_model_as_they_were_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy = StrategySpec(name="compress", params={"preset": "no_training"})
    problem = own_problem(tmp_path, "resnet", "agreement", strategy, parent_of("resnet"))
    events = engine.run(tmp_path, problem)
    kept = next(events)
    assert isinstance(kept, Checkpoint)
    assert kept.stage == "parent_labels"
    expected = fold_all([kept, *events])

    def refuse(*_: object) -> None:
        raise AssertionError("expected the outputs not to be made again")

    monkeypatch.setattr("nas.stages.parent_labels.parent_labels", refuse)
    again = fold_all([kept, *engine.run(tmp_path, problem, engine.stored([kept]))])
    assert again.candidates == expected.candidates


def test_the_parent_agrees_with_itself(tmp_path: Path) -> None:
    for model, task, best in (("resnet", "agreement", 100.0), ("detector", "output_error", 0.0)):
        problem = with_parent_labels(own_problem(tmp_path, model, task, StrategySpec(), parent_of(model)), "cpu")
        assert problem.space.pretrained_genes is not None
        arch = Arch(problem.space.id, problem.space.pretrained_genes)
        subnets = Subnets(problem, problem.space.supernet(0), "cpu")
        module = subnets.net.subnet(arch).eval()
        assert subnets.score(module, arch, problem.data.val).quality == pytest.approx(best, abs=1e-3)
