"""Cascades: a fast network answers where it is sure, a more accurate one where it is not.

Confidence is the largest probability of a class after temperature scaling (Guo et al., ICML 2017). Temperatures and
thresholds are fitted to validation images; expected latency is what members take times how many images reach them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.core.errors import InfeasibleBound, InvalidInput
from nas.core.spec import SearchSpec

_TEMPERATURES = np.geomspace(0.25, 8.0, 61)
_SHARES = {2: np.linspace(0.0, 1.0, 51), 3: np.linspace(0.0, 1.0, 21)}  # of images that a threshold lets pass
MOST_MEMBERS = 3


@dataclass(frozen=True)
class MemberOutputs:
    """A network on N images: logits (N, K), and the milliseconds that one image takes."""

    name: str
    logits_NK: Floats
    ms: float


@dataclass(frozen=True)
class Cascade:
    """``members``: positions among the networks, the fastest first. Each but the last answers where its confidence, at
    its temperature, is at least its threshold."""

    members: tuple[int, ...]
    temperatures: tuple[float, ...]
    thresholds: tuple[float, ...]


@dataclass(frozen=True)
class CascadeOutcome:
    """A cascade on images: accuracy in %, the mean, median and 95th percentile of latency by the members' own, and the
    share of images that each member answers."""

    accuracy: float
    expected_ms: float
    median_ms: float
    p95_ms: float
    shares: tuple[float, ...]


@dataclass(frozen=True)
class FittedCascade:
    """A cascade and its outcome on the images that it was fitted to."""

    cascade: Cascade
    outcome: CascadeOutcome


@dataclass(frozen=True)
class MeasuredLatency:
    """Milliseconds an image took, over so many images."""

    mean_ms: float
    median_ms: float
    p95_ms: float
    images: int

    @classmethod
    def of(cls, ms_N: NDArray[np.float64]) -> MeasuredLatency:
        """The statistics of single images."""
        return cls(float(ms_N.mean()), float(np.median(ms_N)), float(np.quantile(ms_N, 0.95)), len(ms_N))


@dataclass(frozen=True)
class CascadeReport:
    """A chosen cascade beside the ``single`` network that it replaces: the fastest of those given that is as accurate
    on validation images as was asked for. ``members``: names, the fastest first, with the ``shares`` of test images
    that each has answered. Accuracies are those on test images, latencies measured there."""

    members: tuple[str, ...]
    shares: tuple[float, ...]
    validation_accuracy: float
    expected_ms: float
    test_accuracy: float
    measured: MeasuredLatency
    single: str
    single_test_accuracy: float
    single_measured: MeasuredLatency

    @property
    def saved_percent(self) -> float:
        """How much less than the single network the cascade takes on average, in %."""
        return 100.0 * (1.0 - self.measured.mean_ms / self.single_measured.mean_ms)


def require_classes(spec: SearchSpec) -> None:
    """Raises InvalidInput for a search whose networks do not give one class an image."""
    if spec.task.labels != "class":
        raise InvalidInput(f"cascade: expected models that give one class an image, got the task {spec.task.name!r}")


def confidence(logits_NK: Floats, temperature: float) -> Floats:
    """The largest probability of a class, shape (N,)."""
    scaled_NK = logits_NK / temperature
    shares_NK = np.exp(scaled_NK - scaled_NK.max(axis=1, keepdims=True))
    largest: Floats = shares_NK.max(axis=1) / shares_NK.sum(axis=1)
    return largest


def fit_temperature(logits_NK: Floats, label_N: NDArray[np.int64]) -> float:
    """The temperature with the least negative log-likelihood of the labels."""

    def loss(temperature: float) -> float:
        scaled_NK = logits_NK / temperature
        top_N = scaled_NK.max(axis=1)
        log_sum_N = top_N + np.log(np.exp(scaled_NK - top_N[:, None]).sum(axis=1))
        return float((log_sum_N - scaled_NK[np.arange(len(label_N)), label_N]).mean())

    return float(min(_TEMPERATURES.tolist(), key=loss))


def route(cascade: Cascade, networks: Sequence[MemberOutputs]) -> NDArray[np.int64]:
    """Which of the cascade's members answers each image, from 0, shape (N,)."""
    answering_N = np.full(len(networks[0].logits_NK), len(cascade.members) - 1)
    for place in reversed(range(len(cascade.thresholds))):
        network = networks[cascade.members[place]]
        sure_N = confidence(network.logits_NK, cascade.temperatures[place]) >= cascade.thresholds[place]
        answering_N[sure_N] = place
    return answering_N


