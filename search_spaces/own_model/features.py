"""The work of networks by kind of operation, for whole populations: inputs of latency predictors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.core.arch import Floats
from nas.core.operators import Conv2dOp
from nas.models.graph import GraphNode
from search_spaces.own_model.costs import CountedNetworks, SizeTable, node_macs
from search_spaces.own_model.elasticity import BlockSets, ElasticModel
from search_spaces.own_model.operations import FREE, WEIGHTED, is_folded, operation
from search_spaces.own_model.sizes import GraphSizes, Size

_VECTOR = 16  # channels that a CPU's vector unit holds; narrower layers cost as much
WORK = ("nodes", "macs", "moved", "params", "blocks")


class WorkTable:
    """Number of nodes, MACs (1e6), elements moved (1e3), parameters (1e3) and MACs in whole vector blocks, summed by
    kind of operation. ``nodes``: those that are counted; ``kind_of``: the kind of each, by name."""

    def __init__(self, model: ElasticModel, sizes: GraphSizes, resolutions: int) -> None:
        graph = model.graph
        by_name = {node.name: node for node in graph.nodes}
        nodes = [
            node
            for node in graph.nodes
            if node.operator.kind not in FREE and not is_folded(node, graph.readers, by_name)
        ]
        kinds = [_kind(node, model) for node in nodes]
        self.nodes = tuple(nodes)
        self.kind_of = {node.name: kind for node, kind in zip(nodes, kinds, strict=True)}
        self.kinds = tuple(dict.fromkeys(kinds))
        self._kind_SK = np.array([[kind == other for other in self.kinds] for kind in kinds], dtype=np.float64)
        one, zero = Size((1,) * resolutions), Size((0,) * resolutions)
        places = [frozenset([model.containing_blocks[node.name]]) for node in nodes]

        def table(values: Sequence[Size]) -> SizeTable:
            return SizeTable(values, places, resolutions)

        self._is_there = table([one for _ in nodes])
        self._outputs = table([sizes.elements(node.name) for node in nodes])
        self._inputs = _SumTable([[sizes.elements(name) for name in _read(node, model)] for node in nodes], places)
        self._macs = _SumTable([node_macs(node, sizes) for node in nodes], places)
        weights = [_weight(node) for node in nodes]
        self._params = table([sizes.elements(name) if name else zero for name in weights])
        self._channels_in = table([sizes.axes[name][1] if name else zero for name in weights])
        self._channels_out = table([sizes.axes[name][0] if name else zero for name in weights])

    def __call__(self, networks: CountedNetworks) -> Floats:
        """Shape (N, kinds * WORK)."""
        work_NWK = np.swapaxes(self.by_node(networks), 1, 2) @ self._kind_SK
        return np.swapaxes(work_NWK, 1, 2).reshape(len(work_NWK), -1)

    def by_node(self, networks: CountedNetworks) -> Floats:
        """The work of each of ``nodes``, shape (N, S, WORK)."""
        macs_NS, out_NS = self._macs(networks), self._channels_out(networks)
        in_NS = self._channels_in(networks)
        padding_NS = _padded(in_NS) * _padded(out_NS)
        columns = (
            self._is_there(networks),
            macs_NS / 1e6,
            (self._inputs(networks) + self._outputs(networks)) / 1e3,
            self._params(networks) / 1e3,
            macs_NS * padding_NS / 1e6,
        )
        return np.stack(columns, axis=2)


class _SumTable:
    """Sums of several sizes for each part."""

    def __init__(self, terms: Sequence[Sequence[Size]], places: Sequence[BlockSets]) -> None:
        flat = [(s, size) for s, sizes in enumerate(terms) for size in sizes]
        resolutions = len(flat[0][1].fixed_R) if flat else 1
        self._table = SizeTable([size for _, size in flat], [places[s] for s, _ in flat], resolutions)
        self._part_TS = np.zeros((len(flat), len(terms)))
        self._part_TS[np.arange(len(flat)), [s for s, _ in flat]] = 1.0

    def __call__(self, networks: CountedNetworks) -> Floats:
        sums_NS: Floats = self._table(networks) @ self._part_TS
        return sums_NS


def _padded(channels_NS: Floats) -> Floats:
    """By which factor whole vector blocks exceed the channels; 1 without channels."""
    return np.where(channels_NS > 1, np.ceil(channels_NS / _VECTOR) * _VECTOR / np.maximum(channels_NS, 1), 1.0)


def _weight(node: GraphNode) -> str | None:
    return node.operands[1] if node.operator.kind in WEIGHTED else None


def _read(node: GraphNode, model: ElasticModel) -> list[str]:
    return [name for name in node.operands if name not in model.graph.parameter_names]


def _kind(node: GraphNode, model: ElasticModel) -> str:
    weight = _weight(node)
    kind = operation(node, model.graph.shapes[weight] if weight else None)
    if isinstance(node.operator, Conv2dOp) and kind == "depthwise":
        return f"{kind}{model.graph.shapes[node.operands[1]][2]}"
    return kind
