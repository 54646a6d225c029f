"""Semantic segmentation: a class for every pixel, judged by the mean intersection over union of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas import exported_run
from nas.core.measures import Measure
from nas.core.metrics import shares_by_class
from nas.core.tasks import IGNORED, Labels, LossOptions, Outputs, Task, TaskScores
from nas.tasks.arrays import mean_share, reduction

_PIXEL_ACCURACY = Measure("pixel_accuracy", "{} pixel accuracy")


def loss(logits_BKhw: Any, mask_BHW: Any, options: LossOptions) -> Any:
    """Cross-entropy of pixels, in nats; outputs are scaled to the size of the masks first."""
    from torch.nn import functional

    if logits_BKhw.shape[-2:] != mask_BHW.shape[-2:]:
        logits_BKhw = functional.interpolate(logits_BKhw, size=mask_BHW.shape[-2:], mode="bilinear")
    return functional.cross_entropy(
        logits_BKhw,
        mask_BHW.long(),
        weight=options.class_weights,
        ignore_index=IGNORED,
        reduction=reduction(options),
        label_smoothing=options.label_smoothing,
    )


def imitation(logits_BKhw: Any, teacher_BKhw: Any) -> Any:
    """Cross-entropy of pixels with the teacher's distribution, in nats."""
    from torch.nn import functional

    return functional.cross_entropy(logits_BKhw, teacher_BKhw.softmax(1))


class IntersectionScorer:
    """Intersection over union of each class over all pixels but ignored ones, in %; None for a class that is neither in
    the masks nor in the answers. Outputs of another size than the masks are scaled bilinearly."""

    def __init__(self, classes: int) -> None:
        self._confusion_KK: NDArray[np.int64] = np.zeros((classes, classes), dtype=np.int64)  # by label, by answer

    def add(self, outputs: Outputs, labels: Labels) -> None:
        """Logits (B, K, h, w) and masks (B, H, W)."""
        [logits_BKhw] = outputs
        height, width = labels.shape[1:]
        if logits_BKhw.shape[2:] != (height, width):
            logits_BKhw = exported_run.resize(logits_BKhw, height, width)
        classes = len(self._confusion_KK)
        counted = labels != IGNORED
        pairs = labels[counted].astype(np.int64) * classes + logits_BKhw.argmax(axis=1)[counted]
        self._confusion_KK += np.bincount(pairs, minlength=classes**2).reshape(classes, classes)

    def scores(self) -> TaskScores:
        """Raises InvalidInput where no pixel counts."""
        right_K = self._confusion_KK.diagonal()
        union_K = self._confusion_KK.sum(axis=0) + self._confusion_KK.sum(axis=1) - right_K
        shares = shares_by_class(right_K, union_K)
        miou = mean_share(shares)
        accuracy = 100.0 * float(right_K.sum() / self._confusion_KK.sum())
        return TaskScores(miou, {_PIXEL_ACCURACY.name: accuracy}, shares)


def guess(mask_NHW: Labels, classes: int) -> float:
    """The mean intersection over union of naming the most frequent class for every pixel."""
    counts_K = np.bincount(mask_NHW[mask_NHW != IGNORED].ravel(), minlength=classes)
    return 100.0 * float(counts_K.max() / counts_K.sum() / np.count_nonzero(counts_K)) if counts_K.any() else 0.0


SEGMENTATION = Task(
    name="segmentation",
    summary="Semantic segmentation: a class for every pixel, judged by the mean intersection over union of classes.",
    quality=Measure("miou", "{} mIoU"),
    further=(_PIXEL_ACCURACY,),
    by_class="IoU",
    labels="mask",
    outputs="map",
    loss=loss,
    imitation=imitation,
    scorer=IntersectionScorer,
    guess=guess,
)
