"""Partial convolution (PConv) and the block around it: FasterNet (Chen et al., CVPR 2023, section 3.2 and figure 4)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from nas.core.composed_layer import ComposedLayer, Operators, V
from nas.core.layers import MapShape
from nas.core.network import NetworkNode
from search_spaces.operators.feed_forward import feed_forward


@dataclass(frozen=True)
class PartialConvolution(ComposedLayer):
    """A 3x3 convolution of the first quarter of the channels; the others pass as they are."""

    op = "partial"

    @property
    def convolved(self) -> int:
        """Channels that are convolved."""
        return self.in_shape[0] // 4

    @cached_property
    def detail(self) -> str:
        """Text such as ``3x3 on 16 channels``."""
        return f"3x3 on {self.convolved} channels"

    @cached_property
    def params(self) -> int:
        """Filters."""
        return 9 * self.convolved**2

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.params * self.in_shape[1] * self.in_shape[2]

    @property
    def window(self) -> int:
        """The kernel."""
        return 3

    def compute(self, ops: Operators[V], *inputs: V) -> V:
        """Same shape."""
        (x,), c = inputs, self.convolved
        convolved = ops.convolve(ops.crop(x, 0, 0, c), ops.weight("weight", c, c, 3, 3))
        return ops.concat([convolved, ops.crop(x, 0, c, self.in_shape[0])])


def block(name: str, source: str, shape: MapShape, expand: float) -> list[NetworkNode]:
    """Partial convolution, 1x1 convolutions to ``expand`` times the channels and back, the sum with the input."""
    mixed = PartialConvolution(f"{name}.partial", (source,), shape)
    return [mixed, *feed_forward(name, mixed.name, shape, expand, source, "relu")]
