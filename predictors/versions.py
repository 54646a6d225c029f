"""Predictors learn from what was measured after them: every refit is a further version, and none is ever changed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas.core.arch import Floats, Genes
from nas.core.errors import InvalidInput
from nas.core.ports import LatencyPredictor, SearchSpace
from predictors.cross_fit import check_measured
from predictors.fitting import fit_networks


@dataclass(frozen=True)
class Version:
    """A predictor with all that it was fitted to, and the version before it. ``number`` counts from 1."""

    number: int
    predictor: LatencyPredictor
    genes_NG: Genes
    latency_ms_N: Floats
    before: Version | None = None

    @property
    def history(self) -> tuple[Version, ...]:
        """All versions, the first one first."""
        return (*(self.before.history if self.before is not None else ()), self)


def first_version(predictor: LatencyPredictor, genes_NG: Genes, latency_ms_N: Floats) -> Version:
    """The predictor as it was onboarded with these networks."""
    return Version(1, predictor, genes_NG, latency_ms_N)


def refitted(version: Version, space: SearchSpace, genes_MG: Genes, latency_ms_M: Floats) -> Version:
    """The next version: fitted, and its bound calibrated anew, with M further measurements, such as those of a front
    that was verified. A network that was measured before counts with its later latency alone.

    Raises InvalidInput for networks of another space, and for latencies that are not positive numbers.
    """
    if genes_MG.ndim != 2 or genes_MG.shape[1] != version.genes_NG.shape[1]:
        raise InvalidInput(f"expected genes of shape (M, {version.genes_NG.shape[1]}), got {genes_MG.shape}")
    check_measured(space.features(genes_MG), latency_ms_M, fewest=1)
    latest = {
        tuple(row): ms
        for genes, latency_ms in ((version.genes_NG, version.latency_ms_N), (genes_MG, latency_ms_M))
        for row, ms in zip(space.canonical(genes).tolist(), latency_ms.tolist(), strict=True)
    }
    genes_NG, latency_ms_N = np.array(list(latest), dtype=np.int64), np.array(list(latest.values()))
    predictor = fit_networks(version.predictor.family, space, genes_NG, latency_ms_N)
    return Version(version.number + 1, predictor, genes_NG, latency_ms_N, version)
