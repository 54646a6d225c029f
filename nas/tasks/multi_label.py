"""Classification of images into any number of classes each, judged by mean average precision."""

from __future__ import annotations

from typing import Any

import numpy as np

from nas.core.measures import Measure
from nas.core.tasks import Labels, LossOptions, Outputs, Task, TaskScores
from nas.tasks.arrays import mean_share, reduction


def loss(logits_BK: Any, tag_BK: Any, options: LossOptions) -> Any:
    """Binary cross-entropy, the mean over classes, in nats. ``class_weights`` count where the class is present."""
    from torch.nn import functional

    smooth = options.label_smoothing
    target = tag_BK.float() * (1 - smooth) + smooth / 2
    per_value = functional.binary_cross_entropy_with_logits(
        logits_BK, target, pos_weight=options.class_weights, reduction="none"
    )
    per_image = per_value.mean(1)
    return per_image.sum() if reduction(options) == "sum" else per_image.mean()


def imitation(logits_BK: Any, teacher_BK: Any) -> Any:
    """Binary cross-entropy with the teacher's probabilities, in nats."""
    from torch.nn import functional

    return functional.binary_cross_entropy_with_logits(logits_BK, teacher_BK.sigmoid())


class AveragePrecisionScorer:
    """Mean average precision over the classes that some image shows, in %."""

    def __init__(self, classes: int) -> None:
        self._classes = classes
        self._tags: list[Labels] = []
        self._logits: list[Labels] = []

    def add(self, outputs: Outputs, labels: Labels) -> None:
        """Logits (B, K) and tags (B, K)."""
        [logits_BK] = outputs
        self._tags.append(labels)
        self._logits.append(logits_BK)

    def scores(self) -> TaskScores:
        """Raises InvalidInput where no image shows any class."""
        from sklearn.metrics import average_precision_score  # takes a second to import

        tag_NK, logits_NK = np.concatenate(self._tags), np.concatenate(self._logits)
        precisions = tuple(
            100.0 * float(average_precision_score(tag_NK[:, k], logits_NK[:, k])) if tag_NK[:, k].any() else None
            for k in range(self._classes)
        )
        return TaskScores(mean_share(precisions), by_class=precisions)


def guess(tag_NK: Labels, classes: int) -> float:
    """The average precision of a constant answer is the share of images that show the class."""
    present_K = tag_NK.mean(axis=0)
    return 100.0 * float(present_K[present_K > 0].mean()) if present_K.any() else 0.0


MULTI_LABEL = Task(
    name="multi_label",
    summary="Classification of images into any number of classes each, judged by mean average precision.",
    quality=Measure("map", "{} mAP"),
    by_class="average_precision",
    labels="tags",
    outputs="vector",
    loss=loss,
    imitation=imitation,
    scorer=AveragePrecisionScorer,
    guess=guess,
)
