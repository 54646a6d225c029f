"""The first networks of a search, chosen before anything is evaluated, or where too little is for a model.

What is exact is known of every network beforehand, and larger networks tend to be better. So the first are those of
random networks that would add most to the hypervolume if size alone decided quality: in the middle of the front first,
then towards its ends. Every other one is random, since size is not all.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nas.core.arch import Floats, Genes, sample
from nas.core.pareto import hypervolume
from nas.core.ports import History, SearchSpace
from nas.explorers.gaussian_process import expected_quality
from nas.explorers.random import fresh

# Losses (N, M) that need no evaluation, NaN for those that do, and constraint violation (N,).
ExactLosses = Callable[[Genes], tuple[Floats, Floats]]

_POOL = 256  # random networks to choose from
_REFERENCE = 1.02  # of losses from 0 to 1


def initial_design(space: SearchSpace, history: History, rng: np.random.Generator, n: int, exact: ExactLosses) -> Genes:
    """``n`` distinct canonical networks that are not in ``history``, shape (n, G). Raises InvalidInput when the space
    has too few networks left."""
    pool_KG = np.unique(space.canonical(sample(space.decisions, rng, _POOL)), axis=0)
    pool_KG = pool_KG[rng.permutation(len(pool_KG))]
    before = len(history.genes_NG)
    genes_NG = np.concatenate([history.genes_NG, pool_KG])
    losses_NM, violation_N = exact(genes_NG)
    modelled_M, feasible_N = np.isnan(losses_NM[0]), violation_N <= 0
    if modelled_M.all() or not feasible_N[before:].any():
        ordered_NG = pool_KG[np.argsort(violation_N[before:], kind="stable")]
        return _in_order(space, history, rng, n, ordered_NG)
    losses_NM = np.where(modelled_M, -expected_quality(space, genes_NG)[:, None], losses_NM)
    losses_NM = _from_0_to_1(losses_NM[feasible_N], losses_NM)
    losses_NM[~feasible_N] = _REFERENCE
    order = _most_gain(losses_NM[:before], losses_NM[before:], n)
    return _in_order(space, history, rng, n, pool_KG[order])


def _in_order(space: SearchSpace, history: History, rng: np.random.Generator, n: int, ordered_NG: Genes) -> Genes:
    batches = iter([ordered_NG])
    return fresh(space, history, rng, n, lambda size: next(batches, sample(space.decisions, rng, size)))


def _from_0_to_1(feasible_NM: Floats, losses_NM: Floats) -> Floats:
    low_M, high_M = feasible_NM.min(axis=0), feasible_NM.max(axis=0)
    return np.asarray((losses_NM - low_M) / np.maximum(high_M - low_M, 1e-12))


def _most_gain(evaluated_NM: Floats, pool_KM: Floats, n: int) -> list[int]:
    """Rows of the pool: in turns the one that adds most to the hypervolume, and the next of those that are left."""
    reference_M = np.full(pool_KM.shape[1], _REFERENCE)
    rows: list[int] = []
    remaining = np.flatnonzero((pool_KM < _REFERENCE).all(axis=1)).tolist()
    while remaining and len(rows) < n:
        if len(evaluated_NM) % 2 == 0:
            volumes = [hypervolume(np.vstack([evaluated_NM, pool_KM[row]]), reference_M) for row in remaining]
            row = remaining[int(np.argmax(volumes))]
        else:
            row = remaining[0]
        remaining.remove(row)
        rows.append(row)
        evaluated_NM = np.vstack([evaluated_NM, pool_KM[row]])
    return rows
