"""Large-small convolution (LSConv) and the block around it: LSNet (Wang et al., CVPR 2025, section 3.2).

A wide view decides by which weights each pixel sums up its neighbours. Eight channels share a set of weights: here
those beside each other, so that narrow networks share as wide ones do; in the authors' code every C/8-th, which is the
same network with its channels in another order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from nas.core.composed_layer import ComposedLayer, Operators, V
from nas.core.layers import Conv2d, MapShape
from nas.core.network import NetworkNode
from search_spaces.operators.feed_forward import feed_forward

EPS = 1e-5
SHARED = 8  # channels of one set of weights
_TAPS = 9


@dataclass(frozen=True)
class SmallAggregation(ComposedLayer):
    """The 3x3 neighbours of each pixel, weighted by what a 1x1 convolution with bias and a group norm make of the
    second input, half as many channels; then batch norm, and the sum with the first input."""

    op = "aggregation"
    detail = "3x3 by dynamic weights"

    @property
    def groups(self) -> int:
        """Sets of weights of a pixel."""
        return self.in_shape[0] // SHARED

    @property
    def input_shapes(self) -> tuple[MapShape, ...]:
        """The map, and the map that decides."""
        channels, height, width = self.in_shape
        return self.in_shape, (channels // 2, height, width)

    @cached_property
    def params(self) -> int:
        """The convolution with bias, scale and shift of the group norm and of the batch norm."""
        outputs = _TAPS * self.groups
        return outputs * (self.in_shape[0] // 2 + 1) + 2 * outputs + 2 * self.in_shape[0]

    @cached_property
    def macs(self) -> int:
        """Of the convolution, and of weights and neighbours."""
        channels, height, width = self.in_shape
        return (_TAPS * self.groups * (channels // 2) + _TAPS * channels) * height * width

    @property
    def window(self) -> int:
        """The neighbourhood."""
        return 3

    def compute(self, ops: Operators[V], *inputs: V) -> V:
        """The shape of the first input."""
        x, deciding = inputs
        channels, height, width = self.in_shape
        weights = ops.reshape(self._weights(ops, deciding), self.groups, 1, _TAPS, height * width)
        neighbours = ops.reshape(self._neighbours(ops, x), _TAPS, self.groups, SHARED, height * width)
        weighted = ops.multiply(neighbours, ops.transpose(weights, 2, 0, 1, 3))
        total = ops.reshape(ops.total(weighted), channels, height, width)
        return ops.add(ops.batch_norm(total, "norm"), x)

    def _weights(self, ops: Operators[V], deciding: V) -> V:
        """Group norm (Wu and He, ECCV 2018) of a 1x1 convolution, with a group for each set of weights."""
        (channels, height, width), outputs = self.in_shape, _TAPS * self.groups
        filters, bias = ops.weight("filters", outputs, channels // 2, 1, 1), ops.bias("bias", outputs)
        grouped = ops.reshape(ops.convolve(deciding, filters, bias), self.groups, _TAPS * height * width)
        centred = ops.subtract(grouped, ops.mean(grouped))
        deviation = ops.sqrt(ops.add(ops.mean(ops.multiply(centred, centred)), EPS))
        normalised = ops.reshape(ops.divide(centred, deviation), outputs, height, width)
        return ops.shift(ops.scale(normalised, "gamma"), "beta")

    def _neighbours(self, ops: Operators[V], x: V) -> V:
        """The map once for each place of the window."""
        _, height, width = self.in_shape
        padded = ops.pad(x, 1)
        rows = [ops.crop(padded, 1, top, top + height) for top in range(3)]
        return ops.concat([ops.crop(row, 2, left, left + width) for row in rows for left in range(3)])


def block(name: str, source: str, shape: MapShape, expand: float) -> list[NetworkNode]:
    """The wide view, the aggregation, and 1x1 convolutions to ``expand`` times the channels and back, with sums."""
    half = shape[0] // 2
    narrow = Conv2d(f"{name}.narrow", (source,), shape, half, 1, activation="relu")
    view = Conv2d(f"{name}.view", (narrow.name,), narrow.out_shape, half, 7, groups=half)
    mixed = Conv2d(f"{name}.mix", (view.name,), narrow.out_shape, half, 1, activation="relu")
    small = SmallAggregation(f"{name}.aggregation", (source, mixed.name), shape)
    return [narrow, view, mixed, small, *feed_forward(name, small.name, shape, expand, small.name, "relu")]
