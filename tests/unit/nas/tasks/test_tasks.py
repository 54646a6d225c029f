"""Each task judges networks as by hand, and its loss leads to what its labels say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas.core.errors import InvalidInput, InvalidSpec, UnknownName
from nas.core.measures import Measure
from nas.core.metrics import METRICS, OBJECTIVES
from nas.core.spec import DataSpec, SearchSpec, parse_spec
from nas.core.tasks import IGNORED, LossOptions, Task, TaskScores, installed_tasks, load_task


def judged(task: str, outputs: Any, labels: Any, classes: int) -> TaskScores:
    """The scores in two batches."""
    scorer = load_task(task).scorer(classes)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    for rows in (slice(0, 2), slice(2, None)):
        scorer.add([np.asarray(o, dtype=np.float32)[rows] for o in outputs], np.asarray(labels)[rows])
    return scorer.scores()


def test_single_label_is_judged_by_accuracy_and_recall() -> None:
    logits = np.eye(3)[[0, 1, 1, 2]]
    scores = judged("single_label", logits, [0, 1, 2, 2], 4)
    assert scores.quality == 75.0
    assert scores.by_class == (100.0, 100.0, 50.0, None)
    assert scores.further == {"balanced_accuracy": pytest.approx(250 / 3)}


def test_multi_label_is_judged_by_mean_average_precision() -> None:
    tags = [[1, 0, 0], [0, 1, 0], [1, 1, 0]]
    logits = np.array([[3.0, -1.0, 0.0], [2.0, 5.0, 0.0], [1.0, -2.0, 0.0]])
    scores = judged("multi_label", logits, tags, 3)
    # class 0: ranked right, wrong, right: (1 + 2/3) / 2; class 1: right, wrong, right; nobody shows class 2
    assert scores.by_class == (pytest.approx(250 / 3), pytest.approx(250 / 3), None)
    assert scores.quality == pytest.approx(250 / 3)


def test_segmentation_is_judged_by_intersection_over_union_of_counted_pixels() -> None:
    masks = np.array([[[0, 0], [1, 1]], [[0, 0], [0, IGNORED]], [[1, 1], [1, 1]]], dtype=np.uint8)
    answers = np.array([[[0, 1], [1, 1]], [[0, 0], [0, 1]], [[1, 1], [1, 1]]])
    logits = np.eye(3)[answers].transpose(0, 3, 1, 2)
    scores = judged("segmentation", logits, masks, 3)
    assert scores.by_class == (pytest.approx(100 * 4 / 5), pytest.approx(100 * 6 / 7), None)
    assert scores.quality == pytest.approx(100 * (4 / 5 + 6 / 7) / 2)
    assert scores.further == {"pixel_accuracy": pytest.approx(100 * 10 / 11)}
    coarse = judged("segmentation", logits[:, :, ::2, ::2], masks[:, :1, :1], 3)
    assert coarse.quality == 100.0


def test_outputs_smaller_than_masks_are_scaled_to_them() -> None:
    masks = np.repeat([[[0, 0, 1, 1]] * 4], 3, axis=0).astype(np.uint8)
    logits = np.eye(2)[[[[0, 1]] * 2] * 3].transpose(0, 3, 1, 2)
    assert judged("segmentation", logits, masks, 2).quality == 100.0


def test_regression_is_judged_by_the_mean_absolute_error() -> None:
    values = np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 0.0]])
    assert judged("regression", values, [[1, 1], [3, 2], [0, 3]], 2).quality == 1.0


def test_agreement_counts_equal_classes() -> None:
    teacher = np.eye(3)[[0, 1, 2, 2]].astype(np.float32)
    assert judged("agreement", np.eye(3)[[0, 1, 1, 2]], teacher, 3).quality == 75.0
    with pytest.raises(InvalidInput, match=r"two classifiers name: expected logits of shape \(2, 3\), got \(2, 2\)"):
        load_task("agreement").scorer(3).add([np.zeros((2, 2), np.float32)], teacher[:2])


def test_output_error_is_relative_to_the_spread_of_each_output() -> None:
    truth = [np.array([[0.0], [2.0], [4.0]]), np.array([[[10.0, 10.0]], [[20.0, 20.0]], [[30.0, 30.0]]])]
    labels = np.concatenate([t.reshape(3, -1) for t in truth], axis=1).astype(np.float32)
    assert judged("output_error", truth, labels, 0).quality == 0.0
    means = [np.full_like(t, t.mean()) for t in truth]
    assert judged("output_error", means, labels, 0).quality == pytest.approx(100.0)
    halves = [truth[0], (truth[1] + 20.0) / 2]
    assert judged("output_error", halves, labels, 0).quality == pytest.approx(25.0)
    with pytest.raises(InvalidInput, match="expected 3 output values for an image, as of the model itself, got 1"):
        load_task("output_error").scorer(0).add([np.zeros((2, 1), np.float32)], labels[:2])


EXAMPLES: dict[str, tuple[tuple[int, ...], torch.Tensor]] = {
    "single_label": ((4, 3), torch.tensor([0, 1, 2, 1])),
    "multi_label": ((4, 2), torch.tensor([[0, 1], [1, 1], [1, 0], [0, 0]], dtype=torch.uint8)),
    "segmentation": ((2, 3, 2, 2), torch.tensor([[[0, 1], [2, 0]], [[1, 1], [0, 2]]], dtype=torch.uint8)),
    "regression": ((4, 2), torch.tensor([[0.0, 1.0], [2.0, -1.0], [0.5, 0.0], [3.0, 1.0]])),
    "agreement": ((4, 3), torch.eye(3)[[0, 1, 2, 1]] * 8),
    "output_error": ((4, 3), torch.arange(12.0).reshape(4, 3)),
}


@pytest.mark.parametrize("name", sorted(installed_tasks()))
def test_the_loss_of_a_task_leads_to_its_labels(name: str) -> None:
    task, (shape, labels) = load_task(name), EXAMPLES[name]
    outputs = torch.zeros(shape, requires_grad=True)
    optimiser = torch.optim.Adam([outputs], 0.2)
    for _ in range(150):
        optimiser.zero_grad()
        task.loss(outputs, labels, LossOptions()).backward()
        optimiser.step()
    scorer = task.scorer(shape[1])
    scorer.add([outputs.detach().numpy()], labels.numpy())
    assert scorer.scores().quality == pytest.approx(100.0 if task.maximised else 0.0, abs=0.5)
    assert task.merit(scorer.scores().quality) > task.merit(task.guess(labels.numpy(), shape[1]))
    student = torch.zeros(shape, requires_grad=True)
    task.imitation(student, outputs.detach()).backward()
    with torch.no_grad():
        closer = student - 0.1 * student.grad
    assert task.imitation(closer, outputs.detach()) < task.imitation(student, outputs.detach())


def test_class_weights_count_rare_classes_more() -> None:
    logits, labels = torch.zeros(4, 2, requires_grad=True), torch.tensor([0, 0, 0, 1])
    load_task("single_label").loss(logits, labels, LossOptions(class_weights=torch.tensor([2 / 3, 2.0]))).backward()
    assert logits.grad.sum(0).tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_metrics_and_objectives_are_those_of_tasks() -> None:
    assert OBJECTIVES["mae"] == ("val_mae", "test_mae")
    assert METRICS["test_miou"].label == "Test mIoU"
    assert METRICS["trained_map"].label == "Validation mAP, trained alone"
    assert (METRICS["val_mae"].goal, METRICS["val_mae"].unit) == ("min", "")
    with pytest.raises(ValueError, match="expected a share in %"):
        Measure("score", "{} score", unit="points")


def test_a_spec_has_the_quality_of_its_task_as_objective() -> None:
    spec = SearchSpec(data=DataSpec(task="segmentation"))
    assert [o.name for o in spec.objectives] == ["miou", "latency"]
    with pytest.raises(InvalidSpec, match=r"objectives\.0\.name: unknown objective 'accuracy': expected one of .*mae"):
        parse_spec(SearchSpec, {"data": {"task": "regression"}, "objectives": [{"name": "accuracy"}, {"name": "macs"}]})
    with pytest.raises(InvalidSpec, match=r"quality of the task segmentation: give data\.task as well"):
        parse_spec(SearchSpec, {"data": {"name": "shapes"}, "objectives": [{"name": "miou"}, {"name": "macs"}]})
    with pytest.raises(UnknownName, match=r"unknown task 'segmentatoin'.*Did you mean 'segmentation'"):
        load_task("segmentatoin")


def test_loading_tasks_imports_no_torch() -> None:
    code = (
        "import sys; from nas.core.tasks import installed_tasks; print(len(installed_tasks()), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(EXAMPLES)), "False"]


PLUGIN = """
from dataclasses import replace
from nas.core.measures import Measure
from nas.tasks.regression import REGRESSION

