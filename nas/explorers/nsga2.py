"""NSGA-II (Deb, Pratap, Agarwal, Meyarivan, 2002), on whole populations at once, with constraint handling.

Constrained domination (section VI of the paper): feasible before infeasible, infeasible by total violation, feasible by
Pareto domination. Three things are added. No network is evaluated twice. The population breeds with its inactive genes
kept: what a block was before it was cut off is worth inheriting when a child is deeper again. And a mother mates with a
father that lies near her on one objective (Ishibuchi and Shibata, EMO 2003): a child of the two ends of a long front is
rarely on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Decision, Floats, Genes, choice_counts, sample
from nas.core.pareto import non_dominated
from nas.core.ports import History, SearchSpace
from nas.explorers.random import fresh
from nas.explorers.random import propose as propose_random

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

    ``evaluate`` maps canonical genes to losses and violation, and sees every network once. ``start`` seeds the first
    population. Evaluates at most ``population * (generations + 1)`` networks: fewer where no more are found.
    """
    evaluated_keys: set[int] = set()

    def evaluated(genes_NG: Genes, networks_NG: Genes) -> tuple[Population, Population]:
        losses_NM, violation_N = evaluate(networks_NG)
        return Population(genes_NG, losses_NM, violation_N), Population(networks_NG, losses_NM, violation_N)

    def unseen(draw: Callable[[int], Genes]) -> tuple[Genes, Genes]:
        """Up to ``population`` new networks, as drawn and canonical. Some are known, so more are drawn than needed."""
        genes_NG = networks_NG = draw(0)
        for _ in range(4):
            missing = population - len(genes_NG)
            drawn_NG = draw(2 * missing)
            canonical_NG = canonical(drawn_NG)
            new = _new_rows(canonical_NG, evaluated_keys, missing)
            genes_NG = np.concatenate([genes_NG, drawn_NG[new]])
            networks_NG = np.concatenate([networks_NG, canonical_NG[new]])
            if len(genes_NG) == population:
                break
        return genes_NG, networks_NG

    def first(size: int) -> Genes:
        random_NG = sample(decisions, rng, size)
        if start is None or evaluated_keys:
            return random_NG
        return np.concatenate([start[rng.permutation(len(start))[:size]], random_NG])

    parents, networks = evaluated(*unseen(first))
    archive = _best(networks)
    ranks, crowding = rank_and_crowd(parents.losses_NM, parents.violation_N, population)
    for _ in range(generations):
        new = unseen(partial(_offspring, decisions, parents, ranks, crowding, rng))
        if len(new[0]) == 0:
            break
        children, networks = evaluated(*new)
        archive = _best(archive.join(networks))
        pool = parents.join(children)
        ranks, crowding = rank_and_crowd(pool.losses_NM, pool.violation_N, population)
        survivors = np.lexsort((-crowding, ranks))[:population]
        parents, ranks, crowding = pool.take(survivors), ranks[survivors], crowding[survivors]
    return archive


def propose(space: SearchSpace, history: History, rng: np.random.Generator, n: int) -> Genes:
    """One generation of unseen children of the best networks evaluated so far, shape (n, G); random networks where
    there are no parents or no more children. Raises InvalidInput when the space has too few networks left."""
    if len(history.genes_NG) < 2:
        return propose_random(space, history, rng, n)
    parents = Population(history.genes_NG, history.losses_NM, history.violation_N)
    needed = max(n, 16)
    ranks, crowding = rank_and_crowd(parents.losses_NM, parents.violation_N, needed)
    best = np.lexsort((-crowding, ranks))[:needed]
    parents, ranks, crowding = parents.take(best), ranks[best], crowding[best]

    def draw(size: int) -> Genes:
        children = _offspring(space.decisions, parents, ranks, crowding, rng, size)
        return np.concatenate([children, sample(space.decisions, rng, size)])

    return fresh(space, history, rng, n, draw)


def rank_and_crowd(losses_NM: Floats, violation_N: Floats, needed: int) -> tuple[NDArray[np.int64], Floats]:
    """Rank by constrained non-dominated sorting (0 is best) and crowding distance inside each rank, both (N,).

    Sorting stops once ``needed`` networks are ranked; the others share the rank after the last.
    """
    n = len(losses_NM)
    ranks = np.full(n, n, dtype=np.int64)
    crowding = np.zeros(n)
    unranked = np.flatnonzero(violation_N <= 0)
    rank = ranked = 0
    while unranked.size and ranked < needed:
        front = non_dominated(losses_NM[unranked])
        members = unranked[front]
        ranks[members] = rank
        crowding[members] = crowding_distance(losses_NM[members])
        ranked += len(members)
        rank += 1
        unranked = unranked[~front]
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
    """Mothers by binary tournament, fathers near them, uniform crossover with probability 0.9, mutation of each gene
    with probability 1/G."""
    duel = rng.integers(0, len(parents), size=(2, n))
    a, b = duel
    mothers = np.where((ranks[a] < ranks[b]) | ((ranks[a] == ranks[b]) & (crowding[a] > crowding[b])), a, b)
    by_loss = np.argsort(parents.losses_NM[:, rng.integers(parents.losses_NM.shape[1])])
    place = np.empty_like(by_loss)
    place[by_loss] = np.arange(len(parents))
    reach = max(2, len(parents) // 10)
    shifted = place[mothers] + rng.integers(-reach, reach + 1, size=n)
    fathers = by_loss[np.clip(shifted, 0, len(parents) - 1)]
    keep = (rng.random((n, 1)) < 0.1) | (rng.random((n, len(decisions)), dtype=np.float32) < 0.5)
    children: Genes = np.where(keep, parents.genes_NG[mothers], parents.genes_NG[fathers])
    counts = choice_counts(decisions)
    hit, gene = np.nonzero(rng.random(children.shape, dtype=np.float32) < 1.0 / len(decisions))
    step = rng.integers(1, np.maximum(counts, 2)[gene])
    children[hit, gene] = (children[hit, gene] + step) % counts[gene]
    return children


def _best(pool: Population) -> Population:
    feasible = np.flatnonzero(pool.violation_N <= 0)
    if feasible.size == 0:
        return pool.take(np.array([int(np.argmin(pool.violation_N))]))
    return pool.take(feasible[non_dominated(pool.losses_NM[feasible])])


def _new_rows(genes_NG: Genes, evaluated_keys: set[int], limit: int) -> list[int]:
    """Up to ``limit`` first rows that are not in ``evaluated_keys``, each network once; adds their keys."""
    weights = np.random.default_rng(0).integers(1, 2**62, size=genes_NG.shape[1], dtype=np.int64)
    keys = (genes_NG @ weights).tolist()  # a random linear hash modulo 2**64: far cheaper than comparing rows
    rows: list[int] = []
    for row, key in enumerate(keys):
        if key not in evaluated_keys and len(rows) < limit:
            evaluated_keys.add(key)
            rows.append(row)
    return rows
