"""Expected cost (such as latency) of a relaxation, with its gradient, from any model of single networks; and
discretisation within bounds.

Latency-aware differentiable search (LA-DARTS: Xu et al., 2020) feeds a learned predictor with weights between 0 and 1,
which are outside its training distribution. Here the cost of a relaxation is the *expected* cost of a network drawn
from it. Its gradient with respect to the probability of operation o on edge e is the expected cost of networks drawn
with o put on e, so it takes nothing of the predictor but predictions of whole networks, and is exact for additive
models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from nas.core.arch import Floats, Genes, neighbours
from nas.core.errors import InfeasibleBound
from nas.core.ports import RelaxedSpace

Cost = Callable[[Genes], Floats]


@dataclass(frozen=True, eq=False)
class Expected:
    """Expected cost of networks drawn from a relaxation: ``mean``, and ``by_EO`` with one operation put on its edge."""

    mean: float
    by_EO: Floats


def expected(space: RelaxedSpace, cost: Cost, p_EO: Floats, rng: np.random.Generator, samples: int) -> Expected:
    """From ``samples`` networks and all of their variants in one edge, priced in one batch."""
    edges, operations = p_EO.shape
    scores_SEO = drawn_scores(np.broadcast_to(p_EO, (samples, edges, operations)), rng)
    variants = np.concatenate([scores_SEO[:, None], _variants(scores_SEO)], axis=1)
    networks_NG = space.discretise_all(variants.reshape(-1, edges, operations))
    distinct, rows_N = np.unique(networks_NG, axis=0, return_inverse=True)
    costs = cost(distinct)[rows_N.ravel()].reshape(samples, 1 + edges * operations)
    return Expected(float(costs[:, 0].mean()), costs[:, 1:].mean(axis=0).reshape(edges, operations))


def _variants(scores_SEO: Floats) -> Floats:
    """Each table of scores with each operation put on top of its edge, shape (S, E * O, E, O): its score changes places
    with the best one's, so that the edge keeps its rank among edges."""
    samples, edges, operations = scores_SEO.shape
    top_SE11 = scores_SEO.argmax(axis=2)[:, :, None, None]
    rows_SEOO = np.repeat(scores_SEO[:, :, None], operations, axis=2)
    own_SEO1 = scores_SEO[..., None]
    np.put_along_axis(rows_SEOO, np.broadcast_to(top_SE11, own_SEO1.shape), own_SEO1, axis=3)
    best_SE11 = scores_SEO.max(axis=2)[:, :, None, None]
    column_1_1O1 = np.arange(operations)[None, None, :, None]
    np.put_along_axis(
        rows_SEOO, np.broadcast_to(column_1_1O1, own_SEO1.shape), np.broadcast_to(best_SE11, own_SEO1.shape), axis=3
    )
    out = np.repeat(scores_SEO[:, None, None], edges, axis=1).repeat(operations, axis=2)
    edge_E = np.arange(edges)
    out[:, edge_E, :, edge_E] = rows_SEOO.transpose(1, 0, 2, 3)
    return out.reshape(samples, edges * operations, edges, operations)


def operation_costs(space: RelaxedSpace, cost: Cost, rng: np.random.Generator, samples: int = 8) -> Floats:
    """What each operation adds to the cost of a network beside the cheapest one of its edge, shape (E, O), at least 0:
    to networks drawn uniformly, or, where edges carry several operations, to the network that has all."""
    relaxation = space.relaxation
    if relaxation.several:
        return _leave_one_out(space, cost)
    uniform_EO = relaxation.mask * relaxation.real / (relaxation.mask * relaxation.real).sum(axis=1, keepdims=True)
    by_EO = expected(space, cost, uniform_EO, rng, samples).by_EO
    added_EO: Floats = np.clip(by_EO - by_EO[:, relaxation.real].min(axis=1, keepdims=True), 0.0, None)
    return added_EO


def _leave_one_out(space: RelaxedSpace, cost: Cost) -> Floats:
    available_EO = space.relaxation.mask & space.relaxation.real
    rows, columns = np.nonzero(available_EO)
    tables_NEO = np.repeat(available_EO[None].astype(np.float64), 1 + len(rows), axis=0)
    tables_NEO[1 + np.arange(len(rows)), rows, columns] = 0.0
    costs_N = cost(space.discretise_all(tables_NEO))
    added_EO = np.zeros(available_EO.shape)
    added_EO[rows, columns] = np.clip(costs_N[0] - costs_N[1:], 0.0, None)
    return added_EO


def differentiable(cost: Expected, p_EO: torch.Tensor, none: int | None) -> torch.Tensor:
    """A scalar whose gradient in ``p_EO`` is that of the expected cost. Cutting edges costs nothing, which would make
    it the best of all latencies, so only the ratios among the other operations count."""
    by_EO = torch.as_tensor(cost.by_EO, dtype=p_EO.dtype, device=p_EO.device).clone()
    real_O = torch.ones(p_EO.shape[1], dtype=torch.bool, device=p_EO.device)
    if none is not None:
        real_O[none] = False
    q_EO = p_EO[:, real_O] / p_EO[:, real_O].sum(dim=1, keepdim=True).clamp_min(1e-12)
    return (q_EO * by_EO[:, real_O]).sum()


