"""The layers of a narrowed graph, as reports, drawings and tables have them."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from nas.core.layers import INPUT, CustomLayer, Layer, MapShape
from nas.models.graph import GraphNode, ModelGraph, TensorShape
from nas.models.operators import (
    AttentionOp,
    Conv2dOp,
    ConvTranspose2dOp,
    LinearOp,
    MatMulOp,
    PermuteOp,
    Pool2dOp,
    ReshapeOp,
    SqueezeOp,
    UnaryOp,
    UnsqueezeOp,
)
from search_spaces.own_model.operations import WEIGHTED, operation
from search_spaces.own_model.sizes import shapes_of_one_image


def describe(graph: ModelGraph, resolution: int) -> list[Layer]:
    """The layers of a graph for one square image: every node."""
    description = _Description(graph, shapes_of_one_image(graph, resolution))
    return [description.layer(node) for node in graph.nodes]


class _Description:
    def __init__(self, graph: ModelGraph, shapes: Mapping[str, TensorShape]) -> None:
        self._graph, self._shapes = graph, shapes
        self._channel_dim = _channel_dims(graph)
        self._counted: set[str] = set()  # a parameter that several nodes read is counted with the first

    def layer(self, node: GraphNode) -> Layer:
        """The layer of one node."""
        weight = self._shapes[node.operands[1]] if node.operator.kind in WEIGHTED else None
        inputs = [name for name in node.operands if name not in self._graph.parameter_names]
        source = inputs[0] if inputs else self._graph.inputs[0].name
        image = self._graph.inputs[0].name
        return CustomLayer(
            name=node.name,
            inputs=tuple(INPUT if name == image else name for name in inputs),
            in_shape=self._map_shape(source),
            out_shape=self._map_shape(node.name),
            op=operation(node, weight),
            params=self._parameters(node),
            macs=count_macs(node, self._shapes),
            detail=_detail(node, weight),
            window=None if weight is None or len(weight) != 4 else weight[2],
        )

    def _parameters(self, node: GraphNode) -> int:
        values = {value.name: value for value in self._graph.parameters}
        learned = node.operands[3:] if node.operator.kind == "batch_norm" else node.operands
        names = [name for name in dict.fromkeys(learned) if name in values and name not in self._counted]
        self._counted.update(names)
        return sum(values[name].size for name in names if np.dtype(values[name].dtype).kind == "f")

    def _map_shape(self, name: str) -> MapShape:
        """(channels, height, width) of a value; positions of tokens are its height."""
        shape = self._shapes[name]
        dim = self._channel_dim.get(name, len(shape) - 1)
        sides = [size for i, size in enumerate(shape) if i != dim and size > 1]
        return shape[dim], sides[0] if sides else 1, math.prod(sides[1:])


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
            return text + (f", {operator.groups} groups" if operator.groups > 1 else "")
        case Pool2dOp():
            return f"{operator.kernel[0]}x{operator.kernel[1]} {operator.mode}, stride {operator.stride[0]}"
        case UnaryOp():
            return operator.function
        case _:
            return operator.kind
