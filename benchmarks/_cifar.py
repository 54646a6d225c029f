"""Images of CIFAR-10, made smaller, from the archive of JPEG streams ``cifar10_jpeg.npz``."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.core.ports import Dataset, ImageShape, Split


def small_cifar(archive: Path, images: int, validation: int, size: int) -> Dataset:
    """``images`` of the training set to learn from and ``validation`` others of it, the same ones at every call;
    ``size`` is their height and width. The archive is sorted by class, so they are drawn from all of it."""
    with np.load(archive, allow_pickle=False) as arrays:
        jpeg, offset, label, test = (arrays[k] for k in ("jpeg", "offset", "label", "is_test"))
        class_names = tuple(str(n) for n in arrays["class_names"])
    rows = np.random.default_rng(0).permutation(np.flatnonzero(test == 0))[: images + validation]

    def read(row: int) -> NDArray[np.uint8]:
        image: Any = Image.open(io.BytesIO(jpeg[offset[row] : offset[row + 1]].tobytes())).convert("RGB")
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BOX)
        return np.asarray(image).transpose(2, 0, 1)

    pixels = np.stack([read(int(row)) for row in rows])
    labels = label[rows].astype(np.int64)
    fit, rank = Split(pixels[:images], labels[:images]), Split(pixels[images:], labels[images:])
    return Dataset("cifar10", ImageShape(3, size, size, len(class_names)), fit, rank, rank, class_names, "", flip=True)
