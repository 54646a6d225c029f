"""Arrays in a NumPy archive. Nothing pickled is ever opened."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from nas.core.errors import InvalidData
from nas.core.plugins import DatasetType
from nas.core.ports import Dataset, ImageShape, Split
from nas.core.spec import DataSpec
from nas.datasets.splits import (
    Source,
    SplitParams,
    build,
    check_class_count,
    check_images,
    check_labels,
    existing_path,
    numbered_classes,
    parse_params,
)

# (images, labels) and the same of the test split; the first pair that is there is taken.
_Keys = tuple[str, str]
_KNOWN_KEYS: tuple[tuple[_Keys, _Keys | None], ...] = (
    (("x_train", "y_train"), ("x_test", "y_test")),
    (("train_images", "train_labels"), ("test_images", "test_labels")),
    (("images", "labels"), None),
    (("x", "y"), None),
)
_CORRUPT = (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, RuntimeError)


class Params(SplitParams):
    """Where in the archive things lie. Keys left out are looked for under their usual names."""

    images: str | None = None
    labels: str | None = None
    test_images: str | None = None
    test_labels: str | None = None
    layout: Literal["auto", "NHWC", "NCHW"] = "auto"
    class_names: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _keys_come_in_pairs(self) -> Params:
        if (self.images is None) != (self.labels is None):
            raise ValueError("expected both or neither of images and labels")
        if (self.test_images is None) != (self.test_labels is None):
            raise ValueError("expected both or neither of test_images and test_labels")
        if self.test_images is not None and self.images is None:
            raise ValueError("expected images and labels beside test_images and test_labels")
        return self


def describe(spec: DataSpec) -> ImageShape:
    """The shape, from the header of the images and from the labels."""
    source = _read(spec, _Archive.placeholder)
    _, channels, height, width = source.images.images_NCHW.shape
    return ImageShape(channels, height, width, check_class_count(source.class_names))


def load(spec: DataSpec, seed: int) -> Dataset:
    """The archive's images. Raises InvalidData saying what was expected and what lies there."""
    return build(spec.name, _read(spec, _Archive.array), parse_params(Params, spec), seed)


def _read(spec: DataSpec, read_images: Callable[[_Archive, str], NDArray[np.generic]]) -> Source:
    params, path = parse_params(Params, spec), existing_path(spec)
    with _Archive(path) as archive:
        train_keys, test_keys = _keys(archive, params)

        def split(images_key: str, labels_key: str) -> Split:
            images = _as_NCHW(images_key, read_images(archive, images_key), params)
            return check_images(f"{path.name}: {images_key}, {labels_key}", images, _labels(archive, labels_key))

        train = split(*train_keys)
        test = split(*test_keys) if test_keys else None
        names = _class_names(archive, params, [s.labels_N for s in (train, test) if s is not None])
    return Source(train, names, test=test)


class _Archive:
    """An open archive whose every way of being corrupt is InvalidData."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except _CORRUPT as error:
            raise InvalidData(f"{path}: expected a NumPy archive (.npz), got a file that is none: {error}") from error
        self.keys = [n.removesuffix(".npy") for n in self._zip.namelist() if n.endswith(".npy")]

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._zip.close()

    def header(self, key: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and type of an array, without reading it."""
        try:
            with self._zip.open(f"{key}.npy") as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)
        except _CORRUPT as error:
            raise self._corrupt(key, str(error)) from error
        if dtype.hasobject:
            raise InvalidData(
                f"{self._path}: array {key!r} holds pickled Python objects, which could run code when opened and are "
                f"refused: expected plain numbers, got {dtype}"
            )
        stored = self._zip.getinfo(f"{key}.npy").file_size
        if prod(shape) * dtype.itemsize > stored:
            raise self._corrupt(key, f"expected {prod(shape) * dtype.itemsize} bytes for {shape}, got {stored}")
        return shape, dtype

    def array(self, key: str) -> NDArray[np.generic]:
        """An array, whole."""
        self.header(key)
        try:
            with self._zip.open(f"{key}.npy") as file:
                array: NDArray[np.generic] = np.lib.format.read_array(file, allow_pickle=False)
                file.read()  # reaching the end verifies the archive's checksum
        except _CORRUPT as error:
            raise self._corrupt(key, str(error)) from error
        return array

    def placeholder(self, key: str) -> NDArray[np.generic]:
        """An array of the same shape and type that takes no memory: only the header is read."""
        shape, dtype = self.header(key)
        return np.broadcast_to(np.zeros((), dtype), shape)

    def _corrupt(self, key: str, why: str) -> InvalidData:
        return InvalidData(f"{self._path}: array {key!r} is corrupt or truncated: {why}")


def _keys(archive: _Archive, params: Params) -> tuple[_Keys, _Keys | None]:
    if params.images is not None and params.labels is not None:
        train = _existing(archive, (params.images, params.labels))
        if params.test_images is None or params.test_labels is None:
            return train, None
        return train, _existing(archive, (params.test_images, params.test_labels))
    for train, test in _KNOWN_KEYS:
        if set(train) <= set(archive.keys):
            return train, _existing(archive, test) if test and set(test) & set(archive.keys) else None
    known = "; ".join(f"{images} and {labels}" for (images, labels), _ in _KNOWN_KEYS)
    raise InvalidData(
        f"expected arrays named {known}, or params images and labels that name them; got {', '.join(archive.keys)}"
    )


def _existing(archive: _Archive, keys: _Keys) -> _Keys:
    for key in keys:
        if key not in archive.keys:
            raise InvalidData(f"expected an array {key!r} in the archive, got {', '.join(archive.keys)}")
    return keys


def _labels(archive: _Archive, key: str) -> NDArray[np.generic]:
    labels = archive.array(key)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    check_labels(key, labels)
    return labels


def _class_names(archive: _Archive, params: Params, labels: list[NDArray[Any]]) -> tuple[str, ...]:
    if params.class_names is not None:
        return params.class_names
    if "class_names" in archive.keys:
        names = archive.array("class_names")
        if names.ndim != 1 or names.dtype.kind != "U":
            raise InvalidData(f"class_names: expected strings of shape (K,), got {names.dtype} of shape {names.shape}")
        return tuple(str(n) for n in names)
    return numbered_classes(labels)


def _as_NCHW(key: str, images: NDArray[np.generic], params: Params) -> NDArray[np.generic]:
    """Images with their channels second. Raises InvalidData where the layout cannot be told."""
    if images.ndim == 3:
        return images[:, None]
    if images.ndim != 4:
        raise InvalidData(f"{key}: expected images of shape NHWC, NCHW or NHW, got {images.shape}")
    layout = params.layout
    if layout == "auto":
        first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
        if first == last:
            raise InvalidData(
                f"{key}: cannot tell channels from shape {images.shape}: expected 1 or 3 either second (NCHW) or last "
                "(NHWC); set the parameter layout"
            )
        layout = "NCHW" if first else "NHWC"
    return images if layout == "NCHW" else images.transpose(0, 3, 1, 2)


NPZ = DatasetType("npz", "Arrays in a NumPy archive. Nothing pickled is ever opened.", describe, load)
