"""Composed layers (``nas.core.composed_layer``) as ONNX models of their own, with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nas.core.composed_layer import ComposedLayer, ValueShape
from nas.spaces.operator_onnx import LayerModel


@dataclass(frozen=True)
class OnnxValue:
    """A value of the model by its name; its shape without the batch."""

    name: str
    shape: ValueShape


class ModelWithInputs(LayerModel, Protocol):
    """A model under construction that can read several values."""

    def input(self, shape: Sequence[int]) -> str:
        """Add an input."""
        ...


def add_composed(model: ModelWithInputs, layer: ComposedLayer) -> None:
    """Append a layer; the model has its first input already."""
    first, *others = layer.input_shapes
    values = [OnnxValue(model.last, first), *(OnnxValue(model.input(shape), shape) for shape in others)]
    model.last = layer.compute(OnnxOperators(model), *values).name


class OnnxOperators:
    """``nas.core.composed_layer.Operators`` that write nodes of a model."""

    def __init__(self, model: LayerModel) -> None:
        self._model = model

    def weight(self, name: str, *shape: int, centred: bool = False) -> OnnxValue:
        """An initialiser."""
        return OnnxValue(self._model.weights(*shape), shape)

    def bias(self, name: str, channels: int) -> OnnxValue:
        """An initialiser."""
        return self.weight(name, channels)

    def scale(self, x: OnnxValue, name: str) -> OnnxValue:
        """Mul."""
        return self.multiply(x, self._by_channel(x))

    def shift(self, x: OnnxValue, name: str) -> OnnxValue:
        """Add."""
        return self.add(x, self._by_channel(x))

    def batch_norm(self, x: OnnxValue, name: str) -> OnnxValue:
        """BatchNormalization."""
        weights = [self.weight(f"{name}{i}", x.shape[0]) for i in range(4)]
        return self._of("BatchNormalization", [x, *weights], x.shape)

    def convolve(self, x: OnnxValue, weight: OnnxValue, bias: OnnxValue | None = None, groups: int = 1) -> OnnxValue:
        """Conv."""
        kernel = weight.shape[2:]
        pads = [side // 2 for side in kernel] * 2
        read = [x, weight] if bias is None else [x, weight, bias]
        shape = (weight.shape[0], *x.shape[1:])
        return self._of("Conv", read, shape, kernel_shape=list(kernel), pads=pads, group=groups)

    def max_pool(self, x: OnnxValue, kernel: int, stride: int) -> OnnxValue:
        """MaxPool."""
        channels, *sides = x.shape
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4}
        return self._of("MaxPool", [x], (channels, *(-(-side // stride) for side in sides)), **sizes)

    def global_average(self, x: OnnxValue) -> OnnxValue:
        """GlobalAveragePool."""
        return self._of("GlobalAveragePool", [x], (x.shape[0], 1, 1))

    def crop(self, x: OnnxValue, axis: int, start: int, stop: int) -> OnnxValue:
        """Slice."""
        ends = [self._integers(number) for number in (start, stop, axis + 1)]
        return self._of("Slice", [x, *ends], (*x.shape[:axis], stop - start, *x.shape[axis + 1 :]))

    def pad(self, x: OnnxValue, border: int) -> OnnxValue:
        """Pad."""
        channels, height, width = x.shape
        pads = self._integers(0, 0, border, border, 0, 0, border, border)
        return self._of("Pad", [x, pads], (channels, height + 2 * border, width + 2 * border))

    def concat(self, parts: Sequence[OnnxValue]) -> OnnxValue:
        """Concat."""
        return self._of("Concat", parts, (sum(part.shape[0] for part in parts), *parts[0].shape[1:]), axis=1)

    def reshape(self, x: OnnxValue, *shape: int) -> OnnxValue:
        """Reshape."""
        return self._of("Reshape", [x, self._integers(-1, *shape)], shape)

    def transpose(self, x: OnnxValue, *order: int) -> OnnxValue:
        """Transpose."""
        shape = tuple(x.shape[axis] for axis in order)
        return self._of("Transpose", [x], shape, perm=[0, *(axis + 1 for axis in order)])

    def mean(self, x: OnnxValue) -> OnnxValue:
        """ReduceMean."""
        return self._of("ReduceMean", [x], (*x.shape[:-1], 1), axes=[-1], keepdims=1)

    def total(self, x: OnnxValue) -> OnnxValue:
        """ReduceSum."""
        return self._of("ReduceSum", [x, self._integers(1)], x.shape[1:], keepdims=0)

    def add(self, x: OnnxValue, y: OnnxValue | float) -> OnnxValue:
        """Add."""
        if isinstance(y, OnnxValue):
            return self._both("Add", x, y)
        return self._of("Add", [x, OnnxValue(self._model.constant(np.array(y, dtype=np.float32)), ())], x.shape)

    def subtract(self, x: OnnxValue, y: OnnxValue) -> OnnxValue:
        """Sub."""
        return self._both("Sub", x, y)

    def multiply(self, x: OnnxValue, y: OnnxValue) -> OnnxValue:
        """Mul."""
        return self._both("Mul", x, y)

    def divide(self, x: OnnxValue, y: OnnxValue) -> OnnxValue:
        """Div."""
        return self._both("Div", x, y)

    def sigmoid(self, x: OnnxValue) -> OnnxValue:
        """Sigmoid."""
        return self._of("Sigmoid", [x], x.shape)

    def sqrt(self, x: OnnxValue) -> OnnxValue:
        """Sqrt."""
        return self._of("Sqrt", [x], x.shape)

    def _by_channel(self, x: OnnxValue) -> OnnxValue:
        return self.weight("", x.shape[0], *(1,) * (len(x.shape) - 1))

    def _integers(self, *numbers: int) -> OnnxValue:
        return OnnxValue(self._model.constant(np.array(numbers, dtype=np.int64)), ())

    def _both(self, kind: str, x: OnnxValue, y: OnnxValue) -> OnnxValue:
        return self._of(kind, [x, y], tuple(max(a, b) for a, b in zip(x.shape, y.shape, strict=True)))

    def _of(self, kind: str, values: Sequence[OnnxValue], shape: ValueShape, **attributes: object) -> OnnxValue:
        first, *others = values
        self._model.last = first.name
        self._model.add(kind, *(value.name for value in others), **attributes)
        return OnnxValue(self._model.last, shape)
