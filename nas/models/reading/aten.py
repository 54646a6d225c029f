"""Translations of the operators of PyTorch (``torch.ops.aten``): one table, so it may be longer than other files."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal, TypeAlias

from nas.core.operators import (
    AdaptivePool2dOp,
    AttentionOp,
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
    Pair,
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
from nas.models.reading.program import OperatorCall, SymbolicSize, TensorName, UnknownOperator

AtenTranslation: TypeAlias = tuple[list[GraphOperator], list[str]]
"""Operators that run one after the other, and the operands of the first."""

ALIASES = tuple(
    f"aten.{name}"
    for name in (
        *("dropout", "dropout_", "feature_dropout", "alpha_dropout", "lift_fresh_copy", "detach", "detach_", "clone"),
        *("alias", "contiguous", "to", "_to_copy", "lift_fresh", "type_as"),
    )
)  # fmt: skip


class Arguments:
    """The arguments of one call, read by name with their type checked."""

    def __init__(self, call: OperatorCall, shapes: Mapping[str, TensorShape]) -> None:
        self.call = call
        self._shapes = shapes

    def refuse(self, text: str) -> UnknownOperator:
        """The error for a call whose settings have no translation."""
        return UnknownOperator(f"{self.call.label}: {text}")

    def require_order(self, dims: tuple[int, ...]) -> None:
        """Raises InvalidModel if images would change places, so that each depended on others."""
        if 0 in dims:
            raise InvalidModel(f"{self.call.label}: expected images in their order, got them moved")

    def tensor(self, name: str) -> str:
        """The name of a tensor."""
        argument = self.call.arguments.get(name)
        if not isinstance(argument, TensorName):
            raise self.refuse(f"expected a tensor as {name!r}, got {argument!r}")
        return argument.name

    def tensors(self, *names: str) -> list[str]:
        """The names of those tensors that are not None. One that is missing ends the list."""
        present = [name for name in names if isinstance(self.call.arguments.get(name), TensorName)]
        if present != list(names[: len(present)]):
            raise self.refuse(f"expected {names[: len(present)]}, got {present}")
        return [self.tensor(name) for name in present]

    def shape(self, name: str) -> TensorShape:
        """The shape of a tensor in the example."""
        return self._shapes[self.tensor(name)]

    @property
    def output_shape(self) -> TensorShape:
        """The shape of the first output in the example."""
        return self._shapes[self.call.outputs[0]]

    def number(self, name: str, default: float) -> float:
        """A number."""
        argument = self.call.arguments.get(name, default)
        if isinstance(argument, bool) or not isinstance(argument, int | float):
            raise self.refuse(f"expected a number as {name!r}, got {argument!r}")
        return argument

    def integer(self, name: str, default: int) -> int:
        """A whole number."""
        number = self.number(name, default)
        if not isinstance(number, int):
            raise self.refuse(f"expected a whole number as {name!r}, got {number!r}")
        return number

    def flag(self, name: str, default: bool) -> bool:
        """True or False."""
        return bool(self.call.arguments.get(name, default))

    def integers(self, name: str, default: tuple[int, ...] = ()) -> list[int]:
        """Whole numbers; a single one is a list of one."""
        argument = self.call.arguments.get(name)
        if argument is None:
            return list(default)
        items = argument if isinstance(argument, list) else [argument]
        numbers = [item for item in items if isinstance(item, int)]
        if len(numbers) != len(items):
            raise self.refuse(f"expected whole numbers as {name!r}, got {argument!r}")
        return numbers

    def pair(self, name: str, default: Pair) -> Pair:
        """Two whole numbers; a single one stands for both."""
        numbers = self.integers(name, default) or list(default)
        return (numbers[0], numbers[-1])

    def dims(self, name: str, rank: int) -> tuple[int, ...]:
        """Dimensions, counted from 0."""
        return tuple(dim % rank for dim in self.integers(name))

    def text(self, name: str, default: str) -> str:
        """A text."""
        argument = self.call.arguments.get(name, default)
        return argument if isinstance(argument, str) else default


def reshape_sizes(before: TensorShape, sizes: list[int]) -> tuple[int, ...]:
    """Sizes that hold for any number of images: an equal first size is copied, one that is computed is what remains."""
    new_sizes = list(sizes)
    if new_sizes and before and new_sizes[0] == before[0]:
        new_sizes[0] = 0
    computed = [i for i, size in enumerate(new_sizes) if isinstance(size, SymbolicSize)]
    if -1 not in new_sizes and len(computed) == 1:
        new_sizes[computed[0]] = -1
    return tuple(int(size) for size in new_sizes)


def _conv2d(a: Arguments) -> AtenTranslation:
    operands = a.tensors("input", "weight", "bias")
    if len(a.shape("weight")) != 4:
        raise a.refuse(f"expected a convolution over height and width, got weights of shape {list(a.shape('weight'))}")
    stride, dilation, groups = a.pair("stride", (1, 1)), a.pair("dilation", (1, 1)), a.integer("groups", 1)
    if a.flag("transposed", False) or a.call.operator == "aten.conv_transpose2d":
        padding, extra = a.pair("padding", (0, 0)), a.pair("output_padding", (0, 0))
        return [ConvTranspose2dOp(stride, padding, extra, dilation, groups)], operands
    if isinstance(a.call.arguments.get("padding"), str):
        totals = [(dilation[i] * (a.shape("weight")[2 + i] - 1)) * (a.text("padding", "") == "same") for i in (0, 1)]
        before = [total // 2 for total in totals]
        sides = (before[0], before[1], totals[0] - before[0], totals[1] - before[1])
    else:
        height, width = a.pair("padding", (0, 0))
        sides = (height, width, height, width)
    return [Conv2dOp(stride, sides, dilation, groups)], operands


def _batch_norm(a: Arguments) -> AtenTranslation:
    statistics = a.tensors("running_mean", "running_var")
    if len(statistics) != 2:
        raise a.refuse("expected a batch norm with running statistics, got one without")
    return [BatchNormOp(a.number("eps", 1e-5))], [a.tensor("input"), *statistics, *a.tensors("weight", "bias")]


def _instance_norm(a: Arguments) -> AtenTranslation:
    if not a.flag("use_input_stats", True):
        raise a.refuse("expected an instance norm with the statistics of its input, got running statistics")
    return [GroupNormOp(int(a.shape("input")[1]), a.number("eps", 1e-5))], a.tensors("input", "weight", "bias")


def _unary(function: UnaryFunction, *constants: tuple[str, float]) -> Callable[[Arguments], AtenTranslation]:
    def translate(a: Arguments) -> AtenTranslation:
        return [UnaryOp(function, tuple(a.number(name, default) for name, default in constants))], [a.tensor("self")]

    return translate


def _gelu(a: Arguments) -> AtenTranslation:
    return [UnaryOp("gelu_tanh" if a.text("approximate", "none") == "tanh" else "gelu")], [a.tensor("self")]


def _clamp(a: Arguments) -> AtenTranslation:
    bounds = tuple(a.number(name, 0.0) if a.call.arguments.get(name) is not None else None for name in ("min", "max"))
    return [UnaryOp("clamp", bounds)], [a.tensor("self")]


def _binary(function: BinaryFunction, *, is_reversed: bool = False) -> Callable[[Arguments], AtenTranslation]:
    def translate(a: Arguments) -> AtenTranslation:
        if a.number("alpha", 1) != 1 or a.call.arguments.get("rounding_mode") is not None:
            raise a.refuse("expected neither alpha nor rounding mode, got one")
        first, second = (a.call.arguments.get(name) for name in _operand_names(a))
        if isinstance(first, TensorName) and isinstance(second, TensorName):
            return [BinaryOp(function)], [first.name, second.name]
        if isinstance(first, TensorName) and isinstance(second, int | float):
            return [BinaryOp(function, float(second), is_reversed)], [first.name]
        if isinstance(second, TensorName) and isinstance(first, int | float):
            return [BinaryOp(function, float(first), True)], [second.name]
        raise a.refuse(f"expected tensors or numbers, got {first!r} and {second!r}")

    return translate


def _operand_names(a: Arguments) -> tuple[str, str]:
    return ("self", "exponent") if "exponent" in a.call.arguments else ("self", "other")


def _max_pool(a: Arguments) -> AtenTranslation:
    if a.pair("dilation", (1, 1)) != (1, 1):
        raise a.refuse("expected no dilation, got some")
    kernel = a.pair("kernel_size", (1, 1))
    pool = Pool2dOp("max", kernel, a.pair("stride", kernel), a.pair("padding", (0, 0)), a.flag("ceil_mode", False))
    return [pool], [a.tensor("self")]


def _average_pool(a: Arguments) -> AtenTranslation:
    if a.call.arguments.get("divisor_override") is not None:
        raise a.refuse("expected no divisor, got one")
    kernel = a.pair("kernel_size", (1, 1))
    ceil, counts = a.flag("ceil_mode", False), a.flag("count_include_pad", True)
    pool = Pool2dOp("average", kernel, a.pair("stride", kernel), a.pair("padding", (0, 0)), ceil, counts)
    return [pool], [a.tensor("self")]


def _adaptive_pool(mode: str) -> Callable[[Arguments], AtenTranslation]:
    def translate(a: Arguments) -> AtenTranslation:
        size = a.pair("output_size", (1, 1))
        return [AdaptivePool2dOp("max" if mode == "max" else "average", size)], [a.tensor("self")]

    return translate


def _one_dimensional(translate: Callable[[Arguments], AtenTranslation]) -> Callable[[Arguments], AtenTranslation]:
    """A pool over one dimension as one over two, of which the first has one position."""

    def raised(a: Arguments) -> AtenTranslation:
        if len(a.shape("self")) != 3:
            raise a.refuse(f"expected a shape of 3 dimensions, got {len(a.shape('self'))}")
        [pool], operands = translate(a)
        return [UnsqueezeOp(2), _over_rows(pool), SqueezeOp((2,))], operands

    return raised


def _over_rows(pool: GraphOperator) -> GraphOperator:
    """The pool of one row."""
    if isinstance(pool, AdaptivePool2dOp):
        return replace(pool, size=(1, pool.size[1]))
    assert isinstance(pool, Pool2dOp)
    return replace(pool, kernel=(1, pool.kernel[1]), stride=(1, pool.stride[1]), padding=(0, pool.padding[1]))


def _repeat(a: Arguments) -> AtenTranslation:
    """Repeating dimensions of size 1."""
    repeats = a.integers("repeats")
    before = (1,) * (len(repeats) - len(a.shape("self"))) + a.shape("self")
    if any(count != 1 and size != 1 for count, size in zip(repeats, before, strict=True)):
        raise a.refuse("expected dimensions of size 1 to be repeated, got others")
    sizes = [0 if isinstance(count, SymbolicSize) else -1 if count == 1 else count for count in repeats]
    return [ExpandOp(tuple(sizes))], [a.tensor("self")]


def _reduce(a: Arguments) -> AtenTranslation:
    rank, mode = len(a.shape("self")), a.call.operator.removeprefix("aten.")
    dims = a.dims("dim", rank) or tuple(range(rank))
    names = {"mean": "mean", "sum": "sum", "amax": "max", "amin": "min"}
    operator = ReduceOp(names[mode], dims, a.flag("keepdim", False))  # type: ignore[arg-type]
    return [operator], [a.tensor("self")]


def _reshape(a: Arguments) -> AtenTranslation:
    name = "shape" if "shape" in a.call.arguments else "size"
    return [ReshapeOp(reshape_sizes(a.shape("self"), a.integers(name)))], [a.tensor("self")]


def _flatten(a: Arguments) -> AtenTranslation:
    before = a.shape("self")
    first, last = (a.integer(n, d) % len(before) for n, d in (("start_dim", 0), ("end_dim", -1)))
    return [ReshapeOp((*[0] * first, -1, *(int(size) for size in before[last + 1 :])))], [a.tensor("self")]


def _unflatten(a: Arguments) -> AtenTranslation:
    before = a.shape("self")
    dim, sizes = a.integer("dim", 0) % len(before), a.integers("sizes")
    trailing = [int(size) for size in before[dim + 1 :]]
    if trailing and dim > 0 and any(isinstance(size, SymbolicSize) for size in before[dim + 1 :]):
        raise a.refuse("expected a fixed number of images behind the dimension that is split, got any")
    return [ReshapeOp((*[0] * dim, *sizes, *trailing))], [a.tensor("self")]


def _permute(a: Arguments) -> AtenTranslation:
    return [PermuteOp(a.dims("dims", len(a.shape("self"))))], [a.tensor("self")]


def _transpose(a: Arguments) -> AtenTranslation:
    dims = list(range(len(a.shape("self"))))
    first, second = (a.integer(name, d) % len(dims) for name, d in (("dim0", 0), ("dim1", 1)))
    dims[first], dims[second] = dims[second], dims[first]
    return [PermuteOp(tuple(dims))], [a.tensor("self")]


def _squeeze(a: Arguments) -> AtenTranslation:
    shape = a.shape("self")
    dims = a.dims("dim", len(shape)) or tuple(range(len(shape)))
    return [SqueezeOp(tuple(dim for dim in dims if shape[dim] == 1))], [a.tensor("self")]


def _unsqueeze(a: Arguments) -> AtenTranslation:
    return [UnsqueezeOp(a.integer("dim", 0) % (len(a.shape("self")) + 1))], [a.tensor("self")]


def _slice(a: Arguments) -> AtenTranslation:
    shape = a.shape("self")
    dim = a.integer("dim", 0) % len(shape)
    end = a.integer("end", shape[dim]) if a.call.arguments.get("end") is not None else shape[dim]
    begin = a.integer("start", 0) if a.call.arguments.get("start") is not None else 0
    start, stop, step = slice(begin, end, a.integer("step", 1)).indices(shape[dim])
    return [SliceOp(dim, start, None if stop == shape[dim] else stop, step)], [a.tensor("self")]


def _select(a: Arguments) -> AtenTranslation:
    shape = a.shape("self")
    dim = a.integer("dim", 0) % len(shape)
    index = a.integer("index", 0) % shape[dim]
    return [SliceOp(dim, index, index + 1), SqueezeOp((dim,))], [a.tensor("self")]


def _concat(a: Arguments) -> AtenTranslation:
    argument = a.call.arguments["tensors"]
    assert isinstance(argument, list)
    names = [item.name for item in argument if isinstance(item, TensorName)]
    return [ConcatOp(a.integer("dim", 0) % len(a.output_shape))], names


def _expand(a: Arguments) -> AtenTranslation:
    sizes = a.integers("size") if "size" in a.call.arguments else list(a.shape("other"))
    before = (1,) * (len(sizes) - len(a.shape("self"))) + a.shape("self")
    new_sizes = []
    for i, (old, new) in enumerate(zip(before, sizes, strict=True)):
        is_batch = old == 1 and (isinstance(new, SymbolicSize) or (i == 0 and new > 1))
        new_sizes.append(0 if is_batch else -1 if new == old else int(new))
    return [ExpandOp(tuple(new_sizes))], [a.tensor("self")]


def _matmul(a: Arguments) -> AtenTranslation:
    names = ("self", "mat2") if "mat2" in a.call.arguments else ("self", "other")
    return [MatMulOp()], a.tensors(*names)


def _softmax(a: Arguments) -> AtenTranslation:
    return [SoftmaxOp(a.integer("dim", -1) % len(a.shape("self")))], [a.tensor("self")]


def _attention(a: Arguments) -> AtenTranslation:
    if a.call.arguments.get("attn_mask") is not None or a.flag("is_causal", False):
        raise a.refuse("expected attention without a mask, got one with it")
    scale = a.call.arguments.get("scale")
    value = 1 / math.sqrt(a.shape("query")[-1]) if scale is None else a.number("scale", 1.0)
    return [AttentionOp(value)], a.tensors("query", "key", "value")


def _upsample(a: Arguments) -> AtenTranslation:
    before, after = a.shape("input" if "input" in a.call.arguments else "self")[2:], a.output_shape[2:]
    scale = (after[0] / before[0], after[1] / before[1])
    operand = a.tensor("input" if "input" in a.call.arguments else "self")
    if "nearest" in a.call.operator:
        if "exact" in a.call.operator and not all(factor.is_integer() for factor in scale):
            raise a.refuse(f"expected whole factors, got {list(scale)}")
        return [UpsampleOp("nearest", scale)], [operand]
    mode: Literal["bilinear", "bicubic"] = "bicubic" if "bicubic" in a.call.operator else "bilinear"
    return [UpsampleOp(mode, scale, a.flag("align_corners", False))], [operand]


def _pad(a: Arguments) -> AtenTranslation:
    sides, value = a.integers("pad"), a.call.arguments.get("value")
    if a.text("mode", "constant") != "constant" or len(sides) > 4 or len(a.shape("self")) != 4:
        raise a.refuse("expected constant borders of height and width, got others")
    left, right, top, bottom = [*sides, 0, 0, 0, 0][:4]
    constant = float(value) if isinstance(value, int | float) else 0.0
    return [Pad2dOp((top, left, bottom, right), constant)], [a.tensor("self")]


def _channel_shuffle(a: Arguments) -> AtenTranslation:
    channels, groups = int(a.shape("self")[1]), a.integer("groups", 1)
    width = channels // groups
    return [GatherOp(1, tuple(group * width + i for i in range(width) for group in range(groups)))], [a.tensor("self")]


def _roll(a: Arguments) -> AtenTranslation:
    shape, shifts = a.shape("self"), a.integers("shifts")
    dims = a.dims("dims", len(shape))
    a.require_order(dims)
    if len(dims) != len(shifts):
        raise a.refuse("expected a shift for each of some dimensions, got others")
    return [_shifted(dim, int(shape[dim]), shift) for dim, shift in zip(dims, shifts, strict=True)], [a.tensor("self")]


def _shifted(dim: int, size: int, shift: int) -> GatherOp:
    return GatherOp(dim, tuple((i - shift) % size for i in range(size)))


def _flip(a: Arguments) -> AtenTranslation:
    shape = a.shape("self")
    dims = a.dims("dims", len(shape))
    a.require_order(dims)
    return [GatherOp(dim, tuple(reversed(range(int(shape[dim]))))) for dim in dims], [a.tensor("self")]


def _pixel_shuffle(a: Arguments) -> AtenTranslation:
    if len(a.shape("self")) != 4:
        raise a.refuse(f"expected a shape of 4 dimensions, got {len(a.shape('self'))}")
    return [PixelShuffleOp(a.integer("upscale_factor", 1))], [a.tensor("self")]


def _pixel_unshuffle(a: Arguments) -> AtenTranslation:
    if len(a.shape("self")) != 4:
        raise a.refuse(f"expected a shape of 4 dimensions, got {len(a.shape('self'))}")
    _, channels, height, width = (int(size) for size in a.shape("self"))
    factor = a.integer("downscale_factor", 1)
    height, width = height // factor, width // factor
    return [
        ReshapeOp((0, channels, height, factor, width, factor)),
        PermuteOp((0, 1, 3, 5, 2, 4)),
        ReshapeOp((0, channels * factor**2, height, width)),
    ], [a.tensor("self")]


def _log_softmax(a: Arguments) -> AtenTranslation:
    operators, operands = _softmax(a)
    return [*operators, UnaryOp("log")], operands


_UPSAMPLING = ("upsample_nearest2d", "_upsample_nearest_exact2d", "upsample_bilinear2d", "upsample_bicubic2d")
_TRANSLATIONS: dict[str, Callable[[Arguments], AtenTranslation]] = {
    **dict.fromkeys(("conv2d", "convolution", "conv_transpose2d"), _conv2d),
    "linear": lambda a: ([LinearOp()], a.tensors("input", "weight", "bias")),
    "batch_norm": _batch_norm,
    "instance_norm": _instance_norm,
    "layer_norm": lambda a: (
        [LayerNormOp(len(a.integers("normalized_shape")), a.number("eps", 1e-5))],
        a.tensors("input", "weight", "bias"),
    ),
    "group_norm": lambda a: (
        [GroupNormOp(a.integer("num_groups", 1), a.number("eps", 1e-5))],
        a.tensors("input", "weight", "bias"),
    ),
    "relu": _unary("relu"),
    "relu6": _unary("relu6"),
    "silu": _unary("silu"),
    "gelu": _gelu,
    "sigmoid": _unary("sigmoid"),
    "tanh": _unary("tanh"),
    "hardswish": _unary("hardswish"),
    "hardsigmoid": _unary("hardsigmoid"),
    "hardtanh": _unary("hardtanh", ("min_val", -1.0), ("max_val", 1.0)),
    "leaky_relu": _unary("leaky_relu", ("negative_slope", 0.01)),
    "elu": _unary("elu", ("alpha", 1.0)),
    "mish": _unary("mish"),
    "softplus": _unary("softplus"),
    "exp": _unary("exp"),
    "log": _unary("log"),
    "sqrt": _unary("sqrt"),
    "rsqrt": _unary("rsqrt"),
    "abs": _unary("abs"),
    "neg": _unary("neg"),
    "erf": _unary("erf"),
    "clamp": _clamp,
    "add": _binary("add"),
    "sub": _binary("sub"),
    "rsub": _binary("sub", is_reversed=True),
    "mul": _binary("mul"),
    "div": _binary("div"),
    "pow": _binary("pow"),
    "square": lambda a: ([BinaryOp("pow", 2.0)], [a.tensor("self")]),
    "reciprocal": lambda a: ([BinaryOp("div", 1.0, True)], [a.tensor("self")]),
    "log_sigmoid": lambda a: ([UnaryOp("sigmoid"), UnaryOp("log")], [a.tensor("self")]),
    "maximum": _binary("maximum"),
    "minimum": _binary("minimum"),
    "max_pool2d": _max_pool,
    "avg_pool2d": _average_pool,
    "adaptive_avg_pool2d": _adaptive_pool("average"),
    "_adaptive_avg_pool2d": _adaptive_pool("average"),
    "adaptive_max_pool2d": _adaptive_pool("max"),
    "max_pool1d": _one_dimensional(_max_pool),
    "avg_pool1d": _one_dimensional(_average_pool),
    "adaptive_avg_pool1d": _one_dimensional(_adaptive_pool("average")),
    "adaptive_max_pool1d": _one_dimensional(_adaptive_pool("max")),
    "prelu": lambda a: ([PReluOp()], a.tensors("self", "weight")),
    "repeat": _repeat,
    "pixel_unshuffle": _pixel_unshuffle,
    **dict.fromkeys(("mean", "sum", "amax", "amin"), _reduce),
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), _reshape),
    "flatten": _flatten,
    "unflatten": _unflatten,
    "permute": _permute,
    "transpose": _transpose,
    "squeeze": _squeeze,
    "unsqueeze": _unsqueeze,
    "slice": _slice,
    "select": _select,
    **dict.fromkeys(("cat", "concat", "concatenate"), _concat),
    **dict.fromkeys(("expand", "expand_as"), _expand),
    **dict.fromkeys(("matmul", "bmm"), _matmul),
    "softmax": _softmax,
    "_softmax": _softmax,
    **dict.fromkeys(("log_softmax", "_log_softmax"), _log_softmax),
    "scaled_dot_product_attention": _attention,
    **dict.fromkeys(_UPSAMPLING, _upsample),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    "channel_shuffle": _channel_shuffle,
    "pixel_shuffle": _pixel_shuffle,
    "roll": _roll,
    "flip": _flip,
}
TRANSLATIONS = {f"aten.{name}": translate for name, translate in _TRANSLATIONS.items()}
