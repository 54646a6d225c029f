"""Scores of a network as metrics of a candidate."""

from __future__ import annotations

from typing import Literal

from nas.core.tasks import Task, TaskScores


def measured_by(task: Task, scores: TaskScores, evidence: Literal["val", "test"]) -> dict[str, float]:
    """The metrics that the measures of a task make on validation or test images, and the loss on validation images."""
    metrics = {task.quality.metric(evidence).name: scores.quality}
    metrics |= {m.metric(evidence).name: scores.further[m.name] for m in task.further}
    return metrics | ({"val_loss": scores.loss} if evidence == "val" and scores.loss is not None else {})
