"""Which networks to measure on a device: those spread over all sizes, or the most informative about all others.

Sources: Krause, Singh, Guestrin, "Near-optimal sensor placements in Gaussian processes" (JMLR 2008), for being greedy;
Chaloner, Verdinelli, "Bayesian experimental design: a review" (Statistical Science 1995), for D-optimality.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats, Genes, choice_counts, sample
from nas.core.errors import InvalidInput
from nas.core.ports import SearchSpace
from nas.core.rng import Stream, rng
from predictors.onboarding.fitting import HELD_OUT

POOL = 512  # networks of which the most informative ones are chosen
_NOISE = 0.1  # variance of a measurement, over that which the features explain


def stratified_and_informative(space: SearchSpace, n: int, seed: int) -> tuple[Genes, NDArray[np.bool_]]:
    """``n`` distinct networks, and which of them are held out, as ``stratified``; but of those that are fitted to, half
    are the most informative ones beside the other half. Small spaces, which have no others, are measured as they
    are."""
    genes, held_out = stratified(space, n, seed)
    work = space.costs(genes)["macs"]
    fitted = np.setdiff1d(np.flatnonzero(~held_out), [work.argmin(), work.argmax()])
    given_up = fitted[: len(fitted) // 2]
    pool, _ = stratified(space, max(2 * n, POOL), seed)
    included = {row.tobytes() for row in genes}
    pool = pool[[row.tobytes() not in included for row in pool]]
    if len(pool) < len(given_up):
        return genes, held_out
    remaining = np.setdiff1d(np.flatnonzero(~held_out), given_up)
    candidates = np.concatenate([genes[remaining], pool])
    genes = genes.copy()
    genes[given_up] = candidates[d_optimal(space.features(candidates), len(given_up), np.arange(len(remaining)))]
    return genes, held_out


def stratified(space: SearchSpace, n: int, seed: int) -> tuple[Genes, NDArray[np.bool_]]:
    """``n`` distinct networks spread over the logarithm of MACs, from the smallest to the largest network, shuffled;
    and which of them are held out: a random one of every four neighbours in MACs, never an extreme one."""
    generator = rng(seed, Stream.MEASURED_NETWORKS)
    counts = choice_counts(space.decisions)
    extremes = np.stack([np.zeros_like(counts), counts - 1])
    pool = space.canonical(np.concatenate([extremes, _draw(space, generator, 50 * n)]))
    pool = pool[np.sort(np.unique(pool, axis=0, return_index=True)[1])]
    work = np.log(space.costs(pool)["macs"])
    order = np.argsort(work, kind="stable")
    # Half in even steps along the range, which takes the sparse ends; the rest at random.
    targets = np.linspace(work.min(), work.max(), n // 2)
    selection = {int(order[min(np.searchsorted(work[order], t), len(order) - 1)]) for t in targets}
    remaining = np.setdiff1d(np.arange(len(pool)), list(selection))
    selection |= set(generator.choice(remaining, size=min(n - len(selection), len(remaining)), replace=False).tolist())
    selected = np.array(sorted(selection, key=lambda i: work[i]))
    held_out = np.zeros(len(selected), dtype=bool)
    size = round(1 / HELD_OUT)
    for start in range(1, len(selected) - 1, size):
        held_out[generator.integers(start, min(start + size, len(selected) - 1))] = True
    shuffle = generator.permutation(len(selected))
    return pool[selected][shuffle], held_out[shuffle]


def d_optimal(features_NF: Floats, n: int, measured: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    """Which ``n`` of N candidates to measure, as indices in order: greedily, the one of which a Bayesian linear model
    that knows the rows ``measured`` and those chosen before is least sure, which gains most information.

    Needs time and memory for N x F numbers and ``n`` steps. Raises InvalidInput when fewer than ``n`` remain.
    """
    measured_rows = np.array([], dtype=np.int64) if measured is None else measured
    remaining = len(features_NF) - len(np.unique(measured_rows))
    if not 0 < n <= remaining:
        raise InvalidInput(f"expected to choose between 1 and {remaining} networks, got {n}")
    spread_F = features_NF.std(0)
    x_NF = (features_NF - features_NF.mean(0)) / np.where(spread_F > 0, spread_F, np.inf)
    x_NP = np.hstack([x_NF / np.sqrt(max(1, int((spread_F > 0).sum()))), np.ones((len(x_NF), 1))])
    variance_N = (x_NP**2).sum(1)
    steps_KN = np.empty((len(measured_rows) + n, len(x_NP)))  # rows of the Cholesky factor of what is known already
    selected: list[int] = []
    for k in range(len(steps_KN)):
        if k < len(measured_rows):
            best = int(measured_rows[k])
        else:
            open_N = variance_N.copy()
            open_N[[*measured_rows, *selected]] = -np.inf
            best = int(open_N.argmax())
            selected.append(best)
        along_N = x_NP @ x_NP[best] - steps_KN[:k, best] @ steps_KN[:k]
        steps_KN[k] = along_N / np.sqrt(variance_N[best] + _NOISE)
        variance_N = np.maximum(variance_N - steps_KN[k] ** 2, 0.0)
    return np.array(selected, dtype=np.int64)


def draw_held_out(seed: int, n: int) -> NDArray[np.bool_]:
    """Which of ``n`` measured networks are held out, at random; (N,)."""
    held_out_N = np.zeros(n, dtype=bool)
    held_out_N[rng(seed, Stream.HELD_OUT_NETWORKS).choice(n, round(HELD_OUT * n), replace=False)] = True
    return held_out_N


def _draw(space: SearchSpace, generator: np.random.Generator, n: int) -> Genes:
    """Random networks, half of them with a common tendency to small or large choices, so that the ends are reached."""
    plain = sample(space.decisions, generator, n // 2)
    counts = choice_counts(space.decisions)
    tendency = generator.random((n - len(plain), 1))
    pull = np.clip(generator.normal(tendency, 0.3, size=(n - len(plain), len(counts))), 0.0, 0.999)
    return np.concatenate([plain, (pull * counts).astype(np.int64)])
