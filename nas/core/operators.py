"""The operators of a model's graph: what the formats that can be read are translated to.

An operator holds its settings; its operands are named by the node that holds it. Operands in brackets may be missing.
Dimensions count from 0 and are never negative. ``x`` is (N, channels, height, width) unless another shape is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

Pair = tuple[int, int]
FACTORIES = ("arange", "full", "zeros", "ones", "linspace", "eye", "scalar_tensor")
"""Operators of torch that make tensors of nothing but numbers."""
Scalar = bool | int | float | str | None
UnaryFunction = Literal[
    "relu", "relu6", "silu", "gelu", "gelu_tanh", "sigmoid", "tanh", "hardswish", "hardsigmoid", "hardtanh",
    "leaky_relu", "elu", "mish", "softplus", "exp", "log", "sqrt", "rsqrt", "abs", "neg", "erf", "clamp", "identity",
]  # fmt: skip
BinaryFunction = Literal["add", "sub", "mul", "div", "maximum", "minimum", "pow"]


@dataclass(frozen=True)
class Conv2dOp:
    """Operands ``x``, weight (O, C / groups, kh, kw), [bias]. ``padding``: top, left, bottom, right."""

    stride: Pair = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    kind: Literal["conv2d"] = "conv2d"


@dataclass(frozen=True)
class ConvTranspose2dOp:
    """Operands ``x``, weight (C, O / groups, kh, kw), [bias]."""

    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    kind: Literal["conv_transpose2d"] = "conv_transpose2d"


@dataclass(frozen=True)
class LinearOp:
    """Operands x (..., C), weight (O, C), [bias]."""

    kind: Literal["linear"] = "linear"


@dataclass(frozen=True)
class BatchNormOp:
    """Operands x (N, C, ...), running mean, running variance, [scale, shift]. Always with the running statistics."""

    eps: float
    kind: Literal["batch_norm"] = "batch_norm"


@dataclass(frozen=True)
class LayerNormOp:
    """Operands ``x``, [scale, [shift]]; over the last ``rank`` dimensions."""

    rank: int
    eps: float
    kind: Literal["layer_norm"] = "layer_norm"


@dataclass(frozen=True)
class GroupNormOp:
    """Operands x (N, C, ...), [scale, shift]. With as many groups as channels: instance norm."""

    groups: int
    eps: float
    kind: Literal["group_norm"] = "group_norm"


@dataclass(frozen=True)
class PReluOp:
    """Operands x (N, C, ...), slope (C) or (1): x where it is positive, slope * x elsewhere."""

    kind: Literal["prelu"] = "prelu"


@dataclass(frozen=True)
class UnaryOp:
    """Element by element. ``constants``: slope of ``leaky_relu``, alpha of ``elu``, bounds of others."""

    function: UnaryFunction
    constants: tuple[float | None, ...] = ()
    kind: Literal["unary"] = "unary"


@dataclass(frozen=True)
class BinaryOp:
    """Element by element, broadcast. Two operands, or one and ``constant``, which comes first if ``is_reversed``."""

    function: BinaryFunction
    constant: float | None = None
    is_reversed: bool = False
    kind: Literal["binary"] = "binary"


@dataclass(frozen=True)
class Pool2dOp:
    """Average or maximum of windows."""

    mode: Literal["average", "max"]
    kernel: Pair
    stride: Pair
    padding: Pair = (0, 0)
    ceil_mode: bool = False
    counts_padding: bool = True
    kind: Literal["pool2d"] = "pool2d"


@dataclass(frozen=True)
class AdaptivePool2dOp:
    """Average or maximum of as many windows as ``size`` says."""

    mode: Literal["average", "max"]
    size: Pair
    kind: Literal["adaptive_pool2d"] = "adaptive_pool2d"


@dataclass(frozen=True)
class ReduceOp:
    """Over ``dims``, which remain with size 1 if ``keeps_dims``."""

    mode: Literal["mean", "sum", "max", "min"]
    dims: tuple[int, ...]
    keeps_dims: bool
    kind: Literal["reduce"] = "reduce"


@dataclass(frozen=True)
class ReshapeOp:
    """To ``sizes``: -1 is what remains (at most once), 0 the size of the operand's dimension at the same position."""

    sizes: tuple[int, ...]
    kind: Literal["reshape"] = "reshape"


@dataclass(frozen=True)
class PermuteOp:
    """Dimension i of the output is ``dims[i]`` of the operand."""

    dims: tuple[int, ...]
    kind: Literal["permute"] = "permute"


@dataclass(frozen=True)
class SqueezeOp:
    """Drops ``dims``, which have size 1."""

    dims: tuple[int, ...]
    kind: Literal["squeeze"] = "squeeze"


@dataclass(frozen=True)
class UnsqueezeOp:
    """Inserts a dimension of size 1 before ``dim``."""

    dim: int
    kind: Literal["unsqueeze"] = "unsqueeze"


