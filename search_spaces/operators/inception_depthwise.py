"""Depthwise convolution in branches and the block around it: InceptionNeXt (Yu et al., CVPR 2024, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from nas.core.composed_layer import ComposedLayer, Operators, V
from nas.core.layers import MapShape
from nas.core.network import NetworkNode
from search_spaces.operators.feed_forward import feed_forward

_SQUARE, _BAND = 3, 11
_KERNELS = ((_SQUARE, _SQUARE), (1, _BAND), (_BAND, 1))


@dataclass(frozen=True)
class InceptionDepthwise(ComposedLayer):
    """The last three eighths of the channels are convolved each by itself, with biases: an eighth by 3x3, one by 1x11
    and one by 11x1 filters; those before pass as they are."""

    op = "inception"
    detail = "depthwise 3x3, 1x11, 11x1"

    @property
    def branch(self) -> int:
        """Channels of each of the three."""
        return self.in_shape[0] // 8

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.branch * sum(h * w for h, w in _KERNELS) * self.in_shape[1] * self.in_shape[2]

    @cached_property
    def params(self) -> int:
        """Filters and biases."""
        return self.branch * sum(h * w + 1 for h, w in _KERNELS)

    @property
    def window(self) -> int:
        """The longest side of a kernel."""
        return _BAND

    def compute(self, ops: Operators[V], *inputs: V) -> V:
        """Same shape."""
        (x,), g = inputs, self.branch
        start = self.in_shape[0] - 3 * g
        parts = [ops.crop(x, 0, 0, start)]
        for height, width in _KERNELS:
            weight = ops.weight(f"filters{height}x{width}", g, 1, height, width)
            bias = ops.bias(f"bias{height}x{width}", g)
            parts.append(ops.convolve(ops.crop(x, 0, start, start + g), weight, bias, groups=g))
            start += g
        return ops.concat(parts)


def block(name: str, source: str, shape: MapShape, expand: float) -> list[NetworkNode]:
    """Inception depthwise convolution, 1x1 convolutions to ``expand`` times the channels and back, the sum with the
    input. Batch norms are behind the 1x1 convolutions, where they become part of them, and there is no layer scale."""
    mixed = InceptionDepthwise(f"{name}.inception", (source,), shape)
    return [mixed, *feed_forward(name, mixed.name, shape, expand, source, "gelu")]
