"""Model selection: the family that predicts a device best, by cross-validation.

Families are tried from the simplest on; a later one is taken only where its error is lower by more than the standard
error of the difference, which small samples seldom allow by chance. Source: Hastie, Tibshirani, Friedman, The Elements
of Statistical Learning, section 7.10.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats, Genes
from nas.core.device import Latency
from nas.core.errors import UnknownName
from nas.core.graph import Graph
from nas.core.ports import SearchSpace
from predictors.families.bayesian_linear import BayesianLinear
from predictors.families.gradient_boosting import GradientBoosting
from predictors.families.graph import GraphNetwork, Wiring
from predictors.families.mlp import MLP
from predictors.validation import check_measured, check_weights, held_out_ms

Chosen = BayesianLinear | MLP | GraphNetwork | GradientBoosting
CANDIDATES: tuple[type[BayesianLinear] | type[MLP] | type[GraphNetwork] | type[GradientBoosting], ...] = (
    BayesianLinear,
    MLP,
    GraphNetwork,
    GradientBoosting,
)  # simplest first
# Networks below and above which a family is not tried; a graph network takes a second or more to fit to so many.
_FEWEST_FOR: Mapping[str, int] = {"mlp": 60, "graph": 60, "gradient_boosting": 200}
_MOST_FOR: Mapping[str, int] = {"graph": 400}


@dataclass(frozen=True)
class AutoPredictor:
    """``chosen`` predicts; ``errors`` has the mean relative error on held-out networks by family, of those tried."""

    family: ClassVar[str] = "auto"
    chosen: Chosen
    errors: Mapping[str, float]

    @classmethod
    def fit(
        cls,
        features_NF: Floats,
        latency_ms_N: Floats,
        folds: int = 10,
        seed: int = 0,
        graphs: tuple[Graph, Floats] | None = None,
        weight_N: Floats | None = None,
    ) -> AutoPredictor:
        """Tries the families that so many networks can feed, and fits the best to all. ``graphs``: the graph of the
        space and the networks as its rows, if there is one, without which no graph network is tried.

        Raises InvalidInput for fewer than 20 networks, latencies that are not positive, or numbers that are not finite.
        """
        check_measured(features_NF, latency_ms_N)
        n = len(latency_ms_N)

        fitters: dict[str, tuple[Callable[[Floats, Floats, int, Floats | None], Chosen], Floats]] = {
            BayesianLinear.family: (BayesianLinear.fit_mean, features_NF),
            MLP.family: (MLP.fit_mean, features_NF),
        }
        if graphs is not None:
            wiring, columns_NC = Wiring.of(graphs[0]), graphs[1]

            def fit_graph(x_NC: Floats, y_N: Floats, seed: int, weight_N: Floats | None) -> GraphNetwork:
                return GraphNetwork.fit_mean(x_NC, y_N, seed, wiring, weight_N)

            fitters[GraphNetwork.family] = (fit_graph, columns_NC)
        fitters[GradientBoosting.family] = (GradientBoosting.fit_mean, features_NF)
        tried = {k: m for k, m in fitters.items() if _FEWEST_FOR.get(k, 0) <= n <= _MOST_FOR.get(k, n)}
        held_out = {
            name: held_out_ms(fit_mean, x, latency_ms_N, folds, seed, weight_N) for name, (fit_mean, x) in tried.items()
        }
        missed = {name: np.abs(guess_N / latency_ms_N - 1.0) for name, guess_N in held_out.items()}
        share_N = check_weights(weight_N, n)
        best, *more_complex = tried
        for other in more_complex:
            gain_N = share_N * (missed[best] - missed[other])
            if gain_N.mean() > gain_N.std(ddof=1) / np.sqrt(n):
                best = other
        fit_mean, x_NF = tried[best]
        fitted = fit_mean(x_NF, latency_ms_N, seed, weight_N).bounded(x_NF, latency_ms_N, held_out[best])
        return cls(fitted, {name: float((share_N * e).mean()) for name, e in missed.items()})

    @classmethod
    def fit_networks(
        cls, space: SearchSpace, genes_NG: Genes, latency_ms_N: Floats, weight_N: Floats | None = None
    ) -> AutoPredictor:
        """Fits to networks of a space, by its features, and by their graphs if it has them. Raises as ``fit``."""
        encoding = space.graph_encoding
        graphs = None if encoding is None else (encoding.graph, encoding.columns(genes_NG))
        return cls.fit(space.features(genes_NG), latency_ms_N, graphs=graphs, weight_N=weight_N)

    def inputs(self, space: SearchSpace, genes_NG: Genes) -> Floats:
        """What ``predict`` reads of N networks: what the chosen family reads."""
        return self.chosen.inputs(space, genes_NG)

    def predict(self, features_NF: Floats) -> Latency:
        """Latency in ms of N networks. Raises InvalidInput for features of another space."""
        return self.chosen.predict(features_NF)

    def is_extrapolation(self, features_NF: Floats) -> NDArray[np.bool_] | None:
        """Which of N networks lie outside the domain of the chosen predictor, shape (N,); None without a domain."""
        return self.chosen.is_extrapolation(features_NF)

    def extrapolations(self, space: SearchSpace, genes_NG: Genes) -> NDArray[np.bool_] | None:
        """``is_extrapolation`` of N networks of a space."""
        return self.is_extrapolation(self.inputs(space, genes_NG))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as plain arrays: those of the chosen, its family, and the errors by family."""
        return {
            "chosen_family": np.array(self.chosen.family),
            "tried": np.array(list(self.errors)),
            "errors": np.array(list(self.errors.values())),
            **{f"chosen_{k}": v for k, v in self.chosen.to_arrays().items()},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> AutoPredictor:
        """Inverse of ``to_arrays``. Raises UnknownName for a family that is none of the candidates."""
        name = str(arrays["chosen_family"])
        families = {c.family: c for c in CANDIDATES}
        if name not in families:
            raise UnknownName("family of predictors", name, families)
        errors = dict(zip(arrays["tried"].tolist(), arrays["errors"].tolist(), strict=True))
        inner = {k.removeprefix("chosen_"): v for k, v in arrays.items() if k not in ("chosen_family",)}
        return cls(families[name].from_arrays(inner), errors)
