"""Simplifications of a graph that was read: each leaves what it computes unchanged."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nas.core.operators import GatherOp, PermuteOp, ReshapeOp
from nas.models.graph import GraphNode, ModelGraph, without_unread

MAX_ELEMENTS = 20_000_000


def normalise(graph: ModelGraph) -> ModelGraph:
    """Write channel shuffles as gathers, by which every channel can be followed, and drop what is not read."""
    graph = without_unread(graph)
    by_name = {node.name: node for node in graph.nodes}
    nodes = tuple(_as_gather(graph, by_name, node) for node in graph.nodes)
    return without_unread(replace(graph, nodes=nodes))


def _as_gather(graph: ModelGraph, by_name: dict[str, GraphNode], last: GraphNode) -> GraphNode:
    """A reshape of a permuted reshape that only reorders the positions of one dimension, as a gather."""
    permuted = by_name.get(last.operands[0])
    split = by_name.get(permuted.operands[0]) if permuted is not None else None
    if (
        permuted is None
        or split is None
        or not isinstance(last.operator, ReshapeOp)
        or not isinstance(permuted.operator, PermuteOp)
        or not isinstance(split.operator, ReshapeOp)
    ):
        return last
    source = split.operands[0]
    shape = graph.shapes[source]
    elements = int(np.prod(shape))
    if shape != last.shape or elements > MAX_ELEMENTS:
        return last
    before = np.arange(elements).reshape(shape)
    after = before.reshape(split.shape).transpose(permuted.operator.dims).reshape(shape)
    for dim, size in enumerate(shape):
        stride = int(np.prod(shape[dim + 1 :]))
        order = np.moveaxis(after, dim, 0).reshape(size, -1)[:, 0] // stride % size
        indices = tuple(int(i) for i in order)
        if size > 1 and sorted(indices) == list(range(size)) and np.array_equal(before.take(indices, axis=dim), after):
            return GraphNode(last.name, GatherOp(dim, indices), (source,), last.shape, last.module)
    return last
