"""Choosing how much to cut from each part of a network: the least distortion within a budget of cost, by dynamic
programming (RD pruning: Xu et al., Efficient joint optimization of layer-adaptive weight pruning, ICCV 2023).

The programme is exact where distortions and costs of the parts add up. Latency does not quite: ``allocate`` linearises
it at each solution and solves again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Decision, Floats, Genes
from nas.core.errors import InvalidInput

Costs = NDArray[np.int64]
CostFunction: TypeAlias = Callable[[Genes], Floats]  # of canonical genes (N, G), shape (N,)

_STEPS = 2_000  # the cost of the whole network is counted in so many units
_ITERATIONS = 6  # linearisations for one budget


@dataclass(frozen=True)
class CutOptions:
    """What N options of some decisions cost and distort. ``choices_NK``: the choice of each of the K ``decisions`` (by
    position) that an option makes."""

    cost_N: Costs
    distortion_N: Floats
    decisions: tuple[int, ...]
    choices_NK: Genes

    def __len__(self) -> int:
        return len(self.cost_N)

    def take(self, rows: NDArray[np.intp]) -> CutOptions:
        """Some of the options."""
        return CutOptions(self.cost_N[rows], self.distortion_N[rows], self.decisions, self.choices_NK[rows])

    def non_dominated(self) -> CutOptions:
        """Those than which no other is as cheap and distorts less; of equal ones the first. By rising cost."""
        order = np.lexsort((self.distortion_N, self.cost_N))
        distortion_N = self.distortion_N[order]
        lowest_before_N = np.minimum.accumulate(np.concatenate([[np.inf], distortion_N[:-1]]))
        return self.take(order[distortion_N < lowest_before_N])

    def plus(self, other: CutOptions) -> CutOptions:
        """The non-dominated pairs of one option each: costs and distortions add up."""
        first, second = (part.ravel() for part in np.indices((len(self), len(other))))
        return CutOptions(
            self.cost_N[first] + other.cost_N[second],
            self.distortion_N[first] + other.distortion_N[second],
            (*self.decisions, *other.decisions),
            np.concatenate([self.choices_NK[first], other.choices_NK[second]], axis=1),
        ).non_dominated()


_NO_DECISIONS = CutOptions(np.zeros(1, np.int64), np.zeros(1), (), np.zeros((1, 0), np.int64))


def options_of(decision: int, cost_N: Iterable[int], distortion_N: Iterable[float]) -> CutOptions:
    """The choices of one decision as options."""
    cost_N, distortion_N = np.array([*cost_N], dtype=np.int64), np.array([*distortion_N], dtype=np.float64)
    return CutOptions(cost_N, distortion_N, (decision,), np.arange(len(cost_N))[:, None])


def combine(parts: Iterable[CutOptions]) -> CutOptions:
    """The non-dominated sums of one option of each part: an optimum for every budget, by rising cost."""
    return reduce(CutOptions.plus, parts, _NO_DECISIONS)


def least_distorting(parts: Iterable[CutOptions], budget: int) -> CutOptions | None:
    """The one combination within ``budget`` that distorts least; None if nothing is as cheap."""
    combined = combine(parts)
    within = int(np.searchsorted(combined.cost_N, budget, side="right"))
    return combined.take(np.array([within - 1])) if within else None


def inactive_decisions(
    decisions: Sequence[Decision], canonical: Callable[[Genes], Genes], parent_G: Genes
) -> dict[int, tuple[int, ...]]:
    """By decision (position), those that have no effect any more once its smallest choice removes a part of the parent;
    a decision that several parts contain belongs to the smallest one."""
    changed_NG = np.tile(parent_G, (len(decisions), 1))
    np.fill_diagonal(changed_NG, 0)
    inactive_NG = (canonical(changed_NG) == 0) & (parent_G > 0)
    np.fill_diagonal(inactive_NG, False)
    sizes_N = inactive_NG.sum(axis=1)
    inner: dict[int, list[int]] = {}
    for g in range(len(decisions)):
        owners = np.flatnonzero(inactive_NG[:, g])
        if len(owners):
            inner.setdefault(int(owners[sizes_N[owners].argmin()]), []).append(g)
    return {owner: tuple(members) for owner, members in inner.items()}


@dataclass(frozen=True)
class Distortions:
    """How much the output of a parent network changes if one of its decisions is changed alone: ``by_choice``, for each
    decision the distortion of each choice, 0 for the parent's own. ``inner`` as ``inactive_decisions`` gives it."""

    parent_G: Genes
    by_choice: tuple[Floats, ...]
    inner: Mapping[int, tuple[int, ...]]

    def __post_init__(self) -> None:
        if len(self.by_choice) != len(self.parent_G):
            raise InvalidInput(f"expected distortions of {len(self.parent_G)} decisions, got {len(self.by_choice)}")

    def near(self, genes_G: Genes, steps_G: Genes) -> Distortions:
        """The same where each decision stays within so many steps of a network's choice: all else distorts beyond
        measure."""
        by_choice = tuple(
            np.where(np.abs(np.arange(len(values)) - gene) <= steps, values, np.inf)
            for values, gene, steps in zip(self.by_choice, genes_G, steps_G, strict=True)
        )
        return Distortions(self.parent_G, by_choice, self.inner)

    def total(self, genes_NG: Genes) -> Floats:
        """The sum over all decisions that have an effect, for N networks: what is estimated of their distortion, shape
        (N,)."""
        values_NG = np.stack([values[genes_NG[:, g]] for g, values in enumerate(self.by_choice)], axis=1)
        for owner in self.inner:
            values_NG[np.ix_(genes_NG[:, owner] == 0, self.all_inside(owner))] = 0.0
        return np.asarray(values_NG.sum(axis=1))

    def all_inside(self, owner: int) -> list[int]:
        """The decisions without effect once the smallest choice of ``owner`` is taken."""
        return [g for member in self.inner.get(owner, ()) for g in (member, *self.all_inside(member))]


