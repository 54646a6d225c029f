"""From stored images to batches on the training device: everything after the memory copy runs there, batched."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from nas.core.images import ChannelStats, Resolution, SplitImages, StoredImages, height_and_width
from nas.core.parent import Preprocessing
from nas.core.ports import Dataset, Problem, Split
from nas.core.tasks import Labels, load_task
from nas.training.augment import Augmentation, channel_stats, to_float
from nas.training.read_ahead import ReadAhead

DEFAULT = Augmentation()
LARGE_IMAGES = 64  # pixels of height and width from which channels last, and lower precision, may be faster
_PIXELS_AT_ONCE = 2**18
_EVALUATED_BYTES = 128 * 2**20  # pixels of a split that are kept where decoding it for each network would take longer
Index = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class _DeviceSplit:
    """A split and its tensors on the device. Holding the split keeps its ``id`` from being reused."""

    split: Split
    images_NCHW: torch.Tensor
    labels: torch.Tensor


@dataclass(frozen=True)
class RawBatch:
    """Training images of a split as bytes, (B, C, H, W), and their labels, on the training device. ``cropped``: they
    are random parts of larger images already."""

    images_BCHW: torch.Tensor
    labels: torch.Tensor
    cropped: bool = False


@dataclass(frozen=True)
class ValueScale:
    """Mean and standard deviation of each value among the training labels: networks that begin untrained learn the
    standardised values, and give them in their own units only once they are scored or exported."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @staticmethod
    def of(data: Dataset) -> ValueScale:
        """That of a data set; the deviation of a constant value counts as 1."""
        labels_NT = data.train.labels.astype(np.float64)
        deviation_T = labels_NT.std(axis=0)
        return ValueScale(
            tuple(labels_NT.mean(axis=0).tolist()), tuple(np.where(deviation_T > 0, deviation_T, 1.0).tolist())
        )

    def standardised(self, value_BT: torch.Tensor) -> torch.Tensor:
        """Values in their own units, standardised."""
        return (value_BT - value_BT.new_tensor(self.mean)) / value_BT.new_tensor(self.std)

    def in_units(self, value_BT: torch.Tensor) -> torch.Tensor:
        """Inverse of ``standardised``."""
        return value_BT * value_BT.new_tensor(self.std) + value_BT.new_tensor(self.mean)


