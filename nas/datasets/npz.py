"""Arrays in a NumPy archive. Nothing pickled is ever opened."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pydantic import model_validator

from nas.core.errors import InvalidData, InvalidSpec
from nas.core.plugins import DatasetType
from nas.core.ports import Dataset, ImageShape, Split
from nas.core.records import ImageRead, Storage
from nas.core.spec import DataSpec
from nas.core.tasks import IGNORED, LabelKind, Labels
from nas.datasets.images import SizeParams, changes_to
from nas.datasets.intake import Intake
from nas.datasets.labels import label_kind, no_labels
from nas.datasets.limits import SMALL_BYTES, check_expansion, check_memory
from nas.datasets.splits import (
    Source,
    build,
    check_class_count,
    check_images,
    existing_path,
    final_size,
    numbered_classes,
    parse_params,
)

_Keys = tuple[str, str]  # images and labels
_PART_BYTES = 2**20  # of an array that is read part by part


@dataclass(frozen=True)
class _SplitKeys:
    """Where the splits of an archive lie; ``val`` and ``test`` are None where it has no such split."""

    train: _Keys
    val: _Keys | None = None
    test: _Keys | None = None

    def present_in(self, keys: Collection[str]) -> _SplitKeys:
        """The same without splits of which neither images nor labels are there."""
        val = self.val if self.val is not None and set(self.val) & set(keys) else None
        test = self.test if self.test is not None and set(self.test) & set(keys) else None
        return _SplitKeys(self.train, val, test)

    @property
    def pairs(self) -> dict[str, _Keys]:
        """The keys of every split."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: keys for name, keys in splits.items() if keys is not None}


# The first whose training split is there is taken.
_KNOWN_KEYS = (
    _SplitKeys(("x_train", "y_train"), ("x_val", "y_val"), ("x_test", "y_test")),
    _SplitKeys(("train_images", "train_labels"), ("val_images", "val_labels"), ("test_images", "test_labels")),
    _SplitKeys(("images", "labels")),
    _SplitKeys(("x", "y")),
)
_CORRUPT = (zipfile.BadZipFile, zlib.error, ValueError, OSError, EOFError, RuntimeError)


class NpzParams(SizeParams):
    """Where in the archive things lie. Keys left out are looked for under their usual names."""

    images: str | None = None
    labels: str | None = None
    val_images: str | None = None
    val_labels: str | None = None
    test_images: str | None = None
    test_labels: str | None = None
    layout: Literal["auto", "NHWC", "NCHW"] = "auto"
    class_names: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _keys_come_in_pairs(self) -> NpzParams:
        if (self.images is None) != (self.labels is None):
            raise ValueError("expected both or neither of images and labels")
        for split, (images, labels) in {
            "val": (self.val_images, self.val_labels),
            "test": (self.test_images, self.test_labels),
        }.items():
            if (images is None) != (labels is None):
                raise ValueError(f"expected both or neither of {split}_images and {split}_labels")
            if images is not None and self.images is None:
                raise ValueError(f"expected images and labels beside {split}_images and {split}_labels")
        return self

    @property
    def keys(self) -> _SplitKeys | None:
        """The keys that are given, None where they are to be looked for."""
        if self.images is None or self.labels is None:
            return None
        val, test = (self.val_images, self.val_labels), (self.test_images, self.test_labels)
        return _SplitKeys((self.images, self.labels), _complete_pair(val), _complete_pair(test))


def _complete_pair(keys: tuple[str | None, str | None]) -> _Keys | None:
    images, labels = keys
    return None if images is None or labels is None else (images, labels)


def describe(spec: DataSpec) -> ImageShape:
    """The shape, from the header of the images and from the labels."""
    source, params, kind = _read(spec, _Archive.placeholder), parse_params(NpzParams, spec), label_kind(spec)
    _, channels, height, width = source.images.images_NCHW.shape
    height, width = params.scaled_size or final_size(height, width, params)
    return ImageShape(channels, height, width, check_class_count(source.class_names, kind))


def load(spec: DataSpec, seed: int) -> Dataset:
    """The archive's images. Raises InvalidData saying what was expected and what lies there."""
    return build(spec.name, _read(spec, _Archive.array), parse_params(NpzParams, spec), seed, spec.task)


def _read(spec: DataSpec, read: Callable[[_Archive, str], NDArray[np.generic]]) -> Source:
    """The archive; with placeholders in place of images, these keep the size that they have in the archive."""
    params, path, intake, kind = parse_params(NpzParams, spec), existing_path(spec), Intake(), label_kind(spec)
    with _Archive(path) as archive:
        keys = _keys(archive, params, kind)

        def split(images_key: str, labels_key: str) -> Split:
            where = f"{path.name}: {images_key}, {labels_key}"
            stored = _as_NCHW(images_key, archive.placeholder(images_key), params)
            if kind == "none":
                labels: Labels = no_labels(len(stored))
                check_images(where, stored, labels, kind)  # before anything is read
            else:
                _check_header(where, stored, _as_labels(archive.placeholder(labels_key), kind), kind)
                labels = _as_labels(archive.array(labels_key), kind)
            images = check_images(where, _as_NCHW(images_key, read(archive, images_key), params), labels, kind)
            return images if read is _Archive.placeholder else _scaled(images, params.scaled_size, intake)

        splits = {name: split(*pair) for name, pair in keys.pairs.items()}
        names = _class_names(archive, params, [s.labels for s in splits.values()], kind)
        used = {"class_names", *(key for pair in keys.pairs.values() for key in pair)}
        intake.unused += [f"array {key!r}" for key in archive.keys if key not in used]
    return Source(splits["train"], names, splits.get("val"), splits.get("test"), intake)


