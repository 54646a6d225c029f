"""Translations of the operators of ONNX: one table, so it may be longer than other files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from nas.core.operators import (
    AdaptivePool2dOp,
    BatchNormOp,
    BinaryFunction,
    BinaryOp,
    ConcatOp,
    Conv2dOp,
    ConvTranspose2dOp,
    ExpandOp,
    GatherOp,
    GraphOperator,
    GroupNormOp,
    LayerNormOp,
    LinearOp,
    MatMulOp,
    Pad2dOp,
    PermuteOp,
    PixelShuffleOp,
    Pool2dOp,
    PReluOp,
    ReduceOp,
    ReshapeOp,
    SliceOp,
    SoftmaxOp,
    SqueezeOp,
    UnaryFunction,
    UnaryOp,
    UnsqueezeOp,
    UpsampleOp,
)
from nas.models.graph import InvalidModel, TensorShape
from nas.models.reading.einsum import as_matrix_product, as_permutation

OnnxTranslation: TypeAlias = list[tuple[str, list[GraphOperator], list[str]]]
"""For each output its name, the operators that compute it one after the other, and the operands of the first."""


@dataclass(frozen=True)
class OnnxNode:
    """A node with what is known of its operands. ``operands`` holds an empty name for one that is left out;
    ``constants`` may be extended, by transposed weights."""

    proto: onnx.NodeProto
    label: str
    operands: tuple[str, ...]
    shapes: Mapping[str, TensorShape]
    constants: dict[str, NDArray[Any]]

    def refuse(self, text: str) -> InvalidModel:
        """The error for this node."""
        return InvalidModel(f"{self.label} ({self.proto.op_type}): {text}")

    @property
    def output(self) -> str:
        """The name of its first output."""
        return str(self.proto.output[0])

    @property
    def shape(self) -> TensorShape:
        """The shape of its first operand."""
        return self.shapes[self.operands[0]]

    @property
    def present(self) -> list[str]:
        """The operands that are not left out."""
        return [name for name in self.operands if name]

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute."""
        for attribute in self.proto.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                return value.decode() if isinstance(value, bytes) else value
        return default

    def constant(self, position: int) -> NDArray[Any] | None:
        """An operand whose value is known; None if it is left out."""
        if position >= len(self.operands) or not self.operands[position]:
            return None
        if self.operands[position] not in self.constants:
            raise self.refuse(f"expected operand {position} to be constant, got one that is computed")
        return self.constants[self.operands[position]]

    def integers(self, position: int, name: str) -> list[int] | None:
        """Whole numbers that are an operand, or an attribute in older versions."""
        array = self.constant(position)
        values = self.attribute(name) if array is None else array.reshape(-1).tolist()
        return None if values is None else [int(value) for value in values]

    def dims(self, position: int, name: str) -> list[int] | None:
        """Dimensions, counted from 0."""
        values = self.integers(position, name)
        return None if values is None else [value % len(self.shape) for value in values]

    def one(self, operator: GraphOperator, *operands: str) -> OnnxTranslation:
        """One operator with one output; its operands are those of the node unless others are given."""
        return [(self.output, [operator], list(operands) or self.present)]


