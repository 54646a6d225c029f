"""CIFAR-10 of the shared folder, as small as a benchmark can afford."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from nas.core.ports import Dataset, ImageShape, Split


def small_cifar(archive: Path, images: int, validation: int, size: int) -> Dataset:
    """Random ``images`` of the training set, ``size`` pixels high and wide; the ``validation`` images are others of it,
    and stand for test images too. The archive is ordered by class, so images are shuffled, always alike."""
    with np.load(archive) as arrays:
        jpeg, offset, label, test = (arrays[k] for k in ("jpeg", "offset", "label", "is_test"))
        class_names = tuple(str(n) for n in arrays["class_names"])
    rows = np.random.default_rng(0).permutation(np.flatnonzero(test == 0))[: images + validation]

    def read(row: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        image = Image.open(io.BytesIO(jpeg[offset[row] : offset[row + 1]].tobytes())).convert("RGB")
        return np.asarray(image.resize((size, size), Image.Resampling.BOX)).transpose(2, 0, 1)

    stack_NCHW = np.stack([read(int(row)) for row in rows])
    labels_N = label[rows].astype(np.int64)
    fit = Split(stack_NCHW[:images], labels_N[:images])
    rank = Split(stack_NCHW[images:], labels_N[images:])
    shape = ImageShape(3, size, size, len(class_names))
    return Dataset("cifar10", shape, fit, rank, rank, class_names, "", flip=True)
