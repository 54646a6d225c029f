"""Activation memory and weights of exported networks, for whole populations; rules as in
``nas.spaces.activation_memory``.

The operators are those that torch's exporter writes for each node. Of class tokens and group norms it also writes
operators that compute shapes, and what it writes for opaque operators is not known; networks with these are not
counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nas.core.arch import Floats
from nas.core.operators import (
    AttentionOp,
    BinaryOp,
    Conv2dOp,
    LayerNormOp,
    LinearOp,
    Pad2dOp,
    UnaryOp,
    UpsampleOp,
)
from nas.models.graph import GraphNode
from nas.spaces.activation_memory import peak
from nas.spaces.costs import FLOAT_BYTES
from search_spaces.own_model.costs import CountedNetworks, SizeTable
from search_spaces.own_model.elasticity import BlockSets, ElasticModel
from search_spaces.own_model.operations import is_folded
from search_spaces.own_model.sizes import GraphSizes, Ints, Size, product

UNCOUNTED = ("expand", "group_norm", "opaque")
Read = str | int
"""What an operator reads: the output of a node by name, or of an earlier operator of the same node by position."""
X = "x"  # the first operand
_UNARY: Mapping[str, tuple[tuple[Read, ...], ...]] = {
    "silu": ((X,), (X, 0)),
    "gelu": ((X,), (0,), (1,), (X, 2), (3,)),
    "gelu_tanh": ((X,), (X, 0), (1,), (X, 2), (3,), (4,), (5,), (X, 6), (7,)),
    "mish": ((X,), (0,), (X, 1)),
    "rsqrt": ((X,), (0,)),
}
_CONSTANTS: Mapping[str, int] = {"relu6": 2, "gelu": 3, "gelu_tanh": 4, "hardtanh": 2, "rsqrt": 1}


@dataclass(frozen=True)
class ExportedOperator:
    """One operator of the exported graph. ``output``: how many numbers it makes."""

    reads: tuple[Read, ...]
    output: Size


def exported_operators(node: GraphNode, values: Sequence[str], sizes: GraphSizes) -> tuple[ExportedOperator, ...]:
    """The operators of a node that reads ``values``, in order."""
    operator, output = node.operator, sizes.elements(node.name)
    match operator:
        case UnaryOp(function="identity"):
            return ()
        case UnaryOp(function=function):
            chains = _UNARY.get(function, ((X,),))
            return tuple(
                ExportedOperator(tuple(values[0] if read == X else read for read in reads), output) for reads in chains
            )
        case BinaryOp(function="div", constant=float() | int(), is_reversed=True):
            return ExportedOperator((values[0],), output), ExportedOperator((0,), output)
        case LinearOp() if len(node.shape) > 2 and len(node.operands) > 2:
            return ExportedOperator((values[0],), output), ExportedOperator((0,), output)
        case Conv2dOp(padding=(top, left, bottom, right)) if (top, left) != (bottom, right):
            *images, height, width = sizes.dims[values[0]]
            padded = product([*images, _plus(height, top + bottom), _plus(width, left + right)])
            return ExportedOperator((values[0],), padded), ExportedOperator((0,), output)
        case AttentionOp():
            query, key, value = values
            scores = product([*sizes.dims[query][:-1], sizes.dims[key][-2]])
            return (
                ExportedOperator((key,), sizes.elements(key)),
                ExportedOperator((query, 0), scores),
                ExportedOperator((1,), scores),
                ExportedOperator((2,), scores),
                ExportedOperator((3, value), output),
            )
        case _:
            return (ExportedOperator(tuple(values), output),)


def constants(node: GraphNode, sizes: GraphSizes) -> tuple[Size, ...]:
    """The float numbers that a model holds for a node, beside those of the parameters that it reads."""
    one = sizes.number(1)
    match node.operator:
        case UnaryOp(function="clamp", constants=bounds):
            return (sizes.number(sum(bound is not None for bound in bounds)),)
        case UnaryOp(function=function):
            return (sizes.number(_CONSTANTS.get(function, 0)),)
        case BinaryOp(constant=float() | int()) | AttentionOp():
            return (one,)
        case UpsampleOp():
            return (sizes.number(4),)
        case LayerNormOp() if len(node.operands) < 3:
            missing = 3 - len(node.operands)
            return (product([sizes.number(missing), *sizes.dims[node.name][-node.operator.rank :]]),)
        case Pad2dOp():
            return (one,)
        case _:
            return ()


def _plus(size: Size, more: int) -> Size:
    assert not size.counts, "height and width are no channels"
    return Size(tuple(fixed + more for fixed in size.fixed_R))


class MemoryTable:
    """Peak bytes of activations, and bytes of weights, of the exported networks of a space."""

    def __init__(self, model: ElasticModel, sizes: GraphSizes, resolutions: int) -> None:
        graph = model.graph
        self._blocks = {block.addition: (i, block.shortcut) for i, block in enumerate(model.blocks)}
        by_name = {node.name: node for node in graph.nodes}
        image = graph.inputs[0].name
        always: BlockSets = frozenset([frozenset()])
        pixels = sizes.elements(image)
        # The image, less its mean, divided by its deviation.
        self._reads: list[tuple[str | int, ...]] = [(), (0,), (1,)]
        outputs, places = [pixels] * 3, [always] * 3
        self._made: dict[str, int | str] = {image: 2}
        computed = {image}
        weights: list[tuple[Size, BlockSets]] = [(sizes.number(2 * graph.inputs[0].shape[1]), always)]
        folded: set[str] = set()
        for node in graph.nodes:
            values = [name for name in node.operands if name in computed]
            place: BlockSets = frozenset([model.containing_blocks[node.name]])
            if not values:
                continue
            computed.add(node.name)
            weights += [(size, place) for size in constants(node, sizes)]
            if is_folded(node, graph.readers, by_name):
                folded.update(node.operands[1:])
                if len(by_name[node.operands[0]].operands) < 3:
                    weights.append((sizes.axes[node.operands[1]][0], place))
                self._made[node.name] = node.operands[0]
                continue
            first = len(outputs)
            for operator in exported_operators(node, values, sizes):
                self._reads.append(tuple(first + read if isinstance(read, int) else read for read in operator.reads))
                outputs.append(operator.output)
                places.append(place)
            self._made[node.name] = len(outputs) - 1 if len(outputs) > first else values[0]
            if node.operator.kind == "batch_norm" and len(node.operands) < 5:
                weights += [(product([sizes.number(2), sizes.axes[node.operands[1]][0]]), place)]
        weights += [
            (sizes.elements(value.name), model.parameter_places[value.name])
            for value in graph.parameters
            if value.name not in folded and np.dtype(value.dtype).kind == "f"
        ]
        self._sizes = SizeTable(outputs, places, resolutions)
        self._weights = SizeTable([size for size, _ in weights], [place for _, place in weights], resolutions)
        self._places = places

    def weight_bytes(self, networks: CountedNetworks) -> Floats:
        """Shape (N,)."""
        bytes_N: Floats = FLOAT_BYTES * self._weights(networks).sum(axis=1)
        return bytes_N

    def peak_bytes(self, networks: CountedNetworks) -> Floats:
        """Shape (N,)."""
        size_NT = self._sizes(networks)
        n, steps = size_NT.shape
        last_NT = np.tile(np.arange(steps), (n, 1))
        rows = np.arange(n)
        exists = {place: networks.exists(place) for place in dict.fromkeys(self._places)}
        for step, reads in enumerate(self._reads):
            runs_N = exists[self._places[step]]
            for read in reads:
                tensor_N = self._tensor(read, networks)
                last_NT[rows[runs_N], tensor_N[runs_N]] = step
        return FLOAT_BYTES * peak(size_NT, last_NT)

    def _tensor(self, read: Read, networks: CountedNetworks) -> Ints:
        """The step that made what is read, in each of N networks, shape (N,); a skipped block hands on its input."""
        n = len(networks.resolution_N)
        if isinstance(read, int):
            return np.full(n, read)
        own_N = self._tensor(self._made[read], networks)
        if read not in self._blocks:
            return own_N
        block, shortcut = self._blocks[read]
        return np.where(networks.has_block_NB[:, block], own_N, self._tensor(shortcut, networks))
