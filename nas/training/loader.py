"""Training batches by (epoch, step), read ahead of the step that needs them.

A batch depends on the seed and its position alone: a training that begins again at any position gets the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from nas.core.images import ImageRows, epoch_order
from nas.core.ports import Split
from nas.core.rng import Stream, derive_seed, rng
from nas.training.pipeline import Pipeline, RawBatch

AHEAD = 3  # batches that are read while one is trained on


@dataclass(frozen=True, order=True)
class Position:
    """A step of an epoch, both from 0."""

    epoch: int = 0
    step: int = 0


class BatchLoader:
    """The batches of a split. ``phase`` gives a phase of training orders of its own, ``ahead`` is the number of batches
    that threads read in advance; images in memory need none. ``close`` it at the end."""

    def __init__(
        self, pipeline: Pipeline, split: Split, batch_size: int, seed: int, *, phase: int = 0, ahead: int = AHEAD
    ) -> None:
        self._pipeline, self._split, self._seed, self._phase = pipeline, split, seed, phase
        self.batch_size = min(batch_size, len(split))
        self.per_epoch = max(1, len(split) // batch_size)
        self._ahead = 0 if isinstance(split.images_NCHW, np.ndarray) else ahead
        self._threads = ThreadPoolExecutor(max(1, self._ahead), thread_name_prefix="batches")
        self._pending: dict[Position, Future[RawBatch]] = {}
        self._orders: dict[int, ImageRows] = {}

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop reading ahead."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._pending.clear()

    def rows(self, position: Position) -> ImageRows:
        """The images of a step; every epoch has an order of its own."""
        if position.epoch not in self._orders:
            generator = rng(self._seed, Stream.BATCH_ORDER, self._phase, position.epoch)
            recent = {e: order for e, order in self._orders.items() if abs(e - position.epoch) <= 1}
            self._orders = {**recent, position.epoch: epoch_order(self._split.images_NCHW, generator)}
        start = position.step * self.batch_size
        return self._orders[position.epoch][start : start + self.batch_size]

    def batch(self, position: Position) -> RawBatch:
        """The batch of a step; the next ones begin to be read. Raises what reading raises, such as InvalidData."""
        if self._ahead == 0:
            return self._read(position, self.rows(position))
        upcoming = [position]
        while len(upcoming) <= self._ahead:
            upcoming.append(self.after(upcoming[-1]))
        for at in self._pending.keys() - set(upcoming):  # another position was asked for
            self._pending.pop(at).cancel()
        for at in upcoming:
            if at not in self._pending:
                self._pending[at] = self._threads.submit(self._read, at, self.rows(at))
        return self._pending.pop(position).result()

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

    def _read(self, position: Position, index_B: ImageRows) -> RawBatch:
        seed = derive_seed(self._seed, Stream.IMAGE_CROPS, self._phase, position.epoch, position.step)
        return self._pipeline.read(self._split, index_B, seed)
