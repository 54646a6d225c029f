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
from nas.core.errors import InvalidSpec
from nas.core.events import SearchState, fold_all
from nas.core.ports import Dataset
from nas.core.spec import DataSpec, ExportSpec, SearchSpec, StrategySpec
from nas.core.tasks import load_task
from nas.engine import stages_of
from nas.stages.fronts import front_of
from tests.support import engine

COUNT = 120


def images_and_brightness() -> tuple[np.ndarray, np.ndarray]:
    """Images whose top and bottom halves are of random brightness, shapes (N, 8, 8, 1) and (N, 2)."""
    rng = np.random.default_rng(0)
    brightness_N2 = rng.uniform(20, 230, (COUNT, 2))
    images = np.repeat(brightness_N2, 4, axis=1)[:, :, None, None].repeat(8, axis=2) + rng.normal(
        0, 6, (COUNT, 8, 8, 1)
    )
    return images.clip(0, 255).astype(np.uint8), brightness_N2


def spec_of(path: Path, task: str, labels: np.ndarray, epochs: int = 3) -> SearchSpec:
    images, _ = images_and_brightness()
    np.savez(path / "data.npz", images=images, labels=labels)
    return SearchSpec(
        space=engine.SPEC.space,
        data=DataSpec(name="npz", path=str(path / "data.npz"), task=task, params={"flip": False}),
        strategy=StrategySpec(params={"epochs": epochs, "batch_size": 24}),
        budget=engine.SPEC.budget,
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
    spec = spec_of(folder, "regression", images_and_brightness()[1], epochs=12)
    return (folder, spec, *searched(folder, spec))


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
    assert min(c.metrics["test_mae"] for c in front.members) < 0.7 * guess
    assert front.reference[0] == pytest.approx(load_task("regression").guess(data.val.labels, 2))
    assert front.hypervolume is not None
    assert 0 < front.hypervolume < 1
    assert not any("accuracy" in name for c in state.candidates.values() for name in c.metrics)
    assert state.conclusions == ()


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


def test_a_search_for_several_labels_is_judged_by_average_precision(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, "multi_label", (images_and_brightness()[1] > 120).astype(np.uint8))
    state, data = searched(tmp_path, spec)
    best = max(state.of("search"), key=lambda c: c.metrics["val_map"])
    assert best.metrics["val_map"] > load_task("multi_label").guess(data.val.labels, 2) + 10
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