HEIGHT = replace(REGRESSION, name="height", quality=Measure("height_error", "{} height error", unit="m", goal="min"))
"""
PLUGIN_USE = """
from nas.core.arch import Arch
from nas.core.candidates import CandidateTable
from nas.core.events import Candidate
from nas.core.fronts import FrontContext, compute_front
from nas.core.metrics import METRICS
from nas.core.spec import DataSpec, SearchSpec

spec = SearchSpec(data=DataSpec(task="height"))
costs = {"params": 1.0, "macs": 1.0, "upper_ms": 2.0}
table = CandidateTable.of(
    Candidate(Arch("s", (i,)), "search", {**costs, "predicted_ms": ms, "val_height_error": error})
    for i, (ms, error) in enumerate([(1.0, 3.0), (2.0, 1.0), (2.5, 2.0)])
)
front = compute_front(spec, table, FrontContext({"height_error": 4.0, "latency": 4.0}))
print(METRICS["test_height_error"].unit, [c.arch.genes for c in front.members], front.metrics, front.hypervolume)
"""


def test_a_task_of_ones_own_is_one_file_and_one_entry_point(tmp_path: Path) -> None:
    (tmp_path / "height_task.py").write_text(PLUGIN)
    about = tmp_path / "height_task-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: height-task\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[nas.tasks]\nheight = height_task:HEIGHT\n")
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{PLUGIN_USE}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "m [(1,), (0,)] ('val_height_error', 'predicted_ms') 0.4375", done.stderr


def test_every_task_tells_what_it_is() -> None:
    for name, task in installed_tasks().items():
        assert isinstance(task, Task)
        assert (task.name, task.summary[-1]) == (name, ".")
