"""Fast compound scaling: its exponents, its rounding to a space, and that it fills a bound."""

from __future__ import annotations

import numpy as np
import pytest

from nas.core.errors import InfeasibleBound, InvalidInput
from nas.core.ports import ImageShape, SearchSpace
from nas.core.registry import build_space
from nas.core.spec import SpaceSpec
from nas.explorers.compound_scaling import ScalingFactors, scale_to, scaled, scaled_axes


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return build_space(SpaceSpec(name="attentive_nas", params={"preset": "imagenet"}), ImageShape(3, 224, 224, 1000))


def macs_of(space: SearchSpace, genes: tuple[int, ...]) -> float:
    return float(space.costs(np.array([genes]))["macs"][0])


@pytest.mark.parametrize(("alpha", "activations"), [(0.8, 0.6), (1 / 3, 5 / 6), (1.0, 0.5)])
def test_exponents(alpha: float, activations: float) -> None:
    factors = ScalingFactors.of(2.0, alpha)
    assert factors.depth * factors.width**2 * factors.resolution**2 == pytest.approx(2.0)
    assert factors.depth * factors.width * factors.resolution**2 == pytest.approx(2.0**activations)


def test_published_factors_of_fast_scaling() -> None:
    factors = ScalingFactors.of(2.0)
    assert (factors.depth, factors.width, factors.resolution) == pytest.approx((1.07177, 1.31951, 1.03526), abs=1e-5)


def test_a_network_is_scaled_to_both_sides_of_its_cost(space: SearchSpace) -> None:
    genes = space.published["AttentiveNAS-A3"]
    own = macs_of(space, genes)
    costs = lambda genes_NG: space.costs(genes_NG)["macs"]  # noqa: E731
    for bound in (0.8 * own, 1.0 * own, 1.25 * own):
        network = scale_to(space, genes, costs, bound)
        assert 0.75 * bound <= network.cost <= bound  # few choices: resolutions are a sixth apart
        assert network.cost == macs_of(space, network.genes)
        assert network.macs_factor == pytest.approx(network.cost / own)
    assert scale_to(space, genes, costs, own).genes == genes
    kernels = [i for i, d in enumerate(space.decisions) if d.axis in ("kernel", "expand")]
    larger = scale_to(space, genes, costs, 1.25 * own)
    assert [larger.genes[i] for i in kernels] == [genes[i] for i in kernels]


def test_what_the_space_does_not_have_is_told(space: SearchSpace) -> None:
    top = [len(d.choices) - 1 for d in space.decisions]
    rows, at_end = scaled(space.decisions, top, ScalingFactors.of(2.0))
    assert rows == top
    assert "resolution" in at_end
    assert "stage3.width" in at_end
    assert scaled(space.decisions, top, ScalingFactors.of(1.0)) == (top, [])


def test_expansion_is_scaled_where_widths_are_fixed() -> None:
    mobile = build_space(SpaceSpec(params={"preset": "imagenet"}), ImageShape(3, 224, 224, 1000))
    assert scaled_axes(mobile.decisions) == {"depth", "expand", "resolution"}


def test_what_cannot_be_scaled_is_refused(space: SearchSpace) -> None:
    genes = space.published["AttentiveNAS-A0"]
    costs = lambda genes_NG: space.costs(genes_NG)["macs"]  # noqa: E731
    with pytest.raises(InfeasibleBound, match="smallest"):
        scale_to(space, genes, costs, 1e6)
    with pytest.raises(InvalidInput, match="alpha"):
        scale_to(space, genes, costs, 1e9, alpha=2.0)
    cells = build_space(SpaceSpec(name="nas_bench_201", params={"preset": "small"}), ImageShape(3, 32, 32, 10))
    with pytest.raises(InvalidInput, match="neither depths"):
        scale_to(cells, (1,) * 6, lambda genes_NG: cells.costs(genes_NG)["macs"], 1e9)
