"""The dynamic programme is optimal, for every budget; where costs do not add up, it is close."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from nas.core.arch import Decision, Floats, Genes
from nas.core.errors import InvalidInput
from nas.explorers.allocation import Allocator, CutOptions, Distortions, combine, inactive_decisions, options_of
from nas.explorers.allocation import least_distorting as optimum


def layers(
    weights: tuple[int, ...], shares: tuple[float, ...], distortions: list[tuple[float, ...]]
) -> list[CutOptions]:
    """Layers that can lose shares of their weights, as options whose cost is what remains."""
    costs = [[round(n * (1 - share)) for share in shares] for n in weights]
    return [options_of(i, cost, d) for i, (cost, d) in enumerate(zip(costs, distortions, strict=True))]


def test_the_example_of_the_method() -> None:
    """Three layers of 4, 4 and 2 weights that lose nothing, half or all: half of each is best for five weights."""
    parts = layers((4, 4, 2), (0, 0.5, 1), [(0, 1, 10), (0, 3, 5), (0, 0.5, 0.6)])
    best = optimum(parts, 5)
    assert best is not None
    assert best.choices_NK.tolist() == [[1, 1, 1]]
    assert best.distortion_N.tolist() == [4.5]


def test_it_finds_what_trying_everything_finds() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        counts = generator.integers(1, 5, size=generator.integers(1, 6))
        cost = [generator.integers(0, 12, size=n) for n in counts]
        distortion = [generator.random(n).round(2) for n in counts]
        parts = [options_of(i, c.tolist(), d.tolist()) for i, (c, d) in enumerate(zip(cost, distortion, strict=True))]
        budget = int(generator.integers(0, 40))
        everything = [
            (sum(d[c] for d, c in zip(distortion, choice, strict=True)), choice)
            for choice in product(*(range(n) for n in counts))
            if sum(c[i] for c, i in zip(cost, choice, strict=True)) <= budget
        ]
        best = optimum(parts, budget)
        if not everything:
            assert best is None
            continue
        assert best is not None
        assert best.distortion_N[0] == pytest.approx(min(everything)[0])
        choice_K = best.choices_NK[0]
        assert sum(d[c] for d, c in zip(distortion, choice_K, strict=True)) == pytest.approx(best.distortion_N[0])
        assert sum(c[i] for c, i in zip(cost, choice_K, strict=True)) == best.cost_N[0] <= budget


def test_more_budget_is_never_worse() -> None:
    generator = np.random.default_rng(1)
    parts = [options_of(i, generator.integers(0, 50, 6).tolist(), generator.random(6).tolist()) for i in range(8)]
    combined = combine(parts)
    assert (np.diff(combined.cost_N) > 0).all()
    assert (np.diff(combined.distortion_N) < 0).all()
    assert optimum(parts, -1) is None


# A network of three blocks, of which each of the last two can be left out with its own width.
DECISIONS = (
    Decision("stem.width", (8, 16, 24, 32)),
    Decision("first.depth", (0, 1)),
    Decision("first.width", (8, 16, 24, 32)),
    Decision("second.depth", (0, 1)),
    Decision("second.width", (8, 16, 24, 32)),
)
PARENT = np.array([3, 1, 3, 1, 3])
CONTAINED = {1: (2,), 3: (4,)}
DISTORTIONS = Distortions(
    PARENT,
    (
        np.array([4.0, 1.5, 0.3, 0.0]),
        np.array([1.0, 0.0]),
        np.array([0.8, 0.2, 0.1, 0.0]),
        np.array([0.3, 0.0]),
        np.array([0.6, 0.4, 0.2, 0.0]),
    ),
    CONTAINED,
)


def canonical(genes_NG: Genes) -> Genes:
    out = genes_NG.copy()
    out[out[:, 1] == 0, 2] = 0
    out[out[:, 3] == 0, 4] = 0
    return out


def bilinear_cost(genes_NG: Genes) -> Floats:
    """Products of neighbouring widths, as multiplications and latencies are."""
    stem, first, second = (genes_NG[:, i] + 1.0 for i in (0, 2, 4))
    return np.asarray(2.0 + stem * (1.0 + first * genes_NG[:, 1] + second * genes_NG[:, 3]))


def test_what_a_block_contains_is_known() -> None:
    assert inactive_decisions(DECISIONS, canonical, PARENT) == CONTAINED


def test_costs_that_multiply_are_met_with_nearly_the_least_distortion() -> None:
    allocator = Allocator(DISTORTIONS, canonical, bilinear_cost)
    everything_NG = canonical(np.array([*product(*(range(len(d.choices)) for d in DECISIONS))]))
    cost_N, distortion_N = bilinear_cost(everything_NG), DISTORTIONS.total(everything_NG)
    assert allocator.allocate(1e9).tolist() == PARENT.tolist()
    excess = []
    for budget in np.linspace(5.0, 37.0, 17):
        genes_G = allocator.allocate(budget)
        assert bilinear_cost(genes_G[None])[0] <= budget
        row = int(np.flatnonzero((everything_NG == genes_G).all(axis=1))[0])
        excess.append(distortion_N[row] / max(distortion_N[cost_N <= budget].min(), 0.1))
    assert np.median(excess) == pytest.approx(1.0)
    assert np.mean(excess) < 1.2
    assert allocator.allocate(0.0).tolist() == [0, 0, 0, 0, 0]


def test_what_a_skipped_block_contains_distorts_nothing_more() -> None:
    networks_NG = np.array([[3, 1, 3, 1, 3], [2, 1, 3, 0, 0], [3, 0, 0, 1, 1]])
    assert DISTORTIONS.total(networks_NG).tolist() == [0.0, pytest.approx(0.3 + 0.3), pytest.approx(1.0 + 0.4)]
    with pytest.raises(InvalidInput, match="5 decisions, got 1"):
        Distortions(PARENT, (np.zeros(4),), {})


def test_networks_near_another_differ_in_a_step_of_widths_at_most() -> None:
    generator, near_G = np.random.default_rng(3), np.array([1, 1, 1, 1, 2])
    cost = lambda genes_NG: (genes_NG + 1.0).sum(axis=1)  # noqa: E731
    near = DISTORTIONS.near(near_G, np.array([1, 0, 1, 0, 1]))
    for budget in generator.uniform(10, 15, 8):
        genes_G = Allocator(near, lambda genes_NG: genes_NG, cost).allocate(float(budget))
        assert (np.abs(genes_G - near_G) <= [1, 0, 1, 0, 1]).all()
        assert cost(genes_G[None])[0] <= budget
        others_NG = near_G + np.array(list(product((-1, 0, 1), (0,), (-1, 0, 1), (0,), (-1, 0, 1))))
        others_NG = others_NG[((others_NG <= 3).all(axis=1)) & (cost(others_NG) <= budget)]
        assert DISTORTIONS.total(genes_G[None])[0] <= DISTORTIONS.total(others_NG).min() + 1e-9