def outcome_of(cascade: Cascade, networks: Sequence[MemberOutputs], label_N: NDArray[np.int64]) -> CascadeOutcome:
    """What a cascade does on images with labels."""
    members = [networks[m] for m in cascade.members]
    right_MN = np.stack([member.logits_NK.argmax(axis=1) == label_N for member in members])
    return _outcome(route(cascade, networks), right_MN, np.cumsum([member.ms for member in members]))


def _outcome(answering_N: NDArray[np.int64], right_MN: NDArray[np.bool_], until_ms_M: Floats) -> CascadeOutcome:
    ms_N = until_ms_M[answering_N]
    return CascadeOutcome(
        accuracy=100.0 * float(right_MN[answering_N, np.arange(len(answering_N))].mean()),
        expected_ms=float(ms_N.mean()),
        median_ms=float(np.median(ms_N)),
        p95_ms=float(np.quantile(ms_N, 0.95)),
        shares=tuple((np.bincount(answering_N, minlength=len(right_MN)) / len(answering_N)).tolist()),
    )


def fit_cascades(
    networks: Sequence[MemberOutputs], label_N: NDArray[np.int64], most_members: int = MOST_MEMBERS
) -> list[FittedCascade]:
    """The Pareto front of cascades of two to ``most_members`` networks for accuracy and expected latency, the fastest
    first. Raises InvalidInput for fewer than two networks and other numbers of members."""
    if len(networks) < 2 or not 2 <= most_members <= MOST_MEMBERS:
        raise InvalidInput(
            f"cascades: expected at least 2 networks and 2 to {MOST_MEMBERS} members, got {len(networks)} and "
            f"{most_members}"
        )
    temperatures = [fit_temperature(network.logits_NK, label_N) for network in networks]
    by_speed = sorted(range(len(networks)), key=lambda m: networks[m].ms)
    return _front(
        FittedCascade(cascade, outcome_of(cascade, networks, label_N))
        for count in range(2, most_members + 1)
        for members in combinations(by_speed, count)
        for cascade in _with_thresholds(members, networks, temperatures)
    )


def fit_pair(networks: tuple[MemberOutputs, MemberOutputs], label_N: NDArray[np.int64]) -> list[FittedCascade]:
    """The Pareto front of cascades of two members in this order, such as the halves of one network."""
    temperatures = [fit_temperature(network.logits_NK, label_N) for network in networks]
    cascades = _with_thresholds((0, 1), networks, temperatures)
    return _front(FittedCascade(cascade, outcome_of(cascade, networks, label_N)) for cascade in cascades)


def _front(cascades: Iterable[FittedCascade]) -> list[FittedCascade]:
    """Those that none is faster and more accurate than, the fastest first."""
    fitted = sorted(cascades, key=lambda f: (f.outcome.expected_ms, -f.outcome.accuracy))
    front: list[FittedCascade] = []
    for candidate in fitted:
        if not front or candidate.outcome.accuracy > front[-1].outcome.accuracy:
            front.append(candidate)
    return front


def _with_thresholds(
    members: tuple[int, ...], networks: Sequence[MemberOutputs], temperatures: Sequence[float]
) -> Iterator[Cascade]:
    """Cascades of these members, by thresholds that let pass even shares of all images."""
    levels = []
    for m in members[:-1]:
        confidence_N = confidence(networks[m].logits_NK, temperatures[m])
        levels.append(np.unique(np.quantile(confidence_N, _SHARES[len(members)])).tolist())
    for thresholds in product(*levels):
        yield Cascade(members, tuple(temperatures[m] for m in members), thresholds)


def fastest(
    front: Sequence[FittedCascade], accuracy: float, expected_ms: float | None = None, p95_ms: float | None = None
) -> FittedCascade:
    """The fastest cascade of at least this accuracy, whose expected latency and 95th percentile keep their bounds.
    Raises InfeasibleBound where there is none."""
    for fitted in front:
        outcome = fitted.outcome
        is_fast = outcome.expected_ms <= (expected_ms or np.inf) and outcome.p95_ms <= (p95_ms or np.inf)
        if outcome.accuracy >= accuracy - 1e-9 and is_fast:
            return fitted
    best = max((f.outcome.accuracy for f in front), default=0.0)
    raise InfeasibleBound(
        f"cascades: none reaches {accuracy:.4g} % within the bounds on latency; the most accurate reaches {best:.4g} %"
    )
