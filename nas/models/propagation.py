"""Which elements of which values belong to which channel unit, followed from operator to operator.

A convolution or linear layer creates one unit for each output channel, and every other operator hands units on, joins
them or makes them stay. The rules are exact: without the channels of a unit, the rest of the model computes what it
computes if these channels are zero, and norms over channels leave them out. Where that is not so, the unit stays. One
rule for each operator, so the file may be longer than others.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

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
    OpaqueOp,
    Pad2dOp,
    PermuteOp,
    PixelShuffleOp,
    Pool2dOp,
    PReluOp,
    ReduceOp,
    ReshapeOp,
    SliceOp,
    SoftmaxOp,
    SqueezeOp,
    UnaryOp,
    UnsqueezeOp,
    UpsampleOp,
)
from nas.models.graph import GraphNode, ModelGraph, TensorShape
from nas.models.units import Reason, UnitArray, UnitSets, compress, spread, varying

MAX_ELEMENTS = 50_000_000
"""Values with more elements are not followed through a reshape."""
ParameterAxis = tuple[str, int]


@dataclass
class Propagation:
    """The state after some nodes. ``axes``: the unit of each position along an axis of a parameter; ``created``: the
    units of each convolution and linear layer, before any were joined."""

    graph: ModelGraph
    sets: UnitSets = field(default_factory=UnitSets)
    values: dict[str, UnitArray] = field(default_factory=dict)
    axes: dict[ParameterAxis, UnitArray] = field(default_factory=dict)
    created: dict[str, UnitArray] = field(default_factory=dict)


def propagate(graph: ModelGraph) -> Propagation:
    """Follow all channels from the inputs to the outputs, whose channels stay."""
    state = Propagation(graph)
    for value in (*graph.inputs, *graph.parameters):
        state.values[value.name] = _staying(len(value.shape))
    for node in graph.nodes:
        state.values[node.name] = compress(_outputs(state, node))
    for name in graph.outputs:
        state.sets.fix(state.values[name], Reason("", "they are outputs of the model"))
    _make_rectangular(state)
    return state


def _outputs(state: Propagation, node: GraphNode) -> UnitArray:
    operator = node.operator
    operands = [state.sets.resolve(state.values[name]) for name in node.operands]
    match operator:
        case Conv2dOp() | ConvTranspose2dOp():
            return _convolution(state, node, operator, operands[0])
        case LinearOp():
            return _linear(state, node, operands[0])
        case BatchNormOp():
            return _batch_norm(state, node, operands[0])
        case LayerNormOp():
            return _layer_norm(state, node, operands[0], operator.rank)
        case PReluOp():
            return _prelu(state, node, operands[0])
        case PixelShuffleOp():
            return _pixel_shuffle(state, node, operands[0], operator.factor)
        case OpaqueOp():
            for units in operands:
                state.sets.fix(units, _because(node, f"it keeps what it reads: {operator.reason}"))
            return _staying(len(node.shape))
        case GroupNormOp():
            return _group_norm(state, node, operands[0], operator.groups)
        case SoftmaxOp():
            return _fix_along(state, node, operands[0], (operator.dim,), "a softmax runs over these channels")
        case UnaryOp():
            return operands[0]
        case BinaryOp():
            return operands[0] if len(operands) == 1 else _binary(state, node, operands[0], operands[1])
        case Pool2dOp() | AdaptivePool2dOp() | UpsampleOp() | Pad2dOp():
            rank = len(node.shape)
            return _fix_along(state, node, operands[0], (rank - 2, rank - 1), "they are used as height or width")
        case MatMulOp():
            return _product(state, node, operands[0], operands[1])
        case AttentionOp():
            scores = _product(state, node, operands[0], np.swapaxes(operands[1], -1, -2))
            return _product(state, node, scores, state.sets.resolve(operands[2]))
        case ConcatOp():
            return _concatenate(state, node, operator.dim, operands)
        case _:
            return _rearranged(state, node, operator, operands[0])


def _rearranged(
    state: Propagation,
    node: GraphNode,
    operator: ReduceOp | ReshapeOp | PermuteOp | SqueezeOp | UnsqueezeOp | SliceOp | GatherOp | ExpandOp,
    x: UnitArray,
) -> UnitArray:
    shape = state.graph.shapes[node.operands[0]]
    match operator:
        case ReduceOp(dims=dims, keeps_dims=keeps):
            units = _fix_along(state, node, x, dims, f"a {operator.mode} runs over these channels")
            return units if keeps else units.reshape([s for i, s in enumerate(units.shape) if i not in dims])
        case ReshapeOp():
            return _reshape(state, node, x, shape)
        case PermuteOp(dims=dims):
            return x.transpose(dims)
        case SqueezeOp(dims=dims):
            return x.reshape([s for i, s in enumerate(x.shape) if i not in dims])
        case UnsqueezeOp(dim=dim):
            return np.expand_dims(x, dim)
        case SliceOp(dim=dim):
            positions = np.arange(shape[dim])[operator.start : operator.stop : operator.step]
            return _take(state, node, x, dim, positions, is_ordered=operator.step == 1)
        case GatherOp(dim=dim, indices=indices):
            return _take(state, node, x, dim, np.array(indices), is_ordered=True)
        case ExpandOp(sizes=sizes):
            return x.reshape((1,) * (len(sizes) - x.ndim) + x.shape)


def _because(node: GraphNode, text: str) -> Reason:
    return Reason(node.label, text)


def _staying(rank: int) -> UnitArray:
    return np.zeros((1,) * rank, dtype=np.int64)


def _fix_along(state: Propagation, node: GraphNode, x: UnitArray, dims: tuple[int, ...], text: str) -> UnitArray:
    """Let the units of ``x`` stay if they change along one of ``dims``."""
    if set(varying(x)) & set(dims):
        state.sets.fix(x, _because(node, text))
        return _staying(x.ndim)
    return x


def _channels(state: Propagation, node: GraphNode, x: UnitArray, dim: int) -> UnitArray:
    """The unit of every position along ``dim``; other dimensions may not tell them apart."""
    other_dims = tuple(i for i in range(x.ndim) if i != dim)
    x = _fix_along(state, node, x, other_dims, "they are mixed with positions that are no channels")
    size = state.graph.shapes[node.operands[0]][dim]
    return np.broadcast_to(x.reshape(-1), (size,)).copy()


def _along(units: UnitArray, rank: int, dim: int) -> UnitArray:
    return units.reshape([-1 if i == dim else 1 for i in range(rank)])


def _aligned(units: UnitArray, rank: int) -> UnitArray:
    return units.reshape((1,) * (rank - units.ndim) + units.shape)


def _assign(state: Propagation, node: GraphNode, parameter: str, axis: int, units: UnitArray) -> UnitArray:
    """Note which unit each position of a parameter's axis belongs to. A parameter used twice (tied) joins both uses."""
    present = state.axes.get((parameter, axis))
    if present is None:
        state.axes[parameter, axis] = units
        return units
    state.sets.join_pairs(present, units, _because(node, f"{parameter} is also used where its channels must stay"))
    return present


