"""How often a training keeps a checkpoint: by time, and seldom for more than a share of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from nas.core.errors import StorageError
from nas.core.events import Checkpoint, Warned
from nas.core.ports import BlobStore
from nas.training.state import TrainState

MOST_SHARE = 0.05  # of the time between two checkpoints that keeping one may take
MOST_STRETCHED = 60  # times the interval that was asked for: so much work may be lost in any case


class CheckpointPace:
    """A checkpoint is due ``checkpoint_s`` seconds after the last one, or later where keeping one takes long, as of a
    large network in a slow store: then it takes ``MOST_SHARE`` of the time, up to ``MOST_STRETCHED`` intervals."""

    def __init__(self, clock: Callable[[], float], checkpoint_s: float) -> None:
        self._clock, self._checkpoint_s = clock, checkpoint_s
        self._saved_at, self._took_s = clock(), 0.0

    @property
    def interval_s(self) -> float:
        """Seconds between two checkpoints."""
        return spacing_s(self._checkpoint_s, self._took_s)

    def due(self) -> bool:
        """Whether the last checkpoint is old enough."""
        return self._clock() - self._saved_at >= self.interval_s

    @contextmanager
    def saving(self) -> Iterator[None]:
        """Context in which a checkpoint is kept, or tried."""
        started_at = self._clock()
        try:
            yield
        finally:
            self._saved_at = self._clock()
            self._took_s = self._saved_at - started_at

    def keep(
        self, stage: str, step: int, state: TrainState, blobs: BlobStore, *, is_last: bool = False
    ) -> Checkpoint | Warned:
        """The checkpoint of a state that is reached after ``step`` steps; a warning where it cannot be stored, and
        training goes on. Raises StorageError for the last one of a training."""
        try:
            with self.saving():
                return Checkpoint(stage, step, blobs.put(state.to_bytes()))
        except StorageError as error:
            if is_last:
                raise
            return Warned(stage, f"checkpoint at step {step} was not kept, training goes on: {error}")


def spacing_s(checkpoint_s: float, took_s: float) -> float:
    """Seconds between checkpoints that take ``took_s`` each."""
    return min(max(checkpoint_s, took_s / MOST_SHARE), MOST_STRETCHED * checkpoint_s)
