"""Predicted energy as a cost of a search space."""

from __future__ import annotations

from nas.core.arch import Floats, Genes
from nas.core.ports import LatencyPredictor, SearchSpace, predict_latency
from nas.spaces.wrapper import SpaceWrapper


class EnergyAwareSpace(SpaceWrapper):
    """A search space whose costs include predicted energy: ``predicted_mj`` and its 95 % bound ``upper_mj``.

    ``predictor`` is of a latency predictor's family, fitted to mJ.
    """

    def __init__(self, inner: SearchSpace, predictor: LatencyPredictor) -> None:
        super().__init__(inner)
        self._predictor = predictor

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """The space's own costs and the energy of N networks, each shape (N,)."""
        energy_mj = predict_latency(self._predictor, self.inner, genes_NG)
        return {**self.inner.costs(genes_NG), "predicted_mj": energy_mj.mean_ms, "upper_mj": energy_mj.upper_ms}


def energy_aware(space: SearchSpace, predictor: LatencyPredictor | None) -> SearchSpace:
    """The space with energies, or as it is without a predictor of energy."""
    return space if predictor is None else EnergyAwareSpace(space, predictor)