def _create(state: Propagation, node: GraphNode, parameter: str, axis: int, count: int) -> UnitArray:
    """New units for the output channels of a layer; those of before if its weight was used before."""
    if count == 1:
        return np.zeros(1, dtype=np.int64)
    if (parameter, axis) not in state.axes:
        state.axes[parameter, axis] = state.sets.create(count)
    state.created[node.name] = state.axes[parameter, axis]
    return state.axes[parameter, axis]


def _convolution(
    state: Propagation, node: GraphNode, operator: Conv2dOp | ConvTranspose2dOp, x: UnitArray
) -> UnitArray:
    inputs, weight, groups = _channels(state, node, x, 1), node.operands[1], operator.groups
    is_transposed = isinstance(operator, ConvTranspose2dOp)
    if groups == 1:
        _assign(state, node, weight, 0 if is_transposed else 1, inputs)
        outputs = _create(state, node, weight, 1 if is_transposed else 0, node.shape[1])
    else:
        outputs = _grouped_convolution(state, node, inputs, groups, is_transposed=is_transposed)
    for bias in node.operands[2:]:
        _assign(state, node, bias, 0, outputs)
    return _along(outputs, 4, 1)


def _grouped_convolution(
    state: Propagation, node: GraphNode, inputs: UnitArray, groups: int, *, is_transposed: bool
) -> UnitArray:
    """Whole groups are removed where there are more groups than channels in one, as in depthwise convolutions;
    otherwise channels at the same position of all groups, so that groups remain equally wide."""
    weight, out_channels = node.operands[1], node.shape[1]
    width_in, width_out = len(inputs) // groups, out_channels // groups
    cause = _because(node, "channels of its groups can only be removed together with some that must stay")
    grid = inputs.reshape(groups, width_in)
    if groups >= min(width_in, width_out) or is_transposed:
        for group in grid:
            state.sets.join((int(unit) for unit in group), cause)
        outputs = np.repeat(grid[:, 0], width_out)
        _assign(state, node, weight, 0, inputs if is_transposed else outputs)
        return outputs
    for column in grid.T:
        state.sets.join((int(unit) for unit in column), cause)
    _assign(state, node, weight, 1, grid[0])
    if (weight, 0) not in state.axes:
        state.axes[weight, 0] = np.tile(state.sets.create(width_out), groups)
    state.created[node.name] = state.axes[weight, 0][:width_out]
    return state.axes[weight, 0]