@dataclass(frozen=True)
class NpzRecords:
    """The images of an archive, listed; as ``nas.core.records.RecordSource``. ``keys``: the arrays of images by
    split."""

    path: Path
    keys: Mapping[str, str]
    labels: Mapping[str, Labels]
    class_names: tuple[str, ...]
    shape: tuple[int, int, int]
    params: NpzParams
    unused: tuple[str, ...] = ()
    packed_bytes: int = 0

    def read(self, split: str, start: int, stop: int, storage: Storage) -> Iterator[ImageRead]:
        """As ``RecordSource``."""
        key, intake = self.keys[split], Intake()
        with _Archive(self.path) as archive:
            for first, images in archive.parts(key, start, stop):
                stored = np.ascontiguousarray(_as_NCHW(key, images, self.params), dtype=np.uint8)
                part = Split(stored, np.zeros(len(stored), dtype=np.int64))
                scaled_NCHW = _scaled(part, self.params.scaled_size, intake).array_NCHW
                changes = tuple(conversion.change for conversion in intake.conversions)
                for at, image_CHW in enumerate(scaled_NCHW, start=first):
                    yield ImageRead(f"{self.path}: {key}, image {at}", image_CHW, changes)


def records(spec: DataSpec) -> NpzRecords:
    """The archive's images, listed: labels are read, images are not."""
    params, path, kind = parse_params(NpzParams, spec), existing_path(spec), label_kind(spec)
    if params.storage == "encoded":
        raise InvalidSpec("storage: the images of an archive are not encoded: expected memory, decoded or auto")
    source = _read(spec, _Archive.placeholder)
    with _Archive(path) as archive:
        keys = {name: pair[0] for name, pair in _keys(archive, params, kind).pairs.items()}
    splits = {"train": source.images, "val": source.val, "test": source.test}
    labels = {name: split.labels for name, split in splits.items() if split is not None}
    _, channels, height, width = source.images.images_NCHW.shape
    shape = (channels, *(params.scaled_size or final_size(height, width, params)))
    return NpzRecords(path, keys, labels, source.class_names, shape, params, tuple(source.intake.unused))


def _scaled(images: Split, size: tuple[int, int] | None, intake: Intake) -> Split:
    """Cropped and scaled to a height and width as images in files are; without a ``size`` as they are."""
    _, channels, height, width = images.images_NCHW.shape
    if size is None or (height, width) == size:
        return images
    for change in changes_to(height, width, size):
        intake.converted(change, len(images))
    check_memory(f"{len(images)} images", len(images) * channels * size[0] * size[1])
    scaled_NCHW = np.empty((len(images), channels, *size), dtype=np.uint8)
    for image_CHW, scaled_CHW in zip(images.array_NCHW, scaled_NCHW, strict=True):
        for plane_HW, scaled_HW in zip(image_CHW, scaled_CHW, strict=True):
            plane = Image.fromarray(np.ascontiguousarray(plane_HW))
            scaled_HW[:] = np.asarray(ImageOps.fit(plane, (size[1], size[0]), Image.Resampling.BILINEAR))
    return Split(scaled_NCHW, _scaled_masks(images.labels, size) if images.labels.ndim == 3 else images.labels)


