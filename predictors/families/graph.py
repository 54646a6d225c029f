"""A graph network on the cells or layers of a network, as in BRP-NAS.

Every place of the graph holds its operation; four rounds mix it with what feeds the place, and a global node, which all
places feed, tells the latency. As the other families do, it learns what a linear model of the operations leaves over,
and its units are smooth, so that differentiable search has gradients. Which place is named first plays no part.
Source: Dudziak et al., "BRP-NAS: Prediction-based NAS using GCNs" (NeurIPS 2020), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from nas.core.arch import Floats, Genes
from nas.core.device import Latency
from nas.core.graph import Graph
from nas.core.ports import SearchSpace
from predictors.calibration import upper_factor
from predictors.families.bayesian_linear import BayesianLinear
from predictors.validation import (
    ApplicabilityDomain,
    check_features,
    check_measured,
    check_weights,
    held_out_ms,
    no_extrapolation_N,
)

_MEMBERS, _LAYERS, _UNITS, _PENALTY, _STEPS = 2, 4, 16, 1.0, 40


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
        """Of a space that tells no graph: every network is one place, and its features are what that holds."""
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
class GraphNetwork:
    """``mean = line * exp(unit * mean over E members of (state of the global node . outer + offset))``, where ``line``
    is ``weights . operations + line_ms``, at least ``floor_ms``. ``first_EIH`` takes a node's operations, and whether
    it is the global one, to H units; ``later_ELHH`` are the rounds after the first."""

    family: ClassVar[str] = "graph"
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
    factor: float = 1.0
    domain: ApplicabilityDomain | None = None

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
        check_measured(features_NC, latency_ms_N)
        wiring = Wiring.of(graph) if graph is not None else Wiring.single(features_NC.shape[1])
        check_features(features_NC, len(wiring.place_C))

        def fit_mean(x_NC: Floats, y_N: Floats, seed: int, weights: Floats | None) -> GraphNetwork:
            return cls.fit_mean(x_NC, y_N, seed, wiring, weights)

        held_out_N = held_out_ms(fit_mean, features_NC, latency_ms_N, folds, seed, weight_N)
        return fit_mean(features_NC, latency_ms_N, seed, weight_N).bounded(features_NC, latency_ms_N, held_out_N)

    @classmethod
    def fit_networks(
        cls, space: SearchSpace, genes_NG: Genes, latency_ms_N: Floats, weight_N: Floats | None = None
    ) -> GraphNetwork:
        """Fits to networks of a space, by their graphs if it tells them. Raises as ``fit``."""
        graph = None if space.graph_encoding is None else space.graph_encoding.graph
        return cls.fit(_columns(space, genes_NG), latency_ms_N, graph=graph, weight_N=weight_N)

    def inputs(self, space: SearchSpace, genes_NG: Genes) -> Floats:
        """What ``predict`` reads of N networks, shape (N, C)."""
        return _columns(space, genes_NG)

    @classmethod
    def fit_mean(
        cls, features_NC: Floats, latency_ms_N: Floats, seed: int, wiring: Wiring, weight_N: Floats | None = None
    ) -> GraphNetwork:
        """The mean alone, with no bound above it."""
        sums_NO = wiring.sums(features_NC)
        line = BayesianLinear.fit_mean(sums_NO, latency_ms_N, seed, weight_N)
        weights = check_weights(weight_N, len(latency_ms_N))
        left_N = np.log(latency_ms_N / line.predict(sums_NO).mean_ms)
        unit = max(float(left_N.std()), 1e-9)
        centre_O, inverse_O = _usual(wiring, features_NC)
        shapes = _Shapes(wiring.operations + 1)
        nodes_UNI, there_UN = _nodes(wiring, centre_O, inverse_O, features_NC)
        members = [
            shapes.unpack(_trained(shapes, wiring.mix_UU, nodes_UNI, there_UN, left_N / unit, weights, (seed, e)))
            for e in range(_MEMBERS)
        ]
        first, later, bias, outer, offset = (np.array(part) for part in zip(*members, strict=True))
        rest = (line.offset_ms, line.floor_ms, unit)
        return cls(wiring, line.weights_F, centre_O, inverse_O, first, later, bias, outer, offset, *rest)

    def bounded(self, features_NC: Floats, latency_ms_N: Floats, held_out_N: Floats) -> GraphNetwork:
        """The same mean with its bound, from what refits said of networks that they did not know."""
        return replace(self, factor=upper_factor(latency_ms_N, held_out_N), domain=ApplicabilityDomain.of(features_NC))

    def predict(self, features_NC: Floats) -> Latency:
        """Latency in ms of N networks. Raises InvalidInput for features of another space."""
        check_features(features_NC, len(self.wiring.place_C))
        nodes_UNI, there_UN = _nodes(self.wiring, self.centre_O, self.inverse_O, features_NC)
        more_EN = np.array(
            [
                _states(self.wiring.mix_UU, nodes_UNI, there_UN, *parts)[-1][-1] @ outer_H + offset
                for *parts, outer_H, offset in self._members
            ]
        )
        mean_ms = self._line_ms(features_NC) * np.exp(self.unit * more_EN.mean(0))
        return Latency(mean_ms, mean_ms * self.factor)

    def gradient(self, features_NC: Floats) -> Floats:
        """Of the mean in ms by each column, shape (N, C)."""
        mean_N, line_N = self.predict(features_NC).mean_ms, self._line_ms(features_NC)
        w = self.wiring
        nodes_UNI, there_UN = _nodes(w, self.centre_O, self.inverse_O, features_NC)
        total_NC = np.zeros_like(features_NC)
        for first_IH, later_LHH, bias_LH, outer_H, _ in self._members:
            states = _states(w.mix_UU, nodes_UNI, there_UN, first_IH, later_LHH, bias_LH)
            slope_UNH = np.zeros_like(states[-1])
            slope_UNH[-1] = outer_H
            back = _Back(w.mix_UU, nodes_UNI, there_UN, states, first_IH, later_LHH, slope_UNH, inputs=True)
            by_there_UN = back.by_there_UN - back.by_nodes_UNI[:, :, :-1] @ (self.centre_O * self.inverse_O)
            by_column_CN = (back.by_nodes_UNI[:, :, :-1] * self.inverse_O)[w.place_C, :, w.operation_C]
            total_NC += (by_column_CN + by_there_UN[w.place_C] * w.presence_C[:, None]).T
        straight_NC = self.weights_O[w.operation_C] * ((line_N > self.floor_ms) / line_N)[:, None]
        return np.asarray(mean_N[:, None] * (straight_NC + self.unit * total_NC / len(self.offset_E)))

    def is_extrapolation(self, features_NC: Floats) -> NDArray[np.bool_]:
        """Which of N networks are unlike all that were measured, shape (N,)."""
        check_features(features_NC, len(self.wiring.place_C))
        return self.domain.is_extrapolation(features_NC) if self.domain is not None else no_extrapolation_N(features_NC)

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as plain arrays."""
        return {
            **{k: getattr(self.wiring, k) for k in _WIRING},
            **{k: getattr(self, k) for k in _ARRAYS},
            "scalars": np.array([self.line_ms, self.floor_ms, self.unit, self.factor]),
            **(self.domain.to_arrays() if self.domain is not None else {}),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> GraphNetwork:
        """Inverse of ``to_arrays``."""
        line_ms, floor_ms, unit, factor = (float(v) for v in arrays["scalars"])
        return cls(
            wiring=Wiring(
                arrays["place_C"].astype(np.int64),
                arrays["operation_C"].astype(np.int64),
                arrays["presence_C"].astype(np.float64),
                arrays["mix_UU"].astype(np.float64),
            ),
            **{k: np.asarray(arrays[k], dtype=np.float64) for k in _ARRAYS},
            line_ms=line_ms,
            floor_ms=floor_ms,
            unit=unit,
            factor=factor,
            domain=ApplicabilityDomain.from_arrays(arrays),
        )

    def _line_ms(self, features_NC: Floats) -> Floats:
        line_ms = self.wiring.sums(features_NC) @ self.weights_O + self.line_ms
        return np.asarray(np.maximum(line_ms, self.floor_ms))

    @property
    def _members(self) -> Any:
        return zip(self.first_EIH, self.later_ELHH, self.bias_ELH, self.outer_EH, self.offset_E, strict=True)


_WIRING = ("place_C", "operation_C", "presence_C", "mix_UU")
_ARRAYS = (
    *("weights_O", "centre_O", "inverse_O", "first_EIH", "later_ELHH"),
    *("bias_ELH", "outer_EH", "offset_E"),
)


def _columns(space: SearchSpace, genes_NG: Genes) -> Floats:
    encoding = space.graph_encoding
    return space.features(genes_NG) if encoding is None else encoding.columns(genes_NG)


def _usual(wiring: Wiring, x_NC: Floats) -> tuple[Floats, Floats]:
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
    there_UN = wiring.present(x_NC)
    nodes_UNI = np.zeros((len(wiring.mix_UU), len(x_NC), len(centre_O) + 1))
    nodes_UNI[wiring.place_C, :, wiring.operation_C] = x_NC.T
    nodes_UNI[:-1, :, :-1] -= there_UN[:-1, :, None] * centre_O
    nodes_UNI[:, :, :-1] *= inverse_O
    nodes_UNI[-1, :, -1] = 1.0
    return nodes_UNI, there_UN


def _states(
    mix_UU: Floats, nodes_UNI: Floats, there_UN: Floats, first_IH: Floats, later_LHH: Floats, bias_LH: Floats
) -> list[Floats]:
    """Of all nodes after each round; a node that is not there stays 0."""
    states: list[Floats] = []
    for layer in range(len(bias_LH)):
        held = nodes_UNI @ first_IH if layer == 0 else (states[-1] * there_UN[:, :, None]) @ later_LHH[layer - 1]
        states.append(np.tanh(_mixed(mix_UU, held) + bias_LH[layer]))
    return states


def _mixed(mix_UU: Floats, held_UNH: Floats) -> Floats:
    """One product for all networks, which is many times faster than one for each."""
    return np.asarray((mix_UU @ held_UNH.reshape(len(mix_UU), -1)).reshape(held_UNH.shape))


class _Back:
    """Derivatives of the sum over N of ``slope . last state``, from the last round to the first."""

    def __init__(
        self,
        mix_UU: Floats,
        nodes_UNI: Floats,
        there_UN: Floats,
        states: list[Floats],
        first_IH: Floats,
        later_LHH: Floats,
        slope_UNH: Floats,
        *,
        inputs: bool = False,
    ) -> None:
        units = later_LHH.shape[-1]
        self.by_later_LHH, self.by_bias_LH = np.empty_like(later_LHH), np.empty((len(states), units))
        self.by_there_UN = np.zeros_like(there_UN)
        for layer in reversed(range(len(states))):
            bent_UNH = slope_UNH * (1.0 - states[layer] ** 2)
            self.by_bias_LH[layer] = bent_UNH.sum((0, 1))
            held_UNH = _mixed(mix_UU.T, bent_UNH)
            if layer == 0:
                break
            before = states[layer - 1] * there_UN[:, :, None]
            self.by_later_LHH[layer - 1] = before.reshape(-1, units).T @ held_UNH.reshape(-1, units)
            down_UNH = held_UNH @ later_LHH[layer - 1].T
            if inputs:
                self.by_there_UN += (down_UNH * states[layer - 1]).sum(-1)
            slope_UNH = down_UNH * there_UN[:, :, None]
        self.by_first_IH = nodes_UNI.reshape(-1, nodes_UNI.shape[-1]).T @ held_UNH.reshape(-1, units)
        self.by_nodes_UNI = held_UNH @ first_IH.T if inputs else np.empty((0, 0, 1))


@dataclass(frozen=True)
class _Shapes:
    """The weights of a member as one vector, as the optimiser wants them."""

    inputs: int

    @property
    def parts(self) -> tuple[tuple[int, ...], ...]:
        return ((self.inputs, _UNITS), (_LAYERS - 1, _UNITS, _UNITS), (_LAYERS, _UNITS), (_UNITS,), ())

    def unpack(self, flat: Floats) -> list[Floats]:
        ends = np.cumsum([int(np.prod(shape)) for shape in self.parts])
        return [np.reshape(part, shape) for part, shape in zip(np.split(flat, ends[:-1]), self.parts, strict=True)]

    def drawn(self, rng: np.random.Generator) -> Floats:
        """Weights of unit gain, no bias."""
        first, later, bias, outer, _ = self.parts
        return np.concatenate(
            [
                rng.normal(scale=1.0, size=first).ravel(),
                rng.normal(scale=_UNITS**-0.5, size=later).ravel(),
                np.zeros(int(np.prod(bias))),
                rng.normal(scale=_UNITS**-0.5, size=outer),
                np.zeros(1),
            ]
        )


def _trained(
    shapes: _Shapes,
    mix_UU: Floats,
    nodes_UNI: Floats,
    there_UN: Floats,
    target_N: Floats,
    weight_N: Floats,
    seed: tuple[int, int],
) -> Floats:
    """Weights that come near to the target, penalised by their squares, after a limited number of steps."""
    n = len(target_N)
    penalised = np.ones(len(shapes.drawn(np.random.default_rng(0))))
    penalised[-1] = 0.0

    def loss(flat: Floats) -> tuple[float, Floats]:
        first_IH, later_LHH, bias_LH, outer_H, offset = shapes.unpack(flat)
        states = _states(mix_UU, nodes_UNI, there_UN, first_IH, later_LHH, bias_LH)
        last_NH = states[-1][-1]
        error_N = last_NH @ outer_H + offset - target_N
        slope_UNH = np.zeros_like(states[-1])
        pull_N = weight_N * error_N
        slope_UNH[-1] = pull_N[:, None] * outer_H
        back = _Back(mix_UU, nodes_UNI, there_UN, states, first_IH, later_LHH, slope_UNH)
        parts = (back.by_first_IH, back.by_later_LHH, back.by_bias_LH, last_NH.T @ pull_N, pull_N.sum(keepdims=True))
        slope = np.concatenate([part.ravel() for part in parts]) + _PENALTY * penalised * flat
        value = 0.5 * float(pull_N @ error_N) + 0.5 * _PENALTY * float(penalised @ flat**2)
        return value / n, slope / n

    start = shapes.drawn(np.random.default_rng(seed))
    return np.asarray(minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": _STEPS}).x)
