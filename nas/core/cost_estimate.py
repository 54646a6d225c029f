"""What something will take: a middle and a range, and how a few timed pieces of work stand for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

import numpy as np
from numpy.polynomial.legendre import leggauss

COST_STAGE = "cost_estimate"  # the one stage of a dry run

# Between two minutes, a machine that others use as well is this much faster or slower.
MACHINE_VARIATION = 1.25


@dataclass(frozen=True)
class DurationRange:
    """Seconds: probably ``seconds``, surely about ``low_s`` to ``high_s``. Adds up, and multiplies with a count."""

    low_s: float
    seconds: float
    high_s: float

    @staticmethod
    def exact(seconds: float) -> DurationRange:
        """Seconds that are known."""
        return DurationRange(seconds, seconds, seconds)

    def __add__(self, other: DurationRange) -> DurationRange:
        return DurationRange(self.low_s + other.low_s, self.seconds + other.seconds, self.high_s + other.high_s)

    def __mul__(self, count: float) -> DurationRange:
        return DurationRange(self.low_s * count, self.seconds * count, self.high_s * count)


@dataclass(frozen=True)
class TrainingSpeed:
    """How fast a stage trains: ``images_per_s`` of the data set. ``loading_share``: of a step's time, 0 to 1;
    ``limited_by``: what would have to become faster. ``seconds_by_ranks``: numbers of ranks, and what the stage takes
    on so many, each with as many cores or a GPU as this one has."""

    images_per_s: float
    loading_share: float
    seconds_by_ranks: tuple[tuple[int, float], ...]

    @property
    def limited_by(self) -> Literal["loading", "computing"]:
        """Loading is what takes more than half of a step."""
        return "loading" if self.loading_share > 0.5 else "computing"

    @property
    def sentence(self) -> str:
        """All of it for people, times in hours."""
        times = ", ".join(f"{seconds / 3600:.3g} h on {ranks}" for ranks, seconds in self.seconds_by_ranks)
        return (
            f"{self.images_per_s:.4g} images/s, limited by {self.limited_by} (loading takes "
            f"{100 * self.loading_share:.0f} % of a step); by ranks: {times}"
        )


@dataclass(frozen=True)
class StageCost:
    """The estimated cost of one stage, from ``timed`` of its ``steps`` that were run on a worker.

    ``memory_bytes`` are those of the host, ``gpu_memory_bytes`` of the GPU, None without one. ``speed``: of a stage
    that trains a supernet. ``low_s`` to ``high_s`` is the range of the estimate. All three durations are None for a
    stage that cannot be estimated; ``note`` then says why. REST returns this value as it is.
    """

    stage: str
    seconds: float | None
    low_s: float | None
    high_s: float | None
    steps: int
    timed: int
    unit: str = ""
    memory_bytes: int | None = None
    note: str = ""
    gpu_memory_bytes: int | None = None
    speed: TrainingSpeed | None = None

    @staticmethod
    def of(stage: str, span: DurationRange, steps: int, timed: int, unit: str = "", note: str = "") -> StageCost:
        """From timed steps; the range is widened by what no machine keeps to."""
        return StageCost(
            stage,
            span.seconds,
            span.low_s / MACHINE_VARIATION,
            span.high_s * MACHINE_VARIATION,
            steps,
            timed,
            unit,
            None,
            note,
        )

    @staticmethod
    def zero(stage: str, note: str) -> StageCost:
        """A stage that has nothing to do."""
        return StageCost(stage, 0.0, 0.0, 0.0, 0, 0, note=note)

    @staticmethod
    def unknown(stage: str, note: str) -> StageCost:
        """A stage of which nothing is known."""
        return StageCost(stage, None, None, None, 0, 0, note=note)


@dataclass(frozen=True)
class CostEstimate:
    """The estimated cost of a search on the worker that timed it. REST returns this value as it is.

    ``confidence``: ``measured`` if steps of every stage were timed, ``partial`` if sums lack a stage that cannot be
    estimated (its ``note`` says why).
    """

    worker: str
    seconds: float
    low_s: float
    high_s: float
    gpu_hours: float
    cpu_hours: float
    memory_bytes: int
    evaluations: int
    confidence: Literal["measured", "partial"]
    stages: tuple[StageCost, ...]
    gpu_memory_bytes: int | None = None


@dataclass(frozen=True)
class AverageDuration:
    """What an average one of many pieces takes, from ``count`` of them."""

    span: DurationRange
    count: int
    smallest_s: float
    largest_s: float


def average_duration(
    sizes: Sequence[float], seconds_of: Callable[[int], float], inner: int = 2, patience_s: float = 3.0
) -> AverageDuration:
    """The time of an average piece of work, where larger pieces take longer.

    ``seconds_of(i)`` does the i-th piece, of size ``sizes[i]``, and says how long it took. The smallest goes first,
    untimed, to warm up; then the smallest and the largest are timed, and, if those took no more than ``patience_s``,
    ``inner`` others: time over rank is a curve, whose mean they give by Gauss-Legendre quadrature. The range takes each
    part of the curve at the value before and at the value after it.
    """
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    seconds_of(order[0])
    smallest_s, largest_s = seconds_of(order[0]), seconds_of(order[-1])
    if smallest_s + largest_s > patience_s:
        return AverageDuration(
            DurationRange(smallest_s, (smallest_s + largest_s) / 2, largest_s), 2, smallest_s, largest_s
        )
    nodes, weights = leggauss(inner)  # over -1 to 1
    ranks = np.rint((nodes + 1) / 2 * (len(order) - 1)).astype(int)
    curve = sorted([smallest_s, *(seconds_of(order[r]) for r in ranks), largest_s])
    middle_s = float(np.dot(curve[1:-1], weights / 2))
    return AverageDuration(
        DurationRange(fmean(curve[:-2]), middle_s, fmean(curve[2:])), len(curve), smallest_s, largest_s
    )


def mean_seconds(
    clock: Callable[[], float], work: Callable[[], object], at_least_s: float = 0.1, max_runs: int = 50
) -> float:
    """Seconds that ``work`` takes: the mean of as many times as ``at_least_s`` holds, so that one
    disturbance does not decide the figure of short work."""
    started_at, count = clock(), 0
    while True:
        work()
        count += 1
        passed = clock() - started_at
        if passed >= at_least_s or count == max_runs:
            return passed / count
