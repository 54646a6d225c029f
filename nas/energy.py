"""Predicted energy as a cost of a search space."""

from __future__ import annotations

from typing import Any

from nas.core.arch import Floats, Genes
from nas.core.ports import LatencyPredictor, SearchSpace, predict_latency


class EnergyAwareSpace:
    """A search space whose costs tell predicted energy too: ``predicted_mj`` and its 95 % bound ``upper_mj``.

    ``predictor`` is of a latency predictor's family, fitted to mJ. Everything else delegates to the space.
    """

    def __init__(self, space: SearchSpace, predictor: LatencyPredictor) -> None:
        self._space, self._predictor = space, predictor

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # unpickling looks up attributes before any is set
            raise AttributeError(name)
        return getattr(self._space, name)

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """The space's costs and the energy of N networks, each of shape (N,)."""
        energy_mj = predict_latency(self._predictor, self._space, genes_NG)
        return {**self._space.costs(genes_NG), "predicted_mj": energy_mj.mean_ms, "upper_mj": energy_mj.upper_ms}


def energy_aware(space: SearchSpace, predictor: LatencyPredictor | None) -> SearchSpace:
    """The space with predicted energies; unchanged without a predictor."""
    if predictor is None:
        return space
    wrapped: Any = EnergyAwareSpace(space, predictor)
    with_costs: SearchSpace = wrapped
    return with_costs
