"""Efficient channel attention and an inverted residual with it: ECA-Net (Wang et al., CVPR 2020, section 3.2)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

from nas.core.composed_layer import ComposedLayer, Operators, V
from nas.core.layers import Conv2d, MapShape
from nas.core.network import NetworkNode
from search_spaces.inverted_residual import InvertedResidual


def kernel_of(channels: int) -> int:
    """How many channels decide on one of them: the odd number at log2(channels) / 2 + 1 / 2 (ECA-Net, equation 12)."""
    nearest = int(abs(math.log2(channels) / 2 + 0.5))
    return nearest + (nearest + 1) % 2


@dataclass(frozen=True)
class ChannelAttention(ComposedLayer):
    """Each channel times 0 to 1, by the means of the channels around it."""

    op = "eca"

    @cached_property
    def kernel(self) -> int:
        """Channels that decide on one."""
        return kernel_of(self.in_shape[0])

    @cached_property
    def detail(self) -> str:
        """Text such as ``channel attention 3``."""
        return f"channel attention {self.kernel}"

    @property
    def params(self) -> int:
        """The kernel."""
        return self.kernel

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.kernel * self.in_shape[0]

    def compute(self, ops: Operators[V], *inputs: V) -> V:
        """Same shape."""
        (x,), channels = inputs, self.in_shape[0]
        means = ops.reshape(ops.global_average(x), 1, channels)
        weight = ops.weight("kernel", 1, 1, self.kernel, centred=True)
        share = ops.sigmoid(ops.convolve(means, weight))
        return ops.multiply(x, ops.reshape(share, channels, 1, 1))


def block(name: str, source: str, shape: MapShape, c_out: int, stride: int, expand: float) -> list[NetworkNode]:
    """An inverted residual with channel attention after its depthwise convolution."""
    *before, project = InvertedResidual(c_out, 3, expand, stride, "swish", se=False).nodes(name, source, shape)
    assert isinstance(project, Conv2d)
    attention = ChannelAttention(f"{name}.eca", project.inputs, project.in_shape)
    return [*before, attention, replace(project, inputs=(attention.name,))]