@dataclass(frozen=True)
class Allocator:
    """Finds networks of little distortion for budgets of a ``cost`` that does not add up, such as latency."""

    distortions: Distortions
    canonical: Callable[[Genes], Genes]
    cost: CostFunction

    def allocate(self, budget: float) -> Genes:
        """The canonical network of the least total distortion found within ``budget``, shape (G,); the cheapest that
        was found if nothing is.

        Costs are linearised at the solution before, starting from the parent, and the budget of the programme follows
        the error of the last solution.
        """
        genes_G, target = self.distortions.parent_G, budget
        solutions: list[tuple[float, float, Genes]] = []
        for _ in range(_ITERATIONS):
            solution_G = self._solve(genes_G, target)
            if any(np.array_equal(solution_G, known_G) for _, _, known_G in solutions):
                break
            cost = float(self.cost(solution_G[None])[0])
            solutions.append((cost, float(self.distortions.total(solution_G[None])[0]), solution_G))
            target += 0.5 * (budget - cost)
            genes_G = solution_G
        within = [s for s in solutions if s[0] <= budget]
        return min(within, key=lambda s: s[1])[2] if within else min(solutions, key=lambda s: s[0])[2]

    def _solve(self, at_G: Genes, budget: float) -> Genes:
        """The optimum of the programme with costs as they are near ``at_G``; the cheapest network if none is within
        ``budget``."""
        context_G = self._with_all_parts(at_G)
        counts = [len(values) for values in self.distortions.by_choice]
        changed_NG = np.repeat(context_G[None], sum(counts) + 1, axis=0)
        owner_N = np.repeat(np.arange(len(counts)), counts)
        changed_NG[np.arange(len(owner_N)), owner_N] = np.concatenate([np.arange(n) for n in counts])
        cost_N = self.cost(self.canonical(changed_NG))
        unit = float(self.cost(self.distortions.parent_G[None])[0]) / _STEPS
        change_N = np.rint((cost_N[:-1] - cost_N[-1]) / unit).astype(np.int64)
        change_by_decision = np.split(change_N, np.cumsum(counts)[:-1])
        contained = {g for members in self.distortions.inner.values() for g in members}
        parts = [self._part(g, change_by_decision) for g in range(len(counts)) if g not in contained]
        combined = combine(parts)
        within = int(np.searchsorted(combined.cost_N, np.floor((budget - cost_N[-1]) / unit), side="right"))
        genes_G = context_G.copy()
        genes_G[list(combined.decisions)] = combined.choices_NK[max(0, within - 1)]
        return np.asarray(self.canonical(genes_G[None])[0])

    def _part(self, g: int, change_by_decision: Sequence[Costs]) -> CutOptions:
        """A decision with all that its smallest choice removes."""
        own = options_of(g, change_by_decision[g].tolist(), self.distortions.by_choice[g].tolist())
        members = self.distortions.inner.get(g, ())
        if not members:
            return own.non_dominated()
        inside = combine(self._part(member, change_by_decision) for member in members)
        present = own.take(np.arange(1, len(own))).plus(inside)
        cost, distortion = own.cost_N[:1], own.distortion_N[:1]
        absent_1K = np.zeros((1, len(present.decisions)), np.int64)
        return CutOptions(
            np.concatenate([cost, present.cost_N]),
            np.concatenate([distortion, present.distortion_N]),
            present.decisions,
            np.concatenate([absent_1K, present.choices_NK]),
        ).non_dominated()

    def _with_all_parts(self, genes_G: Genes) -> Genes:
        """The network with the parts that it lacks, as the parent has them."""
        out, parent_G = genes_G.copy(), self.distortions.parent_G
        for owner in self.distortions.inner:
            if genes_G[owner] == 0:
                rows = [owner, *self.distortions.all_inside(owner)]
                out[rows] = parent_G[rows]
        return out
