"""Layers of users' models as ONNX models of their own, so that they can be timed by the runtime that runs whole
networks: the operators that torch's exporter writes for them, on one image, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from nas.core.errors import InvalidInput
from nas.core.layers import OperatorLayer
from nas.core.operators import (
    AdaptivePool2dOp,
    AttentionOp,
    BatchNormOp,
    BinaryOp,
    ConcatOp,
    Conv2dOp,
    ConvTranspose2dOp,
    ExpandOp,
    GatherOp,
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
    SliceOp,
    SoftmaxOp,
    UnaryOp,
    UpsampleOp,
)

_SINGLE: Mapping[str, str] = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "hardswish": "HardSwish",
    "leaky_relu": "LeakyRelu",
    "elu": "Elu",
    "softplus": "Softplus",
    "exp": "Exp",
    "log": "Log",
    "sqrt": "Sqrt",
    "abs": "Abs",
    "neg": "Neg",
    "erf": "Erf",
}
_BINARY: Mapping[str, str] = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "maximum": "Max",
    "minimum": "Min",
    "pow": "Pow",
}
_REDUCE: Mapping[str, str] = {"mean": "ReduceMean", "max": "ReduceMax", "min": "ReduceMin"}
_RESIZE: Mapping[str, str] = {"nearest": "nearest", "bilinear": "linear", "bicubic": "cubic"}


OWN_WEIGHTS = (LinearOp, BatchNormOp, LayerNormOp, GroupNormOp, PReluOp)
"""Operators that ``add_layer`` gives weights of its own making, in the shapes that runtimes read."""


class LayerModel(Protocol):
    """A chain of operators under construction (``nas.spaces.layer_onnx``)."""

    last: str

    def add(self, kind: str, *more_inputs: str, **attributes: Any) -> None:
        """Append an operator that reads the last output and ``more_inputs``."""
        ...

    def constant(self, value: NDArray[np.float32] | NDArray[np.int64]) -> str:
        """A constant of the model."""
        ...

    def weights(self, *shape: int) -> str:
        """Random positive weights."""
        ...


def add_layer(model: LayerModel, layer: OperatorLayer, operands: tuple[str, ...]) -> None:
    """Append a layer that reads ``operands``, of which the first is the model's last output.

    Raises InvalidInput for an operator that cannot be cut out of a model.
    """
    _add_operator(model, layer, operands)
    if layer.activation is not None:
        add_activation(model, layer.activation)


def _add_operator(model: LayerModel, layer: OperatorLayer, operands: tuple[str, ...]) -> None:
    operator, further_inputs, shape = layer.operator, operands[1:], layer.operands[0].shape
    match operator:
        case Conv2dOp() | ConvTranspose2dOp():
            _convolve(model, layer, operator, further_inputs)
        case LinearOp():
            _multiply(model, layer)
        case BatchNormOp():
            model.add("BatchNormalization", *(model.weights(shape[1]) for _ in range(4)))
        case LayerNormOp(rank=rank):
            sizes = shape[len(shape) - rank :]
            model.add("LayerNormalization", model.weights(*sizes), model.weights(*sizes), axis=-rank)
        case GroupNormOp(groups=groups):
            _group_norm(model, shape, groups)
        case PReluOp():
            model.add("PRelu", model.weights(*layer.operands[1].shape, *(1,) * (len(shape) - 2)))
        case UnaryOp():
            add_activation(model, operator)
        case BinaryOp():
            _combine(model, operator, further_inputs)
        case Pool2dOp() | AdaptivePool2dOp() | UpsampleOp() | PixelShuffleOp() | Pad2dOp():
            _resize(model, operator, layer)
        case ReduceOp(mode="sum", dims=dims, keeps_dims=keeps):
            model.add("ReduceSum", _integers(model, dims), keepdims=int(keeps))
        case ReduceOp(mode=mode, dims=dims, keeps_dims=keeps):
            model.add(_REDUCE[mode], axes=list(dims), keepdims=int(keeps))
        case MatMulOp():
            model.add("MatMul", *further_inputs)
        case SoftmaxOp(dim=dim):
            model.add("Softmax", axis=dim)
        case AttentionOp(scale=scale):
            _attend(model, operands, len(shape), scale)
        case ConcatOp(dim=dim):
            model.add("Concat", *further_inputs, axis=dim)
        case PermuteOp(dims=dims):
            model.add("Transpose", perm=list(dims))
        case SliceOp(dim=dim, start=start, stop=stop, step=step):
            end = shape[dim] if stop is None else stop
            model.add("Slice", *(_integers(model, (value,)) for value in (start, end, dim, step)))
        case GatherOp(dim=dim, indices=indices):
            model.add("Gather", _integers(model, indices), axis=dim)
        case ExpandOp():
            model.add("Expand", _integers(model, layer.result))
        case _:
            raise InvalidInput(f"layer {layer.name!r}: an operation {layer.op!r} ({layer.detail!r}) cannot be cut out")


def add_activation(model: LayerModel, activation: UnaryOp) -> None:
    """Append an activation as the exporter writes it."""
    function, x = activation.function, model.last
    first = float(activation.constants[0] or 0.0) if activation.constants else None
    match function:
        case "relu6" | "hardtanh" | "clamp":
            low, high = activation.constants if len(activation.constants) == 2 else (0.0, 6.0)
            model.add("Clip", *("" if bound is None else _number(model, bound) for bound in (low, high)))
        case "hardsigmoid":
            model.add("HardSigmoid", alpha=1 / 6, beta=0.5)
        case "silu":
            model.add("Sigmoid")
            model.add("Mul", x)
        case "mish":
            model.add("Softplus")
            model.add("Tanh")
            model.add("Mul", x)
        case "rsqrt":
            model.add("Sqrt")
            model.add("Reciprocal")
        case "gelu" | "gelu_tanh":
            model.add("Div", _number(model, 1.4142135))
            model.add("Erf" if function == "gelu" else "Tanh")
            model.add("Add", _number(model, 1.0))
            model.add("Mul", x)
            model.add("Mul", _number(model, 0.5))
        case "identity":
            model.add("Identity")
        case "leaky_relu" | "elu" if first is not None:
            model.add(_SINGLE[function], alpha=first)
        case _:
            model.add(_SINGLE[function])


def _convolve(
    model: LayerModel, layer: OperatorLayer, operator: Conv2dOp | ConvTranspose2dOp, further_inputs: tuple[str, ...]
) -> None:
    pads = operator.padding if len(operator.padding) == 4 else (*operator.padding, *operator.padding)
    attributes: dict[str, Any] = {
        "kernel_shape": list(layer.operands[1].shape[2:]),
        "strides": list(operator.stride),
        "dilations": list(operator.dilation),
        "group": operator.groups,
        "pads": list(pads),
    }
    has_bias = layer.has_norm and len(further_inputs) < 2  # that of the batch norm
    weights = (*further_inputs, model.weights(layer.result[1])) if has_bias else further_inputs
    if isinstance(operator, ConvTranspose2dOp):
        model.add("ConvTranspose", *weights, output_padding=list(operator.output_padding), **attributes)
    else:
        model.add("Conv", *weights, **attributes)


def _multiply(model: LayerModel, layer: OperatorLayer) -> None:
    """A linear layer: one operator for a vector, two for the positions of a map."""
    (outputs, inputs), has_bias = layer.operands[1].shape, len(layer.operands) > 2
    if len(layer.operands[0].shape) == 2:
        bias = [model.weights(outputs)] if has_bias else []
        model.add("Gemm", model.weights(outputs, inputs), *bias, transB=1)
        return
    model.add("MatMul", model.weights(inputs, outputs))
    if has_bias:
        model.add("Add", model.weights(outputs))


def _group_norm(model: LayerModel, shape: tuple[int, ...], groups: int) -> None:
    model.add("Reshape", _integers(model, (0, groups, -1)))
    model.add("InstanceNormalization", model.weights(groups), model.weights(groups))
    model.add("Reshape", _integers(model, shape))
    for kind in ("Mul", "Add"):
        model.add(kind, model.weights(shape[1], *(1,) * (len(shape) - 2)))


def _combine(model: LayerModel, operator: BinaryOp, further_inputs: tuple[str, ...]) -> None:
    constant = operator.constant
    if constant is None:
        model.add(_BINARY[operator.function], *further_inputs)
    elif operator.is_reversed and operator.function == "div":
        model.add("Reciprocal")
        model.add("Mul", _number(model, constant))
    else:  # the order of operands does not change the time
        model.add(_BINARY[operator.function], _number(model, constant))


def _resize(
    model: LayerModel,
    operator: Pool2dOp | AdaptivePool2dOp | UpsampleOp | PixelShuffleOp | Pad2dOp,
    layer: OperatorLayer,
) -> None:
    height, width = layer.operands[0].shape[-2:]
    match operator:
        case Pool2dOp(mode=mode):
            sizes = {"kernel_shape": list(operator.kernel), "strides": list(operator.stride)}
            pads, ceil = [*operator.padding, *operator.padding], int(operator.ceil_mode)
            model.add("AveragePool" if mode == "average" else "MaxPool", pads=pads, ceil_mode=ceil, **sizes)
        case AdaptivePool2dOp(mode=mode, size=(1, 1)):
            model.add("GlobalAveragePool" if mode == "average" else "GlobalMaxPool")
        case AdaptivePool2dOp(mode=mode, size=(rows, columns)):
            kernel = [height // rows, width // columns]
            model.add("AveragePool" if mode == "average" else "MaxPool", kernel_shape=kernel, strides=kernel)
        case UpsampleOp(mode=mode, scale=scale):
            scales = model.constant(np.array([1.0, 1.0, *scale], dtype=np.float32))
            position = "asymmetric" if mode == "nearest" else "pytorch_half_pixel"
            model.add(
                "Resize", "", scales, mode=_RESIZE[mode], coordinate_transformation_mode=position, nearest_mode="floor"
            )
        case PixelShuffleOp(factor=factor):
            model.add("DepthToSpace", blocksize=factor, mode="CRD")
        case Pad2dOp(padding=(top, left, bottom, right), value=value):
            before = (0,) * (len(layer.result) - 2)
            pads_name = _integers(model, (*before, top, left, *before, bottom, right))
            model.add("Pad", pads_name, _number(model, value))


def _attend(model: LayerModel, operands: tuple[str, ...], rank: int, scale: float) -> None:
    """Transposed keys, scores, their scale, shares, and their sums of values."""
    query, key, value = operands
    model.last = key
    model.add("Transpose", perm=[*range(rank - 2), rank - 1, rank - 2])
    keys, model.last = model.last, query
    model.add("MatMul", keys)
    model.add("Mul", _number(model, scale))
    model.add("Softmax", axis=-1)
    model.add("MatMul", value)


def _number(model: LayerModel, value: float | None) -> str:
    return model.constant(np.array(0.0 if value is None else value, dtype=np.float32))


def _integers(model: LayerModel, values: tuple[int, ...]) -> str:
    return model.constant(np.array(values, dtype=np.int64))