@dataclass(frozen=True)
class SliceOp:
    """Positions ``start`` to before ``stop`` of a dimension. ``stop`` None: to its end."""

    dim: int
    start: int
    stop: int | None
    step: int = 1
    kind: Literal["slice"] = "slice"


@dataclass(frozen=True)
class GatherOp:
    """Positions ``indices`` of a dimension, in this order. A channel shuffle is read as one."""

    dim: int
    indices: tuple[int, ...]
    kind: Literal["gather"] = "gather"


@dataclass(frozen=True)
class ConcatOp:
    """All operands, joined along ``dim``."""

    dim: int
    kind: Literal["concat"] = "concat"


@dataclass(frozen=True)
class ExpandOp:
    """To ``sizes``: -1 keeps a dimension, 0 is the number of images of the model's input."""

    sizes: tuple[int, ...]
    kind: Literal["expand"] = "expand"


@dataclass(frozen=True)
class MatMulOp:
    """Operands (..., rows, K) and (..., K, columns); the dimensions before them are broadcast."""

    kind: Literal["matmul"] = "matmul"


@dataclass(frozen=True)
class SoftmaxOp:
    """Along ``dim``."""

    dim: int
    kind: Literal["softmax"] = "softmax"


@dataclass(frozen=True)
class AttentionOp:
    """Operands query (..., L, E), key (..., S, E) and value (..., S, V): softmax(scale * query key^T) value."""

    scale: float
    kind: Literal["attention"] = "attention"


@dataclass(frozen=True)
class UpsampleOp:
    """Height and width times ``scale``."""

    mode: Literal["nearest", "bilinear", "bicubic"]
    scale: tuple[float, float]
    aligns_corners: bool = False
    kind: Literal["upsample"] = "upsample"


@dataclass(frozen=True)
class PixelShuffleOp:
    """Blocks of ``factor``^2 neighbouring channels become pixels: height and width times ``factor``."""

    factor: int
    kind: Literal["pixel_shuffle"] = "pixel_shuffle"


@dataclass(frozen=True)
class Pad2dOp:
    """Constant borders of height and width: top, left, bottom, right."""

    padding: tuple[int, int, int, int]
    value: float = 0.0
    kind: Literal["pad2d"] = "pad2d"


@dataclass(frozen=True)
class ExampleShape:
    """A shape of which only the number of images may change: ``sizes`` with one image, and which of its dimensions,
    ``image_dims``, are so many times the number of images."""

    sizes: tuple[int, ...]
    image_dims: tuple[int, ...] = ()

    def of(self, images: int) -> tuple[int, ...]:
        """The shape with so many images."""
        return tuple(size * images if i in self.image_dims else size for i, size in enumerate(self.sizes))


@dataclass(frozen=True)
class OperandArgument:
    """The operand at a position; ``positions`` of several for a list of tensors, -1 for one that is left out."""

    positions: tuple[int, ...]
    is_list: bool = False
    kind: Literal["operand"] = "operand"


@dataclass(frozen=True)
class ValueArgument:
    """A number, text or None, or a list of them. ``infinite``: positions of items that are infinite numbers, which JSON
    lacks; they are the texts ``inf`` and ``-inf``."""

    items: tuple[Scalar, ...]
    is_list: bool = False
    infinite: tuple[int, ...] = ()
    kind: Literal["value"] = "value"


@dataclass(frozen=True)
class DataTypeArgument:
    """A data type of torch by its name, such as ``float32``."""

    name: str
    kind: Literal["data_type"] = "data_type"


OpaqueArgument: TypeAlias = Annotated[OperandArgument | ValueArgument | DataTypeArgument, Field(discriminator="kind")]


@dataclass(frozen=True)
class OpaqueOp:
    """An operator of torch, such as ``aten.sort.default``, of which nothing is known but how it is run: what it reads
    and what it gives keep their shapes. ``operand_types``: data types of torch; ``output``: which of its outputs the
    node is; ``reason``: why it is not known."""

    operator: str
    arguments: tuple[tuple[str, OpaqueArgument], ...]
    output: int
    operand_shapes: tuple[ExampleShape, ...]
    operand_types: tuple[str, ...]
    shape: ExampleShape
    reason: str
    kind: Literal["opaque"] = "opaque"


GraphOperator: TypeAlias = Annotated[
    Conv2dOp
    | ConvTranspose2dOp
    | LinearOp
    | BatchNormOp
    | LayerNormOp
    | GroupNormOp
    | PReluOp
    | UnaryOp
    | BinaryOp
    | Pool2dOp
    | AdaptivePool2dOp
    | ReduceOp
    | ReshapeOp
    | PermuteOp
    | SqueezeOp
    | UnsqueezeOp
    | SliceOp
    | GatherOp
    | ConcatOp
    | ExpandOp
    | MatMulOp
    | SoftmaxOp
    | AttentionOp
    | UpsampleOp
    | PixelShuffleOp
    | Pad2dOp
    | OpaqueOp,
    Field(discriminator="kind"),
]
