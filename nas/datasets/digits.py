"""Handwritten digits, 1797 images of 8x8 pixels; part of scikit-learn, so nothing is downloaded."""

from __future__ import annotations

import numpy as np

from nas.core.errors import InvalidSpec
from nas.core.plugins import DatasetType
from nas.core.ports import Dataset, ImageShape
from nas.core.spec import DataSpec
from nas.datasets.labels import label_kind
from nas.datasets.splits import Source, SplitParams, build, check_images, parse_params


class DigitsParams(SplitParams):
    """As everywhere, but a mirrored digit is not a digit."""

    flip: bool = False


def describe(spec: DataSpec) -> ImageShape:
    """The shape, without reading the images."""
    _params(spec)
    return ImageShape(channels=1, height=8, width=8, classes=10 if label_kind(spec, "class", "none") == "class" else 0)


def load(spec: DataSpec, seed: int) -> Dataset:
    """The digits, grey values 0..16 spread over 0..255."""
    from sklearn.datasets import load_digits  # importing scikit-learn takes a second

    params = _params(spec)
    raw = load_digits()
    images_NHW = np.rint(raw.images * (255.0 / 16.0)).astype(np.uint8)
    kind = label_kind(spec, "class", "none")
    images = check_images("digits", images_NHW[:, None], raw.target, kind)
    names = tuple(str(k) for k in range(10)) if kind == "class" else ()
    return build(spec.name, Source(images, names), params, seed, spec.task)


def _params(spec: DataSpec) -> DigitsParams:
    if spec.path is not None:
        raise InvalidSpec(f"data set 'digits' takes no path, got {spec.path!r}")
    return parse_params(DigitsParams, spec)


DIGITS = DatasetType(
    "digits",
    "Handwritten digits, 1797 images of 8x8 pixels; part of scikit-learn, so nothing is downloaded.",
    describe,
    load,
)
