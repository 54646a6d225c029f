"""The networks that exploring around a user's model begins with, for budgets of the search's first cost: those that
distort the parent least, uniformly narrowed copies of it, and those of ``nas.importance.precropping``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from nas.core.arch import Floats, Genes
from nas.core.metrics import BOUND_METRIC
from nas.core.ports import Problem
from nas.explorers.allocation import Allocator, Distortions
from nas.explorers.uniform_scaling import uniform_copies, widest_copies
from nas.objectives import cheap_metrics

_SMALLEST_SHARE = 0.1  # of the parent's cost: what is cheaper is left to the explorer
NetworkGenes = tuple[tuple[int, ...], ...]


def least_distorting_networks(
    problem: Problem, distortions: Distortions, count: int, near_copies: bool = False
) -> NetworkGenes:
    """The networks for ``count`` budgets on each front of the search, the most expensive first, each once and without
    the parent.

    Distortions of residual blocks do not add up: each alone can be missed, all of them cannot. ``near_copies``: for
    each budget also the least distorting networks near uniformly narrowed copies, one for each resolution, which keep
    all blocks and whose widths differ by a step at most.
    """

    def networks(problem: Problem) -> Iterator[Genes]:
        space, parent_G, cost = problem.space, distortions.parent_G, _first_cost(problem)
        allocator = Allocator(distortions, space.canonical, cost)
        steps_G = np.array([decision.axis == "width" for decision in space.decisions], dtype=np.int64)
        smallest = float(cost(allocator.allocate(0.0)[None])[0])
        budgets = _budgets(problem, parent_G, smallest, count)
        copies_of = widest_copies(space.decisions, space.canonical, parent_G, cost, budgets)
        for budget, copies in zip(budgets, copies_of, strict=True):
            yield allocator.allocate(budget)
            for copy_G in copies if near_copies else ():
                yield replace(allocator, distortions=distortions.near(copy_G, steps_G)).allocate(budget)

    return _on_all_fronts(problem, distortions.parent_G, networks)


def widest_networks(problem: Problem, parent_G: Genes, count: int) -> NetworkGenes:
    """Copies of the parent at its own resolution with one share of all widths each, for ``count`` budgets on each front
    of the search; without the parent."""

    def networks(problem: Problem) -> Iterator[Genes]:
        space, cost = problem.space, _first_cost(problem)
        copies_SG = space.canonical(uniform_copies(space.decisions, parent_G)[-1])
        budgets = _budgets(problem, parent_G, float(cost(copies_SG).min()), count)
        for copies in widest_copies(space.decisions, space.canonical, parent_G, cost, budgets):
            yield from copies[-1:]

    return _on_all_fronts(problem, parent_G, networks)


def cropped_networks(problem: Problem, parent_G: Genes, cropped_DG: Genes, count: int) -> NetworkGenes:
    """Of D networks, the most expensive one within each of ``count`` budgets on each front of the search; without the
    parent."""

    def networks(problem: Problem) -> Iterator[Genes]:
        cost_D = _first_cost(problem)(problem.space.canonical(cropped_DG))
        for budget in _budgets(problem, parent_G, float(cost_D.min()), count):
            within = np.flatnonzero(cost_D <= budget)
            if len(within):
                yield cropped_DG[within[cost_D[within].argmax()]]

    return _on_all_fronts(problem, parent_G, networks)


def _on_all_fronts(
    problem: Problem, parent_G: Genes, networks_of: Callable[[Problem], Iterator[Genes]]
) -> NetworkGenes:
    networks: dict[tuple[int, ...], None] = {}
    for view in problem.spec.views:
        for genes_G in networks_of(problem if view is None else problem.on(view)):
            networks[tuple(genes_G.tolist())] = None
    networks.pop(tuple(parent_G.tolist()), None)
    return tuple(networks)


def _cost_metric(problem: Problem) -> str:
    objective = _first_objective(problem)
    by_share = problem.spec.by_share and objective == "latency"
    return "upper_share" if by_share else BOUND_METRIC[objective]


def _first_objective(problem: Problem) -> str:
    return next(o.name for o in problem.spec.objectives if o.name in BOUND_METRIC)


def _first_cost(problem: Problem) -> Callable[[Genes], Floats]:
    metric = _cost_metric(problem)
    return lambda genes_NG: cheap_metrics(problem, genes_NG)[metric]


def _budgets(problem: Problem, parent_G: Genes, smallest: float, count: int) -> list[float]:
    """Even in the logarithm of the search's first cost, from the bound or from below the parent's cost, down to a share
    of it or to the ``smallest`` that there is."""
    [parent_cost] = _first_cost(problem)(parent_G[None])
    bound = 100.0 if _cost_metric(problem) == "upper_share" else problem.spec.bound(_first_objective(problem))
    if bound is not None and bound < parent_cost:
        budgets = np.geomspace(bound, max(min(smallest, bound), _SMALLEST_SHARE * bound), count)
    else:
        budgets = np.geomspace(parent_cost, max(smallest, _SMALLEST_SHARE * parent_cost), count + 1)[1:]
    return [float(budget) for budget in budgets]
