"""Training batches by (epoch, step), read ahead of the step that needs them.

A batch depends on the seed and its position alone: a training that begins again at any position gets the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from nas.core.images import ImageRows, epoch_order
from nas.core.ports import Split
from nas.core.rng import Stream, derive_seed, rng
from nas.training.pipeline import Pipeline, RawBatch
from nas.training.trainer import MicroBatch

AHEAD = 3  # batches that are read while one is trained on


@dataclass(frozen=True, order=True)
class Position:
    """A step of an epoch, both from 0."""

    epoch: int = 0
    step: int = 0


class BatchLoader:
    """The batches of a split. ``phase`` gives a phase of training orders of its own, ``ahead`` is the number of batches
    that threads read in advance; images in memory need none."""

    def __init__(
        self, pipeline: Pipeline, split: Split, batch_size: int, seed: int, *, phase: int = 0, ahead: int = AHEAD
    ) -> None:
        self._pipeline, self._split, self._seed, self._phase, self._ahead = pipeline, split, seed, phase, ahead
        self.batch_size = min(batch_size, len(split))
        self.per_epoch = max(1, len(split) // batch_size)
        self._orders: dict[int, ImageRows] = {}

    def rows(self, position: Position) -> ImageRows:
        """The images of a step; every epoch has an order of its own."""
        if position.epoch not in self._orders:
            generator = rng(self._seed, Stream.BATCH_ORDER, self._phase, position.epoch)
            recent = {e: order for e, order in self._orders.items() if abs(e - position.epoch) <= 1}
            self._orders = {**recent, position.epoch: epoch_order(self._split.images_NCHW, generator)}
        start = position.step * self.batch_size
        return self._orders[position.epoch][start : start + self.batch_size]

    def seed(self, position: Position) -> int:
        """What decides the parts of larger images that a step sees."""
        return derive_seed(self._seed, Stream.IMAGE_CROPS, self._phase, position.epoch, position.step)

    def batch(self, position: Position) -> RawBatch:
        """The batch of a step; the next ones begin to be read. Raises what reading raises, such as InvalidData."""
        upcoming = position
        for _ in range(self._ahead + 1):
            self._pipeline.read_ahead(self._split, self.rows(upcoming), self.seed(upcoming))
            upcoming = self.after(upcoming)
        return self._pipeline.read(self._split, self.rows(position), self.seed(position))

    def part(self, position: Position, part: MicroBatch) -> RawBatch:
        """A part of the batch of a step; the same part of the next ones begins to be read. Raises as ``batch``."""
        upcoming = position
        for _ in range(self._ahead + 1):
            self._pipeline.read_ahead(self._split, part.rows(self.rows(upcoming)), part.seed(self.seed(upcoming)))
            upcoming = self.after(upcoming)
        return self._pipeline.read(self._split, part.rows(self.rows(position)), part.seed(self.seed(position)))

    def batches(self, start: Position = Position()) -> Iterator[tuple[Position, RawBatch]]:
        """All batches from a position on, epoch after epoch, without end."""
        position = start
        while True:
            yield position, self.batch(position)
            position = self.after(position)

    def after(self, position: Position) -> Position:
        """The step that follows."""
        epoch, step = divmod(position.epoch * self.per_epoch + position.step + 1, self.per_epoch)
        return Position(epoch, step)