def _linear(state: Propagation, node: GraphNode, x: UnitArray) -> UnitArray:
    weight, last = node.operands[1], x.ndim - 1
    passing = [dim for dim in varying(x) if dim != last]
    if passing and x.shape[last] > 1:
        x = _fix_along(state, node, x, tuple(passing), "they are mixed with positions that are no channels")
        passing = []
    if passing:  # channels are handed through, mixed neither among themselves nor with others
        return x
    _assign(state, node, weight, 1, _channels(state, node, x, last))
    outputs = _create(state, node, weight, 0, node.shape[-1])
    for bias in node.operands[2:]:
        _assign(state, node, bias, 0, outputs)
    return _along(outputs, x.ndim, last)


def _batch_norm(state: Propagation, node: GraphNode, x: UnitArray) -> UnitArray:
    channels = _channels(state, node, x, 1)
    for parameter in node.operands[1:]:
        _assign(state, node, parameter, 0, channels)
    return _along(channels, x.ndim, 1)


def _group_norm(state: Propagation, node: GraphNode, x: UnitArray, groups: int) -> UnitArray:
    """Whole groups can be removed. Positions that belong to several channels are those of one group."""
    mixed = tuple(dim for dim in varying(x) if dim > 1)
    if mixed:
        x = state.sets.join_along(x, mixed, _because(node, "a norm runs over them and over channels that must stay"))
    channels = _channels(state, node, x, 1)
    if groups == 1 and not state.graph.narrows_norms:
        state.sets.fix(channels, _because(node, "a norm over these channels depends on their number"))
    for group in channels.reshape(groups, -1) if groups > 1 else ():
        state.sets.join((int(unit) for unit in group), _because(node, "their group holds channels that must stay"))
    for parameter in node.operands[1:]:
        _assign(state, node, parameter, 0, channels)
    return _along(channels, x.ndim, 1)


def _layer_norm(state: Propagation, node: GraphNode, x: UnitArray, rank: int) -> UnitArray:
    """Of the channels that a norm runs over, any can be removed; the norm then runs over those that remain."""
    first = x.ndim - rank
    dims = [dim for dim in varying(x) if dim >= first]
    if not state.graph.narrows_norms or len(varying(x)) > 1:
        text = "a layer norm over these channels depends on their number"
        return _fix_along(state, node, x, tuple(range(first, x.ndim)), text)
    for dim in dims:
        for parameter in node.operands[1:]:
            _assign(state, node, parameter, dim - first, x.reshape(-1))
    return state.sets.resolve(x)


