"""The blocks of convolutional networks by name, the lightest first. A new operator is a file and a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from nas.core.layers import Conv2d, MapShape
from nas.core.network import NetworkNode
from search_spaces.inverted_residual import InvertedResidual, divisible
from search_spaces.operators import (
    channel_attention,
    evonorm,
    inception_depthwise,
    large_small_convolution,
    max_pool_mixer,
    partial_convolution,
)

BlockName = Literal["pool", "inception", "mbconv", "eca", "evonorm", "partial", "ls", "fused"]
BlockNodes = Callable[[str, str, MapShape, int, int, float], list[NetworkNode]]
"""The nodes of a block from its name, source, input shape, output channels, stride and expansion."""


def mbconv(name: str, source: str, shape: MapShape, c_out: int, stride: int, expand: float) -> list[NetworkNode]:
    """An inverted residual (MobileNetV2, Sandler et al., CVPR 2018) with swish."""
    return InvertedResidual(c_out, 3, expand, stride, "swish", se=False).nodes(name, source, shape)


def fused(name: str, source: str, shape: MapShape, c_out: int, stride: int, expand: float) -> list[NetworkNode]:
    """A block whose expansion is a 3x3 convolution (FusedMBConv, EfficientNetV2, Tan and Le, ICML 2021)."""
    inner = divisible(shape[0] * expand)
    first = Conv2d(f"{name}.expand", (source,), shape, inner, 3, stride, activation="swish")
    residual = source if stride == 1 and shape[0] == c_out else None
    return [first, Conv2d(f"{name}.project", (first.name,), first.out_shape, c_out, 1, residual=residual)]


MIXERS: dict[BlockName, Callable[[str, str, MapShape, float], list[NetworkNode]]] = {
    "pool": max_pool_mixer.block,
    "inception": inception_depthwise.block,
    "partial": partial_convolution.block,
    "ls": large_small_convolution.block,
}
"""Blocks that keep the shape of their input."""

CONVOLUTIONS: dict[BlockName, BlockNodes] = {
    "mbconv": mbconv,
    "eca": channel_attention.block,
    "evonorm": evonorm.block,
    "fused": fused,
}
"""Blocks of any stride and width."""
