"""A block of any typed layers, elastic and plain: what a new kind of block needs no module of its own for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import nn

from nas.core.composed_layer import ComposedLayer
from nas.core.layers import Conv2d, Layer
from search_spaces.layers.batch_norm import ElasticBatchNorm
from search_spaces.layers.composed import ElasticComposed
from search_spaces.layers.convolution import ElasticConv
from search_spaces.layers.depthwise import ElasticDepthwise
from search_spaces.layers.inverted_residual import activated, activation_module

Layers = Mapping[str, Layer]
Tensor = torch.Tensor


class ElasticConvLayer(nn.Module):
    """A convolution, its batch norm and its activation, as far as the ``largest`` has them."""

    def __init__(self, largest: Conv2d) -> None:
        super().__init__()
        c_in, c_out = largest.in_shape[0], largest.out_channels
        self.conv: ElasticConv | ElasticDepthwise = (
            ElasticDepthwise(c_in, (largest.kernel,), largest.stride)
            if largest.op == "depthwise"
            else ElasticConv(c_in, c_out, largest.kernel, largest.stride)
        )
        self.norm = None if largest.norm is None else ElasticBatchNorm(c_out)

    def forward(self, layer: Conv2d, x_BCHW: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, out_channels, H/stride, W/stride)."""
        sized = layer.kernel if isinstance(self.conv, ElasticDepthwise) else layer.out_channels
        y: Tensor = self.conv(x_BCHW, sized)
        y = y if self.norm is None else self.norm(y)
        return y if layer.activation is None else activated(y, layer.activation)

    def cut(self, layer: Conv2d) -> nn.Module:
        """A copy as plain modules."""
        c_in, c_out = layer.in_shape[0], layer.out_channels
        depthwise = isinstance(self.conv, ElasticDepthwise)
        modules: list[nn.Module] = [self.conv.cut(c_in, layer.kernel if depthwise else c_out)]
        if self.norm is not None:
            modules.append(self.norm.cut(c_out))
        if layer.activation is not None:
            modules.append(activation_module(layer.activation))
        return nn.Sequential(*modules)


class ElasticLayerBlock(nn.Module):
    """The layers of a block by the last part of their names; ``largest``: those of the largest network."""

    def __init__(self, largest: Layers) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: _elastic(layer) for name, layer in largest.items()})

    def forward(self, x_BCHW: Tensor, layers: Layers) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H/stride, W/stride)."""
        return computed(layers, {name: partial(self.parts[name], layer) for name, layer in layers.items()}, x_BCHW)

    def cut(self, layers: Layers) -> nn.Module:
        """A copy as a plain block."""
        parts: dict[str, nn.Module] = {}
        for name, layer in layers.items():
            part = self.parts[name]
            assert isinstance(part, ElasticConvLayer | ElasticComposed)
            parts[name] = part.cut(layer)  # type: ignore[arg-type]  # a part is of the kind of its layer
        return PlainLayerBlock(layers, parts)


class PlainLayerBlock(nn.Module):
    """The plain modules of a block's layers."""

    def __init__(self, layers: Layers, parts: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.layers = dict(layers)
        self.parts = nn.ModuleDict(parts)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H/stride, W/stride)."""
        return computed(self.layers, dict(self.parts.items()), x_BCHW)


def computed(layers: Layers, parts: Mapping[str, Callable[..., Tensor]], x_BCHW: Tensor) -> Tensor:
    """The output of a block's last layer. A layer reads those of the block by their names, and the block's input by any
    other name."""
    outputs, y = dict[str, Tensor](), x_BCHW
    for name, layer in layers.items():
        y = parts[name](*(outputs.get(source, x_BCHW) for source in layer.inputs))
        if isinstance(layer, Conv2d) and layer.residual is not None:
            y = outputs.get(layer.residual, x_BCHW) + y
        outputs[layer.name] = y
    return y


def _elastic(layer: Layer) -> nn.Module:
    match layer:
        case Conv2d():
            return ElasticConvLayer(layer)
        case ComposedLayer():
            return ElasticComposed(layer)
        case _:
            raise AssertionError(f"no block has a layer of kind {layer.op}")
