"""The images of a split: one array in memory, or images on disk that are read when they are needed."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

ImageRows = NDArray[np.int64]
Resolution = int | tuple[int, int]  # the side of square images in pixels, or height and width
ChannelStats = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of each channel


def height_and_width(resolution: Resolution) -> tuple[int, int]:
    """Both in pixels."""
    return (resolution, resolution) if isinstance(resolution, int) else resolution


class StoredImages(Protocol):
    """Images on disk. A pickle of them holds where they lie, and no pixels."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(N, C, H, W) of the images as they are evaluated."""

    @property
    def cropped(self) -> bool:
        """Whether the stored images are larger than ``shape`` says, so that ``crops`` gives random parts of them."""

    @property
    def stats(self) -> ChannelStats:
        """Mean and standard deviation of each channel, in pixel values; a constant channel's deviation counts as 1."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: ImageRows | slice) -> NDArray[np.uint8]:
        """Images as they are evaluated, uint8 (B, C, H, W). Raises InvalidData for what has vanished or is damaged."""

    def crops(self, row_B: ImageRows, seed: int) -> NDArray[np.uint8]:
        """Images as they are trained on, uint8 (B, C, H, W); ``seed`` decides the crops of larger images."""

    def epoch_order(self, generator: np.random.Generator) -> ImageRows:
        """All rows in the order of an epoch, shuffled so that images that lie together are read together."""


SplitImages = NDArray[np.uint8] | StoredImages


def epoch_order(images: SplitImages, generator: np.random.Generator) -> ImageRows:
    """All rows in the order of an epoch: any order of an array, one that suits the disk of stored images."""
    if isinstance(images, np.ndarray):
        return generator.permutation(len(images))
    return images.epoch_order(generator)


def stats_of_counts(counts_CV: NDArray[np.int64]) -> ChannelStats:
    """Mean and standard deviation of each channel from how often it has each of its 256 values, shape (C, 256); a
    constant channel's deviation counts as 1."""
    values = np.arange(256.0)
    means = [float(counts_V @ values / counts_V.sum()) for counts_V in counts_CV]
    stds = [
        float(np.sqrt(counts_V @ (values - mean) ** 2 / counts_V.sum()))
        for counts_V, mean in zip(counts_CV, means, strict=True)
    ]
    return tuple(means), tuple(std if std > 0 else 1.0 for std in stds)
