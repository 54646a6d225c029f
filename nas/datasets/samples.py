"""A picture of a data set: a row of small images for each of its classes."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.core.ports import Dataset

_SIDE = 48  # pixels of one image
_IN_ROW = 8
_ROWS = 20  # classes that are shown
_GAP = 4


def samples_of(data: Dataset) -> bytes:
    """A PNG with a row of training images for each of the first classes; without classes, of the first images."""
    rows = _rows_by_class(data)
    width, height = _IN_ROW * (_SIDE + _GAP), max(1, len(rows)) * (_SIDE + _GAP)
    sheet = Image.new("RGBA", (width, height))
    for down, at in enumerate(rows):
        for across, image_CHW in enumerate(data.train.images_NCHW[at]):
            sheet.paste(_thumbnail(image_CHW), (across * (_SIDE + _GAP), down * (_SIDE + _GAP)))
    content = io.BytesIO()
    sheet.save(content, "png")
    return content.getvalue()


def _rows_by_class(data: Dataset) -> list[NDArray[np.int64]]:
    labels = data.train.labels
    if labels.ndim != 1:
        return [np.arange(min(_IN_ROW, len(labels)))]
    return [np.flatnonzero(labels == k)[:_IN_ROW] for k in range(min(_ROWS, len(data.class_names)))]


def _thumbnail(image_CHW: NDArray[np.uint8]) -> Image.Image:
    image = Image.fromarray(image_CHW[0] if len(image_CHW) == 1 else image_CHW[:3].transpose(1, 2, 0))
    larger = Image.Resampling.NEAREST if image.width < _SIDE else Image.Resampling.BILINEAR
    return image.convert("RGB").resize((_SIDE, _SIDE), larger)
