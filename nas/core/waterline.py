"""Waterline analysis: which layers of a network a machine computes as fast as it can, and which wait for memory.

A layer does ``flops`` operations and moves ``moved_bytes`` between memory and processor; their ratio is its operational
intensity. A machine's own ratio of peak operations to bandwidth is the water level: layers above it are bound by
computing, those below by memory, and what is missing below is lost time. Roofline: Williams et al., CACM 2009; for
sequences of layers and their fusion: "On the efficiency of convolutional neural networks" (Lavin, 2024).

The times are lower bounds by two figures of a machine, not measurements: nothing else is taken to cost time, and no
layer to find its input in a cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Literal

import numpy as np

from nas.core.arch import Floats
from nas.core.errors import InvalidInput
from nas.core.network import LayerSummary

FLOPS_PER_MAC = 2.0
FLOAT_BYTES = 4
LayerBound = Literal["compute", "memory"]


@dataclass(frozen=True)
class MachineRates:
    """Peak operations and bytes per second."""

    flops_per_s: float
    bytes_per_s: float

    @property
    def level(self) -> float:
        """Operations that the machine does in the time in which it moves a byte."""
        return self.flops_per_s / self.bytes_per_s


@dataclass(frozen=True)
class LayerWater:
    """A layer, or several fused into one: what it does and moves, and the least time in ms."""

    name: str
    op: str
    flops: float
    moved_bytes: float
    ms: float
    bound: LayerBound

    @property
    def intensity(self) -> float:
        """Operations for each byte moved."""
        return self.flops / self.moved_bytes


@dataclass(frozen=True)
class BlockWater:
    """A block of layers: the least time one by one, and as a single kernel that moves its input, its output and its
    weights alone."""

    name: str
    ms: float
    fused_ms: float

    @property
    def saved_ms(self) -> float:
        """What fusing saves at best."""
        return self.ms - self.fused_ms


@dataclass(frozen=True)
class Waterline:
    """A network on a machine. ``efficiency``: the share of the time in which the machine computes at its peak."""

    rates: MachineRates
    layers: tuple[LayerWater, ...]
    blocks: tuple[BlockWater, ...]

    @property
    def ms(self) -> float:
        """The least time of all layers one after another."""
        return sum(layer.ms for layer in self.layers)

    @property
    def efficiency(self) -> float:
        """0 to 1."""
        return 1e3 * sum(layer.flops for layer in self.layers) / self.rates.flops_per_s / self.ms

    @property
    def memory_share(self) -> float:
        """The share of the time that layers take that are bound by memory, 0 to 1."""
        return sum(layer.ms for layer in self.layers if layer.bound == "memory") / self.ms


def waterline(layers: Sequence[LayerSummary], rates: MachineRates, bytes_each: int = FLOAT_BYTES) -> Waterline:
    """The waterline of a network whose numbers have ``bytes_each`` bytes. Raises InvalidInput without layers and for
    rates that are not positive."""
    if not layers:
        raise InvalidInput("waterline: expected a network with layers, got none")
    if not (rates.flops_per_s > 0 and rates.bytes_per_s > 0):
        raise InvalidInput(f"waterline: expected positive rates, got {rates.flops_per_s} and {rates.bytes_per_s}")
    flows = [layer for layer in layers if layer.op != "skip"]  # which no runtime executes
    grouped = groupby(flows, key=lambda layer: block_of(layer.name))
    blocks = [_block(name, list(members), rates, bytes_each) for name, members in grouped]
    return Waterline(rates, tuple(_layer(layer, rates, bytes_each) for layer in flows), tuple(blocks))


def block_of(name: str) -> str:
    """The name of the block of a layer: all before its last dot."""
    return name.rpartition(".")[0] or name


def moved_bytes(layer: LayerSummary, bytes_each: int = FLOAT_BYTES) -> float:
    """Bytes of the input, the output and the weights of a layer."""
    return float(bytes_each * (prod(layer.in_shape) + prod(layer.out_shape) + layer.params))


def _layer(layer: LayerSummary, rates: MachineRates, bytes_each: int) -> LayerWater:
    return _water(layer.name, layer.op, FLOPS_PER_MAC * layer.macs, moved_bytes(layer, bytes_each), rates)


def _water(name: str, op: str, flops: float, moved: float, rates: MachineRates) -> LayerWater:
    compute_ms, memory_ms = 1e3 * flops / rates.flops_per_s, 1e3 * moved / rates.bytes_per_s
    return LayerWater(
        name, op, flops, moved, max(compute_ms, memory_ms), "memory" if memory_ms > compute_ms else "compute"
    )


def _block(name: str, members: Sequence[LayerSummary], rates: MachineRates, bytes_each: int) -> BlockWater:
    single_ms = sum(_layer(layer, rates, bytes_each).ms for layer in members)
    numbers = prod(members[0].in_shape) + prod(members[-1].out_shape) + sum(layer.params for layer in members)
    flops = FLOPS_PER_MAC * sum(layer.macs for layer in members)
    return BlockWater(name, single_ms, _water(name, "fused", flops, float(bytes_each * numbers), rates).ms)


_LEVELS = np.geomspace(0.1, 1000.0, 81)  # operations per byte


@dataclass(frozen=True)
class FittedRates:
    """Rates at which a roofline fits measured networks best, and its mean absolute error in % of their latency."""

    rates: MachineRates
    networks: int
    error_percent: float


def fit_rates(networks: Sequence[Sequence[LayerSummary]], measured_ms_N: Floats) -> FittedRates:
    """The roofline nearest to measured latencies: for each water level, the bandwidth follows by least squares of
    relative errors. Raises InvalidInput for fewer than 8 networks: two figures are fitted."""
    if len(networks) < 8:
        raise InvalidInput(f"waterline: expected at least 8 measured networks to fit a machine to, got {len(networks)}")
    flops, moved = (
        [np.array([value(layer) for layer in layers if layer.op != "skip"]) for layers in networks]
        for value in (lambda layer: FLOPS_PER_MAC * layer.macs, moved_bytes)
    )
    best: tuple[float, MachineRates] | None = None
    for level in _LEVELS.tolist():
        bytes_N = np.array([np.maximum(f / level, m).sum() for f, m in zip(flops, moved, strict=True)])
        ratio_N = bytes_N / measured_ms_N
        ms_per_byte = float(ratio_N.sum() / (ratio_N**2).sum())
        error = float(np.abs(ratio_N * ms_per_byte - 1.0).mean())
        if best is None or error < best[0]:
            bytes_per_s = 1e3 / ms_per_byte
            best = error, MachineRates(level * bytes_per_s, bytes_per_s)
    assert best is not None
    return FittedRates(best[1], len(networks), 100.0 * best[0])
