"""The layers of a narrowed graph, as reports, drawings and tables have them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from nas.core.layers import INPUT, Layer, LayerOperand, MapShape, OperatorLayer
from nas.core.operators import (
    AttentionOp,
    BinaryOp,
    Conv2dOp,
    ConvTranspose2dOp,
    LinearOp,
    MatMulOp,
    OpaqueOp,
    PermuteOp,
    Pool2dOp,
    ReduceOp,
    ReshapeOp,
    SqueezeOp,
    UnaryOp,
    UnsqueezeOp,
    UpsampleOp,
)
from nas.models.channels import layer_name
from nas.models.graph import GraphNode, ModelGraph, TensorShape
from search_spaces.own_model.operations import FREE, WEIGHTED, is_folded, operation
from search_spaces.own_model.sizes import shapes_of_one_image


def describe(graph: ModelGraph, resolution: int) -> list[Layer]:
    """The layers of a graph for one square image: every node, but batch norms and activations that are part of the
    convolution, linear layer or sum before them. Layers have the names of their modules."""
    description = _Description(graph, shapes_of_one_image(graph, resolution))
    return [description.layer(node) for node in graph.nodes if node.name not in description.taken_up]


class _Description:
    """``taken_up``: the nodes that are part of the layer of another node."""

    def __init__(self, graph: ModelGraph, shapes: Mapping[str, TensorShape]) -> None:
        self._graph, self._shapes = graph, shapes
        self._by_name = {node.name: node for node in graph.nodes}
        self._channel_dim = _channel_dims(graph)
        self._learned = {value.name: value for value in graph.learned}
        self._counted: set[str] = set()  # a parameter that several nodes read is counted with the first
        self._norms = {node.operands[0]: node for node in graph.nodes if is_folded(node, graph.readers, self._by_name)}
        self._activations = {
            node.name: activation for node in graph.nodes if (activation := self._activation_after(node)) is not None
        }
        taken_up = [*self._norms.values(), *self._activations.values()]
        self.taken_up = frozenset(node.name for node in taken_up)
        self._layer_names = _layer_names([node for node in graph.nodes if node.name not in self.taken_up])
        for source, node in [*self._norms.items(), *((name, node) for name, node in self._activations.items())]:
            self._layer_names[node.name] = self._layer_names[source]

    def layer(self, node: GraphNode) -> Layer:
        """The layer of one node."""
        weight = self._shapes[node.operands[1]] if node.operator.kind in WEIGHTED else None
        inputs = [name for name in node.operands if name not in self._graph.parameter_names]
        source = inputs[0] if inputs else self._graph.inputs[0].name
        norm, activation = self._norms.get(node.name), self._activations.get(node.name)
        members = [member for member in (node, norm, activation) if member is not None]
        operands = [LayerOperand(self._shapes[n], n in self._graph.parameter_names) for n in node.operands]
        return OperatorLayer(
            name=self._layer_names[node.name],
            inputs=tuple(self._layer_names.get(name, INPUT) for name in inputs),
            in_shape=self._map_shape(source),
            out_shape=self._map_shape(members[-1].name),
            op="reshape" if node.operator.kind in FREE else operation(node, weight),
            params=sum(self._parameters(member) for member in members),
            macs=count_macs(node, self._shapes),
            operator=node.operator,
            operands=tuple(operands),
            result=self._shapes[node.name],
            text=_detail(node, weight),
            has_norm=norm is not None,
            activation=_unary(activation),
        )

    def _activation_after(self, node: GraphNode) -> GraphNode | None:
        """The activation that alone reads what a layer gives, if runtimes compute both at once."""
        if node.operator.kind not in (*WEIGHTED, "binary"):
            return None
        last = self._norms.get(node.name, node)
        readers = self._graph.readers[last.name]
        if len(readers) != 1 or last.name in self._graph.outputs or not isinstance(readers[0].operator, UnaryOp):
            return None
        return readers[0]

    def _parameters(self, node: GraphNode) -> int:
        names = [name for name in dict.fromkeys(node.operands) if name in self._learned and name not in self._counted]
        self._counted.update(names)
        return sum(self._learned[name].size for name in names)

    def _map_shape(self, name: str) -> MapShape:
        """(channels, height, width) of a value; positions of tokens are its height."""
        shape = self._shapes[name]
        dim = self._channel_dim.get(name, len(shape) - 1)
        sides = [size for i, size in enumerate(shape) if i != dim and size > 1]
        return shape[dim], sides[0] if sides else 1, math.prod(sides[1:])


def _layer_names(nodes: Sequence[GraphNode]) -> dict[str, str]:
    """The module of each node; with the node's name where several are of one module, or its name stands for the
    image."""
    modules = Counter([INPUT, *(layer_name(node) for node in nodes)])
    return {
        node.name: layer_name(node) if modules[layer_name(node)] == 1 else f"{layer_name(node)}:{node.name}"
        for node in nodes
    }


def _unary(node: GraphNode | None) -> UnaryOp | None:
    return node.operator if node is not None and isinstance(node.operator, UnaryOp) else None


def count_macs(node: GraphNode, shapes: Mapping[str, TensorShape]) -> int:
    """Multiply-accumulates of one image: of weights, and of products of two values."""
    output, operands = shapes[node.name], [shapes[name] for name in node.operands]
    match node.operator:
        case Conv2dOp():
            return math.prod(operands[1]) * math.prod(output[2:])
        case ConvTranspose2dOp():
            return math.prod(operands[1]) * math.prod(operands[0][2:])
        case LinearOp():
            return math.prod(operands[0]) * operands[1][0]
        case MatMulOp():
            return math.prod(output) * operands[0][-1]
        case AttentionOp():
            return (math.prod(operands[0]) + math.prod(output)) * operands[1][-2]
        case OpaqueOp(operator="aten.conv1d.default" | "aten.conv3d.default"):
            return math.prod(operands[1]) * math.prod(output[2:])
        case _:
            return 0


def _channel_dims(graph: ModelGraph) -> dict[str, int]:
    """By the name of a value, the dimension of its channels, as far as operators tell."""
    dims = {value.name: 1 for value in graph.inputs}
    for node in graph.nodes:
        values = [name for name in node.operands if name in dims]
        last = len(node.shape) - 1
        dims[node.name] = min(last, _channel_dim(node, dims[values[0]], graph.shapes[values[0]]) if values else last)
    return dims


def _channel_dim(node: GraphNode, dim: int, before: TensorShape) -> int:
    operator, last = node.operator, len(node.shape) - 1
    match operator:
        case Conv2dOp() | ConvTranspose2dOp():
            return 1
        case LinearOp() | MatMulOp() | AttentionOp():
            return last
        case PermuteOp(dims=dims):
            return dims.index(dim)
        case SqueezeOp(dims=dims):
            return dim - sum(other < dim for other in dims)
        case UnsqueezeOp(dim=inserted):
            return dim + (inserted <= dim)
        case ReshapeOp():
            return dim if node.shape[: dim + 1] == before[: dim + 1] else last
        case _:
            return dim


def _detail(node: GraphNode, weight: TensorShape | None) -> str:
    operator = node.operator
    match operator:
        case Conv2dOp() | ConvTranspose2dOp():
            assert weight is not None
            text = f"{weight[2]}x{weight[3]}"
            text += f", stride {operator.stride[0]}" if max(operator.stride) > 1 else ""
            text += f", dilation {operator.dilation[0]}" if max(operator.dilation) > 1 else ""
            return text + (f", {operator.groups} groups" if operator.groups > 1 else "")
        case Pool2dOp():
            return f"{operator.kernel[0]}x{operator.kernel[1]} {operator.mode}, stride {operator.stride[0]}"
        case UnaryOp() | BinaryOp():
            return operator.function
        case ReduceOp() | UpsampleOp():
            return f"{operator.kind} {operator.mode}"
        case PermuteOp(dims=dims):
            return f"permute {' '.join(map(str, dims))}"
        case OpaqueOp():
            return operator.operator
        case _:
            return operator.kind
