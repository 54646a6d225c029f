"""Gradient-boosted regression trees on layer features, kept as plain arrays.

The trees learn by which factor a linear model is off, so the predictor is never far from linear where there are few
measurements. They are grown by scikit-learn and read from their public arrays, so a stored predictor does not depend on
the library's version. Source:
Friedman, "Stochastic gradient boosting" (Computational Statistics & Data Analysis 2002).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from predictors.base import FeaturePredictor
from predictors.families.bayesian_linear import BayesianLinear

_TREES, _DEPTH, _RATE, _SHARE, _LEAF = 150, 3, 0.08, 0.6, 5
_NO_CHILD = -1


@dataclass(frozen=True)
class GradientBoosting(FeaturePredictor):
    """``mean = line * exp(sum of the trees' leaves)``, where ``line`` is ``weights . features + line_ms``, at least
    ``floor_ms``. T trees of at most M nodes: in node m, a network goes left where its feature ``feature_TM``, times
    ``inverse_F``, is at most ``threshold_TM``; a node with no ``left_TM`` is a leaf of ``value_TM``."""

    family: ClassVar[str] = "gradient_boosting"
    scalars: ClassVar[tuple[str, ...]] = ("line_ms", "floor_ms", "factor")
    weights_F: Floats
    inverse_F: Floats
    feature_TM: NDArray[np.int64]
    threshold_TM: Floats
    left_TM: NDArray[np.int64]
    right_TM: NDArray[np.int64]
    value_TM: Floats
    line_ms: float
    floor_ms: float

    @classmethod
    def fit_mean(
        cls, features_NF: Floats, latency_ms_N: Floats, seed: int, weight_N: Floats | None = None
    ) -> GradientBoosting:
        """The mean alone, with no bound above it."""
        from sklearn.ensemble import GradientBoostingRegressor  # takes a second to import

        line = BayesianLinear.fit_mean(features_NF, latency_ms_N, seed, weight_N)
        spread_F = features_NF.std(0)
        inverse_F = np.where(spread_F > 0, 1.0 / np.where(spread_F > 0, spread_F, 1.0), 0.0)
        grown = GradientBoostingRegressor(
            n_estimators=_TREES,
            max_depth=_DEPTH,
            learning_rate=_RATE,
            subsample=_SHARE,
            min_samples_leaf=_LEAF,
            init="zero",
            random_state=seed,
        ).fit(
            _for_trees(features_NF, inverse_F),
            np.log(latency_ms_N / line.predict(features_NF).mean_ms),
            sample_weight=weight_N,
        )
        trees = [regressor.tree_ for regressor in grown.estimators_[:, 0]]
        nodes = max(t.node_count for t in trees)

        def padded(name: str, empty: float, kind: type) -> NDArray[Any]:
            rows = [np.asarray(getattr(t, name)).reshape(t.node_count) for t in trees]
            return np.array([np.pad(r, (0, nodes - len(r)), constant_values=empty) for r in rows], dtype=kind)

        return cls(
            line.weights_F,
            inverse_F,
            padded("feature", 0, np.int64),
            padded("threshold", 0.0, np.float64),
            padded("children_left", _NO_CHILD, np.int64),
            padded("children_right", _NO_CHILD, np.int64),
            _RATE * padded("value", 0.0, np.float64),
            line.offset_ms,
            line.floor_ms,
        )

    @property
    def columns(self) -> int:
        """Number of features."""
        return len(self.weights_F)

    def mean_ms(self, features_NF: Floats) -> Floats:
        """Mean latency in ms, shape (N,)."""
        x_NF = _for_trees(features_NF, self.inverse_F)
        rows_N1, trees_T = np.arange(len(x_NF))[:, None], np.arange(len(self.left_TM))
        node_NT = np.zeros((len(x_NF), len(trees_T)), dtype=np.int64)
        for _ in range(_DEPTH):
            left_NT = self.left_TM[trees_T, node_NT]
            goes_NT = x_NF[rows_N1, self.feature_TM[trees_T, node_NT]] <= self.threshold_TM[trees_T, node_NT]
            next_NT = np.where(goes_NT, left_NT, self.right_TM[trees_T, node_NT])
            node_NT = np.where(left_NT == _NO_CHILD, node_NT, next_NT)
        line_ms = np.maximum(features_NF @ self.weights_F + self.line_ms, self.floor_ms)
        return np.asarray(line_ms * np.exp(self.value_TM[trees_T, node_NT].sum(1)))


def _for_trees(features_NF: Floats, inverse_F: Floats) -> NDArray[np.float32]:
    """In units of their spread, and rounded, so that the trees are the same whatever the features' own units are."""
    return np.round(features_NF * inverse_F, 5).astype(np.float32)
