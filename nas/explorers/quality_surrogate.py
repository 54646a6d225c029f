"""A quick model of the quality of networks, by which NSGA-II proposes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nas.core.arch import Floats, Genes, one_hot
from nas.core.ports import SearchSpace
from nas.explorers.distortion_aware import DistortionAwareSpace

_HINT_SCALE = 4.0  # of what is known of a network beforehand, so that the ridge penalty hardly shrinks its weight


@dataclass(frozen=True)
class QualitySurrogate:
    """Ridge regression of the log error on one-hot genes and log MACs: quick, smooth, and never asked to be more than a
    guide, since every network it favours is scored with the supernet. The error is what is missing to 100 %, or a
    quality of which less is better; ``scale`` is what counts as 100 % of it."""

    space: SearchSpace
    weights_F: Floats
    mean_F: Floats
    offset: float
    maximised: bool = True
    scale: float = 100.0

    @staticmethod
    def fit(
        space: SearchSpace, genes_NG: Genes, quality_N: Floats, maximised: bool = True, ridge: float = 3.0
    ) -> QualitySurrogate:
        """Least squares with an L2 penalty in closed form; ``quality_N`` in %, or at least 0 if not ``maximised``."""
        x = QualitySurrogate._encode(space, genes_NG)
        scale = 100.0 if maximised else float(quality_N.max()) or 1.0
        y = np.log((100.0 - quality_N if maximised else quality_N) + 0.003 * scale)
        mean = x.mean(0)
        centred = x - mean
        gram = centred.T @ centred + ridge * np.eye(x.shape[1])
        weights = np.linalg.solve(gram, centred.T @ (y - y.mean()))
        return QualitySurrogate(space, weights, mean, float(y.mean()), maximised, scale)

    def predict(self, genes_NG: Genes) -> Floats:
        """The quality, shape (N,)."""
        x = QualitySurrogate._encode(self.space, genes_NG)
        log_error = (x - self.mean_F) @ self.weights_F + self.offset
        if self.maximised:
            return 100.3 - np.exp(np.minimum(log_error, np.log(100.3)))
        return np.maximum(0.0, np.exp(log_error) - 0.003 * self.scale)

    @staticmethod
    def _encode(space: SearchSpace, genes_NG: Genes) -> Floats:
        columns = [one_hot(space.decisions, genes_NG), np.log(space.costs(genes_NG)["macs"])[:, None]]
        if isinstance(space, DistortionAwareSpace):
            columns.append(_HINT_SCALE * space.log_distortion(genes_NG)[:, None])
        return np.concatenate(columns, axis=1)
