"""NSGA-II (Deb, Pratap, Agarwal, Meyarivan, 2002), on whole populations at once, with constraint handling.

Constrained domination (section VI of the paper): feasible before infeasible, infeasible by total violation, feasible by
Pareto domination.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Decision, Floats, Genes, choice_counts, crossover, sample
from nas.core.pareto import non_dominated
from nas.core.ports import History, SearchSpace
from nas.explorers.random import fresh

Evaluate = Callable[[Genes], tuple[Floats, Floats]]
Canonical = Callable[[Genes], Genes]


@dataclass(frozen=True)
class Population:
    """N networks with their losses (N, M) and their constraint violation (N,), 0 where feasible."""

    genes_NG: Genes
    losses_NM: Floats
    violation_N: Floats

    def __len__(self) -> int:
        return len(self.genes_NG)

    def take(self, rows: NDArray[np.int64]) -> Population:
        """Some of the networks."""
        return Population(self.genes_NG[rows], self.losses_NM[rows], self.violation_N[rows])

    def join(self, other: Population) -> Population:
        """These networks, then the others."""
        return Population(
            np.concatenate([self.genes_NG, other.genes_NG]),
            np.concatenate([self.losses_NM, other.losses_NM]),
            np.concatenate([self.violation_N, other.violation_N]),
        )


def minimise(
    decisions: Sequence[Decision],
    canonical: Canonical,
    evaluate: Evaluate,
    rng: np.random.Generator,
    population: int,
    generations: int,
    start: Genes | None = None,
) -> Population:
    """The non-dominated feasible networks among all that were evaluated (the least violating one if none is feasible).

    ``evaluate`` maps canonical genes to losses and violation. ``start`` seeds the first population. Evaluates
    ``population * (generations + 1)`` networks. The population breeds with its inactive genes kept: what a block was
    before it was cut off is worth inheriting when a child is deeper again. What is returned is canonical.
    """

    def evaluated(genes_NG: Genes) -> tuple[Population, Population]:
        canonical_NG = canonical(genes_NG)
        losses_NM, violation_N = evaluate(canonical_NG)
        return Population(genes_NG, losses_NM, violation_N), Population(canonical_NG, losses_NM, violation_N)

    first = sample(decisions, rng, population)
    if start is not None and len(start):
        chosen = start if len(start) <= population else start[rng.permutation(len(start))[:population]]
        first[: len(chosen)] = chosen
    parents, networks = evaluated(first)
    archive = _best(networks)
    ranks, crowding = rank_and_crowd(parents.losses_NM, parents.violation_N, population)
    for _ in range(generations):
        drawn = _offspring(decisions, parents, ranks, crowding, rng, 2 * population)
        children, networks = evaluated(_new_first(drawn, parents.genes_NG)[:population])
        archive = _best(archive.join(networks))
        pool = parents.join(children)
        pool = pool.take(_first_of_each(pool.genes_NG))
        ranks, crowding = rank_and_crowd(pool.losses_NM, pool.violation_N, population)
        survivors = np.lexsort((-crowding, ranks))[:population]
        parents, ranks, crowding = pool.take(survivors), ranks[survivors], crowding[survivors]
    return archive


def propose(space: SearchSpace, history: History, rng: np.random.Generator, n: int) -> Genes:
    """One generation of unseen children of the networks evaluated so far; random networks before there are any."""
    if len(history.genes_NG) < 2:
        return fresh(space, lambda size: sample(space.decisions, rng, size), history.genes_NG, n)
    parents = Population(history.genes_NG, history.losses_NM, history.violation_N)
    ranks, crowding = rank_and_crowd(parents.losses_NM, parents.violation_N, len(parents))
    best = np.lexsort((-crowding, ranks))[: max(n, 16)]
    parents, ranks, crowding = parents.take(best), ranks[best], crowding[best]
    return fresh(
        space,
        lambda size: _offspring(space.decisions, parents, ranks, crowding, rng, size),
        history.genes_NG,
        n,
    )


def rank_and_crowd(losses_NM: Floats, violation_N: Floats, needed: int) -> tuple[NDArray[np.int64], Floats]:
    """Rank by constrained non-dominated sorting (0 is best) and crowding distance inside each rank, both (N,).

    Sorting stops once ``needed`` networks are ranked; the others share the rank after the last.
    """
    n = len(losses_NM)
    ranks = np.full(n, n, dtype=np.int64)
    crowding = np.zeros(n)
    rest = np.flatnonzero(violation_N <= 0)
    rank = ranked = 0
    while rest.size and ranked < needed:
        front = non_dominated(losses_NM[rest])
        members = rest[front]
        ranks[members] = rank
        crowding[members] = crowding_distance(losses_NM[members])
        ranked += len(members)
        rank += 1
        rest = rest[~front]
    infeasible = np.flatnonzero(violation_N > 0)
    if infeasible.size:
        _, position = np.unique(violation_N[infeasible], return_inverse=True)
        ranks[infeasible] = n + 1 + position
    return ranks, crowding


def crowding_distance(losses_NM: Floats) -> Floats:
    """Sum over objectives of the normalised gap between a point's two neighbours; infinite at the ends. Shape (N,)."""
    n, m = losses_NM.shape
    if n <= 2:
        return np.full(n, np.inf)
    total = np.zeros(n)
    for j in range(m):
        order = np.argsort(losses_NM[:, j], kind="stable")
        sorted_N = losses_NM[order, j]
        width = sorted_N[-1] - sorted_N[0]
        if width > 0:
            total[order[1:-1]] += (sorted_N[2:] - sorted_N[:-2]) / width
        total[order[[0, -1]]] = np.inf
    return total


