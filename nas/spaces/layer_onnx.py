"""Single layers as ONNX models of their own, so that they can be timed by the runtime that runs whole networks.

Weights are random: time depends on shapes. The ReLU before a convolution is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nas.core.errors import InvalidInput
from nas.core.layers import (
    Activation,
    BatchNorm,
    ChannelShuffle,
    ComposedLayer,
    Concat,
    Conv2d,
    CustomLayer,
    GlobalAveragePool,
    Layer,
    Linear,
    OperatorLayer,
    Pool2d,
    ShiftedConv2d,
    Skip,
    SqueezeExcite,
)
from nas.core.operators import UnaryOp
from nas.core.token_layers import (
    Attention,
    LayerNorm,
    MapToTokens,
    PatchEmbedding,
    TokenLayer,
    TokenLinear,
    TokenPool,
    TokensToMap,
)
from nas.spaces.composed_onnx import add_composed
from nas.spaces.operator_onnx import OWN_WEIGHTS, add_activation, add_layer
from nas.spaces.token_onnx import add_map_to_tokens, add_patches, add_tokens

OPSET, IR_VERSION = 17, 8  # those of the models of whole networks


def empty_to_onnx() -> bytes:
    """A model that does nothing: its time is what running any model costs."""
    model = _Model((1, 1, 1))
    model.add("Identity")
    return model.to_bytes()


def layer_to_onnx(layer: Layer) -> bytes:
    """The layer alone, with the batch norm that is folded into it, and its activation; any batch size.

    Raises InvalidInput for a skip connection, which no runtime executes, and for a custom layer of a plug-in.
    """
    if isinstance(layer, OperatorLayer):
        return _operator_to_onnx(layer)
    if isinstance(layer, LayerNorm | TokenLinear | Attention | TokenPool | TokensToMap):
        return _tokens_to_onnx(layer)
    model = _Model(layer.in_shape)
    match layer:
        case PatchEmbedding():
            add_patches(model, layer)
        case MapToTokens():
            add_map_to_tokens(model, layer)
        case Conv2d():
            model.convolve(
                layer.in_shape[0],
                layer.out_channels,
                layer.kernel,
                layer.groups,
                stride=layer.stride,
                dilation=layer.dilation,
            )
            if layer.residual is not None:
                model.add("Add", model.input(layer.out_shape))
            model.activate(layer.activation)
        case ShiftedConv2d():
            channels, height, width = layer.in_shape
            half = layer.out_channels // 2
            ends = [np.array(v, dtype=np.int64) for v in ([1, 1], [2**31, 2**31], [2, 3])]
            model.add("Slice", *(model.constant(v) for v in ends))
            model.convolve(channels, half, 1, 1, stride=2, border=(height % 2, width % 2))
            model.add("Concat", model.input((half, *layer.out_shape[1:])), axis=1)
        case SqueezeExcite():
            channels, input_map = layer.in_shape[0], model.last
            model.add("GlobalAveragePool")
            model.convolve(channels, layer.squeezed, 1, 1)
            model.add("Relu")
            model.convolve(layer.squeezed, channels, 1, 1)
            model.add("HardSigmoid", alpha=1 / 6, beta=0.5)
            model.add("Mul", input_map)
        case Linear():
            model.flatten()
            weights = [model.weights(layer.out_features, layer.in_shape[0])]
            model.add("Gemm", *weights, *([model.weights(layer.out_features)] if layer.bias else []), transB=1)
            model.activate(layer.activation)
        case Pool2d():
            pad = 0 if layer.kernel == 2 else layer.kernel // 2
            sizes = {"kernel_shape": [layer.kernel] * 2, "strides": [layer.stride] * 2, "pads": [pad] * 4}
            rounding = {"ceil_mode": 1} if layer.kernel == 2 else {}
            model.add("AveragePool" if layer.mode == "average" else "MaxPool", **sizes, **rounding)
        case GlobalAveragePool():
            model.add("GlobalAveragePool")
        case BatchNorm():
            model.add("BatchNormalization", *(model.weights(layer.in_shape[0]) for _ in range(4)))
            model.add("Relu")
        case ChannelShuffle():
            order = np.arange(layer.in_shape[0]).reshape(layer.groups, -1).T.reshape(-1)
            model.add("Gather", model.constant(order), axis=1)
        case Concat():
            model.add("Concat", *(model.input(layer.in_shape) for _ in layer.inputs[1:]), axis=1)
        case ComposedLayer():
            add_composed(model, layer)
        case Skip() | CustomLayer():
            raise InvalidInput(f"layer {layer.name!r}: an operation {layer.op!r} ({layer.detail!r}) cannot be cut out")
        case _:
            assert_never(layer)
    return model.to_bytes()


def _tokens_to_onnx(layer: TokenLayer) -> bytes:
    """A layer of tokens, which are (batch, tokens, channels)."""
    channels, tokens, _ = layer.in_shape
    model = _Model((tokens, channels))
    add_tokens(model, layer)
    if isinstance(layer, TokenLinear):
        model.activate(layer.activation)
        if layer.residual is not None:
            model.add("Add", model.input((tokens, layer.out_features)))
    return model.to_bytes()


def _operator_to_onnx(layer: OperatorLayer) -> bytes:
    """A layer of a user's model, on one image. One that reads weights alone reads the first as if it were a value."""
    values = [i for i, operand in enumerate(layer.operands) if not operand.is_weight] or [0]
    model = _Model(layer.operands[values[0]].shape, any_batch=False)
    names = []
    for i, operand in enumerate(layer.operands):
        if i in values:
            names.append(model.last if i == values[0] else model.input(operand.shape, any_batch=False))
        elif not isinstance(layer.operator, OWN_WEIGHTS):
            names.append(model.weights(*operand.shape))
    model.last = names[0]
    add_layer(model, layer, tuple(names))
    return model.to_bytes()