class Pipeline:
    """Batches of one data set, normalised by ``preprocessing``; None: by the training split's channel statistics.
    ``pretrained``: networks give values in the units of their labels from the beginning; else by ``value_scale``.

    Splits in memory are copied to the device once, as bytes; of images on disk, each batch is read when it is needed
    unless it was read ahead.
    """

    def __init__(
        self, data: Dataset, device: str, preprocessing: Preprocessing | None = None, pretrained: bool = False
    ) -> None:
        self.device = device
        self.flip = data.flip
        self._task = load_task(data.task)
        self.value_scale = ValueScale.of(data) if self._task.labels == "values" and not pretrained else None
        self.preprocessing = preprocessing or Preprocessing(*split_stats(data.train))
        self._splits: dict[int, _DeviceSplit] = {}
        self._ahead: ReadAhead[RawBatch] = ReadAhead()

    @property
    def mean(self) -> tuple[float, ...]:
        """By channel, in pixel values."""
        return self.preprocessing.mean

    @property
    def std(self) -> tuple[float, ...]:
        """By channel, in pixel values."""
        return self.preprocessing.std

    @staticmethod
    def of(problem: Problem, device: str) -> Pipeline:
        """The batches of a search, normalised as its networks expect."""
        space = problem.space
        return Pipeline(problem.data, device, space.preprocessing, space.pretrained_genes is not None)

    def _on_device(self, split: Split, images: SplitImages) -> _DeviceSplit:
        key = id(split)
        if key not in self._splits:
            tensor_NCHW = torch.from_numpy(images if isinstance(images, np.ndarray) else images[:]).to(self.device)
            self._splits[key] = _DeviceSplit(split, tensor_NCHW, torch.from_numpy(split.labels).to(self.device))
        return self._splits[key]

    def _sent(self, array: NDArray[Any]) -> torch.Tensor:
        """An array on the device; a GPU gets it through pinned memory, beside its computing."""
        tensor = torch.from_numpy(array)
        if torch.device(self.device).type != "cuda":
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def _stored(self, split: Split, rows: Index | slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Images by rows as they are evaluated, as bytes, and their labels."""
        images = split.images_NCHW
        if not isinstance(images, np.ndarray) and not (images.cropped and prod(images.shape) <= _EVALUATED_BYTES):
            return self._sent(images[rows]), self._sent(split.labels[rows])
        stored = self._on_device(split, images)
        at = rows if isinstance(rows, slice) else torch.from_numpy(rows).to(self.device)
        return stored.images_NCHW[at], stored.labels[at]

    def read(self, split: Split, index_B: Index, seed: int) -> RawBatch:
        """Images as they are trained on; of larger ones, ``seed`` decides which part."""
        images = split.images_NCHW
        if isinstance(images, np.ndarray):
            return RawBatch(*self._stored(split, index_B))
        read = partial(self._read_from_disk, images, split.labels, index_B, seed)
        return self._ahead.take(_batch_key(split, index_B, seed), read)

    def read_ahead(self, split: Split, index_B: Index, seed: int) -> None:
        """Let a thread begin with what ``read`` will return; of images in memory, there is nothing to do."""
        images = split.images_NCHW
        if not isinstance(images, np.ndarray):
            read = partial(self._read_from_disk, images, split.labels, index_B, seed)
            self._ahead.begin(_batch_key(split, index_B, seed), read)

    def close(self) -> None:
        """Stop reading ahead."""
        self._ahead.close()

    def _read_from_disk(self, images: StoredImages, labels: Labels, index_B: Index, seed: int) -> RawBatch:
        return RawBatch(self._sent(images.crops(index_B, seed)), self._sent(labels[index_B]), images.cropped)

    def augmented(
        self, split: Split, index_B: Index, resolution: Resolution, seed: int, augmentation: Augmentation = DEFAULT
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised images (B, C, H, W) of a resolution, augmented, and labels, which move along where they are
        masks; ``seed`` decides everything. Where images must stay as they are for their labels, they do."""
        return self.augment(self.read(split, index_B, seed), resolution, seed, augmentation)

    def augment(
        self, batch: RawBatch, resolution: Resolution, seed: int, augmentation: Augmentation = DEFAULT
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``augmented``, of images that were read before. Parts of larger images are not cropped once more."""
        generator = torch.Generator(self.device).manual_seed(seed)
        x = to_float(batch.images_BCHW, self.mean, self.std, resolution)
        labels = batch.labels
        if not self._task.movable:
            return in_fast_layout(x), labels
        if batch.cropped:
            augmentation = replace(augmentation, min_crop_area=1.0)
        if self._task.labels == "mask":
            same = torch.Generator(self.device).manual_seed(seed)
            labels = augmentation.apply_to_masks(labels, same, resolution, flip=self.flip)
        return in_fast_layout(augmentation.apply(x, generator, flip=self.flip)), labels

    def plain(
        self, split: Split, resolution: Resolution, batch: int | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The whole split in order, normalised, not augmented, in batches of nearly equal size up to ``batch``; None:
        as many as are fast."""
        for rows in _even_slices(len(split), batch or self._images_at_once(resolution)):
            images_BCHW, labels = self._stored(split, rows)
            yield in_fast_layout(to_float(images_BCHW, self.mean, self.std, resolution)), labels

    def _images_at_once(self, resolution: Resolution) -> int:
        """How many images are evaluated fast: on a CPU, activations of large images in large batches leave its
        caches."""
        return 500 if self.device != "cpu" else max(32, min(500, _PIXELS_AT_ONCE // prod(height_and_width(resolution))))

    def rows(
        self, split: Split, index_N: Index, resolution: Resolution, batch: int = 500
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Images of a split by index, otherwise as ``plain``."""
        for part in _even_slices(len(index_N), batch):
            images_BCHW, labels = self._stored(split, index_N[part])
            yield in_fast_layout(to_float(images_BCHW, self.mean, self.std, resolution)), labels


def _batch_key(split: Split, index_B: Index, seed: int) -> Hashable:
    return id(split), seed, index_B.tobytes()


def split_stats(split: Split) -> ChannelStats:
    """Mean and standard deviation of every channel of the images of a split, in pixel values."""
    images = split.images_NCHW
    return channel_stats(images) if isinstance(images, np.ndarray) else images.stats


def in_fast_layout(x_BCHW: torch.Tensor) -> torch.Tensor:
    """The same images; large ones with their channels last in memory, which convolutions then keep. On a CPU, that
    trains EfficientNet-Lite0 at 96 pixels 1.7 times as fast; small images are faster as they are."""
    large = min(x_BCHW.shape[-2:]) >= LARGE_IMAGES
    return x_BCHW.contiguous(memory_format=torch.channels_last) if large else x_BCHW


def in_fast_weight_layout(module: nn.Module, resolution: Resolution) -> nn.Module:
    """The module itself, with weights in the layout of ``in_fast_layout`` where its images have that."""
    if min(height_and_width(resolution)) < LARGE_IMAGES:
        return module
    moved: nn.Module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


def _even_slices(count: int, limit: int) -> Iterator[slice]:
    """As few slices of at most ``limit`` as possible, whose lengths differ by at most 1: a small last batch would have
    unreliable statistics of its own."""
    batches = math.ceil(count / limit)
    for i in range(batches):
        yield slice(i * count // batches, (i + 1) * count // batches)
