"""How often a training reports its progress."""

from __future__ import annotations

from collections.abc import Callable

from nas.training.gradient.loop import GradientStep
from nas.training.progressive import Step

INTERVAL_S = 0.25


class ProgressPace:
    """A report is due every ``INTERVAL_S`` seconds, and at the end of the training."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._started_at = self._reported_at = clock()
        self._images = 0

    def due(self, step: Step | GradientStep) -> bool:
        """Whether to report this step; to be asked once for each."""
        self._images += step.images
        if (now := self._clock()) - self._reported_at < INTERVAL_S and step.done < step.total:
            return False
        self._reported_at = now
        return True

    @property
    def images_per_s(self) -> float:
        """Images per second from the beginning to the last report."""
        return self._images / max(self._reported_at - self._started_at, 1e-9)
