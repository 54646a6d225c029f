"""Typed layers: the description of a network's parts from which everything else is derived (``nas.core.network``).

Shapes are (channels, height, width). A layer names the layers whose outputs it reads in ``inputs``; ``INPUT`` is the
network's own input. A layer is what a runtime executes as one unit: a convolution with the ReLU before it and the batch
norm, activation and skip connection after it. Layers of tokens are in ``nas.core.token_layers``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from nas.core.composed_layer import ComposedLayer as ComposedLayer
from nas.core.layer_base import ACTIVATION_TEXT as _TEXT
from nas.core.layer_base import INPUT as INPUT
from nas.core.layer_base import Activation as Activation
from nas.core.layer_base import LayerBase as LayerBase
from nas.core.layer_base import MapShape as MapShape
from nas.core.operators import GraphOperator, UnaryOp
from nas.core.token_layers import MapToTokens, PatchEmbedding, TokenLayer

Normalisation = Literal["affine", "plain"]  # batch norm with and without scale and shift


def _norm_params(norm: Normalisation | None, channels: int) -> int:
    return 2 * channels if norm == "affine" else 0


def _strided(shape: MapShape, channels: int, stride: int) -> MapShape:
    return channels, -(-shape[1] // stride), -(-shape[2] // stride)


@dataclass(frozen=True)
class Conv2d(LayerBase):
    """A convolution without bias and with "same" padding. ``rectified``: it reads the ReLU of its input. After it come
    ``norm``, ``activation`` and, with ``residual``, the sum with the output of the layer of that name."""

    out_channels: int
    kernel: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    rectified: bool = False
    norm: Normalisation | None = "affine"
    activation: Activation | None = None
    residual: str | None = None

    @property
    def op(self) -> str:
        """``depthwise`` (a group for each channel), ``grouped``, ``pointwise`` (1x1) or ``dense``."""
        if self.groups > 1:
            return "depthwise" if self.groups == self.in_shape[0] else "grouped"
        return "pointwise" if self.kernel == 1 else "dense"

    @cached_property
    def detail(self) -> str:
        """Text such as ``3x3 ReLU, stride 2``."""
        text = f"{self.kernel}x{self.kernel} {_TEXT[self.activation]}{'+ input' if self.residual else ''}".strip()
        text += f", dilation {self.dilation}" if self.dilation > 1 else ""
        text += f", {self.groups} groups" if self.op == "grouped" else ""
        # Ungrouped convolutions with an activation never named their stride in stored keys; their shapes tell it.
        named = self.stride > 1 and (self.groups > 1 or self.activation is None)
        return text + (f", stride {self.stride}" if named else "")

    @cached_property
    def out_shape(self) -> MapShape:
        """(out_channels, height / stride, width / stride), rounded up."""
        return _strided(self.in_shape, self.out_channels, self.stride)

    @cached_property
    def weights(self) -> int:
        """Numbers in the filters."""
        return self.in_shape[0] // self.groups * self.out_channels * self.kernel**2

    @cached_property
    def params(self) -> int:
        """Filters, and scale and shift of an affine batch norm."""
        return self.weights + _norm_params(self.norm, self.out_channels)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        _, height, width = self.out_shape
        return self.weights * height * width

    @property
    def window(self) -> int:
        """The kernel."""
        return self.kernel


@dataclass(frozen=True)
class ShiftedConv2d(LayerBase):
    """The second half of a factorized reduction: ReLU, then a 1x1 convolution of stride 2 on the map without its first
    row and column, concatenated after the output of the first half; then batch norm.

    ``inputs``: the map, and the first half, which has half of ``out_channels``.
    """

    out_channels: int
    norm: Normalisation | None = "affine"

    op = "pointwise"
    detail = "1x1, stride 2, one pixel on"

    @cached_property
    def out_shape(self) -> MapShape:
        """The shape of both halves: (out_channels, height / 2, width / 2), rounded up."""
        return _strided(self.in_shape, self.out_channels, 2)

    @cached_property
    def weights(self) -> int:
        """Numbers in the filters."""
        return self.in_shape[0] * (self.out_channels // 2)

    @cached_property
    def params(self) -> int:
        """Filters, and scale and shift of an affine batch norm."""
        return self.weights + _norm_params(self.norm, self.out_channels)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        _, height, width = self.out_shape
        return self.weights * height * width

    @property
    def window(self) -> int:
        """1."""
        return 1


@dataclass(frozen=True)
class SqueezeExcite(LayerBase):
    """Squeeze-excite with ReLU and h-sigmoid over ``squeezed`` channels (MobileNetV3, section 5.3)."""

    squeezed: int

    op = "se"

    @cached_property
    def detail(self) -> str:
        """Text such as ``squeeze-excite 16``."""
        return f"squeeze-excite {self.squeezed}"

    @cached_property
    def params(self) -> int:
        """Two fully connected layers with bias."""
        return self.macs + self.in_shape[0] + self.squeezed

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of the two fully connected layers."""
        return 2 * self.in_shape[0] * self.squeezed


@dataclass(frozen=True)
class Linear(LayerBase):
    """A fully connected layer on a map of one pixel."""

    out_features: int
    bias: bool = True
    activation: Activation | None = None

    op = "linear"

    @cached_property
    def detail(self) -> str:
        """The activation, or nothing."""
        return _TEXT[self.activation]

    @cached_property
    def out_shape(self) -> MapShape:
        """(out_features, 1, 1)."""
        return self.out_features, 1, 1

    @cached_property
    def params(self) -> int:
        """Weights and bias."""
        return self.macs + (self.out_features if self.bias else 0)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.in_shape[0] * self.out_features


