"""Copies of a parent network with the same share of all its widths, at each of its resolutions.

They are what people try by hand, and hard to beat once networks are retrained: narrowing all layers alike keeps every
feature's way through the network (compare compound scaling: Tan and Le, EfficientNet, ICML 2019).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nas.core.arch import Decision, Floats, Genes

_SHARES = np.linspace(1.0, 0.05, 96)


def uniform_copies(decisions: Sequence[Decision], parent_G: Genes, shares: Floats = _SHARES) -> Genes:
    """The parent with each of S ``shares`` of its widths at each of R resolutions, the parent's own last, as far as
    there are such choices, shape (R, S, G)."""
    resolution = next((g for g, decision in enumerate(decisions) if decision.axis == "resolution"), None)
    count = 1 if resolution is None else len(decisions[resolution].choices)
    genes_RSG = np.tile(parent_G, (count, len(shares), 1))
    if resolution is not None:
        other_choices = [i for i in range(count) if i != parent_G[resolution]]
        genes_RSG[:, :, resolution] = np.array([*other_choices, parent_G[resolution]])[:, None]
    for g, decision in enumerate(decisions):
        if decision.axis == "width":
            widths_C = np.array(decision.choices, dtype=np.float64)
            wanted_S = shares * widths_C[parent_G[g]]
            genes_RSG[:, :, g] = np.abs(widths_C[None] - wanted_S[:, None]).argmin(axis=1)
    return genes_RSG


def widest_copies(
    decisions: Sequence[Decision],
    canonical: Callable[[Genes], Genes],
    parent_G: Genes,
    cost: Callable[[Genes], Floats],
    budgets: Sequence[float],
) -> Iterator[list[Genes]]:
    """For each budget, the widest copies that cost no more: one for each resolution that has one, shape (G,)."""
    by_resolution = [canonical(genes_SG) for genes_SG in uniform_copies(decisions, parent_G)]
    costs = [cost(genes_SG) for genes_SG in by_resolution]
    for budget in budgets:
        within = [np.flatnonzero(cost_S <= budget) for cost_S in costs]
        yield [genes_SG[rows[0]] for genes_SG, rows in zip(by_resolution, within, strict=True) if len(rows)]
