"""Regression: one or several numbers for each image, judged by the mean absolute error."""

from __future__ import annotations

from typing import Any

import numpy as np

from nas.core.errors import InvalidInput
from nas.core.measures import Measure
from nas.core.tasks import Labels, LossOptions, Outputs, Task, TaskScores
from nas.tasks.arrays import reduction


def loss(value_BT: Any, label_BT: Any, options: LossOptions) -> Any:
    """Huber's loss of standardised values; smoothing and class weights do not apply."""
    from torch.nn import functional

    return functional.smooth_l1_loss(value_BT, label_BT, reduction=reduction(options))


def imitation(value_BT: Any, teacher_BT: Any) -> Any:
    """Huber's loss against the teacher's values."""
    from torch.nn import functional

    return functional.smooth_l1_loss(value_BT, teacher_BT)


class AbsoluteErrorScorer:
    """The mean absolute error over images and values, in the units of the labels."""

    def __init__(self, classes: int) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, outputs: Outputs, labels: Labels) -> None:
        """Values (B, T), and those of the labels."""
        [value_BT] = outputs
        self._sum += float(np.abs(value_BT.astype(np.float64) - labels).sum())
        self._count += labels.size

    def scores(self) -> TaskScores:
        """Raises InvalidInput where there were no images."""
        if self._count == 0:
            raise InvalidInput("a mean absolute error is one over images: expected some, got none")
        return TaskScores(self._sum / self._count)


def guess(label_NT: Labels, classes: int) -> float:
    """The error of always answering with the medians."""
    return float(np.abs(label_NT - np.median(label_NT, axis=0)).mean())


REGRESSION = Task(
    name="regression",
    summary="Regression: one or several numbers for each image, judged by the mean absolute error.",
    quality=Measure("mae", "{} MAE", unit="", goal="min"),
    labels="values",
    outputs="vector",
    loss=loss,
    imitation=imitation,
    scorer=AbsoluteErrorScorer,
    guess=guess,
)
