"""Residual blocks that can be skipped: x + f(x) becomes x."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from nas.core.errors import UnknownName
from nas.core.operators import BinaryOp
from nas.models.channels import layer_name
from nas.models.graph import GraphNode, ModelGraph, without_unread


@dataclass(frozen=True)
class ResidualBlock:
    """``addition`` is the node that adds ``shortcut`` and the block's own output; ``nodes`` are computed for it alone.
    ``layers``: the modules that are no longer needed without it."""

    name: str
    addition: str
    shortcut: str
    nodes: tuple[str, ...]
    layers: tuple[str, ...]


def find_residual_blocks(graph: ModelGraph) -> tuple[ResidualBlock, ...]:
    """All additions of a value and something of the same shape that is computed from this value alone."""
    by_name = {node.name: node for node in graph.nodes}
    blocks: list[ResidualBlock] = []
    for node in graph.nodes:
        if not _is_addition(node):
            continue
        for shortcut, branch in (node.operands, node.operands[::-1]):
            inner = _computed_from(graph, by_name, shortcut, branch, node.name)
            if inner and graph.shapes[shortcut] == graph.shapes[branch] == node.shape:
                blocks.append(_block(node, shortcut, [by_name[name] for name in inner], blocks))
                break
    return tuple(blocks)


def skip_blocks(graph: ModelGraph, names: Collection[str]) -> ModelGraph:
    """The graph in which these blocks hand on what they read. Raises UnknownName for a name that is no block."""
    blocks = {block.name: block for block in find_residual_blocks(graph)}
    for name in names:
        if name not in blocks:
            raise UnknownName("residual block", name, blocks)
    replaced = {blocks[name].addition: blocks[name].shortcut for name in names}

    def source(name: str) -> str:
        while name in replaced:
            name = replaced[name]
        return name

    nodes = tuple(
        replace(node, operands=tuple(source(name) for name in node.operands))
        for node in graph.nodes
        if node.name not in replaced
    )
    return without_unread(replace(graph, nodes=nodes, outputs=tuple(source(name) for name in graph.outputs)))


def _is_addition(node: GraphNode) -> bool:
    return isinstance(node.operator, BinaryOp) and node.operator.function == "add" and len(node.operands) == 2


def _computed_from(
    graph: ModelGraph, by_name: dict[str, GraphNode], shortcut: str, branch: str, addition: str
) -> tuple[str, ...]:
    """The nodes between ``shortcut`` and ``branch``, in order; none if the branch needs anything else, or if something
    else needs one of them."""
    inner, pending, reads_shortcut = set(), [branch], False
    while pending:
        name = pending.pop()
        if name == shortcut:
            reads_shortcut = True
        elif name not in graph.parameter_names and name not in inner:
            if name not in by_name:
                return ()  # an input of the model
            inner.add(name)
            pending.extend(by_name[name].operands)
    readers = {reader.name for name in inner for reader in graph.readers[name]}
    if not reads_shortcut or not readers <= {*inner, addition} or inner & set(graph.outputs):
        return ()
    return tuple(node.name for node in graph.nodes if node.name in inner)


def _block(addition: GraphNode, shortcut: str, inner: list[GraphNode], before: list[ResidualBlock]) -> ResidualBlock:
    modules = tuple(dict.fromkeys(layer_name(node) for node in inner if len(node.operands) > 1 and node.module))
    name = addition.module or addition.name
    if any(block.name == name for block in before):
        name = f"{name}:{addition.name}"
    return ResidualBlock(name, addition.name, shortcut, tuple(node.name for node in inner), modules)
