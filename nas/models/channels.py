"""Channel groups: which channels of which layers share one width."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from nas.core.operators import Conv2dOp, ConvTranspose2dOp, LinearOp
from nas.models.graph import GraphNode, ModelGraph
from nas.models.propagation import ParameterAxis, Propagation, propagate
from nas.models.units import Reason, UnitArray


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that share one width. ``units``: how many can be removed one by one; a unit is one channel of each of
    ``layers``, or several that go together, such as a head of attention. ``readers``: the layers that read them."""

    name: str
    units: int
    channels: int
    layers: tuple[str, ...]
    readers: tuple[str, ...]


@dataclass(frozen=True)
class FixedChannels:
    """A layer whose output channels stay, and why: ``cause`` is the part of the model that forces it."""

    layer: str
    channels: int
    cause: str
    reason: str


@dataclass(frozen=True)
class ChannelAnalysis:
    """What may be narrowed in a graph. ``values`` and ``axes`` give for each element of a value, and for each position
    of a parameter's axis, the number of its unit, 0 for those that stay; ``numbers`` the units of each group."""

    groups: tuple[ChannelGroup, ...]
    fixed: tuple[FixedChannels, ...]
    values: Mapping[str, UnitArray]
    axes: Mapping[ParameterAxis, UnitArray]
    numbers: Mapping[str, UnitArray]


def analyse_channels(graph: ModelGraph) -> ChannelAnalysis:
    """Find all groups of a graph whose channels can be removed, and the reasons for all other layers."""
    state = propagate(graph)
    sets = state.sets
    layers = [node for node in graph.nodes if isinstance(node.operator, Conv2dOp | ConvTranspose2dOp | LinearOp)]
    created = {node.name: sets.resolve(state.created[node.name]) for node in layers if node.name in state.created}
    members = _connected(graph, created)
    groups, numbers = [], {}
    for names in members:
        units = np.unique(np.concatenate([created[name] for name in names]))
        units = units[units > 0]
        if len(units) > 1:
            group = _group(state, layers, names, units)
            groups.append(group)
            numbers[group.name] = units
    in_groups = {layer for group in groups for layer in group.layers}
    fixed = tuple(_fixed(state, node) for node in layers if layer_name(node) not in in_groups)
    return ChannelAnalysis(
        tuple(groups),
        fixed,
        {name: sets.resolve(units) for name, units in state.values.items()},
        {axis: _resolved_axis(state, units) for axis, units in state.axes.items()},
        numbers,
    )


def layer_name(node: GraphNode) -> str:
    """What reports call a layer: its module, or its node if the file does not name its module."""
    return node.module or node.name


def _resolved_axis(state: Propagation, units: UnitArray) -> UnitArray:
    return np.broadcast_to(state.sets.resolve(units), units.shape)


def _connected(graph: ModelGraph, created: Mapping[str, UnitArray]) -> list[list[str]]:
    """The layers by common units, in the order of the graph: layers share a width if they have a unit in common."""
    members: list[tuple[set[int], list[str]]] = []
    for name, units in created.items():
        own = {int(unit) for unit in units if unit}
        if not own:
            continue
        joined = [entry for entry in members if entry[0] & own]
        separate = [entry for entry in members if not entry[0] & own]
        merged = (own.union(*(entry[0] for entry in joined)), [n for entry in joined for n in entry[1]] + [name])
        members = [*separate, merged]
    order = {node.name: i for i, node in enumerate(graph.nodes)}
    return sorted((names for _, names in members), key=lambda names: order[names[0]])


def _group(state: Propagation, layers: list[GraphNode], names: list[str], units: UnitArray) -> ChannelGroup:
    narrowed, readers, channels = [], [], 0
    for node in layers:
        weight, input_axis = node.operands[1], 0 if isinstance(node.operator, ConvTranspose2dOp) else 1
        outputs = state.sets.resolve(state.values[node.name])
        inputs = state.axes.get((weight, input_axis))
        count = int(np.isin(outputs, units).sum())
        if count:
            narrowed.append(layer_name(node))
        if node.name == names[0]:
            channels = count
        if inputs is not None and np.isin(state.sets.resolve(inputs), units).any():
            readers.append(layer_name(node))
    first = next(node for node in layers if node.name == names[0])
    return ChannelGroup(_group_name(first, state), len(units), channels, _unique(narrowed), _unique(readers))


def _group_name(first: GraphNode, state: Propagation) -> str:
    """The module of its first layer; its node's name as well where one module has several layers."""
    name = layer_name(first)
    same = [node for node in state.graph.nodes if layer_name(node) == name and node.name in state.created]
    return name if len(same) == 1 else f"{name}:{first.name}"


def _unique(names: list[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


def _fixed(state: Propagation, node: GraphNode) -> FixedChannels:
    created = state.created.get(node.name)
    if created is None:
        text = "it has one output channel" if _out_channels(state, node) == 1 else "it hands on channels that stay"
        why = Reason(node.label, text)
    else:
        reasons = [reason for unit in np.unique(created) if (reason := state.sets.reason(int(unit))) is not None]
        why = reasons[0] if reasons else Reason(node.label, "all its channels can only be removed together")
    return FixedChannels(layer_name(node), _out_channels(state, node), why.module, why.text)


def _out_channels(state: Propagation, node: GraphNode) -> int:
    weight, axis = node.operands[1], 1 if isinstance(node.operator, ConvTranspose2dOp) else 0
    return state.graph.shapes[weight][axis]