@dataclass(frozen=True)
class Pool2d(LayerBase):
    """Average or maximum of square windows; padding is not counted, and a window of 2 has none. ``norm``: a batch norm
    after it."""

    mode: Literal["average", "max"]
    kernel: int
    stride: int = 1
    norm: Normalisation | None = None

    op = "pool"

    @cached_property
    def detail(self) -> str:
        """Text such as ``3x3 max, stride 2``; a stride equal to the kernel is not named."""
        named = 1 < self.stride != self.kernel
        return f"{self.kernel}x{self.kernel} {self.mode}" + (f", stride {self.stride}" if named else "")

    @cached_property
    def out_shape(self) -> MapShape:
        """(channels, height / stride, width / stride), rounded up."""
        return _strided(self.in_shape, self.in_shape[0], self.stride)

    @cached_property
    def params(self) -> int:
        """Scale and shift of an affine batch norm."""
        return _norm_params(self.norm, self.in_shape[0])

    @property
    def window(self) -> int:
        """The kernel."""
        return self.kernel


@dataclass(frozen=True)
class GlobalAveragePool(LayerBase):
    """The mean over height and width. ``flatten``: in the exported model, a pool and a flattening; otherwise a mean."""

    flatten: bool = True

    op = "pool"
    detail = "global average"

    @cached_property
    def out_shape(self) -> MapShape:
        """(channels, 1, 1)."""
        return self.in_shape[0], 1, 1


@dataclass(frozen=True)
class BatchNorm(LayerBase):
    """An affine batch norm and a ReLU."""

    op = "norm"
    detail = "batch norm, ReLU"

    @cached_property
    def params(self) -> int:
        """Scale and shift."""
        return 2 * self.in_shape[0]


@dataclass(frozen=True)
class Skip(LayerBase):
    """Passes its input on: all of it, or every ``stride``-th pixel."""

    stride: int = 1

    op = "skip"

    @cached_property
    def detail(self) -> str:
        """``identity`` or ``every other pixel``."""
        return "identity" if self.stride == 1 else "every other pixel"

    @cached_property
    def out_shape(self) -> MapShape:
        """(channels, height / stride, width / stride), rounded up."""
        return _strided(self.in_shape, self.in_shape[0], self.stride)


@dataclass(frozen=True)
class ChannelShuffle(LayerBase):
    """Channels of ``groups`` equal parts in turn: the first of each, the second of each, and so on (ShuffleNet, Zhang
    et al., CVPR 2018)."""

    groups: int

    op = "shuffle"

    @cached_property
    def detail(self) -> str:
        """Text such as ``of 2 groups``."""
        return f"of {self.groups} groups"


@dataclass(frozen=True)
class Concat(LayerBase):
    """Maps of one shape, joined along their channels. ``in_shape`` is that of each of its inputs."""

    op = "concat"

    @cached_property
    def detail(self) -> str:
        """Text such as ``4 nodes``."""
        return f"{len(self.inputs)} nodes"

    @cached_property
    def out_shape(self) -> MapShape:
        """(channels of all inputs, height, width)."""
        channels, height, width = self.in_shape
        return len(self.inputs) * channels, height, width


@dataclass(frozen=True)
class LayerOperand:
    """What an operator reads: a value or, if ``is_weight``, a parameter. ``shape``: for one image, whose dimension it
    includes."""

    shape: tuple[int, ...]
    is_weight: bool


@dataclass(frozen=True)
class OperatorLayer:
    """A layer of a user's model: an operator of its graph, with a batch norm that it takes up (``has_norm``) and the
    activation after it. ``result``: the shape of its output as ``LayerOperand.shape``; ``text``: its settings."""

    name: str
    inputs: tuple[str, ...]
    in_shape: MapShape
    out_shape: MapShape
    op: str
    params: int
    macs: int
    operator: GraphOperator
    operands: tuple[LayerOperand, ...]
    result: tuple[int, ...]
    text: str
    has_norm: bool = False
    activation: UnaryOp | None = None

    @cached_property
    def detail(self) -> str:
        """Text such as ``3x3, stride 2, relu``; shapes that ``in_shape`` does not tell are part of it."""
        shapes = [operand.shape for operand in self.operands if not operand.is_weight]
        shape_is_told = len(shapes) == 1 and len(shapes[0]) == 4
        further_shapes = "" if shape_is_told else f" of {' and '.join('x'.join(map(str, shape)) for shape in shapes)}"
        return f"{self.text}{f', {self.activation.function}' if self.activation is not None else ''}{further_shapes}"

    @property
    def window(self) -> int | None:
        """The height of a convolution's kernel."""
        weights = [operand.shape for operand in self.operands if operand.is_weight]
        return weights[0][2] if weights and len(weights[0]) == 4 else None


@dataclass(frozen=True)
class CustomLayer:
    """A layer of a plug-in, of a kind that this file lacks: it is counted and drawn, but there is neither an ONNX model
    of it alone nor its activation memory."""

    name: str
    inputs: tuple[str, ...]
    in_shape: MapShape
    out_shape: MapShape
    op: str
    params: int
    macs: int
    detail: str = ""
    window: int | None = None


Layer: TypeAlias = (
    Conv2d
    | ShiftedConv2d
    | SqueezeExcite
    | Linear
    | Pool2d
    | GlobalAveragePool
    | BatchNorm
    | Skip
    | ChannelShuffle
    | Concat
    | PatchEmbedding
    | MapToTokens
    | TokenLayer
    | ComposedLayer
    | OperatorLayer
    | CustomLayer
)