def _prelu(state: Propagation, node: GraphNode, x: UnitArray) -> UnitArray:
    if state.graph.shapes[node.operands[1]] == (1,):
        return x
    channels = _channels(state, node, x, 1)
    _assign(state, node, node.operands[1], 0, channels)
    return _along(channels, x.ndim, 1)


def _pixel_shuffle(state: Propagation, node: GraphNode, x: UnitArray, factor: int) -> UnitArray:
    """The channels that become the pixels of one are removed together."""
    blocks = _channels(state, node, x, 1).reshape(-1, factor**2)
    for block in blocks:
        state.sets.join((int(unit) for unit in block), _because(node, "they become pixels of channels that must stay"))
    return _along(state.sets.resolve(blocks[:, 0]), 4, 1)


def _binary(state: Propagation, node: GraphNode, first: UnitArray, second: UnitArray) -> UnitArray:
    rank = len(node.shape)
    aligned = (_aligned(first, rank), _aligned(second, rank))
    shapes = [(1,) * (rank - len(s)) + s for s in (state.graph.shapes[name] for name in node.operands)]
    for i, name in enumerate(node.operands):
        if name in state.graph.parameter_names:
            return _with_parameter(state, node, aligned[1 - i], name)
    for i in (0, 1):
        other = aligned[1 - i]
        if not aligned[i].any() and all(shapes[i][dim] == 1 for dim in varying(other)):
            if other.any() and not varying(other):
                break  # one unit that fills its value: leave it to the rule below
            return other  # broadcast over the other's channels, whatever their number
    if any(shapes[i][dim] == 1 for i in (0, 1) for dim in varying(aligned[1 - i])):
        for units in aligned:
            state.sets.fix(units, _because(node, "they are broadcast over other channels"))
        return _staying(rank)
    state.sets.join_pairs(aligned[0], aligned[1], _because(node, "they are combined with channels that must stay"))
    return state.sets.resolve(np.maximum(aligned[0], aligned[1]))


def _with_parameter(state: Propagation, node: GraphNode, x: UnitArray, parameter: str) -> UnitArray:
    """An element-by-element operation with a parameter, which loses the channels that the value loses."""
    shape, dims = state.graph.shapes[parameter], varying(x)
    offset = x.ndim - len(shape)
    reached = [dim for dim in dims if dim >= offset and shape[dim - offset] > 1]
    if len(dims) > 1 and reached:
        state.sets.fix(x, _because(node, f"{parameter} would lose channels along several dimensions"))
        return _staying(x.ndim)
    for dim in reached:
        _assign(state, node, parameter, dim - offset, x.reshape(-1))
    return x


def _product(state: Propagation, node: GraphNode, first: UnitArray, second: UnitArray) -> UnitArray:
    """Rows and columns hand their units on; those of the dimension that is summed over, and of heads, are joined."""
    sets, rank = state.sets, max(first.ndim, second.ndim)
    cause = _because(node, "they are multiplied with channels that must stay")
    first, second = _aligned(first, rank), _aligned(second, rank)
    batch_dims = tuple(range(rank - 2))
    sides = []
    for units in (first, second):
        if set(varying(units)) & set(batch_dims):  # heads: a whole one is removed or none of it
            units = sets.join_along(units, (rank - 2, rank - 1), cause)
        sides.append(units)
    first, second = sides
    for units in (first, second):
        if len(varying(units)) > 1:
            sets.fix(units, _because(node, "a product mixes them along two dimensions"))
    first, second = sets.resolve(first), sets.resolve(second)
    sets.join_pairs(first[..., :1, :], np.swapaxes(second[..., :, :1], -1, -2), cause)
    first, second = sets.resolve(first), sets.resolve(second)
    heads: UnitArray = np.maximum(first[..., :1, :1], second[..., :1, :1])
    if any(set(varying(units)) & set(batch_dims) for units in (first, second)):
        return heads
    rows, columns = first[..., :, :1], second[..., :1, :]
    if first.shape[-1] > 1:
        rows = _staying(rank)
    if second.shape[-2] > 1:
        columns = _staying(rank)
    if varying(rows) and varying(columns):
        sets.fix(rows, _because(node, "both factors of a product carry channels"))
        sets.fix(columns, _because(node, "both factors of a product carry channels"))
        return _staying(rank)
    return columns if varying(columns) else rows


