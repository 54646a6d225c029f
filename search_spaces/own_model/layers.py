"""The layers of narrowed models, as reports, drawings and tables have them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from nas.core.arch import Arch
from nas.core.layers import INPUT, Layer, LayerOperand, MapShape, OperatorLayer
from nas.core.operators import (
    AttentionOp,
    BinaryOp,
    Conv2dOp,
    ConvTranspose2dOp,
    GatherOp,
    GraphOperator,
    LinearOp,
    MatMulOp,
    OpaqueOp,
    PermuteOp,
    Pool2dOp,
    ReduceOp,
    ReshapeOp,
    SliceOp,
    SqueezeOp,
    UnaryOp,
    UnsqueezeOp,
    UpsampleOp,
)
from nas.models.blocks import skip_blocks
from nas.models.channels import layer_name
from nas.models.graph import GraphNode, ModelGraph, TensorShape
from nas.models.narrowing import narrow_operator
from nas.models.shapes import infer_shapes
from search_spaces.own_model.choices import ElasticChoices
from search_spaces.own_model.operations import FREE, WEIGHTED, is_folded, operation
from search_spaces.own_model.sizes import GraphSizes


@dataclass(frozen=True, eq=False)
class _Slot:
    """A layer of the networks that have certain blocks: a node with the norm and the activation that it takes up, its
    name and those of the layers it reads, the learned parameters counted with it, and the counts that its sizes are
    of. ``layers``: as described before, by resolution and counts."""

    node: GraphNode
    norm: GraphNode | None
    activation: GraphNode | None
    name: str
    inputs: tuple[str, ...]
    source: str
    counted: tuple[str, ...]
    values: tuple[str, ...]
    counts: tuple[int, ...]
    layers: dict[tuple[int, ...], Layer] = field(default_factory=dict)

    @property
    def reads_positions(self) -> bool:
        """Whether its operator depends on which channels remain, and not on how many alone."""
        return isinstance(self.node.operator, GatherOp | SliceOp)

    @property
    def last(self) -> str:
        """The value that the layer gives."""
        return next(m.name for m in (self.activation, self.norm, self.node) if m is not None)


class NetworkLayers:
    """The layers of the networks of a space: every node, but batch norms and activations that are part of the
    convolution, linear layer or sum before them. Layers have the names of their modules. What networks have in common
    is described once: slots by the blocks that are there, a layer by the sizes of what it reads and gives."""

    def __init__(self, choices: ElasticChoices, sizes: GraphSizes) -> None:
        self._choices, self._sizes, self._graph = choices, sizes, choices.model.graph
        self._nodes = {node.name: node for node in self._graph.nodes}
        self._slots: dict[tuple[str, ...], tuple[_Slot, ...]] = {}
        self._distinct: dict[tuple[object, ...], _Slot] = {}
        self._image_dims = _dims_of_images(self._graph)

    def of(self, arch: Arch, counts_C: Sequence[int]) -> list[Layer]:
        """The layers of a network with these counts of ``GraphSizes``, in order."""
        skipped, resolution = self._choices.skipped_blocks(arch), arch.genes[0]
        if skipped not in self._slots:
            self._slots[skipped] = self._find_slots(skip_blocks(self._graph, skipped))
        layers = []
        for slot in self._slots[skipped]:
            widths = arch.genes[1 : self._choices.first_block] if slot.reads_positions else ()
            key = (resolution, *(counts_C[c] for c in slot.counts), *widths)
            if key not in slot.layers:
                slot.layers[key] = self._describe(slot, arch, counts_C)
            layers.append(slot.layers[key])
        return layers

    def _find_slots(self, graph: ModelGraph) -> tuple[_Slot, ...]:
        fusion = _Fusion(graph)
        counted: set[str] = set()  # a parameter that several nodes read is counted with the first
        slots = []
        for node in graph.nodes:
            if node.name in fusion.taken_up:
                continue
            norm, activation = fusion.norms.get(node.name), fusion.activations.get(node.name)
            members = [member for member in (node, norm, activation) if member is not None]
            read = dict.fromkeys(name for member in members for name in member.operands)
            parameters = tuple(name for name in read if name in fusion.learned and name not in counted)
            counted.update(parameters)
            inputs = [name for name in node.operands if name not in graph.parameter_names]
            source = inputs[0] if inputs else graph.inputs[0].name
            names = tuple(fusion.layer_names.get(name, INPUT) for name in inputs)
            values = tuple(dict.fromkeys([*read, source, *(member.name for member in members)]))
            same = (*(member.name for member in members), fusion.layer_names[node.name], names, parameters, values)
            if same not in self._distinct:
                head = (node, norm, activation, fusion.layer_names[node.name], names)
                self._distinct[same] = _Slot(*head, source, parameters, values, self._counts_of(values))
            slots.append(self._distinct[same])
        return tuple(slots)

    def _counts_of(self, values: Sequence[str]) -> tuple[int, ...]:
        sizes = (size for name in values for size in self._sizes.of(name))
        return tuple(sorted({count for size in sizes for count in size.counts}))

    def _describe(self, slot: _Slot, arch: Arch, counts_C: Sequence[int]) -> Layer:
        resolution = arch.genes[0]
        shapes = {
            name: tuple(
                size.fixed_R[resolution] * math.prod(counts_C[c] for c in size.counts) for size in self._sizes.of(name)
            )
            for name in slot.values
        }
        node = replace(slot.node, operator=self._operator(slot.node, arch, shapes))
        weight = shapes[node.operands[1]] if node.operator.kind in WEIGHTED else None
        return OperatorLayer(
            name=slot.name,
            inputs=slot.inputs,
            in_shape=self._map_shape(slot.source, shapes),
            out_shape=self._map_shape(slot.last, shapes),
            op="reshape" if node.operator.kind in FREE else operation(node, weight),
            params=sum(math.prod(shapes[name]) for name in slot.counted),
            macs=count_macs(node, shapes),
            operator=node.operator,
            operands=tuple(LayerOperand(shapes[n], n in self._graph.parameter_names) for n in node.operands),
            result=shapes[node.name],
            text=_detail(node, weight),
            has_norm=slot.norm is not None,
            activation=_unary(slot.activation),
        )

    def _operator(self, node: GraphNode, arch: Arch, shapes: Mapping[str, TensorShape]) -> GraphOperator:
        """The operator of a node in a network, in which reshapes have numbers for sizes."""
        if isinstance(node.operator, ReshapeOp):
            dims = enumerate(shapes[node.name])
            return ReshapeOp(tuple(-1 if i in self._image_dims[node.name] else size for i, size in dims))
        units = self._choices.kept_units(arch)
        return narrow_operator(self._graph, self._choices.model.analysis, self._nodes[node.name], units)

    def _map_shape(self, name: str, shapes: Mapping[str, TensorShape]) -> MapShape:
        """(channels, height, width) of a value; positions of tokens are its height."""
        shape = shapes[name]
        dim = self._channel_dims.get(name, len(shape) - 1)
        sides = [size for i, size in enumerate(shape) if i != dim and size > 1]
        return shape[dim], sides[0] if sides else 1, math.prod(sides[1:])

    @cached_property
    def _channel_dims(self) -> dict[str, int]:
        return _channel_dims(self._graph)


class _Fusion:
    """Which nodes of a graph are part of the layer of another one: ``norms`` and ``activations`` by the node that takes
    them up. ``layer_names``: the name of each node's layer."""

    def __init__(self, graph: ModelGraph) -> None:
        self._graph = graph
        by_name = {node.name: node for node in graph.nodes}
        self.learned = frozenset(value.name for value in graph.learned)
        self.norms = {node.operands[0]: node for node in graph.nodes if is_folded(node, graph.readers, by_name)}
        self.activations = {
            node.name: activation for node in graph.nodes if (activation := self._activation_after(node)) is not None
        }
        taken_up = [*self.norms.values(), *self.activations.values()]
        self.taken_up = frozenset(node.name for node in taken_up)
        self.layer_names = _layer_names([node for node in graph.nodes if node.name not in self.taken_up])
        for source, node in [*self.norms.items(), *self.activations.items()]:
            self.layer_names[node.name] = self.layer_names[source]

    def _activation_after(self, node: GraphNode) -> GraphNode | None:
        """The activation that alone reads what a layer gives, if runtimes compute both at once."""
        if node.operator.kind not in (*WEIGHTED, "binary"):
            return None
        last = self.norms.get(node.name, node)
        readers = self._graph.readers[last.name]
        if len(readers) != 1 or last.name in self._graph.outputs or not isinstance(readers[0].operator, UnaryOp):
            return None
        return readers[0]


def _dims_of_images(graph: ModelGraph) -> dict[str, frozenset[int]]:
    """By the name of a node, the dimensions that grow with the number of images."""
    image = graph.inputs[0]
    one_more = infer_shapes(graph, {image.name: (image.shape[0] + 1, *image.shape[1:])})
    return {
        node.name: frozenset(i for i, size in enumerate(node.shape) if size != one_more[node.name][i])
        for node in graph.nodes
    }


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
