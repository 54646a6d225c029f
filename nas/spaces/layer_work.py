"""The work of layers by kind of operation: features from which latency is learned.

Latency is nearly additive over layers, so that sums by kind suit linear predictors. Depthwise convolutions are apart by
kernel. Stored predictors were fitted to these numbers in this order: neither may change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from nas.core.arch import Floats
from nas.core.layers import Layer

WORK = ("layers", "macs", "moved", "params", "blocks", "outputs")  # as ``layer_work`` has them
_VECTOR = 16  # channels that a CPU's vector unit holds; narrower layers cost as much


def layer_kind(layer: Layer) -> str:
    """The operation, such as ``pointwise`` or ``depthwise5``."""
    return f"{layer.op}{layer.window}" if layer.op == "depthwise" else layer.op


def layer_work(layer: Layer) -> tuple[float, ...]:
    """Number, MACs (1e6), elements moved (1e3), parameters (1e3), MACs and outputs in whole vector blocks."""
    c_in, _, _ = layer.in_shape
    c_out, height, width = layer.out_shape
    moved = math.prod(layer.in_shape) + math.prod(layer.out_shape)
    blocks_in, blocks_out = math.ceil(c_in / _VECTOR), math.ceil(c_out / _VECTOR)
    pixels = height * width
    return (
        1.0,
        layer.macs / 1e6,
        moved / 1e3,
        layer.params / 1e3,
        blocks_in * blocks_out * pixels / 1e2,
        blocks_out * math.ceil(pixels / 6) / 1e1,
    )


def work_by_kind(layers: Iterable[Layer], kinds: Sequence[str]) -> Floats:
    """The work of layers summed by kind, shape (kinds * WORK,). Layers of other kinds, such as pools, are left out."""
    work_KW = np.zeros((len(kinds), len(WORK)))
    for layer in layers:
        kind = layer_kind(layer)
        if kind in kinds:
            work_KW[kinds.index(kind)] += layer_work(layer)
    return work_KW.reshape(-1)
