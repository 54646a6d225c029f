"""Scaling a network up or down to another bound (Dollar et al., Fast and accurate model scaling, CVPR 2021).

Runtime on accelerators follows activations rather than operations, and activations grow least where width is scaled: so
most of a factor goes to the width. For a factor s of the MACs, depth is scaled by s^((1-a)/2), width by s^(a/2) and
resolution by s^((1-a)/4), with a = 0.8; a = 1/3 is uniform compound scaling. Here all three are rounded to the choices
of a space, and the factor is the one that fills the bound.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nas.core.arch import Decision, Floats, Genes
from nas.core.errors import InfeasibleBound, InvalidInput
from nas.core.ports import SearchSpace

FAST = 0.8
_FACTORS = np.geomspace(1 / 32, 32, 321)  # of the MACs


@dataclass(frozen=True)
class ScalingFactors:
    """Of depth, width and resolution."""

    depth: float
    width: float
    resolution: float

    @classmethod
    def of(cls, factor: float, alpha: float = FAST) -> ScalingFactors:
        """Those by which MACs are scaled by ``factor``: depth x width^2 x resolution^2 = factor."""
        beta = 1.0 - alpha  # of depth and resolution
        return cls(factor ** (beta / 2), factor ** (alpha / 2), factor ** (beta / 4))

    def on(self, axis: str) -> float:
        """The factor of the decisions of an axis, 1 for those that are not scaled."""
        return {"depth": self.depth, "width": self.width, "expand": self.width, "resolution": self.resolution}.get(
            axis, 1.0
        )


@dataclass(frozen=True)
class ScaledNetwork:
    """``genes`` of the network, the ``factor`` that was aimed at and that of the MACs it has (``macs_factor``), its
    ``cost``, and the decisions of which the space ends before the factor is reached."""

    genes: tuple[int, ...]
    factor: float
    macs_factor: float
    cost: float
    at_end: tuple[str, ...]


def scaled_axes(decisions: Sequence[Decision]) -> set[str]:
    """The axes that are scaled: depth, resolution, and the width of layers, or their expansion where that is all that
    can be chosen of it."""
    free = {d.axis for d in decisions if len(d.choices) > 1 and all(isinstance(c, int | float) for c in d.choices)}
    width = {"width"} if "width" in free else {"expand"}
    return free & ({"depth", "resolution"} | width)


def scaled(decisions: Sequence[Decision], genes: Sequence[int], factors: ScalingFactors) -> tuple[list[int], list[str]]:
    """Genes with each choice of a scaled axis replaced by that nearest to its multiple, and the decisions whose
    multiple lies beyond their last choice."""
    axes, out, at_end = scaled_axes(decisions), list(genes), list[str]()
    for g, decision in enumerate(decisions):
        if decision.axis not in axes or factors.on(decision.axis) == 1.0:
            continue
        choices = np.array([float(c) for c in decision.choices])
        scaled_value = choices[genes[g]] * factors.on(decision.axis)
        out[g] = int(np.abs(np.log(choices / scaled_value)).argmin())
        if not choices[0] * 0.99 <= scaled_value <= choices[-1] * 1.01:
            at_end.append(decision.name)
    return out, at_end


def scale_to(
    space: SearchSpace, genes: Sequence[int], cost_of: Callable[[Genes], Floats], bound: float, alpha: float = FAST
) -> ScaledNetwork:
    """The scaled network with the largest cost of at most ``bound``.

    Raises InvalidInput for a space of which nothing can be scaled and for an ``alpha`` outside 0 to 1, and
    InfeasibleBound where the smallest network is above the bound.
    """
    if not 0.0 <= alpha <= 1.0:
        raise InvalidInput(f"alpha: expected 0 to 1, got {alpha}")
    if not scaled_axes(space.decisions):
        raise InvalidInput(f"space {space.name!r} has neither depths nor widths nor resolutions to scale")
    rows = [scaled(space.decisions, genes, ScalingFactors.of(float(s), alpha)) for s in _FACTORS]
    genes_SG = space.canonical(np.array([row for row, _ in rows], dtype=np.int64))
    cost_S = cost_of(genes_SG)
    fitting = np.flatnonzero(cost_S <= bound)
    if not len(fitting):
        raise InfeasibleBound(f"bound: expected at least {cost_S.min():.6g}, the cost of the smallest, got {bound:.6g}")
    largest = fitting[cost_S[fitting] == cost_S[fitting].max()]
    best = int(largest[np.abs(np.log(_FACTORS[largest])).argmin()])  # of equal networks, that of the nearest factor
    macs_2 = space.costs(np.stack([space.canonical(np.array([genes], dtype=np.int64))[0], genes_SG[best]]))["macs"]
    return ScaledNetwork(
        tuple(genes_SG[best].tolist()),
        float(_FACTORS[best]),
        float(macs_2[1] / macs_2[0]),
        float(cost_S[best]),
        tuple(rows[best][1]),
    )
