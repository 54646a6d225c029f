"""A kind of layer that is written down once, as the operators that compute it.

From ``ComposedLayer.compute`` follow its memory and weights in an exported model (``nas.spaces.composed_graph``), its
ONNX model (``nas.spaces.composed_onnx``), and its torch modules (``search_spaces.layers.composed``): a new operator is
one file with one class.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from nas.core.layer_base import LayerBase, MapShape

V = TypeVar("V")
ValueShape = tuple[int, ...]  # of a value without the batch


class Operators(Protocol[V]):
    """The operators of an exported model, applied to values of some kind: tensors, or what stands for them. Axes do not
    count the batch. Learned weights have names; a narrower layer uses the first units of each, or, ``centred``, those
    in the middle of the last axis."""

    def weight(self, name: str, *shape: int, centred: bool = False) -> V:
        """Learned weights, random at the start, with a fan-in of all axes but the first."""
        ...

    def bias(self, name: str, channels: int) -> V:
        """Learned numbers that are 0 at the start, of shape (channels,)."""
        ...

    def scale(self, x: V, name: str) -> V:
        """(C, H, W) times a learned number for each channel, 1 at the start."""
        ...

    def shift(self, x: V, name: str) -> V:
        """(C, H, W) plus a learned number for each channel, 0 at the start."""
        ...

    def batch_norm(self, x: V, name: str) -> V:
        """Batch norm of (C, H, W) with scale and shift."""
        ...

    def convolve(self, x: V, weight: V, bias: V | None = None, groups: int = 1) -> V:
        """A convolution of stride 1 with "same" padding over all axes but the first."""
        ...

    def max_pool(self, x: V, kernel: int, stride: int) -> V:
        """The largest of square windows of odd side, with "same" padding."""
        ...

    def global_average(self, x: V) -> V:
        """(C, H, W) -> (C, 1, 1)."""
        ...

    def crop(self, x: V, axis: int, start: int, stop: int) -> V:
        """A part of one axis."""
        ...

    def pad(self, x: V, border: int) -> V:
        """(C, H, W) with ``border`` zeros around each map."""
        ...

    def concat(self, parts: Sequence[V]) -> V:
        """Values along their first axis."""
        ...

    def reshape(self, x: V, *shape: int) -> V:
        """The same numbers in another shape."""
        ...

    def transpose(self, x: V, *order: int) -> V:
        """The axes in another order."""
        ...

    def mean(self, x: V) -> V:
        """The mean over the last axis, which stays with length 1."""
        ...

    def total(self, x: V) -> V:
        """The sum over the first axis, which is left out."""
        ...

    def add(self, x: V, y: V | float) -> V:
        """The sum of values whose axes agree or have length 1, or with a constant."""
        ...

    def subtract(self, x: V, y: V) -> V:
        """The difference, as ``add``."""
        ...

    def multiply(self, x: V, y: V) -> V:
        """The product, as ``add``."""
        ...

    def divide(self, x: V, y: V) -> V:
        """The quotient, as ``add``."""
        ...

    def sigmoid(self, x: V) -> V:
        """1 / (1 + exp(-x))."""
        ...

    def sqrt(self, x: V) -> V:
        """The square root."""
        ...


@dataclass(frozen=True)
class ComposedLayer(LayerBase):
    """A layer that is computed by ``compute``; ``op``, ``detail``, ``out_shape``, ``params`` and ``macs`` are those of
    all layers."""

    @property
    def input_shapes(self) -> tuple[MapShape, ...]:
        """The shape of each value that it reads; the first is ``in_shape``."""
        return (self.in_shape,)

    @abstractmethod
    def compute(self, ops: Operators[V], *inputs: V) -> V:
        """Its output of its inputs."""
