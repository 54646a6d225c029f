"""Exact costs of narrowed models, for whole populations and for one graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.core.operators import AttentionOp, Conv2dOp, ConvTranspose2dOp, LinearOp, MatMulOp, OpaqueOp
from nas.models.graph import GraphNode
from search_spaces.own_model.elasticity import BlockSets
from search_spaces.own_model.sizes import GraphSizes, Ints, Size, product

Bools = NDArray[np.bool_]


def node_macs(node: GraphNode, sizes: GraphSizes) -> tuple[Size, ...]:
    """Multiply-accumulates of one image, as a sum: of weights, and of products of two values."""
    operands = node.operands
    match node.operator:
        case Conv2dOp():
            return (product([sizes.elements(operands[1]), *sizes.dims[node.name][2:]]),)
        case ConvTranspose2dOp():
            return (product([sizes.elements(operands[1]), *sizes.dims[operands[0]][2:]]),)
        case LinearOp():
            return (product([*sizes.dims[operands[0]], sizes.axes[operands[1]][0]]),)
        case MatMulOp():
            return (product([*sizes.dims[node.name], sizes.dims[operands[0]][-1]]),)
        case AttentionOp():
            length = sizes.dims[operands[1]][-2]
            return product([*sizes.dims[operands[0]], length]), product([*sizes.dims[node.name], length])
        case OpaqueOp(operator="aten.conv1d.default" | "aten.conv3d.default"):
            return (product([sizes.elements(operands[1]), *sizes.dims[node.name][2:]]),)
        case _:
            return ()


@dataclass(frozen=True)
class CountedNetworks:
    """N networks of a space: their ``counts_NC``, the positions of their resolutions, and which blocks they have."""

    counts_NC: Floats
    resolution_N: Ints
    has_block_NB: Bools

    def exists(self, places: BlockSets) -> Bools:
        """In which networks a part exists, shape (N,)."""
        n = len(self.has_block_NB)
        rows = [self.has_block_NB[:, sorted(blocks)].all(axis=1) for blocks in places]
        exists_N = np.zeros(n, dtype=bool)
        for row_N in rows:
            exists_N |= row_N
        return exists_N


class SizeTable:
    """Sizes of parts of a network, to be evaluated together. ``places``: where the part of each size is."""

    def __init__(self, sizes: Sequence[Size], places: Sequence[BlockSets], resolutions: int) -> None:
        self._fixed_RS = np.array([size.fixed_R for size in sizes], dtype=np.float64).reshape(-1, resolutions).T
        columns = max((len(size.counts) for size in sizes), default=0)
        # Sizes with fewer counts are multiplied by a column of ones, which is put before the counts.
        self._counts = [
            np.array([1 + size.counts[i] if i < len(size.counts) else 0 for size in sizes], dtype=np.int64)
            for i in range(columns)
        ]
        self._distinct = tuple(dict.fromkeys(places))
        self._place_S = np.array([self._distinct.index(place) for place in places], dtype=np.int64)

    def __call__(self, networks: CountedNetworks) -> Floats:
        """The sizes in N networks, 0 where the part does not exist, shape (N, S)."""
        n = len(networks.resolution_N)
        counts_NC = np.hstack([np.ones((n, 1)), networks.counts_NC])
        sizes_NS: Floats = self._fixed_RS[networks.resolution_N]
        for column_S in self._counts:
            sizes_NS = sizes_NS * counts_NC[:, column_S]
        exists_ND = np.stack([networks.exists(place) for place in self._distinct], axis=1)
        return np.where(exists_ND[:, self._place_S], sizes_NS, 0.0)