def relative_cost(p_EO: torch.Tensor, mask_EO: torch.Tensor, costs_EO: torch.Tensor) -> torch.Tensor:
    """Expected cost of a network drawn from ``p_EO``, for operations that add ``costs_EO``, relative to that of uniform
    draws among what the mask leaves: the resource term of SNAS (Xie et al., ICLR 2019, section 2.4). 0 where all is
    free."""
    uniform_EO = mask_EO / mask_EO.sum(dim=1, keepdim=True).clamp_min(1)
    reference = (uniform_EO * costs_EO).sum()
    return (p_EO * costs_EO).sum() / reference.clamp_min(1e-12)


@dataclass(frozen=True)
class Multiplier:
    """How strongly a cost counts: constant without a bound; with one, by an augmented Lagrangian, so that it grows for
    as long as the bound is broken, and what costs well below the bound is not charged at all."""

    rate: float
    bound: float | None
    reference: float
    value: float

    @staticmethod
    def of(weight: float, bound: float | None, reference: float) -> Multiplier:
        """``reference`` is the cost that counts as 1 where there is no bound."""
        return Multiplier(weight, bound, bound if bound is not None else reference, weight if bound is None else 0.0)

    def factor(self, cost: float) -> float:
        """What the gradient of the cost is multiplied with."""
        over = cost / self.bound - 1.0 if self.bound is not None else 0.0
        return max(0.0, self.value + self.rate * over) / self.reference

    def after(self, cost: float) -> Multiplier:
        """At the end of an epoch with a mean cost."""
        if self.bound is None:
            return self
        return Multiplier(
            self.rate, self.bound, self.reference, max(0.0, self.value + self.rate * (cost / self.bound - 1.0))
        )


def within_bounds(
    space: RelaxedSpace,
    violation: Cost,
    scores_EO: Floats,
    rng: np.random.Generator,
    samples: int = 512,
) -> Genes:
    """The network with the highest scores, shape (G,); if that breaks bounds, the likeliest that does not, of those
    drawn by the scores (projection) and those reached by single changes that cost least likelihood (repair).

    Raises InfeasibleBound if neither finds any.
    """
    p_EO = scores_EO / np.maximum(scores_EO.sum(axis=1, keepdims=True), 1e-300)
    log_EO = np.log(np.maximum(p_EO, 1e-12))
    favourite = space.discretise(scores_EO)
    if violation(favourite[None])[0] == 0:
        return favourite
    drawn_NG = space.discretise_all(drawn_scores(np.broadcast_to(p_EO, (samples, *p_EO.shape)), rng))
    feasible = list(drawn_NG[violation(drawn_NG) == 0])
    repaired = _repaired(space, violation, log_EO, favourite)
    if repaired is not None:
        feasible.append(repaired)
    if not feasible:
        raise InfeasibleBound(
            f"no network within the bounds was found near the architecture parameters: the favourite exceeds them by "
            f"{100 * float(violation(favourite[None])[0]):.3g} %. A larger latency_weight may help"
        )
    return max(feasible, key=lambda genes_G: _log_likelihood(space, log_EO, genes_G))


def drawn_scores(p_EO: Floats, rng: np.random.Generator) -> Floats:
    """Log probabilities with Gumbel noise, of one table or several: the best of each row is a draw from it."""
    noisy: Floats = np.log(np.maximum(p_EO, 1e-12)) + rng.gumbel(size=p_EO.shape)
    return noisy


def _repaired(space: RelaxedSpace, violation: Cost, log_EO: Floats, genes_G: Genes) -> Genes | None:
    now = float(violation(genes_G[None])[0])
    while now > 0:
        near_NG = _inside(space, np.unique(space.canonical(neighbours(space.decisions, genes_G.tolist())), axis=0))
        gain_N = now - violation(near_NG)
        better = np.flatnonzero(gain_N > 1e-12)
        if better.size == 0:
            return None
        before = _log_likelihood(space, log_EO, genes_G)
        loss = np.array([before - _log_likelihood(space, log_EO, near_NG[i]) for i in better])
        # What makes the network likelier is taken at once; else the least loss per violation mended.
        best = better[int(np.where(loss <= 0, loss, loss / gain_N[better]).argmin())]
        genes_G, now = near_NG[best], now - float(gain_N[best])
        now = float(violation(genes_G[None])[0])
    return genes_G


def _inside(space: RelaxedSpace, genes_NG: Genes) -> Genes:
    """The networks that the relaxation holds: those that are derived from their own table."""
    return genes_NG[[bool((space.discretise(space.table(genes_G)) == genes_G).all()) for genes_G in genes_NG]]


def _log_likelihood(space: RelaxedSpace, log_EO: Floats, genes_G: Genes) -> float:
    return float((space.table(genes_G) * log_EO).sum())
