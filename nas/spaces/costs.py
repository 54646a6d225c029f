"""Exact costs of a network or a part of it, from its description."""

from __future__ import annotations

from collections.abc import Sequence

from nas.core.network import Network, NetworkNode, layers_of
from nas.spaces.activation_memory import graph_peak
from nas.spaces.exported_graph import ExportedGraph, exported_graph

COSTS = ("params", "macs", "model_bytes", "peak_bytes")
FLOAT_BYTES = 4


def network_costs(network: Network) -> tuple[int, int, int, int]:
    """The ``COSTS`` of a network, in their order. Raises InvalidInput for a network with a custom layer."""
    graph = exported_graph(network)
    return (*part_counts(network.nodes, graph), FLOAT_BYTES * graph_peak(graph))


def part_counts(nodes: Sequence[NetworkNode], graph: ExportedGraph) -> tuple[int, int, int]:
    """Parameters, MACs and model bytes of a part of a network, of which ``graph`` is the exported form."""
    layers = layers_of(nodes)
    return sum(layer.params for layer in layers), sum(layer.macs for layer in layers), FLOAT_BYTES * graph.weights