def _concatenate(state: Propagation, node: GraphNode, dim: int, operands: list[UnitArray]) -> UnitArray:
    operands = _with_free_parameters(state, node, dim, operands)
    sizes = [state.graph.shapes[name][dim] for name in node.operands]
    shape = tuple(max(units.shape[i] for units in operands) for i in range(len(node.shape)))
    wide = [spread(u, (*shape[:dim], n, *shape[dim + 1 :])) for u, n in zip(operands, sizes, strict=True)]
    joined = np.concatenate(wide, axis=dim)
    if any(i != dim for i, size in enumerate(shape) if size > 1):
        return state.sets.join_along(joined, (dim,), _because(node, "they are joined with values whose channels stay"))
    return joined


def _with_free_parameters(state: Propagation, node: GraphNode, dim: int, operands: list[UnitArray]) -> list[UnitArray]:
    """The units of operands that are joined along ``dim``. A parameter among them that nothing else reads, such as a
    class token, has the channels of the others."""
    channels = next(
        ((units, varying(units)[0]) for units in operands if len(varying(units)) == 1 and varying(units)[0] != dim),
        None,
    )
    if channels is None or not state.graph.narrows_norms:
        return operands
    units, channel_dim = channels
    joined = []
    for name, own in zip(node.operands, operands, strict=True):
        parameter = None if own.any() else _read_once(state.graph, name)
        shape = state.graph.shapes[parameter] if parameter is not None else ()
        axis = channel_dim - (len(node.shape) - len(shape))
        if parameter is None or axis < 0 or shape[axis] != units.shape[channel_dim]:
            joined.append(own)
            continue
        _assign(state, node, parameter, axis, units.reshape(-1))
        state.values[name] = units
        joined.append(units)
    return joined


def _read_once(graph: ModelGraph, name: str) -> str | None:
    """The parameter that a value is, or is a repetition of, if nothing else reads it."""
    if len(graph.readers[name]) != 1:
        return None
    if name in graph.parameter_names:
        return name
    replacement = next((node for node in graph.nodes if node.name == name), None)
    if replacement is None or not isinstance(replacement.operator, ExpandOp):
        return None
    return _read_once(graph, replacement.operands[0])


def _reshape(state: Propagation, node: GraphNode, x: UnitArray, shape: TensorShape) -> UnitArray:
    if not x.any():
        return _staying(len(node.shape))
    if np.prod(shape) > MAX_ELEMENTS:
        state.sets.fix(x, _because(node, f"its operand has more than {MAX_ELEMENTS:,} elements"))
        return _staying(len(node.shape))
    return compress(spread(x, shape).reshape(node.shape))


def _take(
    state: Propagation, node: GraphNode, x: UnitArray, dim: int, positions: UnitArray, *, is_ordered: bool
) -> UnitArray:
    if x.shape[dim] == 1:
        return x
    if not is_ordered:
        return _fix_along(state, node, x, (dim,), "a slice with steps selects among these channels")
    return x.take(positions, axis=dim)


def _make_rectangular(state: Propagation) -> None:
    """Join units until those of every value change along one dimension only, so that a value without some of them is
    still an array. The longest dimension remains. A value that is one single unit stays, or nothing would be left."""
    sets, changed = state.sets, True
    while changed:
        changed = False
        for node in state.graph.nodes:
            units = sets.resolve(state.values[node.name])
            dims = varying(units)
            if len(dims) > 1:
                longest = max(dims, key=lambda dim: units.shape[dim])
                other_dims = tuple(dim for dim in dims if dim != longest)
                sets.join_along(units, other_dims, _because(node, "channels of one shape can only be removed together"))
                changed = True
            elif not dims and units.any():
                sets.fix(units, _because(node, "nothing would remain of this value without them"))
                changed = True
