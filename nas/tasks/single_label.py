"""Classification of images into one class each, judged by accuracy."""

from __future__ import annotations

from typing import Any

import numpy as np

from nas.core.errors import InvalidInput
from nas.core.measures import Measure
from nas.core.metrics import recall_by_class
from nas.core.tasks import Labels, LossOptions, Outputs, Task, TaskScores
from nas.tasks.arrays import mean_share, reduction

MOST_CONFUSED = 64
"""The most classes of which a confusion matrix is kept: it grows with their square."""
_BALANCED = Measure("balanced_accuracy", "balanced {} accuracy")


def loss(logits_BK: Any, label_B: Any, options: LossOptions) -> Any:
    """Cross-entropy, in nats."""
    from torch.nn import functional

    return functional.cross_entropy(
        logits_BK,
        label_B,
        weight=options.class_weights,
        reduction=reduction(options),
        label_smoothing=options.label_smoothing,
    )


def imitation(logits_BK: Any, teacher_BK: Any) -> Any:
    """Cross-entropy with the teacher's distribution, in nats."""
    from torch.nn import functional

    return functional.cross_entropy(logits_BK, teacher_BK.softmax(1))


class AccuracyScorer:
    """Accuracy in %, and the mean recall of the classes, which is as high where all classes are of one size."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._labels: list[Labels] = []
        self._answers: list[Labels] = []

    def add(self, outputs: Outputs, labels: Labels) -> None:
        """Logits (B, K) and class numbers (B,)."""
        [logits_BK] = outputs
        self._labels.append(labels)
        self._answers.append(logits_BK.argmax(axis=1))

    def scores(self) -> TaskScores:
        """Raises InvalidInput where there were no images."""
        label_N, answer_N = np.concatenate(self._labels), np.concatenate(self._answers)
        if len(label_N) == 0:
            raise InvalidInput("accuracy is a share of images: expected some, got none")
        recalls = recall_by_class(label_N, answer_N, self._classes)
        accuracy = 100.0 * int((answer_N == label_N).sum()) / len(label_N)
        confusion = confusion_matrix(label_N, answer_N, self._classes) if self._classes <= MOST_CONFUSED else ()
        return TaskScores(accuracy, {_BALANCED.name: mean_share(recalls)}, recalls, confusion=confusion)


def confusion_matrix(label_N: Labels, answer_N: Labels, classes: int) -> tuple[tuple[int, ...], ...]:
    """How many images of each class (row) were answered with each class (column)."""
    counts = np.bincount(classes * label_N + answer_N, minlength=classes * classes)
    return tuple(tuple(row) for row in counts.reshape(classes, classes).tolist())


SINGLE_LABEL = Task(
    name="single_label",
    summary="Classification of images into one class each, judged by accuracy.",
    quality=Measure("accuracy", "{} accuracy"),
    further=(_BALANCED,),
    by_class="recall",
    labels="class",
    outputs="vector",
    loss=loss,
    imitation=imitation,
    scorer=AccuracyScorer,
    guess=lambda labels, classes: 100.0 / classes,
    loss_in_nats=True,
)
