"""A graph network on the cells or layers of a network, as in BRP-NAS.

Every place of the graph holds its operation; four rounds mix it with what feeds the place, and a global node, which all
places feed, gives the latency. As the other families do, it learns what a linear model of the operations leaves over.
The order of places plays no part. It is trained with torch (``graph_training.py``) and predicts with numpy.
Source: Dudziak et al., "BRP-NAS: Prediction-based NAS using GCNs" (NeurIPS 2020), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats, Genes
from nas.core.graph import Graph
from nas.core.ports import SearchSpace
from nas.core.rng import Stream, rng
from predictors.base import CalibratedPredictor
from predictors.families.bayesian_linear import BayesianLinear
from predictors.validation import check_features, check_weights

_MEMBERS = 2


@dataclass(frozen=True)
class Wiring:
    """A graph as matrices. Column c of a network belongs to the place and the operation ``place_C[c]`` and
    ``operation_C[c]``; ``mix_UU`` takes every place, and the global node, which is the last of the U, to the mean of
    itself and what feeds it."""

    place_C: NDArray[np.int64]
    operation_C: NDArray[np.int64]
    presence_C: Floats
    mix_UU: Floats

    @classmethod
    def of(cls, graph: Graph) -> Wiring:
        """The matrices of a graph."""
        nodes = len(graph.places) + 1
        feeds_UU = np.eye(nodes)
        feeds_UU[-1] = 1.0
        for start, end in graph.edges:
            feeds_UU[end, start] = 1.0
        return cls(
            np.array(graph.place_C, dtype=np.int64),
            np.array(graph.operation_C, dtype=np.int64),
            np.array(graph.presence_C, dtype=np.float64),
            feeds_UU / feeds_UU.sum(1, keepdims=True),
        )

    @classmethod
    def single(cls, features: int) -> Wiring:
        """The wiring of a space without a graph: every network is one node, which holds its features."""
        every = np.arange(features)
        presence = np.zeros(features)
        return cls(np.zeros_like(every), every, presence, np.array([[1.0, 0.0], [0.5, 0.5]]))

    @property
    def operations(self) -> int:
        """How many operations there are."""
        return int(self.operation_C.max()) + 1

    def sums(self, x_NC: Floats) -> Floats:
        """Operations summed over places, shape (N, O)."""
        return np.asarray(x_NC @ np.eye(self.operations)[self.operation_C])

    def present(self, x_NC: Floats) -> Floats:
        """How far each node is there, shape (U, N); the global one is, and so is a place that does not say."""
        places = np.eye(len(self.mix_UU))[self.place_C]
        silent_U = (self.presence_C @ places) == 0
        return np.asarray((self.presence_C[:, None] * places).T @ x_NC.T + silent_U[:, None])


@dataclass(frozen=True)
class GraphNetwork(CalibratedPredictor):
    """``mean = line * exp(unit * mean over E members of (state of the global node . outer + offset))``, where ``line``
    is ``weights . operations + line_ms``, at least ``floor_ms``. ``first_EIH`` takes a node's operations, and whether
    it is the global one, to H units; ``later_ELHH`` are the rounds after the first."""

    family: ClassVar[str] = "graph"
    scalars: ClassVar[tuple[str, ...]] = ("line_ms", "floor_ms", "unit", "factor")
    nested: ClassVar[tuple[str, ...]] = ("wiring", "domain")
    wiring: Wiring
    weights_O: Floats
    centre_O: Floats
    inverse_O: Floats
    first_EIH: Floats
    later_ELHH: Floats
    bias_ELH: Floats
    outer_EH: Floats
    offset_E: Floats
    line_ms: float
    floor_ms: float
    unit: float

    @classmethod
    def fit(
        cls,
        features_NC: Floats,
        latency_ms_N: Floats,
        folds: int = 5,
        seed: int = 0,
        graph: Graph | None = None,
        weight_N: Floats | None = None,
    ) -> GraphNetwork:
        """Fits on all networks, given as rows of the ``graph``, or by any features if there is none; calibrates the
        bound on those held out of ``folds`` refits.

        Raises InvalidInput for fewer than 20 networks, latencies that are not positive, or numbers that are not finite.
        """
        wiring = Wiring.of(graph) if graph is not None else Wiring.single(features_NC.shape[1])
        check_features(features_NC, len(wiring.place_C))

        def fit_mean(x_NC: Floats, y_N: Floats, seed: int, weights: Floats | None) -> GraphNetwork:
            return cls.fit_mean(x_NC, y_N, seed, wiring, weights)

        return cls.calibrated(fit_mean, features_NC, latency_ms_N, folds, seed, weight_N)

    @classmethod
    def fit_networks(
        cls, space: SearchSpace, genes_NG: Genes, latency_ms_N: Floats, weight_N: Floats | None = None
    ) -> GraphNetwork:
        """Fits to networks of a space, by their graphs if it has them. Raises as ``fit``."""
        graph = None if space.graph_encoding is None else space.graph_encoding.graph
        return cls.fit(_columns(space, genes_NG), latency_ms_N, graph=graph, weight_N=weight_N)

    def inputs(self, space: SearchSpace, genes_NG: Genes) -> Floats:
        """What ``predict`` reads of N networks, shape (N, C)."""
        return _columns(space, genes_NG)

    @classmethod
    def fit_mean(
        cls, features_NC: Floats, latency_ms_N: Floats, seed: int, wiring: Wiring, weight_N: Floats | None = None
    ) -> GraphNetwork:
        """The mean alone, with no bound above it; imports torch."""
        from predictors.families.graph_training import MemberWeights, train_member

        sums_NO = wiring.sums(features_NC)
        line = BayesianLinear.fit_mean(sums_NO, latency_ms_N, seed, weight_N)
        weights = check_weights(weight_N, len(latency_ms_N))
        residual_N = np.log(latency_ms_N / line.predict(sums_NO).mean_ms)
        unit = max(float(residual_N.std()), 1e-9)
        centre_O, inverse_O = _standardisation(wiring, features_NC)
        nodes_UNI, presence_UN = _nodes(wiring, centre_O, inverse_O, features_NC)
        members = []
        for member in range(_MEMBERS):
            start = MemberWeights.draw(wiring.operations + 1, rng(seed, Stream.GRAPH_PREDICTOR, member))
            members.append(train_member(wiring.mix_UU, nodes_UNI, presence_UN, residual_N / unit, weights, start))
        return cls(
            wiring=wiring,
            weights_O=line.weights_F,
            centre_O=centre_O,
            inverse_O=inverse_O,
            first_EIH=np.array([m.first_IH for m in members]),
            later_ELHH=np.array([m.later_LHH for m in members]),
            bias_ELH=np.array([m.bias_LH for m in members]),
            outer_EH=np.array([m.outer_H for m in members]),
            offset_E=np.array([m.offset for m in members]),
            line_ms=line.offset_ms,
            floor_ms=line.floor_ms,
            unit=unit,
        )

    def refit_mean(
        self, features_NC: Floats, latency_ms_N: Floats, seed: int, weight_N: Floats | None = None
    ) -> GraphNetwork:
        """``fit_mean`` with the same wiring."""
        return self.fit_mean(features_NC, latency_ms_N, seed, self.wiring, weight_N)

    @property
    def columns(self) -> int:
        """Number of columns of a network in the graph."""
        return len(self.wiring.place_C)

    def mean_ms(self, features_NC: Floats) -> Floats:
        """Mean latency in ms, shape (N,)."""
        nodes_UNI, presence_UN = _nodes(self.wiring, self.centre_O, self.inverse_O, features_NC)
        weights = zip(self.first_EIH, self.later_ELHH, self.bias_ELH, self.outer_EH, self.offset_E, strict=True)
        more_EN = np.array(
            [
                _global_state(self.wiring.mix_UU, nodes_UNI, presence_UN, first, later, bias) @ outer + offset
                for first, later, bias, outer, offset in weights
            ]
        )
        return np.asarray(self._line_ms(features_NC) * np.exp(self.unit * more_EN.mean(0)))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as plain arrays, the wiring's by their names."""
        return {**vars(self.wiring), **super().to_arrays()}

    @classmethod
    def stored_fields(cls, arrays: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        """The fields by name, from ``to_arrays``."""
        wiring = Wiring(**{f.name: arrays[f.name] for f in fields(Wiring)})
        return {**super().stored_fields(arrays), "wiring": wiring}

    def _line_ms(self, features_NC: Floats) -> Floats:
        line_ms = self.wiring.sums(features_NC) @ self.weights_O + self.line_ms
        return np.asarray(np.maximum(line_ms, self.floor_ms))


def _columns(space: SearchSpace, genes_NG: Genes) -> Floats:
    encoding = space.graph_encoding
    return space.features(genes_NG) if encoding is None else encoding.columns(genes_NG)


def _standardisation(wiring: Wiring, x_NC: Floats) -> tuple[Floats, Floats]:
    """Mean of every operation over the places that may hold it, and the inverse of its spread, 0 where it has none;
    smaller where a node holds many operations, so that units do not begin saturated."""
    of_CO = np.eye(wiring.operations)[wiring.operation_C]
    of_CO = of_CO / np.maximum(of_CO.sum(0), 1.0)
    centre_O = x_NC.mean(0) @ of_CO
    spread_O = np.sqrt(np.maximum((x_NC**2).mean(0) @ of_CO - centre_O**2, 0.0))
    lively_O = spread_O > 1e-9 * (np.abs(centre_O) + 1e-300)
    return centre_O, np.where(lively_O, 1.0 / np.where(lively_O, spread_O, 1.0), 0.0) / np.sqrt(wiring.operations)


def _nodes(wiring: Wiring, centre_O: Floats, inverse_O: Floats, x_NC: Floats) -> tuple[Floats, Floats]:
    """What every node holds, shape (U, N, O + 1), the last entry telling the global one; and how far it is there."""
    presence_UN = wiring.present(x_NC)
    nodes_UNI = np.zeros((len(wiring.mix_UU), len(x_NC), len(centre_O) + 1))
    nodes_UNI[wiring.place_C, :, wiring.operation_C] = x_NC.T
    nodes_UNI[:-1, :, :-1] -= presence_UN[:-1, :, None] * centre_O
    nodes_UNI[:, :, :-1] *= inverse_O
    nodes_UNI[-1, :, -1] = 1.0
    return nodes_UNI, presence_UN


def _global_state(
    mix_UU: Floats, nodes_UNI: Floats, presence_UN: Floats, first_IH: Floats, later_LHH: Floats, bias_LH: Floats
) -> Floats:
    """The state of the global node after all rounds, shape (N, H); a node that is not there feeds nothing."""
    state_UNH = np.tanh(_mixed(mix_UU, nodes_UNI @ first_IH) + bias_LH[0])
    for weights_HH, bias_H in zip(later_LHH, bias_LH[1:], strict=True):
        state_UNH = np.tanh(_mixed(mix_UU, (state_UNH * presence_UN[:, :, None]) @ weights_HH) + bias_H)
    return np.asarray(state_UNH[-1])


def _mixed(mix_UU: Floats, values_UNH: Floats) -> Floats:
    """One product for all networks, which is many times faster than one for each."""
    return np.asarray((mix_UU @ values_UNH.reshape(len(mix_UU), -1)).reshape(values_UNH.shape))
