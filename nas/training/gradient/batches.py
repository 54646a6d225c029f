"""Batches of differentiable search: one half of the training images for weights, the other for alphas."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from nas.core.images import Resolution
from nas.core.ports import Dataset, Split
from nas.core.rng import Stream, rng
from nas.training.gradient.options import DartsParams
from nas.training.pipeline import Index, Pipeline

Half = Literal["weights", "alphas", "all"]
HALVES: tuple[Half, ...] = ("weights", "alphas", "all")
LabelledImages = tuple[torch.Tensor, torch.Tensor]


class Batches:
    """Augmented batches by (epoch, step), of images of a height and width of ``resolution``. Learning at one level uses
    all images for both weights and alphas."""

    def __init__(
        self, data: Dataset, pipeline: Pipeline, options: DartsParams, seed: int, resolution: Resolution
    ) -> None:
        self._data, self._pipeline, self._seed = data, pipeline, seed
        self._resolution = resolution
        count = len(data.train)
        self._half = count if options.order == "one_level" else count // 2
        self.size = max(2, min(options.batch_size, self._half))
        self.per_epoch = max(1, self._half // self.size)
        self.split(rng(seed, Stream.IMAGE_HALVES))

    def split(self, generator: np.random.Generator) -> None:
        """Draw the halves."""
        rows = generator.permutation(len(self._data.train)).astype(np.int64)
        half = self._half
        self._orders: dict[Half, tuple[int, Index]] = {}
        self.rows: dict[Half, Index] = {"weights": rows[:half], "alphas": rows[half:], "all": rows}

    def batch(self, half: Half, epoch: int, step: int, generator: np.random.Generator) -> LabelledImages:
        """Augmented images (B, C, H, W), channels last, and labels (B,); every epoch has an order of its own."""
        rows = self.rows[half]
        index_B = rows[self._order(half, epoch)[(step * self.size + np.arange(self.size)) % len(rows)]]
        return self._augmented(index_B, int(generator.integers(2**62)))

    def _order(self, half: Half, epoch: int) -> Index:
        """A permutation of the images of a half, drawn once an epoch: that takes longer than a step for many images."""
        if half not in self._orders or self._orders[half][0] != epoch:
            generator = rng(self._seed, Stream.GRADIENT_BATCH_ORDER, HALVES.index(half), epoch)
            self._orders[half] = epoch, generator.permutation(len(self.rows[half]))
        return self._orders[half][1]

    def probe(self) -> LabelledImages:
        """The same augmented held-out batch each time."""
        return self._augmented(self.held_out[: self.size], 0)

    @property
    def held_out(self) -> Index:
        """The images that weights do not train on; all of them where there are none."""
        return self.rows["alphas"] if len(self.rows["alphas"]) else self.rows["all"]

    def plain_held_out(self) -> list[LabelledImages]:
        """All held-out images in order, not augmented, in batches of nearly equal size."""
        return self._plain(self._data.train, np.sort(self.held_out))

    def validation(self) -> list[LabelledImages]:
        """All validation images, likewise."""
        return self._plain(self._data.val, np.arange(len(self._data.val)))

    def _plain(self, split: Split, rows: Index) -> list[LabelledImages]:
        batches = self._pipeline.rows(split, rows, self._resolution, max(256, self.size))
        return [(x.contiguous(memory_format=torch.channels_last), y) for x, y in batches]

    def _augmented(self, index_B: Index, seed: int) -> LabelledImages:
        x, y = self._pipeline.augmented(self._data.train, index_B, self._resolution, seed)
        return x.contiguous(memory_format=torch.channels_last), y
