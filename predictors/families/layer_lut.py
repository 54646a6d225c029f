"""Latency composed of the latencies of single layers, corrected by networks that were measured whole.

A layer's time is looked up; the sums by kind of operation are the features of a Bayesian linear model, which learns how
much of each kind's time remains in a whole network (fused, cached) and what a network takes beside its layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Arch, Floats, Genes, as_archs, choice_counts, sample
from nas.core.device import Latency
from nas.core.errors import InvalidInput, UnknownName
from nas.core.layers import Layer
from nas.core.ports import SearchSpace
from predictors.families.bayesian_linear import BayesianLinear

FREE = ("skip", "reshape")  # operations that no runtime executes
MOST_LAYERS = 2500  # distinct ones of a space, beyond which measuring each would take hours
_STILL = 1024  # networks in a row that bring no new layer
_GROUP = 256
_MOST_SUMS = 50_000  # networks whose sums are kept


def layer_key(layer: Layer) -> str:
    """Layers of one key take the same time: operation, shapes, detail and size."""
    shapes = ["x".join(map(str, s)) for s in (layer.in_shape, layer.out_shape)]
    return "|".join([layer.op, *shapes, layer.detail, str(layer.params), str(layer.macs)])


def distinct_layers(space: SearchSpace, archs: Sequence[Arch]) -> dict[str, Layer]:
    """The layers to measure for these networks, by key; equal networks are described once."""
    return {layer_key(layer): layer for arch in dict.fromkeys(archs) for layer in space.layers(arch)}


def every_layer(space: SearchSpace) -> dict[str, Layer]:
    """All layers that networks of the space have, by key in order: those of random networks, until a thousand more
    bring none that is new. Raises InvalidInput for a space of too many."""
    rng, counts = np.random.default_rng(0), choice_counts(space.decisions)
    genes_NG = np.stack([np.zeros_like(counts), counts - 1])
    layers: dict[str, Layer] = {}
    described: set[Arch] = set()
    still = 0
    while still < _STILL:
        archs = [arch for arch in as_archs(space.id, space.canonical(genes_NG)) if arch not in described]
        described.update(archs)
        new = distinct_layers(space, archs)
        still = still + len(genes_NG) if new.keys() <= layers.keys() else 0
        layers |= new
        if len(layers) > MOST_LAYERS:
            raise InvalidInput(
                f"expected a space of at most {MOST_LAYERS} different layers to measure one by one, "
                f"got more: {space.id}. Another family of predictors measures whole networks only"
            )
        genes_NG = sample(space.decisions, rng, _GROUP)
    return dict(sorted(layers.items()))


def to_measure(layers: Mapping[str, Layer]) -> list[Layer | None]:
    """What ``table_of`` needs the times of, in order; None stands for a model that does nothing."""
    return [None, *(layer for layer in layers.values() if layer.op not in FREE)]


def table_of(layers: Mapping[str, Layer], measured_ms: Sequence[float]) -> LayerLut:
    """The table from the times of ``to_measure``. Each is short of what it takes to run any model, which a network
    takes once."""
    empty_ms, *others_ms = measured_ms
    own_ms = iter(others_ms)
    net_ms = {key: 0.0 if layer.op in FREE else max(next(own_ms) - empty_ms, 0.0) for key, layer in layers.items()}
    return LayerLut.of(net_ms, empty_ms)


@dataclass(frozen=True)
class LayerLut:
    """Milliseconds of single layers by key, and the kinds of operation, in order; ``empty_ms`` is what running any
    model takes beside them. Describing the layers of a network takes milliseconds, and searches ask for the same
    networks again and again: their ``_sums`` are kept."""

    latency_ms: Mapping[str, float]
    kinds: tuple[str, ...]
    empty_ms: float = 0.0
    _sums: dict[Arch, Floats] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, latency_ms: Mapping[str, float], empty_ms: float = 0.0) -> LayerLut:
        """Raises InvalidInput for an empty table, and for latencies that are negative or no numbers."""
        bad = sorted(k for k, ms in latency_ms.items() if not (np.isfinite(ms) and ms >= 0))
        if bad or not latency_ms:
            raise InvalidInput(f"expected layers and their milliseconds, got {'none' if not bad else bad[0]}")
        return cls(dict(latency_ms), tuple(sorted({key.partition("|")[0] for key in latency_ms})), empty_ms)

    def sum_ms(self, space: SearchSpace, genes_NG: Genes) -> Floats:
        """The plain sum over layers of N networks in ms, shape (N,), which no network has corrected."""
        return np.asarray(self.empty_ms + self.by_kind(space, as_archs(space.id, genes_NG)).sum(1))

    def by_kind(self, space: SearchSpace, archs: Sequence[Arch]) -> Floats:
        """The times of N networks' layers, summed by kind of operation, in ms, shape (N, kinds).

        Raises UnknownName for a layer that is not in the table: it is never taken to cost nothing.
        """
        if len(self._sums) > _MOST_SUMS:
            self._sums.clear()
        for arch in dict.fromkeys(archs):
            if arch not in self._sums:
                self._sums[arch] = self._sum_by_kind(space.layers(arch))
        return np.stack([self._sums[arch] for arch in archs]) if archs else np.zeros((0, len(self.kinds)))

    def _sum_by_kind(self, layers: Sequence[Layer]) -> Floats:
        sums_K, column = np.zeros(len(self.kinds)), {kind: k for k, kind in enumerate(self.kinds)}
        for layer in layers:
            key = layer_key(layer)
            if key not in self.latency_ms:
                raise UnknownName("layer in the table of latencies", key, self.latency_ms)
            sums_K[column[layer.op]] += self.latency_ms[key]
        return sums_K

    def fit_networks(
        self, space: SearchSpace, genes_NG: Genes, latency_ms_N: Floats, weight_N: Floats | None = None
    ) -> LayerLutModel:
        """The table corrected by networks, 20 or more, that were measured whole."""
        return LayerLutModel.fit(self.by_kind(space, as_archs(space.id, genes_NG)), latency_ms_N, self, weight_N)


@dataclass(frozen=True)
class LayerLutModel:
    """``line`` predicts from the times of layers in ``table``, summed by kind of operation."""

    family: ClassVar[str] = "layer_lut"
    line: BayesianLinear
    table: LayerLut | None = None

    @classmethod
    def fit(
        cls,
        features_NK: Floats,
        latency_ms_N: Floats,
        table: LayerLut | None = None,
        weight_N: Floats | None = None,
    ) -> LayerLutModel:
        """From sums by kind, ``table.by_kind`` if they come from a table. Raises InvalidInput as ``BayesianLinear``."""
        return cls(BayesianLinear.fit(features_NK, latency_ms_N, weight_N=weight_N), table)

    def fit_networks(
        self, space: SearchSpace, genes_NG: Genes, latency_ms_N: Floats, weight_N: Floats | None = None
    ) -> LayerLutModel:
        """A refit to other networks by the same table."""
        return self._required().fit_networks(space, genes_NG, latency_ms_N, weight_N)

    def inputs(self, space: SearchSpace, genes_NG: Genes) -> Floats:
        """What ``predict`` reads of N networks, shape (N, kinds). Raises UnknownName for a layer not in the table."""
        return self._required().by_kind(space, as_archs(space.id, genes_NG))

    def predict(self, features_NK: Floats) -> Latency:
        """Latency in ms of N networks. Raises InvalidInput for sums of another table."""
        return self.line.predict(features_NK)

    def is_extrapolation(self, features_NK: Floats) -> NDArray[np.bool_] | None:
        """Which of N networks lie outside the domain of the linear model, shape (N,); None without a domain."""
        return self.line.is_extrapolation(features_NK)

    def extrapolations(self, space: SearchSpace, genes_NG: Genes) -> NDArray[np.bool_] | None:
        """``is_extrapolation`` of N networks of a space."""
        return self.is_extrapolation(self.inputs(space, genes_NG))

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as plain arrays."""
        layers = self.table.latency_ms if self.table is not None else {}
        return {
            **self.line.to_arrays(),
            "layers": np.array(list(layers), dtype=np.str_),
            "layers_ms": np.array(list(layers.values()), dtype=np.float64),
            "empty_ms": np.array(self.table.empty_ms if self.table is not None else 0.0),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> LayerLutModel:
        """Inverse of ``to_arrays``."""
        layers = dict(zip(arrays["layers"].tolist(), arrays["layers_ms"].tolist(), strict=True))
        return cls(
            BayesianLinear.from_arrays(arrays), LayerLut.of(layers, float(arrays["empty_ms"])) if layers else None
        )

    def _required(self) -> LayerLut:
        if self.table is None:
            raise InvalidInput("expected a predictor with a table of layers, got one of sums alone")
        return self.table