def _pads(node: OnnxNode, kernel: list[int], stride: list[int], dilation: list[int]) -> tuple[int, int, int, int]:
    mode = node.attribute("auto_pad", "NOTSET")
    if mode in ("NOTSET", "VALID"):
        top, left, bottom, right = node.attribute("pads", [0, 0, 0, 0]) if mode == "NOTSET" else (0, 0, 0, 0)
        return top, left, bottom, right
    spans = zip(node.shape[2:], kernel, stride, dilation, strict=True)
    totals = [max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0) for size, k, s, d in spans]
    before = [total // 2 if mode == "SAME_UPPER" else total - total // 2 for total in totals]
    return before[0], before[1], totals[0] - before[0], totals[1] - before[1]


def _conv(node: OnnxNode) -> OnnxTranslation:
    kernel = list(node.shapes[node.operands[1]][2:])
    if len(kernel) == 1 and node.proto.op_type == "Conv" and node.operands[1] in node.constants:
        return _conv1d(node, kernel)
    if len(kernel) != 2:
        raise node.refuse(f"expected a convolution over height and width, got {len(kernel)} dimensions")
    stride, dilation = node.attribute("strides", [1, 1]), node.attribute("dilations", [1, 1])
    groups, pads = node.attribute("group", 1), _pads(node, kernel, stride, dilation)
    if node.proto.op_type == "Conv":
        return node.one(Conv2dOp((stride[0], stride[1]), pads, (dilation[0], dilation[1]), groups))
    if pads[:2] != pads[2:] or node.attribute("output_shape") is not None:
        raise node.refuse("expected equal padding on all sides and no output shape, got others")
    extra = node.attribute("output_padding", [0, 0])
    operator = ConvTranspose2dOp(
        (stride[0], stride[1]), pads[:2], (extra[0], extra[1]), (dilation[0], dilation[1]), groups
    )
    return node.one(operator)


def _conv1d(node: OnnxNode, kernel: list[int]) -> OnnxTranslation:
    """A convolution over one dimension as one over two, of which the first has one position."""
    [stride], [dilation] = node.attribute("strides", [1]), node.attribute("dilations", [1])
    if node.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise node.refuse("expected padding in numbers, got auto_pad")
    before, after = node.attribute("pads", [0, 0])
    x, weight, *bias = node.present
    node.constants[f"{weight}.raised"] = node.constants[weight][:, :, None, :]
    raised, convolved = f"{node.output}/raised", f"{node.output}/convolved"
    operator = Conv2dOp((1, stride), (0, before, 0, after), (1, dilation), node.attribute("group", 1))
    return [
        (raised, [UnsqueezeOp(2)], [x]),
        (convolved, [operator], [raised, f"{weight}.raised", *bias]),
        (node.output, [SqueezeOp((2,))], [convolved]),
    ]


def _prelu(node: OnnxNode) -> OnnxTranslation:
    slope = node.constant(1)
    if slope is None or slope.size not in (1, node.shape[1]):
        raise node.refuse("expected one slope, or one for each channel, got others")
    node.constants[f"{node.operands[1]}.flat"] = slope.reshape(-1)
    return node.one(PReluOp(), node.operands[0], f"{node.operands[1]}.flat")


def _einsum(node: OnnxNode) -> OnnxTranslation:
    equation = node.attribute("equation", "")
    if len(node.present) == 1 and (dims := as_permutation(equation)) is not None:
        return node.one(PermuteOp(dims))
    product = as_matrix_product(equation)
    if len(node.present) != 2 or product is None:
        raise node.refuse(f"expected a product of matrices, got {equation!r}")
    first, second = (f"{node.output}/{side}" for side in ("first", "second"))
    return [
        (first, [PermuteOp(product.first)], [node.operands[0]]),
        (second, [PermuteOp(product.second)], [node.operands[1]]),
        (node.output, [MatMulOp(), PermuteOp(product.result)], [first, second]),
    ]


def _depth_to_space(node: OnnxNode) -> OnnxTranslation:
    if node.attribute("mode", "DCR") != "CRD":
        raise node.refuse("expected mode CRD, in which blocks of neighbouring channels become pixels, got DCR")
    return node.one(PixelShuffleOp(node.attribute("blocksize")))


def _transposed(node: OnnxNode, name: str) -> str:
    """The name of a constant's transpose, which is a parameter of its own."""
    node.constants[f"{name}.transposed"] = np.ascontiguousarray(node.constants[name].T)
    return f"{name}.transposed"


def _gemm(node: OnnxNode) -> OnnxTranslation:
    x, weight = node.operands[:2]
    if node.attribute("transA", 0) or node.attribute("alpha", 1.0) != 1.0 or node.attribute("beta", 1.0) != 1.0:
        raise node.refuse("expected neither transA nor factors, got some")
    if weight not in node.constants:
        raise node.refuse("expected constant weights, got computed ones")
    name = weight if node.attribute("transB", 0) else _transposed(node, weight)
    return node.one(LinearOp(), x, name, *[bias for bias in node.operands[2:] if bias])


def _matmul(node: OnnxNode) -> OnnxTranslation:
    x, y = node.operands
    if y in node.constants and node.constants[y].ndim == 2 and x not in node.constants:
        return node.one(LinearOp(), x, _transposed(node, y))
    return node.one(MatMulOp())


def _batch_norm(node: OnnxNode) -> OnnxTranslation:
    x, scale, shift, mean, variance = node.operands
    if node.attribute("training_mode", 0):
        raise node.refuse("expected a batch norm of evaluation, got one of training")
    return node.one(BatchNormOp(node.attribute("epsilon", 1e-5)), x, mean, variance, scale, shift)


def _layer_norm(node: OnnxNode) -> OnnxTranslation:
    rank = len(node.shape) - node.attribute("axis", -1) % len(node.shape)
    return node.one(LayerNormOp(rank, node.attribute("epsilon", 1e-5)))


def _unary(function: UnaryFunction, **defaults: float) -> Callable[[OnnxNode], OnnxTranslation]:
    def translate(node: OnnxNode) -> OnnxTranslation:
        return node.one(UnaryOp(function, tuple(float(node.attribute(n, v)) for n, v in defaults.items())))

    return translate


def _hard_sigmoid(node: OnnxNode) -> OnnxTranslation:
    slope, offset = node.attribute("alpha", 0.2), node.attribute("beta", 0.5)
    line: list[GraphOperator] = [
        BinaryOp("mul", float(slope)),
        BinaryOp("add", float(offset)),
        UnaryOp("clamp", (0.0, 1.0)),
    ]
    return [(node.output, line, node.present)]


def _gelu(node: OnnxNode) -> OnnxTranslation:
    return node.one(UnaryOp("gelu_tanh" if node.attribute("approximate", "none") == "tanh" else "gelu"))


def _clip(node: OnnxNode) -> OnnxTranslation:
    bounds = [node.constant(i) for i in (1, 2)]
    values = [
        node.attribute(name) if bound is None else float(bound)
        for name, bound in zip(("min", "max"), bounds, strict=True)
    ]
    return node.one(UnaryOp("clamp", tuple(values)), node.operands[0])


def _binary(function: BinaryFunction) -> Callable[[OnnxNode], OnnxTranslation]:
    def translate(node: OnnxNode) -> OnnxTranslation:
        if len(node.operands) != 2:
            raise node.refuse(f"expected two operands, got {len(node.operands)}")
        x, y = node.operands
        for name, other, is_reversed in ((y, x, False), (x, y, True)):
            array = node.constants.get(name)
            if array is not None and array.size == 1 and array.ndim <= len(node.shapes[other]):
                return node.one(BinaryOp(function, float(array.reshape(-1)[0]), is_reversed), other)
        return node.one(BinaryOp(function))

    return translate


def _pool(node: OnnxNode) -> OnnxTranslation:
    kernel = node.attribute("kernel_shape")
    if len(kernel) == 1:
        return _pool1d(node, kernel[0])
    stride, dilation = node.attribute("strides", [1, 1]), node.attribute("dilations", [1, 1])
    pads = _pads(node, kernel, stride, dilation)
    if pads[:2] != pads[2:] or list(dilation) != [1, 1] or len(kernel) != 2:
        raise node.refuse("expected a window over height and width with equal padding and no dilation, got another")
    mode: Literal["average", "max"] = "max" if node.proto.op_type == "MaxPool" else "average"
    ceil, counts = bool(node.attribute("ceil_mode", 0)), bool(node.attribute("count_include_pad", 0))
    pool = Pool2dOp(mode, (kernel[0], kernel[1]), (stride[0], stride[1]), pads[:2], ceil, counts or mode == "max")
    return node.one(pool)


def _pool1d(node: OnnxNode, kernel: int) -> OnnxTranslation:
    """A pool over one dimension as one over two, of which the first has one position."""
    [stride], [dilation], (before, after) = (
        node.attribute(name, default) for name, default in (("strides", [1]), ("dilations", [1]), ("pads", [0, 0]))
    )
    if dilation != 1 or before != after or node.attribute("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise node.refuse("expected a window with equal padding and no dilation, got another")
    mode: Literal["average", "max"] = "max" if node.proto.op_type == "MaxPool" else "average"
    ceil, counts = bool(node.attribute("ceil_mode", 0)), bool(node.attribute("count_include_pad", 0))
    pool = Pool2dOp(mode, (1, kernel), (1, stride), (0, before), ceil, counts or mode == "max")
    return [(node.output, [UnsqueezeOp(2), pool, SqueezeOp((2,))], node.present)]


def _global_pool(mode: Literal["mean", "max"]) -> Callable[[OnnxNode], OnnxTranslation]:
    def translate(node: OnnxNode) -> OnnxTranslation:
        if len(node.shape) == 4:
            return node.one(AdaptivePool2dOp("average" if mode == "mean" else "max", (1, 1)))
        return node.one(ReduceOp(mode, tuple(range(2, len(node.shape))), True))

    return translate


def _reduce(node: OnnxNode) -> OnnxTranslation:
    modes = {"ReduceMean": "mean", "ReduceSum": "sum", "ReduceMax": "max", "ReduceMin": "min"}
    dims = tuple(node.dims(1, "axes") or range(len(node.shape)))
    operator = ReduceOp(modes[node.proto.op_type], dims, bool(node.attribute("keepdims", 1)))  # type: ignore[arg-type]
    return node.one(operator, node.operands[0])


def _reshape(node: OnnxNode) -> OnnxTranslation:
    sizes = node.integers(1, "shape") or []
    new_sizes = [0 if i == 0 and size == node.shape[0] else size for i, size in enumerate(sizes)]
    return node.one(ReshapeOp(tuple(new_sizes)), node.operands[0])


def _flatten(node: OnnxNode) -> OnnxTranslation:
    axis = node.attribute("axis", 1) % (len(node.shape) + 1)
    if axis != 1:
        raise node.refuse(f"expected axis 1, got {axis}")
    return node.one(ReshapeOp((0, -1)))


def _squeeze(node: OnnxNode) -> OnnxTranslation:
    dims = node.dims(1, "axes") or [i for i, size in enumerate(node.shape) if size == 1]
    return node.one(SqueezeOp(tuple(dims)), node.operands[0])


def _unsqueeze(node: OnnxNode) -> OnnxTranslation:
    axes = node.integers(1, "axes") or []
    rank = len(node.shape) + len(axes)
    operators: list[GraphOperator] = [UnsqueezeOp(dim) for dim in sorted(axis % rank for axis in axes)]
    return [(node.output, operators, [node.operands[0]])]


def _slice(node: OnnxNode) -> OnnxTranslation:
    starts, ends = node.integers(1, "starts") or [], node.integers(2, "ends") or []
    dims = node.dims(3, "axes") or list(range(len(starts)))
    steps = node.integers(4, "steps") or [1] * len(starts)
    operators: list[GraphOperator] = []
    for start, end, dim, step in zip(starts, ends, dims, steps, strict=True):
        if step < 1:
            raise node.refuse(f"expected steps forwards, got {step}")
        begin, stop, _ = slice(start, end).indices(node.shape[dim])
        operators.append(SliceOp(dim, begin, None if stop == node.shape[dim] else stop, step))
    return [(node.output, operators, [node.operands[0]])]


def _split(node: OnnxNode) -> OnnxTranslation:
    dim = node.attribute("axis", 0) % len(node.shape)
    outputs = list(node.proto.output)
    size = -(-node.shape[dim] // len(outputs))
    sizes = node.integers(1, "split") or [min(size, node.shape[dim] - i * size) for i in range(len(outputs))]
    ends = np.cumsum(sizes).tolist()
    return [
        (output, [SliceOp(dim, end - length, end)], [node.operands[0]])
        for output, end, length in zip(outputs, ends, sizes, strict=True)
    ]


def _gather(node: OnnxNode) -> OnnxTranslation:
    dim, indices = node.attribute("axis", 0) % len(node.shape), node.constant(1)
    if indices is None or indices.ndim > 1:
        raise node.refuse("expected one index or a list of them, got others")
    positions = [int(i) % node.shape[dim] for i in indices.reshape(-1)]
    if indices.ndim == 1:
        return node.one(GatherOp(dim, tuple(positions)), node.operands[0])
    return [(node.output, [SliceOp(dim, positions[0], positions[0] + 1), SqueezeOp((dim,))], [node.operands[0]])]


def _expand(node: OnnxNode) -> OnnxTranslation:
    sizes = node.integers(1, "shape") or []
    before = (1,) * (len(sizes) - len(node.shape)) + node.shape
    new_sizes = [-1 if new in (1, old) else new for old, new in zip(before, sizes, strict=True)]
    return node.one(ExpandOp(tuple(new_sizes)), node.operands[0])


def _resize(node: OnnxNode) -> OnnxTranslation:
    scales, sizes = (node.constant(i) for i in (2, 3)) if node.proto.op_type == "Resize" else (node.constant(1), None)
    if sizes is not None and sizes.size:
        factors = [float(new) / old for new, old in zip(sizes, node.shape, strict=True)]
    else:
        factors = [] if scales is None else [float(scale) for scale in scales]
    mode = node.attribute("mode", "nearest")
    position = node.attribute("coordinate_transformation_mode", "half_pixel")
    rounding = node.attribute("nearest_mode", "round_prefer_floor")
    plain = position in ("asymmetric", "half_pixel", "pytorch_half_pixel") and all(f.is_integer() for f in factors)
    if len(factors) != 4 or factors[:2] != [1.0, 1.0]:
        raise node.refuse(f"expected height and width to be resized, got factors {factors}")
    if mode == "nearest" and plain and (rounding == "floor" or position != "asymmetric"):
        return node.one(UpsampleOp("nearest", (factors[2], factors[3])), node.operands[0])
    if mode == "linear" and position in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        operator = UpsampleOp("bilinear", (factors[2], factors[3]), position == "align_corners")
        return node.one(operator, node.operands[0])
    is_torchs = abs(node.attribute("cubic_coeff_a", -0.75) + 0.75) < 1e-6
    if mode == "cubic" and is_torchs and position in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return node.one(UpsampleOp("bicubic", (factors[2], factors[3]), position == "align_corners"))
    raise node.refuse(f"expected nearest, bilinear or bicubic resizing, got {mode}, {position}, {rounding}")


def _pad(node: OnnxNode) -> OnnxTranslation:
    sides, value = node.integers(1, "pads") or [], node.constant(2)
    if node.attribute("mode", "constant") != "constant" or len(sides) != 8 or any(sides[i] for i in (0, 1, 4, 5)):
        raise node.refuse("expected constant borders of height and width, got others")
    padding = (sides[2], sides[3], sides[6], sides[7])
    return node.one(Pad2dOp(padding, 0.0 if value is None else float(value)), node.operands[0])


TRANSLATIONS: dict[str, Callable[[OnnxNode], OnnxTranslation]] = {
    **dict.fromkeys(("Conv", "ConvTranspose"), _conv),
    "Gemm": _gemm,
    "MatMul": _matmul,
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "InstanceNormalization": lambda n: n.one(GroupNormOp(n.shape[1], n.attribute("epsilon", 1e-5))),
    "GroupNormalization": lambda n: n.one(GroupNormOp(n.attribute("num_groups"), n.attribute("epsilon", 1e-5))),
    "Relu": _unary("relu"),
    "LeakyRelu": _unary("leaky_relu", alpha=0.01),
    "Elu": _unary("elu", alpha=1.0),
    "Sigmoid": _unary("sigmoid"),
    "Tanh": _unary("tanh"),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary("hardswish"),
    "Mish": _unary("mish"),
    "Softplus": _unary("softplus"),
    "Gelu": _gelu,
    "PRelu": _prelu,
    "Einsum": _einsum,
    "DepthToSpace": _depth_to_space,
    "Erf": _unary("erf"),
    "Exp": _unary("exp"),
    "Log": _unary("log"),
    "Sqrt": _unary("sqrt"),
    "Abs": _unary("abs"),
    "Neg": _unary("neg"),
    "Clip": _clip,
    "Add": _binary("add"),
    "Sub": _binary("sub"),
    "Mul": _binary("mul"),
    "Div": _binary("div"),
    "Pow": _binary("pow"),
    "Max": _binary("maximum"),
    "Min": _binary("minimum"),
    **dict.fromkeys(("MaxPool", "AveragePool"), _pool),
    "GlobalAveragePool": _global_pool("mean"),
    "GlobalMaxPool": _global_pool("max"),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin"), _reduce),
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": lambda n: n.one(PermuteOp(tuple(n.attribute("perm", [*reversed(range(len(n.shape)))])))),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Split": _split,
    "Gather": _gather,
    "Concat": lambda n: n.one(ConcatOp(n.attribute("axis") % len(n.shape))),
    "Expand": _expand,
    "Softmax": lambda n: n.one(SoftmaxOp(n.attribute("axis", -1) % len(n.shape))),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
    "Pad": _pad,
}
