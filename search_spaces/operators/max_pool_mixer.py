"""Max pooling in place of a 3x3 convolution and the block around it: parameter-free layers (PfLayer)."""

from __future__ import annotations

from dataclasses import dataclass

from nas.core.composed_layer import ComposedLayer, Operators, V
from nas.core.layers import Conv2d, MapShape
from nas.core.network import NetworkNode
from search_spaces.inverted_residual import divisible


@dataclass(frozen=True)
class MaxPoolMixer(ComposedLayer):
    """The largest of 3x3 pixels, of each channel by itself. It has no parameters."""

    op = "max_pool"
    detail = "3x3"

    @property
    def window(self) -> int:
        """The window."""
        return 3

    def compute(self, ops: Operators[V], *inputs: V) -> V:
        """Same shape."""
        return ops.max_pool(inputs[0], 3, 1)


def block(name: str, source: str, shape: MapShape, expand: float) -> list[NetworkNode]:
    """1x1 convolution to ``expand`` times the channels, max pooling without an activation after it, 1x1 convolution
    back, the sum with the input."""
    inner = divisible(shape[0] * expand)
    first = Conv2d(f"{name}.expand", (source,), shape, inner, 1, activation="swish")
    mixed = MaxPoolMixer(f"{name}.pool", (first.name,), first.out_shape)
    return [first, mixed, Conv2d(f"{name}.project", (mixed.name,), first.out_shape, shape[0], 1, residual=source)]
