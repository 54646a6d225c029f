"""Small data sets as files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.core import registry
from nas.core.errors import InvalidData
from nas.core.ports import Dataset
from nas.core.spec import DataSpec


def random_images(count: int = 24, side: int = 8, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    """Images in NHWC that all differ."""
    return np.random.default_rng(seed).integers(0, 256, size=(count, side, side, channels), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "png", **options: Any) -> bytes:
    """An image as the content of a file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def write_images(root: Path, images: Sequence[Image.Image], classes: Sequence[str] = ("cat", "dog")) -> DataSpec:
    """Images in folders of their classes, in turn, as ``000.png`` and so on."""
    for at, image in enumerate(images):
        folder = root / classes[at % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{at:03}.png").write_bytes(encoded(image))
    return DataSpec(name="folder", path=str(root))


def colour_folder(root: Path, count: int = 24, side: int = 8, classes: Sequence[str] = ("cat", "dog")) -> DataSpec:
    """A folder of random colour images, ``count`` in all."""
    return write_images(root, [Image.fromarray(image) for image in random_images(count, side)], classes)


def with_params(spec: DataSpec, **params: object) -> DataSpec:
    """The same data set with other parameters."""
    return spec.model_copy(update={"params": params})


def read_data(spec: DataSpec, seed: int = 0) -> Dataset:
    """The data set that a spec names."""
    return registry.load_dataset(spec.name).load(spec, seed)


def problems_of(spec: DataSpec) -> tuple[str, ...]:
    """Why a data set is refused; empty if it is not."""
    try:
        read_data(spec)
    except InvalidData as refused:
        return refused.problems
    return ()


def conversions_of(data: Dataset) -> dict[str, int]:
    """How many images were converted, by the change."""
    return {c.change: c.images for c in data.account.conversions}
