"""From stored images to batches on the training device: everything after the memory copy runs there, batched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from nas.core.ports import Dataset, Split
from nas.training.augment import augment, channel_stats, to_float

Index = np.ndarray[Any, np.dtype[np.int64]]


class Pipeline:
    """Batches of one data set, normalised by the training split's channel statistics.

    Splits are copied to the device once, as bytes.
    """

    def __init__(self, data: Dataset, device: str) -> None:
        self.device = device
        self.flip = data.flip
        self.mean, self.std = channel_stats(data.train.images_NCHW)
        self._splits: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def _tensors(self, split: Split) -> tuple[torch.Tensor, torch.Tensor]:
        key = id(split)
        if key not in self._splits:
            self._splits[key] = (
                torch.from_numpy(split.images_NCHW).to(self.device),
                torch.from_numpy(split.labels_N).to(self.device),
            )
        return self._splits[key]

    def augmented(
        self, split: Split, index_B: Index, resolution: int, seed: int, strength: float = 1.0
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Normalised images (B, C, resolution, resolution), augmented so many times as strongly as usual, and labels
        (B,); ``seed`` decides everything."""
        images, labels = self._tensors(split)
        rows = torch.from_numpy(index_B).to(self.device)
        generator = torch.Generator(self.device).manual_seed(seed)
        x = to_float(images[rows], self.mean, self.std, resolution)
        move = {"shift": 0.1 * strength, "rotate_degrees": 10.0 * strength, "zoom": 0.1 * strength}
        return augment(x, generator, flip=self.flip, **move), labels[rows]

    def plain(self, split: Split, resolution: int, batch: int = 500) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The whole split in order, normalised, not augmented."""
        images, labels = self._tensors(split)
        for i in range(0, len(labels), batch):
            yield to_float(images[i : i + batch], self.mean, self.std, resolution), labels[i : i + batch]

    def rows(
        self, split: Split, index_N: Index, resolution: int, batch: int = 500
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The given images of a split in order, normalised, not augmented."""
        images, labels = self._tensors(split)
        for i in range(0, len(index_N), batch):
            rows = torch.from_numpy(index_N[i : i + batch]).to(self.device)
            yield to_float(images[rows], self.mean, self.std, resolution), labels[rows]
