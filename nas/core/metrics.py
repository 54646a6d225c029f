"""The metrics, each with its unit, its kind and its goal. A kind never changes: a predicted latency and a measured
latency are two metrics, so they cannot share a column.

Kinds: *exact* (counted), *estimated* (steers the search: with inherited supernet weights on validation data, or by
zero-cost proxies), *predicted* (by a learned predictor), *trained* (a network trained alone, on validation data),
*measured* (on the device, or on test data with exactly the weights that are exported).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from decimal import ROUND_CEILING, Decimal
from functools import cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.core.errors import UnknownName
from nas.core.measures import MetricInfo, MetricKind
from nas.core.tasks import installed_tasks

V = TypeVar("V")


class _Table(Mapping[str, V]):
    """A table that is read when it is first asked for, since plug-ins take part in it."""

    def __init__(self, read: Callable[[], Mapping[str, V]]) -> None:
        self._read = cache(read)

    def __getitem__(self, name: str) -> V:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())


_COUNTED = (
    MetricInfo("params", "", "exact", "min", "Parameters"),
    MetricInfo("macs", "", "exact", "min", "MACs"),
    MetricInfo("peak_bytes", "B", "exact", "min", "Peak activation memory"),
    MetricInfo("model_bytes", "B", "exact", "min", "Model size"),
    MetricInfo("proxy_score", "", "estimated", "max", "Zero-cost score"),
)
_LATENCY = (
    MetricInfo("predicted_ms", "ms", "predicted", "min", "Predicted latency"),
    MetricInfo("upper_ms", "ms", "predicted", "min", "95 % upper bound"),
    MetricInfo("predicted_mj", "mJ", "predicted", "min", "Predicted energy"),
    MetricInfo("upper_mj", "mJ", "predicted", "min", "95 % upper bound of energy"),
    MetricInfo("measured_ms", "ms", "measured", "min", "Measured latency"),
    MetricInfo("predicted_share", "%", "predicted", "min", "Predicted share of bound"),
    MetricInfo("upper_share", "%", "predicted", "min", "Upper share of bound"),
    MetricInfo("measured_share", "%", "measured", "min", "Measured share of bound"),
)
_TRAINING = (
    MetricInfo("val_loss", "nats", "estimated", "min", "Validation loss"),
    MetricInfo("val_images", "", "estimated", "max", "Validation images, where given up early"),
    MetricInfo("trained_deviation", "%", "trained", "min", "Deviation over seeds, trained alone"),
)

METRICS: Mapping[str, MetricInfo] = _Table(
    lambda: {
        info.name: info
        for info in (
            *_COUNTED,
            *(info for task in installed_tasks().values() for info in task.metrics),
            *_TRAINING,
            *_LATENCY,
        )
    }
)
"""All metrics by name: those of costs, and those of the measures of every task."""

# An objective, as a spec names it, reads one metric while the search runs and another once networks were verified.
COSTS: dict[str, tuple[str, str]] = {
    "latency": ("predicted_ms", "measured_ms"),
    "params": ("params", "params"),
    "macs": ("macs", "macs"),
    "peak_memory": ("peak_bytes", "peak_bytes"),
    "model_bytes": ("model_bytes", "model_bytes"),
    "energy": ("predicted_mj", "predicted_mj"),
}
OBJECTIVES: Mapping[str, tuple[str, str]] = _Table(
    lambda: {task.objective: (task.estimated, task.tested) for task in installed_tasks().values()} | COSTS
)

# What the bound of a cost is held to before anything is measured: of what is predicted, the calibrated upper bound.
BOUND_METRIC: dict[str, str] = {
    o: {"predicted_ms": "upper_ms", "predicted_mj": "upper_mj"}.get(metric, metric) for o, (metric, _) in COSTS.items()
}

# In the worst case over a fleet with bounds, latency is held against the bound of the device where that is tightest.
SHARES = {"predicted_ms": "predicted_share", "upper_ms": "upper_share", "measured_ms": "measured_share"}


def attainable(lowest: float, digits: int = 6) -> str:
    """A lowest reachable value with so many significant digits, rounded up: taken as a bound, it can be met."""
    if not math.isfinite(lowest) or float(f"{lowest:.{digits}g}") >= lowest:
        return f"{lowest:.{digits}g}"
    exact = Decimal(lowest)
    step = Decimal(1).scaleb(exact.adjusted() - digits + 1)
    return f"{exact.quantize(step, rounding=ROUND_CEILING).normalize():f}"


def metric_info(name: str) -> MetricInfo:
    """Raises UnknownName for a metric that is not in the table."""
    if name not in METRICS:
        raise UnknownName("metric", name, METRICS)
    return METRICS[name]


def kind_of(name: str, virtual: bool = False) -> MetricKind:
    """The kind of a metric. On a ``virtual`` device, known by peak figures alone, what is predicted elsewhere is
    estimated, since nothing was measured."""
    kind = metric_info(name).kind
    return "estimated" if virtual and kind == "predicted" else kind


def mape(truth: Floats, guess: Floats) -> float:
    """Mean absolute percentage error of ``guess``, in %."""
    return float(np.mean(np.abs(guess - truth) / np.abs(truth)) * 100.0)


def spearman(a: Floats, b: Floats) -> float:
    """Spearman rank correlation with mid-ranks for ties; NaN when either side is constant."""
    from scipy.stats import spearmanr  # takes half a second to import, and only devices and benchmarks need it

    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def kendall(a: Floats, b: Floats) -> float:
    """Kendall's tau-b; NaN when either side is constant."""
    from scipy.stats import kendalltau

    return float(kendalltau(a, b).statistic)