def _offspring(
    decisions: Sequence[Decision],
    parents: Population,
    ranks: NDArray[np.int64],
    crowding: Floats,
    rng: np.random.Generator,
    n: int,
) -> Genes:
    """Binary tournaments, uniform crossover with probability 0.9, mutation of each gene with probability 1/G."""
    duel = rng.integers(0, len(parents), size=(2, n, 2))
    a, b = duel[..., 0], duel[..., 1]
    better = (ranks[a] < ranks[b]) | ((ranks[a] == ranks[b]) & (crowding[a] > crowding[b]))
    mothers, fathers = parents.genes_NG[np.where(better, a, b)]
    children = np.where(rng.random((n, 1)) < 0.9, crossover(mothers, fathers, rng), mothers)
    counts = choice_counts(decisions)
    hit = rng.random(children.shape) < 1.0 / len(decisions)
    step = rng.integers(1, np.maximum(counts, 2), size=children.shape)
    return np.where(hit, (children + step) % counts, children)


def _best(pool: Population) -> Population:
    feasible = np.flatnonzero(pool.violation_N <= 0)
    if feasible.size == 0:
        return pool.take(np.array([int(np.argmin(pool.violation_N))]))
    front = pool.take(feasible[non_dominated(pool.losses_NM[feasible])])
    return front.take(_first_of_each(front.genes_NG))


def _new_first(drawn_NG: Genes, known_NG: Genes) -> Genes:
    """The drawn rows that are neither known nor drawn before, in order; then the repeats."""
    first = _first_of_each(np.concatenate([known_NG, drawn_NG])) - len(known_NG)
    new = np.zeros(len(drawn_NG), dtype=bool)
    new[first[first >= 0]] = True
    return np.concatenate([drawn_NG[new], drawn_NG[~new]])


def _first_of_each(genes_NG: Genes) -> NDArray[np.int64]:
    """Rows of the first occurrence of every distinct gene vector, in order."""
    weights = np.random.default_rng(0).integers(1, 2**62, size=genes_NG.shape[1], dtype=np.int64)
    keys = genes_NG @ weights  # a random linear hash modulo 2**64: far cheaper than comparing rows
    _, index = np.unique(keys, return_index=True)
    return np.sort(index)
