"""Bayesian optimisation with Gaussian processes over networks (``nas.explorers.gaussian_process``).

The acquisition function is expected improvement for one objective; expected hypervolume improvement for two of which
one is exact (Emmerich et al., 2006; the exact one makes it a sum over the steps of the front); optimistic random
scalarisations otherwise (after ParEGO, Knowles, 2006). A batch is chosen sequentially, with each chosen network set to
its posterior mean. Evaluations are noisy, so the posterior mean is a better estimate of a network than its own
evaluation. The first networks are those of ``nas.explorers.initial_design``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from nas.core.arch import LISTABLE, Floats, Genes, choice_counts, crossover, every, mutate, sample, space_size
from nas.core.pareto import non_dominated
from nas.core.ports import History, SearchSpace
from nas.explorers.gaussian_process import Float32s, WarpedGP, encode, rows_to_fit
from nas.explorers.initial_design import ExactLosses, initial_design
from nas.explorers.random import fresh
from nas.explorers.random import propose as propose_random

RowIndex = NDArray[np.int64]

MIN_EVALUATIONS = 4  # evaluations before the process is used
_STRETCHES = 8  # of losses above the cheapest network of a front


def propose(
    space: SearchSpace,
    history: History,
    rng: np.random.Generator,
    n: int,
    exact: ExactLosses | None = None,
    reference_M: Floats | None = None,
) -> Genes:
    """``n`` distinct canonical networks that are not in ``history``, the most promising first, shape (n, G).

    Without ``exact``, every loss and the violation are modelled from the history. ``reference_M``: of hypervolumes,
    None where it is not known. Raises InvalidInput when the space has too few networks left.
    """
    if len(history.genes_NG) < MIN_EVALUATIONS:
        if exact is None:
            return propose_random(space, history, rng, n)
        return initial_design(space, history, rng, n, exact)
    models = ObjectiveModels.fit(space, history, exact, reference_M)
    pool = _listed_pool(models) if space_size(space.decisions) <= LISTABLE else _evolved_pool(models, rng)
    batches = iter([_select_batch(models, pool, rng, n)])
    return fresh(space, history, rng, n, lambda size: next(batches, sample(space.decisions, rng, size)))


@dataclass(frozen=True)
class ObjectiveModels:
    """A process per modelled loss (by column), and one of the violation where that is not exact. ``reference_M``: of
    hypervolumes."""

    space: SearchSpace
    history: History
    exact: ExactLosses | None
    processes: dict[int, WarpedGP]
    violation: WarpedGP | None
    reference_M: Floats | None = None

    @staticmethod
    def fit(
        space: SearchSpace, history: History, exact: ExactLosses | None, reference_M: Floats | None = None
    ) -> ObjectiveModels:
        """Fit to the history, or to a part of a long one."""
        rows = rows_to_fit(len(history.genes_NG))
        inputs_NF = encode(space, history.genes_NG[rows])
        if exact is None:
            modelled = list(range(history.losses_NM.shape[1]))
        else:
            modelled = np.flatnonzero(np.isnan(exact(history.genes_NG[:1])[0][0])).tolist()
        processes = {c: WarpedGP.fit(inputs_NF, history.losses_NM[rows, c]) for c in modelled}
        broken = exact is None and bool((history.violation_N > 0).any())
        violation = WarpedGP.fit(inputs_NF, history.violation_N[rows]) if broken else None
        return ObjectiveModels(space, history, exact, processes, violation, reference_M)

    def encode(self, genes_NG: Genes) -> Float32s:
        """The inputs of the processes, shape (N, F)."""
        return encode(self.space, genes_NG)

    def exact_losses(self, genes_NG: Genes) -> tuple[Floats, Floats]:
        """Exact losses, NaN for modelled ones, and the exact or modelled violation."""
        if self.exact is not None:
            return self.exact(genes_NG)
        violation_N = np.zeros(len(genes_NG))
        if self.violation is not None:
            violation_N = self.violation.unwarp(self.violation.posterior(self.encode(genes_NG))[0])
            violation_N = np.where(violation_N < 0.05 * self.violation.width, 0.0, violation_N)
        return np.full((len(genes_NG), self.history.losses_NM.shape[1]), np.nan), violation_N


@dataclass(frozen=True)
class Pool:
    """K networks; ``features_UF`` holds distinct features once, ``row_K`` the row of each network."""

    genes_KG: Genes
    features_UF: Float32s
    row_K: RowIndex


class _PoolPosterior:
    """Posterior of one loss over a pool during batch selection: mean and variance by distinct features, warped
    scale."""

    def __init__(self, process: WarpedGP, features_UF: Float32s) -> None:
        self.process, self.features_UF = process, features_UF
        self.mean_U, self.half_NU = process.posterior(features_UF)
        explained_U = np.einsum("nu,nu->u", self.half_NU, self.half_NU)
        self.share_U = np.maximum(1.0 - explained_U, 1e-6)

    def sd(self) -> Floats:
        """Posterior standard deviation, without evaluation noise."""
        return np.asarray(np.sqrt(self.process.variance * np.maximum(self.share_U, 1e-6)), dtype=np.float64)

    def condition_on_mean(self, row: int) -> None:
        """Condition on an evaluation of these features at the posterior mean."""
        cross_U = self.process.covariance(self.features_UF, self.features_UF[row : row + 1])[:, 0]
        change_U = cross_U - self.half_NU.T @ self.half_NU[:, row]
        change_U /= np.sqrt(max(float(change_U[row]), 1e-6) + self.process.noise)
        self.half_NU = np.concatenate([self.half_NU, change_U[None].astype(np.float32)])
        self.share_U = self.share_U - change_U**2


def _select_batch(models: ObjectiveModels, pool: Pool, rng: np.random.Generator, n: int) -> Genes:
    """Up to ``n`` networks of the pool, the best first."""
    posteriors = {c: _PoolPosterior(s, pool.features_UF) for c, s in models.processes.items()}
    exact_KM, violation_K = models.exact_losses(pool.genes_KG)
    feasible = violation_K <= 0
    evaluated_NM = _posterior_mean(models)
    evaluated_NM = evaluated_NM[models.history.violation_N <= 0]
    selected: list[int] = []
    for _ in range(min(n, len(pool.genes_KG))):
        if not feasible.any() or len(evaluated_NM) == 0:
            score_K = -violation_K + 1e-3 * rng.random(len(violation_K))
        else:
            gain_K = _acquisition(posteriors, pool.row_K, exact_KM, evaluated_NM, models.reference_M, rng)
            score_K = np.where(feasible, gain_K, -np.inf)
            score_K[~feasible] = -1e9 - violation_K[~feasible]
        score_K[selected] = -np.inf
        best = int(np.argmax(score_K))
        selected.append(best)
        expected_M = exact_KM[best].copy()
        for column, posterior in posteriors.items():
            row = int(pool.row_K[best])
            expected_M[column] = posterior.process.unwarp(posterior.mean_U[row : row + 1])[0]
            posterior.condition_on_mean(row)
        if feasible[best]:
            evaluated_NM = np.concatenate([evaluated_NM, expected_M[None]])
    return pool.genes_KG[selected]


def _posterior_mean(models: ObjectiveModels) -> Floats:
    """Losses of the evaluated networks, the modelled ones as posterior means, shape (N, M)."""
    losses_NM = models.history.losses_NM.copy()
    for start in range(0, len(losses_NM), 4096):  # the kernel of a long history is large
        rows = slice(start, start + 4096)
        features_NF = models.encode(models.history.genes_NG[rows])
        for column, process in models.processes.items():
            losses_NM[rows, column] = process.unwarp(process.posterior(features_NF)[0])
    return losses_NM


def _acquisition(
    posteriors: dict[int, _PoolPosterior],
    row_K: RowIndex,
    exact_KM: Floats,
    evaluated_NM: Floats,
    reference_M: Floats | None,
    rng: np.random.Generator,
) -> Floats:
    """Acquisition value of each network of the pool, shape (K,)."""
    m = exact_KM.shape[1]
    if m == 1:
        (posterior,) = posteriors.values()
        best = posterior.process.warp(evaluated_NM[:, 0]).min()
        return _improvement(best, posterior.mean_U, posterior.sd())[row_K]
    if m == 2 and len(posteriors) == 1:
        ((column, posterior),) = posteriors.items()
        order = [1 - column, column]
        reference_2 = None if reference_M is None else reference_M[order]
        return _volume_gain(posterior, row_K, exact_KM[:, order[0]], evaluated_NM[:, order], reference_2)
    optimistic_KM = exact_KM.copy()
    for column, posterior in posteriors.items():
        optimistic_KM[:, column] = posterior.process.unwarp(posterior.mean_U - posterior.sd())[row_K]
    low_M, high_M = evaluated_NM.min(axis=0), evaluated_NM[non_dominated(evaluated_NM)].max(axis=0)
    weighted_KM = (optimistic_KM - low_M) / np.maximum(high_M - low_M, 1e-9) * rng.dirichlet(np.ones(m))
    return np.asarray(-(weighted_KM.max(axis=1) + 0.05 * weighted_KM.sum(axis=1)))


def _improvement(best: float | Floats, mean_U: Floats, sd_U: Floats) -> Floats:
    """Expected improvement below ``best`` of a Gaussian."""
    u = (best - mean_U) / sd_U
    return np.asarray((best - mean_U) * ndtr(u) + sd_U * np.exp(-0.5 * u * u) / np.sqrt(2.0 * np.pi))


def _volume_gain(
    posterior: _PoolPosterior,
    row_K: RowIndex,
    cost_K: Floats,
    evaluated_N2: Floats,
    reference_2: Floats | None = None,
) -> Floats:
    """Expected hypervolume improvement; of the two losses the first is exact. Without a reference, or where no network
    is better than that, it is a tenth of the range beyond the worst. A step of the front is a stretch of the second
    loss whose cheapest network is known: a candidate gains the stretch that it reaches times what it is cheaper."""
    if reference_2 is not None and (evaluated_N2 < reference_2).all(axis=1).any():
        worst_2, evaluated_N2 = reference_2, evaluated_N2[(evaluated_N2 < reference_2).all(axis=1)]
    else:
        worst_2 = evaluated_N2.max(axis=0)
        worst_2 = worst_2 + 0.1 * (worst_2 - evaluated_N2.min(axis=0)) + 1e-9
    process = posterior.process
    front = np.unique(evaluated_N2[non_dominated(evaluated_N2)], axis=0)  # cost rises, loss falls
    bottom = min(process.low - 0.5 * process.width, float(front[-1, 1]) - 1e-9)
    # The stretch above the cheapest network is long, and its warped scale far from linear.
    warped_top, warped_first = process.warp(np.array([worst_2[1], front[0, 1]])).tolist()
    above = process.unwarp(np.linspace(warped_top, warped_first, _STRETCHES + 1))[1:-1]
    tops = np.concatenate([worst_2[1:], above, front[:, 1]])
    bottoms = np.concatenate([above, front[:, 1], [bottom]])
    costs = np.concatenate([np.full(len(above), front[0, 0]), front[:, 0], worst_2[:1]])
    warped_tops, warped_bottoms = process.warp(tops), process.warp(bottoms)
    slope = (tops - bottoms) / np.maximum(warped_tops - warped_bottoms, 1e-9)
    mean_K, sd_K = posterior.mean_U[row_K], posterior.sd()[row_K]
    standing = np.append(worst_2[1], front[:, 1])[np.searchsorted(front[:, 0], cost_K, side="right")]
    able = np.flatnonzero((mean_K - 3.0 * sd_K < process.warp(standing)) & (cost_K < worst_2[0]))
    rows_V, row_A = np.unique(row_K[able], return_inverse=True)  # networks with equal features reach as far
    mean_V1, sd_V1 = posterior.mean_U[rows_V, None], posterior.sd()[rows_V, None]
    reach_VS = _improvement(np.append(warped_tops, warped_bottoms[-1])[None], mean_V1, sd_V1)
    stretches_VS = np.maximum(reach_VS[:, :-1] - reach_VS[:, 1:], 0.0) * slope
    cheaper_AS = np.maximum(costs[None] - cost_K[able, None], 0.0)
    gain_K = np.zeros(len(row_K))
    gain_K[able] = (stretches_VS[row_A] * cheaper_AS).sum(axis=1)
    return gain_K


def _listed_pool(models: ObjectiveModels) -> Pool:
    listed = _listed(models.space)  # type: ignore[arg-type]
    genes_KG, features_UF, row_K, keys_K, weights_G = listed
    new = ~np.isin(keys_K, models.history.genes_NG @ weights_G)
    return Pool(genes_KG[new], features_UF, row_K[new])


@lru_cache(maxsize=4)  # spaces are immutable, and every proposal of a search reuses it
def _listed(space: SearchSpace) -> tuple[Genes, Float32s, RowIndex, RowIndex, RowIndex]:
    """All networks of a small space: genes (K, G), distinct features and their rows, and a key with its weights."""
    counts = choice_counts(space.decisions)
    weights_G = np.concatenate([np.cumprod(counts[::-1])[-2::-1], [1]]).astype(np.int64)
    canonical_KG = space.canonical(every(space.decisions))
    _, first = np.unique(canonical_KG @ weights_G, return_index=True)
    genes_KG = canonical_KG[first]
    features_UF, row_K = np.unique(encode(space, genes_KG), axis=0, return_inverse=True)
    return genes_KG, features_UF, row_K.reshape(-1), genes_KG @ weights_G, weights_G


def _evolved_pool(models: ObjectiveModels, rng: np.random.Generator, size: int = 1000, generations: int = 4) -> Pool:
    """Candidates of a large space: random networks and the evaluated front, evolved towards high acquisition values."""
    space, history = models.space, models.history
    evaluated = {row.tobytes() for row in np.ascontiguousarray(history.genes_NG)}

    def unseen(genes_KG: Genes) -> Pool:
        genes_KG = np.unique(space.canonical(genes_KG), axis=0)
        rows = [i for i, row in enumerate(genes_KG) if row.tobytes() not in evaluated]
        return Pool(genes_KG[rows], models.encode(genes_KG[rows]), np.arange(len(rows)))

    evaluated_NM = _posterior_mean(models)
    feasible = np.flatnonzero(history.violation_N <= 0)
    if feasible.size:
        elite = history.genes_NG[feasible[non_dominated(evaluated_NM[feasible])]]
    else:
        elite = history.genes_NG[np.argsort(history.violation_N)[:10]]
    children = mutate(space.decisions, elite[rng.integers(len(elite), size=size)], rng, 1.0 / len(space.decisions))
    pool = unseen(np.concatenate([sample(space.decisions, rng, size), children]))
    for _ in range(generations):
        parents = np.concatenate([elite, _top(models, pool, evaluated_NM[feasible], rng, size // 10)])
        pairs = parents[rng.integers(len(parents), size=(2, size))]
        mixed = np.where(rng.random((size, 1)) < 0.5, crossover(pairs[0], pairs[1], rng), pairs[0])
        children = mutate(space.decisions, mixed, rng, 1.0 / len(space.decisions))
        pool = unseen(np.concatenate([parents, children]))
    return pool


def _top(models: ObjectiveModels, pool: Pool, evaluated_NM: Floats, rng: np.random.Generator, n: int) -> Genes:
    """The networks of a pool with the highest single acquisition values."""
    exact_KM, violation_K = models.exact_losses(pool.genes_KG)
    posteriors = {c: _PoolPosterior(s, pool.features_UF) for c, s in models.processes.items()}
    shares = []
    for _ in range(4 if len(evaluated_NM) else 1):  # scalarisations are drawn anew
        score_K = (
            _acquisition(posteriors, pool.row_K, exact_KM, evaluated_NM, models.reference_M, rng)
            if len(evaluated_NM)
            else -violation_K
        )
        order = np.lexsort((-score_K, violation_K))
        shares.append(order[: max(1, n // 4)])
    return pool.genes_KG[np.unique(np.concatenate(shares))]
