"""The two 1x1 convolutions that follow an operator which mixes pixels."""

from __future__ import annotations

from nas.core.layers import Activation, Conv2d, MapShape
from nas.core.network import NetworkNode
from search_spaces.inverted_residual import divisible


def feed_forward(
    name: str, source: str, shape: MapShape, expand: float, residual: str, activation: Activation
) -> list[NetworkNode]:
    """1x1 convolutions to ``expand`` times the channels and back, and the sum with the node ``residual``."""
    inner = divisible(shape[0] * expand)
    first = Conv2d(f"{name}.expand", (source,), shape, inner, 1, activation=activation)
    return [first, Conv2d(f"{name}.project", (first.name,), first.out_shape, shape[0], 1, residual=residual)]
