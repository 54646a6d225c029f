"""The cell space of DARTS (Liu et al., ICLR 2019, section 3.1). No torch here; the supernet is in ``network.py``.

A network is a stack of equal normal cells with two equal reduction cells at a third and at two thirds of it. A cell has
two inputs, the outputs of the two cells before, and four nodes; each node adds up two operations on two different
earlier states, and the cell's output is the concatenation of its nodes. Search network and evaluation network are the
same space with other parameters: while searching, normalisation has no scale of its own, and pooling is normalised.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from pydantic import JsonValue

from nas.core.arch import Arch, Decision, Floats, Genes, one_hot
from nas.core.graph import GraphEncoding
from nas.core.network import Network, NetworkNode
from nas.core.plugins import SearchSpaceType
from nas.core.ports import ImageShape
from nas.spaces.activation_memory import PopulationTrace
from nas.spaces.costs import COSTS, FLOAT_BYTES, part_counts
from nas.spaces.exported_graph import exported_graph
from search_spaces.darts_cell.base import CellNetworks, SpaceParams
from search_spaces.darts_cell.cell import (
    CELLS,
    EDGES,
    GRAPH,
    KINDS,
    NODES,
    OPERATIONS,
    PAIRS,
    PUBLISHED,
    RELAXATION,
    CellPlan,
    from_notation,
    node_inputs,
)
from search_spaces.presets import resolved

PRESETS: dict[str, SpaceParams] = {
    "digits": SpaceParams(channels=4, cells=3),
    "search": SpaceParams(channels=16, cells=8),
    "evaluation": SpaceParams(channels=36, cells=20, evaluation=True),
}


def build(params: Mapping[str, JsonValue], shape: ImageShape) -> DartsCell:
    """The cell space of DARTS: 1,037,664,180 normal cells and as many reduction cells.

    Raises UnknownName for a preset, InvalidSpec for unknown or impossible parameters.
    """
    return DartsCell(resolved("darts_cell", params, PRESETS, "search"), shape)


DARTS_CELL = SearchSpaceType(
    "darts_cell",
    "The cell space of DARTS: 1,037,664,180 normal cells and as many reduction cells.",
    build,
    tuple(PRESETS),
    CELLS,
    relaxed=True,
    published={name: {"preset": "evaluation"} for name in PUBLISHED},
    any_shape=True,
)


def _pair_index(node: int) -> Genes:
    """The choice of a node's inputs by its two states (smaller, larger), shape (node + 2, node + 2)."""
    index = np.zeros((node + 2, node + 2), dtype=np.int64)
    for i, pair in enumerate(PAIRS[node]):
        index[pair] = i
    return index


_PAIR_INDEX = tuple(_pair_index(node) for node in range(NODES))