def _scaled_masks(mask_NHW: Labels, size: tuple[int, int]) -> Labels:
    width_height = (size[1], size[0])
    scaled = [ImageOps.fit(Image.fromarray(mask_HW), width_height, Image.Resampling.NEAREST) for mask_HW in mask_NHW]
    return np.array([np.asarray(mask) for mask in scaled], dtype=np.uint8).reshape(len(mask_NHW), *size)


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
        entry = self._zip.getinfo(f"{key}.npy")
        check_expansion(f"{self._path}: array {key!r}", entry.file_size, entry.compress_size)
        if prod(shape) * dtype.itemsize > entry.file_size:
            raise self._corrupt(
                key, f"expected {prod(shape) * dtype.itemsize} bytes for {shape}, got {entry.file_size}"
            )
        return shape, dtype

    def array(self, key: str) -> NDArray[np.generic]:
        """An array, whole. Raises DataTooLarge before reading what does not fit into memory."""
        shape, dtype = self.header(key)
        check_memory(f"{self._path}: array {key!r}", prod(shape) * dtype.itemsize)
        try:
            with self._zip.open(f"{key}.npy") as file:
                array: NDArray[np.generic] = np.lib.format.read_array(file, allow_pickle=False)
                file.read()  # reaching the end verifies the archive's checksum
        except _CORRUPT as error:
            raise self._corrupt(key, str(error)) from error
        return array

    def parts(self, key: str, start: int, stop: int) -> Iterator[tuple[int, NDArray[np.generic]]]:
        """The elements ``start`` to ``stop`` along the first axis, some at a time, with the number of the first. What
        lies before them is unpacked and dropped."""
        shape, dtype = self.header(key)
        element_bytes = prod(shape[1:]) * dtype.itemsize
        step = max(1, _PART_BYTES // max(1, element_bytes))
        try:
            with self._zip.open(f"{key}.npy") as file:
                version = np.lib.format.read_magic(file)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                _, fortran_order, _ = read(file)
                if fortran_order:
                    yield start, self.array(key)[start:stop]
                    return
                file.seek(start * element_bytes, io.SEEK_CUR)
                for first in range(start, stop, step):
                    count = min(step, stop - first)
                    content = file.read(count * element_bytes)
                    yield first, np.frombuffer(content, dtype).reshape(count, *shape[1:])
        except _CORRUPT as error:
            raise self._corrupt(key, str(error)) from error

    def placeholder(self, key: str) -> NDArray[np.generic]:
        """An array of the same shape and type that takes no memory: only the header is read."""
        shape, dtype = self.header(key)
        return np.broadcast_to(np.zeros((), dtype), shape)

    def _corrupt(self, key: str, why: str) -> InvalidData:
        return InvalidData(f"{self._path}: array {key!r} is corrupt or truncated: {why}")


def _keys(archive: _Archive, params: NpzParams, kind: LabelKind) -> _SplitKeys:
    """Raises InvalidData where an array is missing. Without labels, only images are looked for."""
    if kind == "none":
        return _image_keys(archive, params)
    usual = (keys.present_in(archive.keys) for keys in _KNOWN_KEYS if set(keys.train) <= set(archive.keys))
    keys = params.keys or next(usual, None)
    if keys is None:
        names = "; ".join(f"{images} and {labels}" for images, labels in (k.train for k in _KNOWN_KEYS))
        raise InvalidData(
            f"expected arrays named {names}, or params images and labels that name them; got {', '.join(archive.keys)}"
        )
    for key in (key for pair in keys.pairs.values() for key in pair):
        if key not in archive.keys:
            raise InvalidData(f"expected an array {key!r} in the archive, got {', '.join(archive.keys)}")
    return keys


def _image_keys(archive: _Archive, params: NpzParams) -> _SplitKeys:
    """The arrays of images, whose labels are not read."""
    for known in (params.keys, *_KNOWN_KEYS):
        if known is not None and known.train[0] in archive.keys:
            val, test = (pair if pair and pair[0] in archive.keys else None for pair in (known.val, known.test))
            return _SplitKeys(known.train, val, test)
    names = ", ".join(keys.train[0] for keys in _KNOWN_KEYS)
    raise InvalidData(f"expected images in an array named {names}, got {', '.join(archive.keys)}")


def _as_labels(labels: NDArray[np.generic], kind: LabelKind) -> NDArray[np.generic]:
    """Labels without an axis of length 1: classes (N,), masks (N, H, W)."""
    axis = {"class": 1, "mask": 3}.get(kind)
    return labels[..., 0] if labels.ndim - 1 == axis and labels.shape[-1] == 1 else labels


def _check_header(where: str, images: NDArray[np.generic], labels: NDArray[np.generic], kind: LabelKind) -> None:
    """Checks types and shapes before anything is read: placeholders of labels are zeros."""
    if kind == "class":
        check_images(where, images, labels)
    else:
        check_images(where, images[:0], labels[:0], kind)


def _class_names(archive: _Archive, params: NpzParams, labels: list[NDArray[Any]], kind: LabelKind) -> tuple[str, ...]:
    if kind == "none":
        return ()
    if params.class_names is not None:
        return params.class_names
    if "class_names" in archive.keys:
        stored = archive.placeholder("class_names")
        if stored.ndim != 1 or stored.dtype.kind != "U" or stored.nbytes > SMALL_BYTES:
            raise InvalidData(
                f"class_names: expected strings of shape (K,), got {stored.dtype} of shape {stored.shape}"
            )
        return tuple(str(n) for n in archive.array("class_names"))
    if kind in ("tags", "values"):
        return tuple(map(str, range(labels[0].shape[1])))
    if kind == "mask":
        present = [np.unique(part[part != IGNORED]) for part in labels]
        return tuple(map(str, range(1 + int(max((p.max(initial=0) for p in present), default=0)))))
    return numbered_classes(labels)


def _as_NCHW(key: str, images: NDArray[np.generic], params: NpzParams) -> NDArray[np.generic]:
    """Images with their channels second. Raises InvalidData where the layout is ambiguous."""
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


NPZ = DatasetType(
    "npz", "Arrays in a NumPy archive. Nothing pickled is ever opened.", describe, load, NpzParams, records
)
