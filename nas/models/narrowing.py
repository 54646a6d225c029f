"""Cutting channels and residual blocks out of a graph and its weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core.errors import InvalidInput, UnknownName
from nas.core.operators import (
    Conv2dOp,
    ConvTranspose2dOp,
    ExpandOp,
    GatherOp,
    GraphOperator,
    GroupNormOp,
    ReshapeOp,
    SliceOp,
)
from nas.models.blocks import skip_blocks
from nas.models.channels import ChannelAnalysis, analyse_channels
from nas.models.graph import GraphNode, GraphValue, InvalidModel, ModelGraph, TensorShape, WeightArrays
from nas.models.propagation import ParameterAxis
from nas.models.shapes import check_shapes
from nas.models.units import UnitArray

KeptUnits = Mapping[str, Sequence[int]]
"""By the name of a channel group, the positions of the units that remain. Groups that are not named remain whole."""
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class NarrowedModel:
    """A physically smaller model, and the weights that remain of its parent's."""

    graph: ModelGraph
    weights: dict[str, NDArray[Any]]


@dataclass(frozen=True)
class NarrowedGraph:
    """A graph that lost channels and blocks. ``positions``: for each axis of a parameter that is shorter than in the
    parent, the positions of it that remain."""

    graph: ModelGraph
    positions: Mapping[ParameterAxis, IntArray]

    def cut(self, weights: WeightArrays) -> dict[str, NDArray[Any]]:
        """The parent's ``weights`` as this graph needs them."""
        cut = {value.name: weights[value.name] for value in self.graph.parameters}
        for (name, axis), positions in self.positions.items():
            cut[name] = np.ascontiguousarray(cut[name].take(positions, axis=axis))
        return cut


def narrow(
    graph: ModelGraph, weights: WeightArrays, kept_units: KeptUnits, skipped: Collection[str] = ()
) -> NarrowedModel:
    """The model without the units that ``kept_units`` leaves out, and without the residual blocks ``skipped``.

    It computes what its parent computes if all removed channels are zero. Raises UnknownName for a group or block that
    the graph lacks, InvalidInput if nothing of a group or of a value remains or if a unit is none of the group.
    """
    narrowed = narrow_graph(graph, analyse_channels(graph), kept_units, skipped)
    return NarrowedModel(narrowed.graph, narrowed.cut(weights))


def narrow_graph(
    graph: ModelGraph, analysis: ChannelAnalysis, kept_units: KeptUnits, skipped: Collection[str] = ()
) -> NarrowedGraph:
    """As ``narrow``, without weights. ``analysis`` is that of ``graph``."""
    remains = _remaining_units(analysis, kept_units)
    masks = {name: _kept_along(graph.shapes[name], units, remains) for name, units in analysis.values.items()}
    shapes = {name: tuple(len(mask) if mask.all() else int(mask.sum()) for mask in masks[name]) for name in masks}
    _require_something(graph, shapes)
    positions = {axis: np.flatnonzero(remains[units]) for axis, units in analysis.axes.items()}
    parameters = tuple(_narrow_parameter(value, positions) for value in graph.parameters)
    nodes = tuple(_narrow_node(graph, node, masks, shapes) for node in graph.nodes)
    narrowed = skip_blocks(replace(graph, parameters=parameters, nodes=nodes), skipped)
    check_shapes(narrowed)
    remaining = narrowed.parameter_names
    shorter = {
        (name, axis): kept
        for (name, axis), kept in positions.items()
        if name in remaining and len(kept) < graph.shapes[name][axis]
    }
    return NarrowedGraph(narrowed, shorter)


def narrow_operator(
    graph: ModelGraph, analysis: ChannelAnalysis, node: GraphNode, kept_units: KeptUnits
) -> GraphOperator:
    """The operator of one node in ``narrow_graph``."""
    remains = _remaining_units(analysis, kept_units)
    names = (node.name, *node.operands)
    masks = {name: _kept_along(graph.shapes[name], analysis.values[name], remains) for name in names}
    shapes = {name: tuple(int(mask.sum()) for mask in masks[name]) for name in names}
    return _narrow_node(graph, node, masks, shapes).operator


def element_masks(graph: ModelGraph, kept_units: KeptUnits) -> dict[str, BoolArray]:
    """For each node that loses channels, which of its elements remain, to be broadcast to its shape, for as many images
    as the graph's example has."""
    analysis = analyse_channels(graph)
    remains = _remaining_units(analysis, kept_units)
    masks = {node.name: remains[analysis.values[node.name]] for node in graph.nodes}
    return {name: mask for name, mask in masks.items() if not mask.all()}


