"""An ONNX model as a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from nas.core.operators import (
    BatchNormOp,
    Conv2dOp,
    ConvTranspose2dOp,
    GraphOperator,
    GroupNormOp,
    LayerNormOp,
    LinearOp,
    OpaqueOp,
    PReluOp,
)
from nas.models.graph import GraphNode, GraphValue, InvalidModel, ModelGraph, TensorShape
from nas.models.reading import onnx_opaque
from nas.models.reading.model import ReadModel
from nas.models.reading.normalising import normalise
from nas.models.reading.onnx_operators import TRANSLATIONS, OnnxNode
from nas.models.shapes import check_shapes, infer_node

EXAMPLE_BATCH = 2
_FOLDED = (
    *("Shape", "Constant", "ConstantOfShape", "Gather", "Unsqueeze", "Squeeze", "Concat", "Cast", "Slice", "Reshape"),
    *(
        "Add",
        "Sub",
        "Mul",
        "Div",
        "Mod",
        "Floor",
        "Ceil",
        "Range",
        "Transpose",
        "Neg",
        "Sqrt",
        "Equal",
        "Where",
        "Expand",
    ),
    *(
        "Trilu",
        "Not",
        "And",
        "Or",
        "Greater",
        "Less",
        "GreaterOrEqual",
        "LessOrEqual",
        "Tile",
        "Pow",
        "Exp",
        "Sin",
        "Cos",
    ),
)
"""What is computed at once when all operands are constants, such as sizes and transposed weights."""


_WEIGHTED = (Conv2dOp, ConvTranspose2dOp, LinearOp, BatchNormOp, LayerNormOp, GroupNormOp, PReluOp)


def read_onnx(path: Path, max_bytes: int) -> ReadModel:
    """Read a model. A number of images that is a name becomes 2 in the example.

    Raises InvalidModel for external data, operators of other domains, subgraphs, and operators without a translation.
    """
    if (size := path.stat().st_size) > max_bytes:
        raise InvalidModel(f"expected at most {max_bytes:,} bytes, got {size:,}")
    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except DecodeError as error:
        raise InvalidModel(f"expected an ONNX model, got a file that is none: {error}") from None
    _check(model)
    translation = _OnnxTranslator(model.graph)
    for node in model.graph.node:
        translation.add(node)
    graph = normalise(translation.graph())
    check_shapes(graph)
    if any(isinstance(node.operator, OpaqueOp) for node in graph.nodes):
        from nas.models.opaque import check_opaque

        check_opaque(graph)
    weights = {value.name: translation.constants[value.name] for value in graph.parameters}
    stored = {tensor.name for tensor in model.graph.initializer if translation.constants[tensor.name].dtype.kind == "f"}
    return ReadModel(graph, weights, frozenset(weights.keys() - stored))


def _check(model: onnx.ModelProto) -> None:
    if not model.graph.node:
        raise InvalidModel("expected an ONNX model with nodes, got none")
    if model.functions or model.graph.sparse_initializer:
        raise InvalidModel("expected neither functions nor sparse weights in the ONNX model, got some")
    for tensor in model.graph.initializer:
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise InvalidModel(
                f"{tensor.name}: expected the weights in the file itself, got external data, which would read other "
                "files: load the model with them and save it with onnx.save(model, path)"
            )
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise InvalidModel(
                f"{node.name or node.op_type}: expected an operator of ONNX, got {node.op_type} of {node.domain!r}"
            )
        for attribute in node.attribute:
            if attribute.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS):
                raise InvalidModel(f"{node.name or node.op_type}: expected no control flow, got {node.op_type}")
            if attribute.t.external_data:
                raise InvalidModel(f"{node.name or node.op_type}: expected no external data, got some")


class _OnnxTranslator:
    """Nodes for ONNX nodes, one after the other. ``constants``: all values that do not depend on the inputs."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.constants = {tensor.name: _array(tensor) for tensor in graph.initializer}
        self._inputs = tuple(_input(value) for value in graph.input if value.name not in self.constants)
        if not self._inputs:
            raise InvalidModel("expected a model with at least one input, got none")
        self._outputs = tuple(value.name for value in graph.output)
        self._shapes: dict[str, TensorShape] = {value.name: value.shape for value in self._inputs}
        self._aliases: dict[str, str] = {}
        self._nodes: list[GraphNode] = []
        self._read_vectors: set[str] = set()
        self._computed: set[str] = set()
        self._types: dict[str, str] = {}  # of values that are not float32

    def add(self, proto: onnx.NodeProto) -> None:
        """Translate or compute one node. Raises InvalidModel if its operator is not supported."""
        operands = [self._aliases.get(name, name) for name in proto.input]
        label = proto.name or proto.output[0]
        shapes = {name: self._shape(name, label) for name in operands if name}
        if proto.op_type in ("Identity", "Dropout"):
            self._aliases[proto.output[0]] = operands[0]
        elif proto.op_type == "Shape" or (
            proto.op_type in _FOLDED and all(name in self.constants for name in operands if name)
        ):
            self._fold(proto, operands)
        elif proto.op_type in TRANSLATIONS:
            node = OnnxNode(proto, label, tuple(operands), shapes, self.constants)
            for output, operators, names in TRANSLATIONS[proto.op_type](node):
                self._require_weights(label, operators[0], names)
                self._append(label, output, operators, [self._own_vector(name, output) for name in names])
        elif proto.op_type in onnx_opaque.OPERATORS:
            self._append_opaque(OnnxNode(proto, label, tuple(operands), shapes, self.constants))
        else:
            raise InvalidModel(f"{label}: expected an operator that can be run, got {proto.op_type}")

    def graph(self) -> ModelGraph:
        """What was translated so far."""
        weights = {name for node in self._nodes if isinstance(node.operator, _WEIGHTED) for name in node.operands[1:]}
        parameters = tuple(
            GraphValue(name, array.shape, str(array.dtype), is_buffer=name in self._computed - weights)
            for name, array in self.constants.items()
        )
        outputs = tuple(self._aliases.get(name, name) for name in self._outputs)
        graph = ModelGraph(self._inputs, parameters, tuple(self._nodes), outputs)
        graph.check()
        return graph

    def _own_vector(self, name: str, reader: str) -> str:
        """A copy of a vector that another node reads already: exporters merge those that happen to be equal, such as
        biases of zeros, which does not tie their layers. Matrices that are shared remain so."""
        if name not in self.constants or self.constants[name].ndim != 1:
            return name
        if name not in self._read_vectors:
            self._read_vectors.add(name)
            return name
        self.constants[f"{name}/{reader}"] = self.constants[name]
        return f"{name}/{reader}"

    def _append_opaque(self, node: OnnxNode) -> None:
        types = {name: self._types.get(name, "float32") for name in node.present}
        types |= {name: str(self.constants[name].dtype) for name in node.present if name in self.constants}
        for output, operator, names, kind in onnx_opaque.translate(node, types, self._inputs[0].shape[0]):
            self._append(node.label, output, [operator], names)
            self._types[output] = kind

    def _require_weights(self, label: str, operator: GraphOperator, names: list[str]) -> None:
        if isinstance(operator, _WEIGHTED) and not all(name in self.constants for name in names[1:]):
            raise InvalidModel(f"{label}: expected weights in the file, got computed ones")

    def _append(self, label: str, output: str, operators: list[GraphOperator], names: list[str]) -> None:
        for i, operator in enumerate(operators):
            name = output if i == len(operators) - 1 else f"{output}/step{i}"
            module = label.strip("/").rpartition("/")[0].replace("/", ".")
            draft = GraphNode(name, operator, tuple(names), (), module)
            shape = infer_node(draft, [self._shape(n, label) for n in names], self._inputs[0].shape[0])
            self._nodes.append(GraphNode(name, operator, tuple(names), shape, module))
            self._shapes[name] = shape
            names = [name]

    def _shape(self, name: str, label: str) -> TensorShape:
        if name in self.constants:
            return self.constants[name].shape
        if name not in self._shapes:
            raise InvalidModel(f"{label}: expected {name!r} to be computed before it")
        return self._shapes[name]

    def _fold(self, proto: onnx.NodeProto, operands: list[str]) -> None:
        if proto.op_type == "Shape":
            arrays = [np.array(self._shape(operands[0], proto.name), dtype=np.int64)]
        else:
            feeds = {operand: self.constants[name] for operand, name in zip(proto.input, operands, strict=True) if name}
            arrays = [*ReferenceEvaluator(proto).run(None, feeds)]
        for name, array in zip(proto.output, arrays, strict=True):
            self.constants[name] = np.asarray(array)
            self._computed.add(name)


def _array(tensor: onnx.TensorProto) -> NDArray[Any]:
    array = np.array(numpy_helper.to_array(tensor))
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _input(value: onnx.ValueInfoProto) -> GraphValue:
    dims = value.type.tensor_type.shape.dim
    sizes = [dim.dim_value or (EXAMPLE_BATCH if i == 0 else 0) for i, dim in enumerate(dims)]
    if not sizes or any(size < 1 for size in sizes):
        names = [dim.dim_param or str(dim.dim_value) for dim in dims]
        raise InvalidModel(f"input {value.name}: expected fixed sizes but for the number of images, got {names}")
    if value.type.tensor_type.elem_type != onnx.TensorProto.FLOAT:
        raise InvalidModel(f"input {value.name}: expected float32, got type {value.type.tensor_type.elem_type}")
    return GraphValue(value.name, tuple(sizes))
