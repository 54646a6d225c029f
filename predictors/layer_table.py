"""Latency composed of the latencies of single layers, corrected by networks that were measured whole.

A layer's time is looked up; the sums by kind of operation are the features of a Bayesian linear model, which learns how
much of each kind's time remains in a whole network (fused, cached) and what a network takes beside its layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nas.core.arch import Arch, Floats
from nas.core.errors import InvalidInput, UnknownName
from nas.core.ports import Layer, SearchSpace
from predictors.bayesian_linear import BayesianLinear


def layer_key(layer: Layer) -> str:
    """Layers of one key take the same time: operation, shapes, detail and size."""
    shapes = ["x".join(map(str, s)) for s in (layer.in_shape, layer.out_shape)]
    return "|".join([layer.op, *shapes, layer.detail, str(layer.params), str(layer.macs)])


def distinct_layers(space: SearchSpace, archs: Sequence[Arch]) -> dict[str, Layer]:
    """The layers to measure for these networks, by key."""
    return {layer_key(layer): layer for arch in archs for layer in space.layers(arch)}


@dataclass(frozen=True)
class LayerTable:
    """Milliseconds of single layers by key, and the kinds of operation, in order."""

    latency_ms: Mapping[str, float]
    kinds: tuple[str, ...]

    @classmethod
    def of(cls, latency_ms: Mapping[str, float]) -> LayerTable:
        """Raises InvalidInput for an empty table, and for latencies that are negative or no numbers."""
        bad = sorted(k for k, ms in latency_ms.items() if not (np.isfinite(ms) and ms >= 0))
        if bad or not latency_ms:
            raise InvalidInput(f"expected layers and their milliseconds, got {'none' if not bad else bad[0]}")
        return cls(dict(latency_ms), tuple(sorted({key.partition("|")[0] for key in latency_ms})))

    def by_kind(self, space: SearchSpace, archs: Sequence[Arch]) -> Floats:
        """The times of N networks' layers, summed by kind of operation, in ms, shape (N, kinds).

        Raises UnknownName for a layer that is not in the table: it is never taken to cost nothing.
        """
        sums_NK = np.zeros((len(archs), len(self.kinds)))
        column = {kind: k for k, kind in enumerate(self.kinds)}
        for n, arch in enumerate(archs):
            for layer in space.layers(arch):
                key = layer_key(layer)
                if key not in self.latency_ms:
                    raise UnknownName("layer in the table of latencies", key, self.latency_ms)
                sums_NK[n, column[layer.op]] += self.latency_ms[key]
        return sums_NK


def corrected(table: LayerTable, space: SearchSpace, archs: Sequence[Arch], latency_ms_N: Floats) -> BayesianLinear:
    """A predictor over ``table.by_kind``, with a calibrated bound, from 20 networks or more, measured whole."""
    return BayesianLinear.fit(table.by_kind(space, archs), latency_ms_N)