def recall_by_class(label_N: NDArray[np.int64], answer_N: NDArray[np.int64], classes: int) -> tuple[float | None, ...]:
    """The share of each class's images that are recognised, in %; None for a class without images."""
    total_K = np.bincount(label_N, minlength=classes)
    right_K = np.bincount(label_N[answer_N == label_N], minlength=classes)
    return shares_by_class(right_K, total_K)


_Z = 1.959964  # of a normal distribution, two-sided 95 %


def share_interval(percent: float, images: int) -> tuple[float, float]:
    """The 95 % interval of a share of ``percent`` of so many ``images``, in % (Wilson, "Probable inference", 1927). By
    its formula: scipy would test a hypothesis for each, and charts ask for one of every member."""
    p, z2 = round(percent / 100.0 * images) / images, _Z * _Z
    centre = (p + z2 / (2 * images)) / (1 + z2 / images)
    half = _Z * math.sqrt(p * (1 - p) / images + z2 / (4 * images * images)) / (1 + z2 / images)
    return 100.0 * max(0.0, centre - half), 100.0 * min(1.0, centre + half)


def shares_by_class(right_K: NDArray[np.int64], total_K: NDArray[np.int64]) -> tuple[float | None, ...]:
    """``right_K`` of ``total_K`` for each class, in %; None for a class with none."""
    return tuple(100.0 * r / t if t else None for r, t in zip(right_K.tolist(), total_K.tolist(), strict=True))


_FEWEST_PAIRS = 5


def kendall_interval(a: Floats, b: Floats, level: float = 0.95, resamples: int = 999) -> tuple[float, float] | None:
    """The bootstrap interval of ``kendall`` over pairs (percentile method, a fixed seed); None where either side is
    constant, and for fewer than five pairs, which chance puts in perfect order too often. A resample in which either
    side is constant shows no order and counts as 0."""

    def tau(x: Floats, y: Floats) -> float:
        value = kendall(x, y)
        return 0.0 if math.isnan(value) else value

    return (
        _bootstrap(tau, (a, b), level, resamples) if len(a) >= _FEWEST_PAIRS and not math.isnan(kendall(a, b)) else None
    )


def kendall_gain_interval(
    truth: Floats, before: Floats, after: Floats, level: float = 0.95, resamples: int = 999
) -> tuple[float, float] | None:
    """The bootstrap interval of how much better ``after`` ranks than ``before``: the difference of ``kendall`` to the
    truth, over the same resamples. None as ``kendall_interval``."""

    def gain(x: Floats, y: Floats, z: Floats) -> float:
        value = kendall(z, x) - kendall(y, x)
        return 0.0 if math.isnan(value) else value

    computable = len(truth) >= _FEWEST_PAIRS and not math.isnan(kendall(before, truth) + kendall(after, truth))
    return _bootstrap(gain, (truth, before, after), level, resamples) if computable else None


def _bootstrap(
    statistic: Callable[..., float], samples: tuple[Floats, ...], level: float, resamples: int
) -> tuple[float, float]:
    from scipy.stats import bootstrap

    interval = bootstrap(
        samples,
        statistic,
        paired=True,
        vectorized=False,
        n_resamples=resamples,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def coverage(truth: Floats, upper: Floats) -> float:
    """Share of values at or below their upper bound, 0 to 1."""
    return float(np.mean(truth <= upper))
