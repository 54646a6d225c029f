"""EvoNorm-S0, a normalisation and an activation in one, and an inverted residual with it (Liu et al., NeurIPS 2020,
table 2). It needs no statistics of a batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from nas.core.composed_layer import ComposedLayer, Operators, V
from nas.core.layers import Conv2d, MapShape
from nas.core.network import NetworkNode
from search_spaces.inverted_residual import InvertedResidual

EPS = 1e-5
GROUP = 8  # channels of a group, which stay the same where a network has fewer; the authors have 32 groups


@dataclass(frozen=True)
class EvoNorm(ComposedLayer):
    """x sigmoid(v x) / sqrt(variance of its group of channels + eps) gamma + beta, with v, gamma and beta learned for
    each channel. Channels are a multiple of 8."""

    op = "evonorm"
    detail = "EvoNorm-S0"

    @cached_property
    def params(self) -> int:
        """v, gamma and beta."""
        return 3 * self.in_shape[0]

    def compute(self, ops: Operators[V], *inputs: V) -> V:
        """Same shape."""
        (x,), (channels, height, width) = inputs, self.in_shape
        groups = (channels // GROUP, GROUP * height * width)
        activated = ops.multiply(x, ops.sigmoid(ops.scale(x, "v")))
        grouped = ops.reshape(x, *groups)
        centred = ops.subtract(grouped, ops.mean(grouped))
        deviation = ops.sqrt(ops.add(ops.mean(ops.multiply(centred, centred)), EPS))
        normalised = ops.reshape(ops.divide(ops.reshape(activated, *groups), deviation), channels, height, width)
        return ops.shift(ops.scale(normalised, "gamma"), "beta")


def block(name: str, source: str, shape: MapShape, c_out: int, stride: int, expand: float) -> list[NetworkNode]:
    """An inverted residual with EvoNorm for batch norm and activation after its first two convolutions."""
    nodes: list[NetworkNode] = []
    for node in InvertedResidual(c_out, 3, expand, stride, "swish", se=False).nodes(name, source, shape):
        assert isinstance(node, Conv2d)
        if nodes:
            node = replace(node, inputs=(nodes[-1].name,))
        if node.activation is None:
            nodes.append(node)
            continue
        convolution = replace(node, norm=None, activation=None)
        nodes += [convolution, EvoNorm(f"{node.name}_norm", (node.name,), node.out_shape)]
    return nodes