class DartsCell(CellNetworks[SpaceParams]):
    """The space as the engine sees it (``nas.core.ports.SearchSpace``).

    For each of the two kinds of cells and each node there are three genes: which two states it takes, and the operation
    on either.
    """

    name = "darts_cell"
    decisions = tuple(
        decision
        for kind in KINDS
        for node in range(NODES)
        for decision in (
            Decision(f"{kind}.node{node}.inputs", tuple(f"{a}-{b}" for a, b in PAIRS[node])),
            Decision(f"{kind}.node{node}.first.operation", OPERATIONS[1:]),
            Decision(f"{kind}.node{node}.second.operation", OPERATIONS[1:]),
        )
    )
    relaxation = RELAXATION
    cells = CELLS

    def canonical(self, genes_NG: Genes) -> Genes:
        """Every gene is active: all nodes are part of their cell's output."""
        return genes_NG.copy()

    def discretise(self, scores_EO: Floats) -> Genes:
        """The two best edges of every node by their best operation, ``none`` apart, shape (24,)."""
        genes: Genes = self.discretise_all(scores_EO[None])[0]
        return genes

    def discretise_all(self, scores_NEO: Floats) -> Genes:
        """The two best edges of every node of N networks by their best operation, ``none`` apart, shape (N, 24)."""
        columns: list[Genes] = []
        row, rows = 0, np.arange(len(scores_NEO))
        for _ in KINDS:
            for node in range(NODES):
                own = scores_NEO[:, row : row + node + 2, 1:]
                row += node + 2
                best_N2 = np.sort(np.argsort(-own.max(axis=2), axis=1, kind="stable")[:, :2], axis=1)
                a_N, b_N = best_N2.T
                columns += [_PAIR_INDEX[node][a_N, b_N], own[rows, a_N].argmax(axis=1), own[rows, b_N].argmax(axis=1)]
        return np.stack(columns, axis=1)

    def table(self, genes_G: Genes) -> Floats:
        """Ones for the two operations of every node, shape (28, 8)."""
        table = np.zeros(self.relaxation.shape)
        for kind in KINDS:
            for node in range(NODES):
                for a, op in node_inputs(genes_G, kind)[node]:
                    table[KINDS.index(kind) * len(EDGES) + EDGES.index((a, node)), op] = 1.0
        return table

    def network(self, arch: Arch) -> Network:
        """The description of one network."""
        stem = self.stem()
        nodes: list[NetworkNode] = [stem]
        older = newer = stem.name
        for plan in self.plans:
            nodes += self.cell(plan, older, newer, node_inputs(arch.genes, plan.kind))
            older, newer = newer, nodes[-1].name
        return Network(self.input_shape(arch), (*nodes, *self.head(newer)))

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """Exact ``params``, ``macs``, ``model_bytes`` and ``peak_bytes`` of N networks, each shape (N,)."""
        base, by_edge = self._cost_table
        total = np.tile(base, (len(genes_NG), 1))
        for k in range(len(KINDS)):
            for node in range(NODES):
                g = 3 * (k * NODES + node)
                inputs = np.array(PAIRS[node])[genes_NG[:, g]]
                for slot in (0, 1):
                    total += by_edge[k, (inputs[:, slot] < 2).astype(int), genes_NG[:, g + 1 + slot] + 1]
        return dict(zip(COSTS, [*total.T, FLOAT_BYTES * self._peak(genes_NG)], strict=True))

    @cached_property
    def _cost_table(self) -> tuple[Floats, Floats]:
        """Parameters, MACs and model bytes: without any operation, shape (3,), and of an operation in all cells of a
        kind, by whether its state is an input of the cell, shape (2, 2, 8, 3)."""
        by_edge = np.zeros((len(KINDS), 2, len(OPERATIONS), 3))
        for plan in self.plans:
            for from_input in (0, 1):
                for op in range(1, len(OPERATIONS)):
                    nodes, graph = self.operation_graph(plan, op, bool(from_input))
                    by_edge[KINDS.index(plan.kind), from_input, op] += part_counts(nodes, graph)
        smallest = Arch(self.name, (0,) * len(self.decisions))  # max pooling everywhere, of two states that are inputs
        network = self.network(smallest)
        base = np.array(part_counts(network.nodes, exported_graph(network)), dtype=np.float64)
        for k, kind in enumerate(KINDS):
            for pair in node_inputs(smallest.genes, kind):
                base -= sum(by_edge[k, int(a < 2), op] for a, op in pair)
        return base, by_edge

    def _peak(self, genes_NG: Genes) -> Floats:
        """Numbers that live at once, shape (N,): the most of any cell, and of what comes before and after them."""
        peak_N = np.full(len(genes_NG), float(max(self.peak_outside_cells, *self.entry_peaks)))
        normal = next(plan for plan in self.plans if plan.kind == "normal")
        maps_N = self._body_peak(genes_NG, normal) / prod(normal.node_shape)  # normal cells have maps of one size
        for plan in self.plans:
            body_N = maps_N * prod(plan.node_shape) if plan.kind == "normal" else self._body_peak(genes_NG, plan)
            rectified = 0 if plan is self.plans[-1] else plan.c_newer * plan.height * plan.width
            peak_N = np.maximum(peak_N, rectified + body_N)
        return peak_N

    def _body_peak(self, genes_NG: Genes, plan: CellPlan) -> Floats:
        """Numbers that live at once in the nodes of a cell, shape (N,), beside what is kept for the next."""
        operations = range(1, len(OPERATIONS))
        graphs = [self.operation_graph(plan, op, from_input)[1] for from_input in (True, False) for op in operations]
        longest = max(len(graph.operators) for graph in graphs)
        trace = PopulationTrace(len(genes_NG), 3 + NODES * (1 + 2 * longest))
        state, node_size = plan.channels * plan.height * plan.width, prod(plan.node_shape)
        states = [trace.add_input(state), trace.add_input(state)]
        rows = np.arange(len(genes_NG))
        for node in range(NODES):
            g = 3 * (KINDS.index(plan.kind) * NODES + node)
            inputs_N2 = np.array(PAIRS[node])[genes_NG[:, g]]
            summands = []
            for slot in (0, 1):
                a_N = inputs_N2[:, slot]
                graph_N = genes_NG[:, g + 1 + slot] + len(operations) * (a_N >= 2)
                summands.append(trace.choose(graphs, graph_N, [np.stack(states)[a_N, rows]]))
            states.append(trace.step(trace.kind("Add"), summands, node_size))
        trace.step(trace.own(), states[2:], NODES * node_size)
        return trace.peak()

    def features(self, genes_NG: Genes) -> Floats:
        """Inputs of latency predictors, shape (N, F): every gene, and how often each operation occurs in cells of each
        kind, on their inputs and on their nodes."""
        counts = np.zeros((len(genes_NG), len(KINDS), 2, len(OPERATIONS)))
        rows = np.arange(len(genes_NG))
        for k in range(len(KINDS)):
            for node in range(NODES):
                g = 3 * (k * NODES + node)
                inputs = np.array(PAIRS[node])[genes_NG[:, g]]
                for slot in (0, 1):
                    counts[rows, k, (inputs[:, slot] < 2).astype(int), genes_NG[:, g + 1 + slot] + 1] += 1.0
        return np.concatenate([one_hot(self.decisions, genes_NG), counts.reshape(len(genes_NG), -1)], axis=1)

    @property
    def graph_encoding(self) -> GraphEncoding:
        """The operation of every edge of each kind of cell, and ones for inputs and output: rows of 202 columns."""
        return GraphEncoding(GRAPH, self._graph_columns)

    def _graph_columns(self, genes_NG: Genes) -> Floats:
        n, rows = len(genes_NG), np.arange(len(genes_NG))
        parts: list[Floats] = []
        for k in range(len(KINDS)):
            edges = np.zeros((n, len(EDGES), len(OPERATIONS) - 1))
            for node in range(NODES):
                g = 3 * (k * NODES + node)
                inputs = np.array(PAIRS[node])[genes_NG[:, g]]
                first = EDGES.index((0, node))
                for slot in (0, 1):
                    edges[rows, first + inputs[:, slot], genes_NG[:, g + 1 + slot]] = 1.0
            parts += [edges.reshape(n, -1), np.ones((n, 3))]
        return np.hstack(parts)

    @property
    def published(self) -> Mapping[str, tuple[int, ...]]:
        """Cells that papers have found on CIFAR-10."""
        return {name: from_notation(text) for name, text in PUBLISHED.items()}

    def from_notation(self, text: str) -> tuple[int, ...]:
        """The genes of a genotype in the notation of the paper's code. Raises InvalidInput."""
        return from_notation(text)

    def supernet(self, seed: int) -> Any:
        """A fresh supernet, weights drawn from ``seed``."""
        from search_spaces.darts_cell.network import DartsSupernet

        return DartsSupernet(self.plans, self.shape.channels, self.shape.classes, self.config.evaluation, seed)
