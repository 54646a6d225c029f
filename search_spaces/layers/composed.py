"""Torch modules of composed layers (``nas.core.composed_layer``): elastic ones, and plain ones as copies of their first
units."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from nas.core.composed_layer import ComposedLayer
from nas.spaces.composed_graph import GraphOperators, SizedValue
from search_spaces.layers.batch_norm import ElasticBatchNorm

Tensor = torch.Tensor


class TorchOperators:
    """``nas.core.composed_layer.Operators`` of tensors with a batch; each is exported as one operator."""

    def weight(self, name: str, *shape: int, centred: bool = False) -> Tensor:
        """The learned weights of a module."""
        raise NotImplementedError

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        """A batch norm of a module."""
        raise NotImplementedError

    def bias(self, name: str, channels: int) -> Tensor:
        """Learned numbers."""
        return self.weight(name, channels)

    def scale(self, x: Tensor, name: str) -> Tensor:
        """Channels times learned numbers."""
        return x * self.weight(name, x.shape[1]).view(-1, 1, 1)

    def shift(self, x: Tensor, name: str) -> Tensor:
        """Channels plus learned numbers."""
        return x + self.weight(name, x.shape[1]).view(-1, 1, 1)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> Tensor:
        """Over rows and columns, or over a line."""
        convolution = F.conv2d if weight.ndim == 4 else F.conv1d
        padding = tuple(side // 2 for side in weight.shape[2:])
        return convolution(x, weight, bias, padding=padding, groups=groups)

    def max_pool(self, x: Tensor, kernel: int, stride: int) -> Tensor:
        """Of square windows."""
        return F.max_pool2d(x, kernel, stride, kernel // 2)

    def global_average(self, x: Tensor) -> Tensor:
        """Over rows and columns."""
        return F.adaptive_avg_pool2d(x, 1)

    def crop(self, x: Tensor, axis: int, start: int, stop: int) -> Tensor:
        """A part of one axis."""
        part: Tensor = x[(slice(None),) * (axis + 1) + (slice(start, stop),)]
        return part

    def pad(self, x: Tensor, border: int) -> Tensor:
        """With zeros."""
        return F.pad(x, (border,) * 4)

    def concat(self, parts: Sequence[Tensor]) -> Tensor:
        """Along the first axis."""
        return torch.cat(list(parts), dim=1)

    def reshape(self, x: Tensor, *shape: int) -> Tensor:
        """The same numbers in another shape."""
        return x.reshape(-1, *shape)

    def transpose(self, x: Tensor, *order: int) -> Tensor:
        """The axes in another order."""
        return x.permute(0, *(axis + 1 for axis in order))

    def mean(self, x: Tensor) -> Tensor:
        """Over the last axis."""
        return x.mean(-1, keepdim=True)

    def total(self, x: Tensor) -> Tensor:
        """Over the first axis."""
        return x.sum(1)

    def add(self, x: Tensor, y: Tensor | float) -> Tensor:
        """The sum."""
        return x + y

    def subtract(self, x: Tensor, y: Tensor) -> Tensor:
        """The difference."""
        return x - y

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        """The product."""
        return x * y

    def divide(self, x: Tensor, y: Tensor) -> Tensor:
        """The quotient."""
        return x / y

    def sigmoid(self, x: Tensor) -> Tensor:
        """1 / (1 + exp(-x))."""
        return x.sigmoid()

    def sqrt(self, x: Tensor) -> Tensor:
        """The square root."""
        return x.sqrt()


class _Drawing(GraphOperators):
    """Finds out which weights and batch norms a layer has, and draws them."""

    def __init__(self) -> None:
        super().__init__(lambda kind, inputs, size, weights=0: 0)
        self.weights: dict[str, nn.Parameter] = {}
        self.norms: dict[str, int] = {}

    def weight(self, name: str, *shape: int, centred: bool = False) -> SizedValue:
        """Drawn by their fan-in."""
        self.weights[name] = nn.Parameter(torch.randn(shape) * math.prod(shape[1:]) ** -0.5)
        return super().weight(name, *shape)

    def bias(self, name: str, channels: int) -> SizedValue:
        """Zeros."""
        self.weights[name] = nn.Parameter(torch.zeros(channels))
        return super().bias(name, channels)

    def scale(self, x: SizedValue, name: str) -> SizedValue:
        """Ones."""
        self.weights[name] = nn.Parameter(torch.ones(x.shape[0]))
        return super().scale(x, name)

    def shift(self, x: SizedValue, name: str) -> SizedValue:
        """Zeros."""
        self.weights[name] = nn.Parameter(torch.zeros(x.shape[0]))
        return super().shift(x, name)

    def batch_norm(self, x: SizedValue, name: str) -> SizedValue:
        """By its channels."""
        self.norms[name] = x.shape[0]
        return super().batch_norm(x, name)


class _Elastic(TorchOperators):
    """By the first units of the weights of an elastic layer."""

    def __init__(self, layer: ElasticComposed) -> None:
        self._layer = layer

    def weight(self, name: str, *shape: int, centred: bool = False) -> Tensor:
        """The first units, or those in the middle of the last axis."""
        weight: Tensor = self._layer.weights[name]
        skipped = (weight.shape[-1] - shape[-1]) // 2 if centred else 0
        return weight[tuple(slice(size) for size in shape[:-1]) + (slice(skipped, skipped + shape[-1]),)]

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        """Of the first channels."""
        normalised: Tensor = self._layer.norms[name](x)
        return normalised


class _Copying(_Elastic):
    """Copies the weights that it uses."""

    def __init__(self, layer: ElasticComposed) -> None:
        super().__init__(layer)
        self.weights: dict[str, nn.Parameter] = {}
        self.norms: dict[str, nn.Module] = {}

    def weight(self, name: str, *shape: int, centred: bool = False) -> Tensor:
        """Those of an elastic layer."""
        weight = super().weight(name, *shape, centred=centred)
        self.weights[name] = nn.Parameter(weight.detach().clone(memory_format=torch.contiguous_format))
        return weight

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        """That of an elastic layer."""
        norm = self._layer.norms[name]
        assert isinstance(norm, ElasticBatchNorm)
        self.norms[name] = norm.cut(x.shape[1])
        return x


class ElasticComposed(nn.Module):
    """A composed layer with the weights of the ``largest``, of which narrower ones use the first units."""

    def __init__(self, largest: ComposedLayer) -> None:
        super().__init__()
        drawing = _Drawing()
        largest.compute(drawing, *(SizedValue(shape) for shape in largest.input_shapes))
        self.weights = nn.ParameterDict(drawing.weights)
        self.norms = nn.ModuleDict({name: ElasticBatchNorm(channels) for name, channels in drawing.norms.items()})

    def forward(self, layer: ComposedLayer, *inputs_BCHW: Tensor) -> Tensor:
        """The output of a layer that is no larger."""
        return layer.compute(_Elastic(self), *inputs_BCHW)

    @torch.no_grad()
    def cut(self, layer: ComposedLayer) -> Composed:
        """A copy as a plain layer."""
        copying = _Copying(self)
        layer.compute(copying, *(torch.zeros(1, *shape, device=self._device) for shape in layer.input_shapes))
        return Composed(layer, copying.weights, copying.norms)

    @property
    def _device(self) -> torch.device | None:
        return next((parameter.device for parameter in self.parameters()), None)


class Composed(nn.Module):
    """A composed layer with weights of its own, for maps of its size."""

    def __init__(self, layer: ComposedLayer, weights: dict[str, nn.Parameter], norms: dict[str, nn.Module]) -> None:
        super().__init__()
        self.layer = layer
        self.weights, self.norms = nn.ParameterDict(weights), nn.ModuleDict(norms)

    def forward(self, *inputs_BCHW: Tensor) -> Tensor:
        """The output of the layer."""
        return self.layer.compute(_Plain(self), *inputs_BCHW)


class _Plain(TorchOperators):
    """By all weights of a plain layer."""

    def __init__(self, layer: Composed) -> None:
        self._layer = layer

    def weight(self, name: str, *shape: int, centred: bool = False) -> Tensor:
        """All of it."""
        weight: Tensor = self._layer.weights[name]
        return weight

    def batch_norm(self, x: Tensor, name: str) -> Tensor:
        """Of all channels."""
        normalised: Tensor = self._layer.norms[name](x)
        return normalised
