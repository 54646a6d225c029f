"""Single layers as ONNX models of their own, so that they can be timed by the runtime that runs whole networks.

What a layer is, is read from its record (``nas.core.ports.Layer``): operation, shapes and the words of its detail. A
word that is not known here is refused, since a model without it would be faster than the layer. Weights are random:
time depends on shapes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from nas.core.errors import InvalidInput
from nas.core.ports import Layer

OPSET, IR_VERSION = 17, 8  # as the models of whole networks have it
_WORDS = re.compile(
    r"(?P<kernel>\d+)x(?P=kernel)|stride (?P<stride>\d+)|dilation (?P<dilation>\d+)|squeeze-excite (?P<narrow>\d+)"
    r"|(?P<nodes>\d+) nodes|(?P<word>h-swish|ReLU|\+ input|global average|average|max|batch norm|one pixel on)|[ ,]+"
)


def empty_to_onnx() -> bytes:
    """A model that does nothing: its time is what running any model costs."""
    return _Model((1, 1, 1)).bytes("Identity")


def layer_to_onnx(layer: Layer) -> bytes:
    """The layer alone, with the batch norm that is folded into it, and its activation; any batch size.

    Raises InvalidInput for an operation or a detail that is not known, and for shapes that contradict it.
    """
    known = _read(layer)
    words, kernel = known.words, known.kernel
    c_in, height, width = layer.in_shape
    c_out = layer.out_shape[0]
    model = _Model((c_in, height, width))
    if layer.op in ("dense", "pointwise", "depthwise"):
        groups = c_in if layer.op == "depthwise" else 1
        shift = "one pixel on" in words
        if shift:
            ends = [np.array(v, dtype=np.int64) for v in ([1, 1], [2**31, 2**31], [2, 3])]
            model.add("Slice", *(model.constant(v) for v in ends))
        odd = (height % 2, width % 2) if shift else (0, 0)  # one pixel is gone
        channels = c_out // 2 if shift else c_out
        model.convolve(c_in, channels, kernel, groups, stride=known.stride, dilation=known.dilation, odd=odd)
        if shift:
            model.add("Concat", model.input((c_out - c_out // 2, *layer.out_shape[1:])), axis=1)
        if "+ input" in words:
            model.add("Add", model.input(layer.out_shape))
    elif layer.op == "se":
        whole = model.last
        model.add("GlobalAveragePool")
        model.convolve(c_in, known.narrow, 1, 1)
        model.add("Relu")
        model.convolve(known.narrow, c_out, 1, 1)
        model.add("HardSigmoid", alpha=1 / 6, beta=0.5)
        model.add("Mul", whole)
    elif layer.op == "linear":
        model.flatten()
        weights = [model.weights(c_out, c_in)]
        model.add("Gemm", *weights, *([model.weights(c_out)] if layer.params > c_in * c_out else []), transB=1)
    elif layer.op == "pool" and "global average" in words:
        model.add("GlobalAveragePool")
    elif layer.op == "pool" and ("average" in words) != ("max" in words):
        pad = 0 if kernel == 2 else kernel // 2
        kind = "AveragePool" if "average" in words else "MaxPool"
        sizes = {"kernel_shape": [kernel] * 2, "strides": [known.stride] * 2, "pads": [pad] * 4}
        model.add(kind, **sizes, **({"ceil_mode": 1} if kernel == 2 else {}))
    elif layer.op == "norm" and "batch norm" in words:
        model.add("BatchNormalization", *(model.weights(c_in) for _ in range(4)))
    elif layer.op == "concat" and known.nodes:
        model.add("Concat", *(model.input(layer.in_shape) for _ in range(known.nodes - 1)), axis=1)
    else:
        raise InvalidInput(f"layer {layer.name!r}: an operation {layer.op!r} ({layer.detail!r}) cannot be cut out")
    for word, kind in (("ReLU", "Relu"), ("h-swish", "HardSwish")):
        if word in words:
            model.add(kind)
    return model.bytes()


class _Read:
    """What the words of a detail say."""

    def __init__(self, layer: Layer) -> None:
        self.words: set[str] = set()
        self.kernel, self.dilation, self.narrow, self.nodes = 1, 1, 0, 0
        rest = layer.detail
        while rest:
            found = _WORDS.match(rest)
            if found is None:
                raise InvalidInput(f"layer {layer.name!r}: {rest!r} in its detail {layer.detail!r} is not known")
            rest = rest[found.end() :]
            if found["word"]:
                self.words.add(found["word"])
            for name in ("kernel", "dilation", "narrow", "nodes"):
                if found[name]:
                    setattr(self, name, int(found[name]))
        self.stride = next((s for s in (1, 2, 3, 4) if self._leads(layer, s)), 0)

    @staticmethod
    def _leads(layer: Layer, stride: int) -> bool:
        return tuple(-(-size // stride) for size in layer.in_shape[1:]) == layer.out_shape[1:]


def _read(layer: Layer) -> _Read:
    read = _Read(layer)
    if read.stride == 0 and layer.op in ("dense", "pointwise", "depthwise"):
        raise InvalidInput(f"layer {layer.name!r}: no stride leads from {layer.in_shape} to {layer.out_shape}")
    return read


class _Model:
    """A chain of operations that grows; further inputs are of further layers."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self._rng = np.random.default_rng(0)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._inputs: list[onnx.ValueInfoProto] = []
        self.last = self.input(shape)

    def input(self, shape: Sequence[int]) -> str:
        """A further input of the model."""
        name = f"input{len(self._inputs)}"
        self._inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape]))
        return name

    def flatten(self) -> None:
        """Only the channels of the first input."""
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

    def add(self, kind: str, *others: str, **attributes: Any) -> None:
        """An operation on what the last one gave, and on ``others``."""
        name = f"value{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, [self.last, *others], [name], **attributes))
        self.last = name

    def convolve(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        groups: int,
        stride: int = 1,
        dilation: int = 1,
        odd: tuple[int, int] = (0, 0),
    ) -> None:
        """A convolution with bias and "same" padding, and ``odd`` more at the ends."""
        weights = [self.weights(c_out, c_in // groups, kernel, kernel), self.weights(c_out)]
        pad = dilation * (kernel // 2)
        sizes = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "dilations": [dilation] * 2}
        self.add("Conv", *weights, group=groups, pads=[pad, pad, pad + odd[0], pad + odd[1]], **sizes)

    def bytes(self, kind: str | None = None) -> bytes:
        """The model, after a last operation if one is given."""
        if kind is not None:
            self.add(kind)
        output = helper.make_empty_tensor_value_info(self.last)
        output.type.tensor_type.elem_type = TensorProto.FLOAT
        graph = helper.make_graph(self._nodes, "layer", self._inputs, [output], self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        return bytes(model.SerializeToString(deterministic=True))
