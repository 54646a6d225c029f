"""What something will take: a middle and a range, and how a few timed pieces of work stand for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil

# Between two minutes, a machine that others use as well is this much faster or slower.
UNSTEADY = 1.25


@dataclass(frozen=True)
class Span:
    """Seconds: probably ``seconds``, surely about ``low_s`` to ``high_s``. Adds up, and multiplies with a count."""

    low_s: float
    seconds: float
    high_s: float

    @staticmethod
    def exactly(seconds: float) -> Span:
        """Seconds that are known."""
        return Span(seconds, seconds, seconds)

    def __add__(self, other: Span) -> Span:
        return Span(self.low_s + other.low_s, self.seconds + other.seconds, self.high_s + other.high_s)

    def __mul__(self, count: float) -> Span:
        return Span(self.low_s * count, self.seconds * count, self.high_s * count)


@dataclass(frozen=True)
class StageCost:
    """What a stage will take; ``nas.core.views.StageCostView`` says what the fields mean.

    A stage that cannot say what it takes has None for its seconds, and a ``note`` that says why.
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

    @staticmethod
    def of(stage: str, span: Span, steps: int, timed: int, unit: str = "", note: str = "") -> StageCost:
        """From timed steps; the range is widened by what no machine keeps to."""
        return StageCost(
            stage, span.seconds, span.low_s / UNSTEADY, span.high_s * UNSTEADY, steps, timed, unit, None, note
        )

    @staticmethod
    def nothing(stage: str, note: str) -> StageCost:
        """A stage that has nothing to do."""
        return StageCost(stage, 0.0, 0.0, 0.0, 0, 0, note=note)

    @staticmethod
    def unknown(stage: str, note: str) -> StageCost:
        """A stage of which nothing is known."""
        return StageCost(stage, None, None, None, 0, 0, note=note)


@dataclass(frozen=True)
class Timed:
    """What an average one of many pieces takes, from ``count`` of them."""

    span: Span
    count: int
    smallest_s: float
    largest_s: float


def average(
    sizes: Sequence[float], seconds_of: Callable[[int], float], points: int = 4, patience_s: float = 3.0
) -> Timed:
    """The time of an average piece of work, where larger pieces take longer.

    ``seconds_of(i)`` does the i-th piece, of size ``sizes[i]``, and says how long it took. The largest goes first,
    untimed, to warm up; then the smallest and the largest are timed, and, if those took no more than ``patience_s``,
    so many others that ``points`` are spread evenly over all pieces by size. Time over rank is then a curve of which
    ``points`` values are known: the range is its lower and upper sum, the middle the trapezoid rule.
    """
    order = sorted(range(len(sizes)), key=lambda i: sizes[i])
    seconds_of(order[-1])
    smallest_s, largest_s = seconds_of(order[0]), seconds_of(order[-1])
    inner = points - 2 if smallest_s + largest_s <= patience_s else 0
    places = [ceil(k * (len(order) - 1) / (inner + 1)) for k in range(1, inner + 1)]
    curve = [smallest_s, *(seconds_of(order[p]) for p in places), largest_s]
    pairs = list(pairwise(curve))
    span = Span(
        sum(min(p) for p in pairs) / len(pairs),
        sum(sum(p) for p in pairs) / 2 / len(pairs),
        sum(max(p) for p in pairs) / len(pairs),
    )
    return Timed(span, len(curve), smallest_s, largest_s)


def repeated(clock: Callable[[], float], work: Callable[[], object], at_least_s: float = 0.1, most: int = 50) -> float:
    """Seconds that ``work`` takes: the mean of as many times as ``at_least_s`` holds, so that short work is not told by
    a single accident."""
    begun, count = clock(), 0
    while True:
        work()
        count += 1
        passed = clock() - begun
        if passed >= at_least_s or count == most:
            return passed / count