class _Model:
    """A chain of operators, each of which reads the last one; other inputs stand for other layers."""

    def __init__(self, shape: Sequence[int], *, any_batch: bool = True) -> None:
        self._rng = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self.last = self.input(shape, any_batch=any_batch)

    def input(self, shape: Sequence[int], *, any_batch: bool = True) -> str:
        """Add an input to the model. ``any_batch``: for any number of images, which ``shape`` leaves out."""
        name = f"input{len(self._inputs)}"
        sizes: list[str | int | None] = ["batch", *shape] if any_batch else [*shape]
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
        return name

    def flatten(self) -> None:
        """Reduce the first input to its channels."""
        value = self._inputs[0].type.tensor_type.shape.dim
        del value[2:]

    def weights(self, *shape: int) -> str:
        """Random positive weights."""
        return self.constant((self._rng.random(shape) * 0.1 + 0.01).astype(np.float32))

    def constant(self, value: NDArray[np.float32] | NDArray[np.int64]) -> str:
        """A constant of the model."""
        name = f"constant{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(value, name))
        return name

    def add(self, kind: str, *more_inputs: str, **attributes: Any) -> None:
        """Append an operator that reads the last output and ``more_inputs``."""
        name = f"value{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, [self.last, *more_inputs], [name], **attributes))
        self.last = name

    def split(self, parts: int, axis: int) -> list[str]:
        """The last output in equal parts."""
        names = [f"value{len(self._nodes)}_{part}" for part in range(parts)]
        self._nodes.append(helper.make_node("Split", [self.last], names, axis=axis))
        return names

    def activate(self, activation: Activation | None) -> None:
        """Append an activation, if there is one."""
        match activation:
            case None:
                return
            case "relu":
                self.add("Relu")
            case "hswish":
                self.add("HardSwish")
            case "swish":
                before = self.last
                self.add("Sigmoid")
                self.add("Mul", before)
            case "gelu":
                add_activation(self, UnaryOp("gelu"))
            case _:
                assert_never(activation)

    def convolve(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        groups: int,
        stride: int = 1,
        dilation: int = 1,
        border: tuple[int, int] = (0, 0),
    ) -> None:
        """Append a convolution with bias and "same" padding, and ``border`` more rows and columns at its end."""
        weights = [self.weights(c_out, c_in // groups, kernel, kernel), self.weights(c_out)]
        pad = dilation * (kernel // 2)
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "dilations": [dilation] * 2}
        self.add("Conv", *weights, group=groups, pads=[pad, pad, pad + border[0], pad + border[1]], **sizes)

    def to_bytes(self) -> bytes:
        """The serialised model."""
        output = helper.make_empty_tensor_value_info(self.last)
        output.type.tensor_type.elem_type = TensorProto.FLOAT
        graph = helper.make_graph(self._nodes, "layer", self._inputs, [output], self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        return bytes(model.SerializeToString(deterministic=True))
