"""BoTorch's noisy expected improvement on the table of NAS-Bench-201, of one loss or of the hypervolume."""

from __future__ import annotations

import numpy as np
import torch
from botorch.acquisition.logei import qLogNoisyExpectedImprovement
from botorch.acquisition.multi_objective.logei import qLogNoisyExpectedHypervolumeImprovement
from botorch.fit import fit_gpytorch_mll
from botorch.models import SingleTaskGP
from botorch.models.transforms import Standardize
from botorch.sampling import SobolQMCNormalSampler
from gpytorch.mlls import ExactMarginalLogLikelihood
from torch import Tensor

from benchmarks._accuracy_table import AccuracyTable, connected, history_of
from nas.core.arch import Floats, Genes, every, one_hot

_FIRST, _BATCH, _POOL, _SAMPLES = 10, 5, 1_000, 64


def by_botorch(table: AccuracyTable, seed: int, queries: int, cost_K: Floats | None) -> Genes:
    """Operations of each edge as inputs, one process for each loss; of random cells that were not asked about, those
    with the highest acquisition value, one after the other."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    genes_NG = connected(table, rng, _FIRST)
    every_KG = every(table.space.decisions)
    every_KG = every_KG[table.connected_K[table.keys(every_KG)]]
    while len(genes_NG) < queries:
        unseen_KG = every_KG[~np.isin(table.keys(every_KG), table.keys(genes_NG))]
        pool_KG = unseen_KG[rng.permutation(len(unseen_KG))[:_POOL]]
        rows = _select(table, genes_NG, pool_KG, cost_K, min(_BATCH, queries - len(genes_NG)))
        genes_NG = np.concatenate([genes_NG, pool_KG[rows]])
    return genes_NG


def _select(table: AccuracyTable, genes_NG: Genes, pool_KG: Genes, cost_K: Floats | None, n: int) -> list[int]:
    x_NF = torch.tensor(one_hot(table.space.decisions, genes_NG))
    y_NM = -torch.tensor(history_of(table, genes_NG, cost_K).losses_NM)
    model = SingleTaskGP(x_NF, y_NM, outcome_transform=Standardize(y_NM.shape[1]))
    fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
    pool_KF = torch.tensor(one_hot(table.space.decisions, pool_KG))
    sampler = SobolQMCNormalSampler(torch.Size([_SAMPLES]))
    rows: list[int] = []
    pending_QF: Tensor | None = None
    for _ in range(n):
        if cost_K is None:
            acquisition = qLogNoisyExpectedImprovement(model, x_NF, sampler=sampler, X_pending=pending_QF)
        else:
            low_M = y_NM.min(dim=0).values
            reference = (low_M - 0.1 * (y_NM.max(dim=0).values - low_M)).tolist()
            acquisition = qLogNoisyExpectedHypervolumeImprovement(
                model, reference, x_NF, sampler=sampler, prune_baseline=True, X_pending=pending_QF
            )
        with torch.no_grad():
            value_K = torch.cat([acquisition(part[:, None]) for part in torch.split(pool_KF, 250)])
        value_K[rows] = -torch.inf
        rows.append(int(value_K.argmax()))
        pending_QF = pool_KF[rows]
    return rows
