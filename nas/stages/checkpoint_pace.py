"""How often a training keeps a checkpoint: by time, and seldom for more than a share of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

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


def spacing_s(checkpoint_s: float, took_s: float) -> float:
    """Seconds between checkpoints that take ``took_s`` each."""
    return min(max(checkpoint_s, took_s / MOST_SHARE), MOST_STRETCHED * checkpoint_s)
