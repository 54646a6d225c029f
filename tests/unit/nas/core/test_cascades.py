"""Cascades: calibration, routing, and thresholds that are fitted to validation images."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from nas.core.cascades import (
    Cascade,
    MemberOutputs,
    confidence,
    fastest,
    fit_cascades,
    fit_temperature,
    outcome_of,
    route,
)
from nas.core.errors import InfeasibleBound, InvalidInput

LABELS = np.random.default_rng(0).integers(0, 5, size=600)


def network(name: str, ms: float, skill: float, seed: int, scale: float = 1.0) -> MemberOutputs:
    """Logits that favour the label the more, the easier an image is; how easy it is, is the same for all networks."""
    easy_N = np.random.default_rng(1).uniform(0, 2, size=len(LABELS))
    noise_NK = np.random.default_rng(seed).normal(size=(len(LABELS), 5))
    logits_NK = noise_NK + (easy_N * skill)[:, None] * np.eye(5)[LABELS]
    return MemberOutputs(name, scale * logits_NK, ms)


def accuracy(outputs: MemberOutputs, label_N: NDArray[np.int64] = LABELS) -> float:
    return 100.0 * float((outputs.logits_NK.argmax(axis=1) == label_N).mean())


NETWORKS = [network("slow", 4.0, 6.0, 4), network("fast", 1.0, 4.0, 2), network("middle", 2.0, 5.0, 3)]


def test_a_temperature_undoes_a_scale() -> None:
    plain, sharp = (fit_temperature(network("a", 1.0, 3.0, 2, s).logits_NK, LABELS) for s in (1.0, 3.0))
    assert sharp == pytest.approx(3.0 * plain, rel=0.1)
    logits_NK = np.array([[2.0, 0.0], [0.0, 0.0]])
    assert confidence(logits_NK, 2.0) == pytest.approx([1 / (1 + np.exp(-1.0)), 0.5])


def test_images_go_on_until_a_member_is_sure() -> None:
    logits = [np.log([[p, 1 - p] for p in row]) for row in ([0.9, 0.6, 0.6], [0.9, 0.9, 0.6], [0.6, 0.6, 0.6])]
    networks = [MemberOutputs(str(i), x, ms) for i, (x, ms) in enumerate(zip(logits, (1.0, 2.0, 4.0), strict=True))]
    cascade = Cascade((0, 1, 2), (1.0, 1.0, 1.0), (0.8, 0.8))
    assert route(cascade, networks).tolist() == [0, 1, 2]
    outcome = outcome_of(cascade, networks, np.array([0, 0, 1]))
    assert outcome.accuracy == pytest.approx(200 / 3)
    assert outcome.expected_ms == pytest.approx((1 + 3 + 7) / 3)
    assert (outcome.median_ms, outcome.shares) == (3.0, (1 / 3, 1 / 3, 1 / 3))


def test_thresholds_at_both_ends_are_single_networks() -> None:
    never, always = (Cascade((1, 0), (1.0, 1.0), (t,)) for t in (1.01, 0.0))
    assert outcome_of(always, NETWORKS, LABELS).accuracy == accuracy(NETWORKS[1])
    assert outcome_of(always, NETWORKS, LABELS).expected_ms == 1.0
    assert outcome_of(never, NETWORKS, LABELS).accuracy == accuracy(NETWORKS[0])
    assert outcome_of(never, NETWORKS, LABELS).expected_ms == 5.0


def test_the_front_holds_cascades_that_beat_single_networks() -> None:
    front = fit_cascades(NETWORKS, LABELS)
    costs = [(f.outcome.expected_ms, f.outcome.accuracy) for f in front]
    assert costs == sorted(costs)
    assert [a for _, a in costs] == sorted({a for _, a in costs})
    best = accuracy(NETWORKS[0])
    fitted = fastest(front, best)
    assert fitted.outcome.accuracy >= best
    assert fitted.outcome.expected_ms < 0.75 * NETWORKS[0].ms
    pairs = fit_cascades(NETWORKS, LABELS, most_members=2)
    assert all(len(f.cascade.members) == 2 for f in pairs)
    assert any(len(f.cascade.members) == 3 for f in front)
    fresh = np.random.default_rng(5).permutation(len(LABELS))[:300]
    halves = [MemberOutputs(n.name, n.logits_NK[fresh], n.ms) for n in NETWORKS]
    assert outcome_of(fitted.cascade, halves, LABELS[fresh]).accuracy == pytest.approx(fitted.outcome.accuracy, abs=3.0)


def test_bounds_on_latency_are_kept_or_refused() -> None:
    front = fit_cascades(NETWORKS, LABELS)
    tail = fastest(front, 60.0, p95_ms=3.5)
    assert tail.outcome.p95_ms <= 3.5
    with pytest.raises(InfeasibleBound, match=r"99\.99"):
        fastest(front, 99.99)
    with pytest.raises(InfeasibleBound):
        fastest(front, accuracy(NETWORKS[0]), expected_ms=0.5)
    with pytest.raises(InvalidInput, match="at least 2"):
        fit_cascades(NETWORKS[:1], LABELS)
    with pytest.raises(InvalidInput, match="members"):
        fit_cascades(NETWORKS, LABELS, most_members=4)
