"""The graph of a model for graph predictors: its layers as places that hold their work."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from nas.core.arch import Floats, Genes
from nas.core.graph import Graph, GraphEncoding
from search_spaces.own_model.costs import CountedNetworks
from search_spaces.own_model.elasticity import ElasticModel
from search_spaces.own_model.features import WORK, WorkTable
from search_spaces.own_model.operations import WEIGHTED

_PLACES = (*WEIGHTED, "matmul", "attention", "opaque")


def encode_graph(
    model: ElasticModel, work: WorkTable, networks_of: Callable[[Genes], CountedNetworks], probes_NG: Genes
) -> GraphEncoding:
    """A place for each convolution, linear layer and product, with the work of all that follows up to the next one and
    is there whenever it is. Columns are those that differ among the networks ``probes_NG``."""
    place_of = _places(model, [node.name for node in work.nodes])
    names = list(dict.fromkeys(place_of.values()))
    position = {name: i for i, name in enumerate(names)}
    held = [
        (position[place_of[node.name]], f"{work.kind_of[node.name]}.{quantity}")
        for node in work.nodes
        for quantity in WORK
    ]
    columns = list(dict.fromkeys(held))
    column_TC = np.zeros((len(held), len(columns)))
    column_TC[np.arange(len(held)), [columns.index(column) for column in held]] = 1.0

    def work_NC(networks: CountedNetworks) -> Floats:
        by_node_NSW = work.by_node(networks)
        total_NC: Floats = by_node_NSW.reshape(len(by_node_NSW), -1) @ column_TC
        return total_NC

    varying = np.flatnonzero(np.ptp(work_NC(networks_of(probes_NG)), axis=0) > 0)
    column_TC = column_TC[:, varying]
    columns = [columns[i] for i in varying.tolist()]
    operations = list(dict.fromkeys(operation for _, operation in columns))
    graph = Graph(
        tuple(names),
        tuple(operations),
        _edges(model, place_of, position),
        tuple(place for place, _ in columns),
        tuple(operations.index(operation) for _, operation in columns),
        tuple(
            _presence(model, work, names[place], held.count((place, operation)), operation)
            for place, operation in columns
        ),
    )
    return GraphEncoding(graph, lambda genes_NG: work_NC(networks_of(genes_NG)))


def _presence(model: ElasticModel, work: WorkTable, place: str, nodes: int, operation: str) -> float:
    """For the column that counts the node by which a place is named, and others like it, of ``nodes``, their share,
    where they are not always there."""
    counts = bool(model.containing_blocks[place]) and operation == f"{work.kind_of[place]}.{WORK[0]}"
    return 1.0 / nodes if counts else 0.0


def _places(model: ElasticModel, nodes: Sequence[str]) -> dict[str, str]:
    """By the name of each of ``nodes``, the node by which its place is named."""
    places: dict[str, str] = {}
    counted = set(nodes)
    source: dict[str, str] = {}  # the last place on the way to a node
    for node in model.graph.nodes:
        before = next((source[name] for name in node.operands if name in source), None)
        if node.name in counted:
            blocks = model.containing_blocks
            follows = node.operator.kind not in _PLACES and before is not None and blocks[before] == blocks[node.name]
            places[node.name] = before if follows and before is not None else node.name
            source[node.name] = places[node.name]
        elif before is not None:
            source[node.name] = before
    return places


def _edges(model: ElasticModel, place_of: dict[str, str], position: dict[str, int]) -> tuple[tuple[int, int], ...]:
    """Between places of which one reads what the other gives, directly or through nodes that are not counted."""
    made_by: dict[str, set[int]] = {}
    edges: dict[tuple[int, int], None] = {}
    for node in model.graph.nodes:
        sources = set().union(*(made_by.get(name, set()) for name in node.operands))
        if node.name not in place_of:
            made_by[node.name] = sources
            continue
        own = position[place_of[node.name]]
        edges.update(dict.fromkeys((source, own) for source in sorted(sources) if source != own))
        made_by[node.name] = {own}
    return tuple(edges)
