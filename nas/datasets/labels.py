"""Labels of every kind: what is expected of arrays of them, and how often classes are among them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.core.errors import InvalidData, InvalidSpec
from nas.core.spec import DataSpec
from nas.core.tasks import IGNORED, LabelKind, Labels, load_task

_SHAPES: dict[LabelKind, str] = {
    "class": "integer labels of shape (N,)",
    "tags": "labels 0 or 1 of shape (N, classes)",
    "mask": "masks of class numbers of shape (N, H, W)",
    "values": "numbers of shape (N,) or (N, values)",
}


def label_kind(spec: DataSpec, *supported: LabelKind) -> LabelKind:
    """The kind of labels of the task of a spec. Raises UnknownName for an unknown task, and InvalidSpec where the data
    set has no such labels."""
    kind = load_task(spec.task).labels
    if supported and kind not in supported:
        raise InvalidSpec(
            f"data.task: data set {spec.name!r} has labels of the kind {' or '.join(supported)}: task {spec.task} "
            f"expects {_SHAPES.get(kind, kind)}"
        )
    return kind


def no_labels(images: int) -> Labels:
    """What stands for labels where there are none, shape (N, 0)."""
    return np.zeros((images, 0), dtype=np.float32)


def check_labels(where: str, labels: NDArray[np.generic], kind: LabelKind = "class") -> Labels:
    """The labels in the type of their kind. Raises InvalidData where they are none of it."""
    if kind == "none":
        return no_labels(len(labels))
    axes = {"class": (1,), "tags": (2,), "mask": (3,), "values": (1, 2)}[kind]
    types = {"class": "iu", "tags": "iub", "mask": "iu", "values": "iuf"}[kind]
    if labels.ndim not in axes or labels.dtype.kind not in types:
        raise InvalidData(f"{where}: expected {_SHAPES[kind]}, got {labels.dtype} of shape {labels.shape}")
    if kind == "values":
        values = (labels[:, None] if labels.ndim == 1 else labels).astype(np.float32)
        if not np.isfinite(values).all():
            raise InvalidData(f"{where}: expected finite numbers, got {int((~np.isfinite(values)).sum())} that are not")
        return values
    array: NDArray[np.int64] = labels.astype(np.int64)
    if array.size and int(array.min()) < 0:
        raise InvalidData(f"{where}: expected labels from 0, got {int(array.min())} (unlabelled images?)")
    limit = {"tags": 1, "mask": IGNORED}.get(kind)
    if limit is not None and array.size and int(array.max()) > limit:
        raise InvalidData(f"{where}: expected {_SHAPES[kind]}, at most {limit}, got {int(array.max())}")
    return array if kind == "class" else array.astype(np.uint8)


def label_problem(labels: Labels, kind: LabelKind, classes: int) -> str:
    """What is wrong with labels for so many classes or values; empty if nothing is."""
    if kind in ("tags", "values"):
        unit = "classes" if kind == "tags" else "values"
        return "" if labels.shape[1] == classes else f"expected {classes} {unit} for an image, got {labels.shape[1]}"
    counted = labels[labels != IGNORED] if kind == "mask" else labels
    if kind == "none" or counted.size == 0 or int(counted.max()) < classes:
        return ""
    besides = f", or {IGNORED} for pixels that do not count" if kind == "mask" else ""
    return f"expected 0 to {classes - 1} for {classes} classes{besides}, got {int(counted.max())}"


def counts_by_class(labels: Labels, kind: LabelKind, classes: int) -> NDArray[np.int64]:
    """How many images are of each class, or have it among theirs; how many pixels, in masks. Empty without classes."""
    if kind == "tags":
        return np.asarray(labels.sum(axis=0, dtype=np.int64))
    if kind in ("class", "mask"):
        counted = labels[labels != IGNORED] if kind == "mask" else labels
        return np.bincount(counted.ravel(), minlength=classes).astype(np.int64)
    return np.empty(0, dtype=np.int64)


def images_by_class(labels: Labels, kind: LabelKind, classes: int) -> tuple[int, ...]:
    """How many images show each class; empty without classes."""
    if kind == "mask":
        return tuple(int((labels == k).any(axis=(1, 2)).sum()) for k in range(classes))
    return tuple(counts_by_class(labels, kind, classes).tolist())
