"""Agreement with a user's model on images without labels, for models whose task nobody has told.

``agreement`` is for classifiers: the share of images for which a network and the model name the same class.
``output_error`` is for any tensors: how far the outputs are from the model's, relative to how far those spread.
Labels are the model's outputs, all tensors of an image in a row: ``split_like`` takes them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nas.core.errors import InvalidInput
from nas.core.measures import Measure
from nas.core.tasks import Labels, LossOptions, Outputs, Task, TaskScores
from nas.tasks.arrays import tensors
from nas.tasks.single_label import imitation as imitate_distribution


def split_like(row_BT: Any, shapes: Sequence[tuple[int, ...]]) -> list[Any]:
    """Labels (B, T) as tensors of the ``shapes`` (B, ...). Raises InvalidInput where they do not hold as many
    values."""
    sizes = [int(np.prod(shape[1:])) for shape in shapes]
    if sum(sizes) != row_BT.shape[1]:
        raise InvalidInput(
            f"expected {row_BT.shape[1]} output values for an image, as of the model itself, got {sum(sizes)}: a "
            "network of another resolution cannot be compared with it"
        )
    ends = np.cumsum(sizes).tolist()
    parts = (row_BT[:, end - size : end] for end, size in zip(ends, sizes, strict=True))
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def distribution_loss(logits_BK: Any, teacher_BK: Any, options: LossOptions) -> Any:
    """Cross-entropy with the model's distribution, in nats; smoothing and class weights do not apply."""
    total = imitate_distribution(logits_BK, teacher_BK)
    return total * len(logits_BK) if options.summed else total


def outputs_loss(outputs: Any, row_BT: Any, options: LossOptions) -> Any:
    """Squared error of every output relative to its spread in the batch, the mean over outputs."""
    total = outputs_imitation(outputs, tuple(split_like(row_BT, [tuple(t.shape) for t in tensors(outputs)])))
    return total * len(row_BT) if options.summed else total


def outputs_imitation(outputs: Any, teacher: Any) -> Any:
    """The same against a teacher's outputs."""
    pairs = list(zip(tensors(outputs), tensors(teacher), strict=True))
    return sum((a - b).square().mean() / b.var().clamp_min(1e-12) for a, b in pairs) / len(pairs)


class AgreementScorer:
    """The share of images for which both name the same class, in %."""

    def __init__(self, classes: int) -> None:
        self._same, self._images = 0, 0

    def add(self, outputs: Outputs, labels: Labels) -> None:
        """Logits (B, K) of a network and of the model. Raises InvalidInput for other outputs."""
        if len(outputs) != 1 or outputs[0].shape != labels.shape:
            shapes = ", ".join(str(output.shape) for output in outputs)
            raise InvalidInput(
                f"task agreement compares the classes that two classifiers name: expected logits of shape "
                f"{labels.shape}, got {shapes}; for other outputs there is the task output_error"
            )
        self._same += int((outputs[0].argmax(axis=1) == labels.argmax(axis=1)).sum())
        self._images += len(labels)

    def scores(self) -> TaskScores:
        """Raises InvalidInput where there were no images."""
        if self._images == 0:
            raise InvalidInput("agreement is a share of images: expected some, got none")
        return TaskScores(100.0 * self._same / self._images)


class OutputErrorScorer:
    """The distance of outputs from the model's in % of their spread, the mean over outputs: for each, the root of the
    sum of squared errors over that of squared deviations from the mean output, as for the unexplained variance."""

    def __init__(self, classes: int) -> None:
        self._sums: list[list[float]] = []  # by output: squared errors, values, their squares, their number

    def add(self, outputs: Outputs, labels: Labels) -> None:
        """The outputs of a network, each (B, ...), and the model's in a row, (B, T)."""
        for i, (a, b) in enumerate(zip(outputs, split_like(labels, [o.shape for o in outputs]), strict=True)):
            if i == len(self._sums):
                self._sums.append([0.0] * 4)
            truth = b.astype(np.float64)
            terms = ((a - truth) ** 2).sum(), truth.sum(), (truth**2).sum(), truth.size
            self._sums[i] = [before + float(term) for before, term in zip(self._sums[i], terms, strict=True)]

    def scores(self) -> TaskScores:
        """Raises InvalidInput where there were no images."""
        if not self._sums:
            raise InvalidInput("an output error is one over images: expected some, got none")
        return TaskScores(float(np.mean([_relative(*sums) for sums in self._sums])))


def _relative(squared_error: float, total: float, squares: float, count: float) -> float:
    spread = squares - total**2 / count
    return 100.0 * float(np.sqrt(squared_error / max(spread, 1e-12 * max(squares, 1e-12))))


AGREEMENT = Task(
    name="agreement",
    summary="Agreement of classifiers with a model of yours on images without labels: the same class is named.",
    quality=Measure("agreement", "{} agreement"),
    labels="none",
    outputs="vector",
    loss=distribution_loss,
    imitation=imitate_distribution,
    scorer=AgreementScorer,
    guess=lambda labels, classes: _most_named(labels),
    parent_labels=True,
    movable=False,
)

OUTPUT_ERROR = Task(
    name="output_error",
    summary="Closeness of any outputs to those of a model of yours on images without labels, as a relative error.",
    quality=Measure("output_error", "{} output error", unit="%", goal="min"),
    labels="none",
    outputs="any",
    loss=outputs_loss,
    imitation=outputs_imitation,
    scorer=OutputErrorScorer,
    guess=lambda labels, classes: 100.0,
    parent_labels=True,
    movable=False,
)


def _most_named(labels: Labels) -> float:
    """The share of the class that the model names most often, in %."""
    return 100.0 * float(np.bincount(labels.argmax(axis=1)).max() / len(labels))
