"""Composed layers (``nas.core.composed_layer``) as the operators of an exported model: sizes and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from nas.core.composed_layer import ComposedLayer, ValueShape
from nas.spaces.token_graph import AddOperator

_WEIGHT = -1


@dataclass(frozen=True)
class SizedValue:
    """The output of an operator by its position, or weights, which have none; its shape without the batch."""

    shape: ValueShape
    position: int = _WEIGHT


def lower_composed(add: AddOperator, layer: ComposedLayer, inputs: Sequence[int]) -> int:
    """The operators of a layer; return the position of its output."""
    values = [SizedValue(shape, x) for shape, x in zip(layer.input_shapes, inputs, strict=True)]
    return layer.compute(GraphOperators(add), *values).position


class GraphOperators:
    """``nas.core.composed_layer.Operators`` of sizes."""

    def __init__(self, add: AddOperator) -> None:
        self._add = add

    def weight(self, name: str, *shape: int, centred: bool = False) -> SizedValue:
        """Weights."""
        return SizedValue(shape)

    def bias(self, name: str, channels: int) -> SizedValue:
        """Weights."""
        return SizedValue((channels,))

    def scale(self, x: SizedValue, name: str) -> SizedValue:
        """Mul."""
        return self._of("Mul", [x], x.shape, x.shape[0])

    def shift(self, x: SizedValue, name: str) -> SizedValue:
        """Add."""
        return self._of("Add", [x], x.shape, x.shape[0])

    def batch_norm(self, x: SizedValue, name: str) -> SizedValue:
        """BatchNormalization: mean, variance, scale and shift."""
        return self._of("BatchNormalization", [x], x.shape, 4 * x.shape[0])

    def convolve(
        self, x: SizedValue, weight: SizedValue, bias: SizedValue | None = None, groups: int = 1
    ) -> SizedValue:
        """Conv."""
        weights = prod(weight.shape) + (0 if bias is None else prod(bias.shape))
        return self._of("Conv", [x], (weight.shape[0], *x.shape[1:]), weights)

    def max_pool(self, x: SizedValue, kernel: int, stride: int) -> SizedValue:
        """MaxPool."""
        channels, *sides = x.shape
        return self._of(f"max pool {kernel}, stride {stride}", [x], (channels, *(-(-side // stride) for side in sides)))

    def global_average(self, x: SizedValue) -> SizedValue:
        """GlobalAveragePool."""
        return self._of("GlobalAveragePool", [x], (x.shape[0], 1, 1))

    def crop(self, x: SizedValue, axis: int, start: int, stop: int) -> SizedValue:
        """Slice."""
        shape = (*x.shape[:axis], stop - start, *x.shape[axis + 1 :])
        return self._of(f"Slice {axis} {start} {stop}", [x], shape)

    def pad(self, x: SizedValue, border: int) -> SizedValue:
        """Pad."""
        channels, height, width = x.shape
        return self._of("Pad", [x], (channels, height + 2 * border, width + 2 * border))

    def concat(self, parts: Sequence[SizedValue]) -> SizedValue:
        """Concat."""
        return self._of("Concat", parts, (sum(part.shape[0] for part in parts), *parts[0].shape[1:]))

    def reshape(self, x: SizedValue, *shape: int) -> SizedValue:
        """Reshape."""
        return self._of(f"Reshape {shape}", [x], shape)

    def transpose(self, x: SizedValue, *order: int) -> SizedValue:
        """Transpose."""
        return self._of(f"Transpose {order}", [x], tuple(x.shape[axis] for axis in order))

    def mean(self, x: SizedValue) -> SizedValue:
        """ReduceMean."""
        return self._of("ReduceMean last", [x], (*x.shape[:-1], 1))

    def total(self, x: SizedValue) -> SizedValue:
        """ReduceSum."""
        return self._of("ReduceSum first", [x], x.shape[1:])

    def add(self, x: SizedValue, y: SizedValue | float) -> SizedValue:
        """Add; a constant is a weight."""
        return self._both("Add", x, y) if isinstance(y, SizedValue) else self._of("Add", [x], x.shape, 1)

    def subtract(self, x: SizedValue, y: SizedValue) -> SizedValue:
        """Sub."""
        return self._both("Sub", x, y)

    def multiply(self, x: SizedValue, y: SizedValue) -> SizedValue:
        """Mul."""
        return self._both("Mul", x, y)

    def divide(self, x: SizedValue, y: SizedValue) -> SizedValue:
        """Div."""
        return self._both("Div", x, y)

    def sigmoid(self, x: SizedValue) -> SizedValue:
        """Sigmoid."""
        return self._of("Sigmoid", [x], x.shape)

    def sqrt(self, x: SizedValue) -> SizedValue:
        """Sqrt."""
        return self._of("Sqrt", [x], x.shape)

    def _both(self, kind: str, x: SizedValue, y: SizedValue) -> SizedValue:
        return self._of(kind, [x, y], tuple(max(a, b) for a, b in zip(x.shape, y.shape, strict=True)))

    def _of(self, kind: str, values: Sequence[SizedValue], shape: ValueShape, weights: int = 0) -> SizedValue:
        return SizedValue(shape, self._add(kind, [value.position for value in values], prod(shape), weights))