def _remaining_units(analysis: ChannelAnalysis, kept_units: KeptUnits) -> BoolArray:
    """By the number of a unit, whether it remains."""
    last = max(int(units.max()) for units in (*analysis.values.values(), *analysis.axes.values()))
    remains = np.ones(1 + last, dtype=bool)
    for name, positions in kept_units.items():
        if name not in analysis.numbers:
            raise UnknownName("channel group", name, analysis.numbers)
        numbers = analysis.numbers[name]
        remaining = sorted(set(positions))
        if not remaining or remaining[0] < 0 or remaining[-1] >= len(numbers):
            raise InvalidInput(
                f"channel group {name!r}: expected at least one of its units 0 to {len(numbers) - 1}, "
                f"got {list(positions)}"
            )
        remains[numbers] = False
        remains[numbers[remaining]] = True
    return remains


def _narrow_parameter(value: GraphValue, positions: Mapping[ParameterAxis, IntArray]) -> GraphValue:
    sizes = tuple(
        len(positions[value.name, axis]) if (value.name, axis) in positions else size
        for axis, size in enumerate(value.shape)
    )
    return value if sizes == value.shape else replace(value, shape=sizes)


def _kept_along(shape: TensorShape, units: UnitArray, remains: BoolArray) -> tuple[BoolArray, ...]:
    """Which positions of each dimension remain. Units change along one dimension at most."""
    return tuple(
        remains[units.reshape(-1)] if units.shape[dim] > 1 else _everything(size) for dim, size in enumerate(shape)
    )


@lru_cache(maxsize=4096)
def _everything(size: int) -> BoolArray:
    mask = np.ones(size, dtype=bool)
    mask.flags.writeable = False
    return mask


def _require_something(graph: ModelGraph, shapes: Mapping[str, TensorShape]) -> None:
    for node in graph.nodes:
        if 0 in shapes[node.name]:
            raise InvalidInput(f"{node.label}: expected at least one channel to remain, got none")


def _narrow_node(
    graph: ModelGraph,
    node: GraphNode,
    masks: Mapping[str, tuple[BoolArray, ...]],
    shapes: Mapping[str, TensorShape],
) -> GraphNode:
    if all(graph.shapes[name] == shapes[name] for name in (node.name, *node.operands)):
        return node
    shape = shapes[node.name]
    return replace(node, shape=shape, operator=_narrow_operator(graph, node, masks, shape))


def _narrow_operator(
    graph: ModelGraph, node: GraphNode, masks: Mapping[str, tuple[BoolArray, ...]], shape: TensorShape
) -> GraphOperator:
    operator, before, operand = node.operator, node.shape, masks[node.operands[0]]
    match operator:
        case Conv2dOp(groups=groups) | ConvTranspose2dOp(groups=groups) if groups > 1:
            return replace(operator, groups=_remaining_groups(node, operand[1], groups))
        case GroupNormOp(groups=groups):
            return replace(operator, groups=_remaining_groups(node, operand[1], groups))
        case ReshapeOp(sizes=sizes):
            return replace(operator, sizes=tuple(n if n < 1 else new for n, new in zip(sizes, shape, strict=True)))
        case ExpandOp(sizes=sizes):
            sizes_before_after = zip(sizes, before, shape, strict=True)
            return replace(operator, sizes=tuple(n if n < 1 else n - old + new for n, old, new in sizes_before_after))
        case SliceOp(dim=dim) if not operand[dim].all():
            start, stop, _ = slice(operator.start, operator.stop).indices(len(operand[dim]))
            return replace(operator, start=int(operand[dim][:start].sum()), stop=int(operand[dim][:stop].sum()))
        case GatherOp(dim=dim, indices=indices) if not operand[dim].all():
            positions = np.cumsum(operand[dim]) - 1
            return replace(operator, indices=tuple(int(positions[i]) for i in indices if operand[dim][i]))
        case _:
            return operator


def _remaining_groups(node: GraphNode, mask: BoolArray, groups: int) -> int:
    """How many groups remain: all if each lost the same number of channels, otherwise those that lost none."""
    counts = mask.reshape(groups, -1).sum(axis=1)
    remaining = counts[counts > 0]
    if len(set(remaining.tolist())) != 1:
        raise InvalidModel(f"{node.label}: expected groups of one width to remain, got {counts.tolist()}")
    return len(remaining)
