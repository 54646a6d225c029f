"""The cell space of DARTS (Liu et al., ICLR 2019, section 3.1). No torch here; the supernet is in ``network.py``.

A network is a stack of equal normal cells with two equal reduction cells at a third and at two thirds of it. A cell has
two inputs, the outputs of the two cells before, and four nodes; each node adds up two operations on two different
earlier states, and the cell's output is the concatenation of its nodes. Search network and evaluation network are the
same space with other parameters: while searching, normalisation has no scale of its own, and pooling is normalised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from math import prod
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from nas.core.arch import Arch, Decision, Floats, Genes, one_hot
from nas.core.graph import GraphEncoding
from nas.core.layers import (
    INPUT,
    Concat,
    Conv2d,
    GlobalAveragePool,
    Linear,
    MapShape,
    Normalisation,
    Pool2d,
    ShiftedConv2d,
    Skip,
)
from nas.core.network import Add, Network, NetworkNode, Relu
from nas.core.plugins import SearchSpaceType
from nas.core.ports import ImageShape
from nas.spaces.activation_memory import PopulationTrace, graph_peak
from nas.spaces.base import DescribedSpace
from nas.spaces.costs import COSTS, FLOAT_BYTES, part_counts
from nas.spaces.exported_graph import ExportedGraph, exported_graph, lower
from search_spaces.darts_cell.cell import (
    AVG,
    CELLS,
    DIL3,
    DIL5,
    EDGES,
    GRAPH,
    KINDS,
    MAX,
    NODES,
    OPERATIONS,
    PAIRS,
    PUBLISHED,
    RELAXATION,
    SEP3,
    SEP5,
    SKIP,
    CellKind,
    CellPlan,
    from_notation,
    node_inputs,
)
from search_spaces.presets import resolved


class SpaceParams(BaseModel):
    """``channels`` of a node in the first cells, doubled by each reduction; ``cells`` in all; ``evaluation``: the
    network that is trained from scratch, with scales in its normalisation and none after pooling."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    channels: int = Field(default=16, ge=4, le=512, multiple_of=2)
    cells: int = Field(default=8, ge=3, le=64)
    evaluation: bool = False


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
)


def _pair_index(node: int) -> Genes:
    """The choice of a node's inputs by its two states (smaller, larger), shape (node + 2, node + 2)."""
    index = np.zeros((node + 2, node + 2), dtype=np.int64)
    for i, pair in enumerate(PAIRS[node]):
        index[pair] = i
    return index


_PAIR_INDEX = tuple(_pair_index(node) for node in range(NODES))


class DartsCell(DescribedSpace[SpaceParams]):
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

    @cached_property
    def plans(self) -> tuple[CellPlan, ...]:
        """All cells in order."""
        total, c = self.config.cells, self.config.channels
        older = newer = 3 * c
        h, w = self.shape.height, self.shape.width
        halve: tuple[int, int] | None = None
        plans = []
        for i in range(total):
            kind: CellKind = "reduce" if i in (total // 3, 2 * total // 3) else "normal"
            c *= 2 if kind == "reduce" else 1
            plans.append(CellPlan(f"cell{i + 1}", kind, older, newer, c, h, w, halve))
            older, newer, halve = newer, NODES * c, (h, w) if kind == "reduce" else None
            if kind == "reduce":
                h, w = -(-h // 2), -(-w // 2)
        return tuple(plans)

    @property
    def partials(self) -> tuple[int, ...]:
        """Divisors of half the channels: a factorized reduction needs an even number in each part."""
        return tuple(n for n in range(1, self.config.channels + 1) if self.config.channels % (2 * n) == 0)

    @property
    def regularisers(self) -> Mapping[str, float]:
        """Dropped paths and a second classifier; for evaluation networks as strong as published (section A.1.1)."""
        large = self.config.evaluation
        return {"drop_path": 0.2 if large else 0.0, "auxiliary": 0.4 if large else 0.0}

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
        stem = self._stem()
        nodes: list[NetworkNode] = [stem]
        older = newer = stem.name
        for plan in self.plans:
            nodes += self._cell(plan, older, newer, node_inputs(arch.genes, plan.kind))
            older, newer = newer, nodes[-1].name
        return Network(self.input_shape(arch), (*nodes, *self._head(newer)))

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
                    nodes, graph = self._operation_graph(plan, op, bool(from_input))
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
        peak_N = np.full(len(genes_NG), float(max(self._peak_outside_cells, *self._entry_peaks)))
        normal = next(plan for plan in self.plans if plan.kind == "normal")
        maps_N = self._body_peak(genes_NG, normal) / prod(normal.node_shape)  # normal cells have maps of one size
        for plan in self.plans:
            body_N = maps_N * prod(plan.node_shape) if plan.kind == "normal" else self._body_peak(genes_NG, plan)
            rectified = 0 if plan is self.plans[-1] else plan.c_newer * plan.height * plan.width
            peak_N = np.maximum(peak_N, rectified + body_N)
        return peak_N

    @cached_property
    def _peak_outside_cells(self) -> int:
        stem, last = self._stem(), self.plans[-1]
        before = lower([stem], {INPUT: prod(stem.in_shape)}, image_channels=self.shape.channels)
        after = lower(self._head("newer"), {"newer": NODES * prod(last.node_shape)})
        return max(graph_peak(before), graph_peak(after))

    @cached_property
    def _entry_peaks(self) -> list[int]:
        """Numbers that live at once while a cell brings its inputs to its shape. It keeps both, and the ReLU of the
        newer one for the next cell, which finds the ReLU of its older one there."""
        peaks = []
        for plan in self.plans:
            h, w = plan.halve or (plan.height, plan.width)
            input_sizes = {"older": plan.c_older * h * w, "newer": plan.c_newer * plan.height * plan.width}
            first, last = plan is self.plans[0], plan is self.plans[-1]
            if first:  # its inputs are one
                del input_sizes["older"]
            nodes, states = _entry(plan, "newer" if first else "older", "newer", self._norm)
            graph = lower(nodes, input_sizes, rectified=input_sizes.keys() & {"older"})
            peaks.append(graph_peak(graph, states if last else (*states, f"{plan.name}.newer.relu")))
        return peaks

    def _body_peak(self, genes_NG: Genes, plan: CellPlan) -> Floats:
        """Numbers that live at once in the nodes of a cell, shape (N,), beside what is kept for the next."""
        operations = range(1, len(OPERATIONS))
        graphs = [self._operation_graph(plan, op, from_input)[1] for from_input in (True, False) for op in operations]
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

    def _stem(self) -> Conv2d:
        image = (self.shape.channels, self.shape.height, self.shape.width)
        return Conv2d("stem", (INPUT,), image, 3 * self.config.channels, 3)

    def _head(self, source: str) -> list[NetworkNode]:
        channels, height, width = self.plans[-1].node_shape
        pool = GlobalAveragePool("pool", (source,), (NODES * channels, height, width), flatten=False)
        return [pool, Linear("classifier", (pool.name,), pool.out_shape, self.shape.classes)]

    @property
    def _norm(self) -> Normalisation:
        return "affine" if self.config.evaluation else "plain"

    def _cell(
        self, plan: CellPlan, older: str, newer: str, inputs: Sequence[Sequence[tuple[int, int]]]
    ) -> list[NetworkNode]:
        """A cell whose nodes have ``inputs``: each two (state, operation)."""
        entry, inputs_of_cell = _entry(plan, older, newer, self._norm)
        nodes, states = list(entry), list(inputs_of_cell)
        for node, pair in enumerate(inputs):
            summands = []
            for a, op in pair:
                nodes += self._operation(plan, f"{plan.name}.state{a}.node{node}", states[a], op, a < 2)
                summands.append(nodes[-1].name)
            nodes.append(Add(f"{plan.name}.node{node}", (summands[0], summands[1]), plan.node_shape))
            states.append(nodes[-1].name)
        return [*nodes, Concat(f"{plan.name}.concat", tuple(states[2:]), plan.node_shape)]

    def _operation_graph(
        self, plan: CellPlan, op: int, from_input: bool
    ) -> tuple[tuple[NetworkNode, ...], ExportedGraph]:
        """An operation alone, on an input ``x`` of the cell or on one of its nodes."""
        nodes = self._operation(plan, "operation", "x", op, from_input)
        return nodes, lower(nodes, {"x": prod(plan.state_shape(from_input))})

    def _operation(self, plan: CellPlan, name: str, source: str, op: int, from_input: bool) -> tuple[NetworkNode, ...]:
        stride = 2 if plan.kind == "reduce" and from_input else 1
        return _operation(name, source, op, plan.state_shape(from_input), stride, self._norm)


@lru_cache(maxsize=1 << 14)  # networks share most of their layers
def _operation(
    name: str, source: str, op: int, shape: MapShape, stride: int, norm: Normalisation
) -> tuple[NetworkNode, ...]:
    """An operation on an edge. Pooling is normalised only where batch norm has no scale of its own."""
    if op in (MAX, AVG):
        pool_norm = None if norm == "affine" else norm
        return (Pool2d(name, (source,), shape, "max" if op == MAX else "average", 3, stride, pool_norm),)
    if op == SKIP:
        if stride == 2:
            return _factorized(name, source, shape, shape[0], norm)
        return (Skip(name, (source,), shape),)
    kernel, dilation = 3 if op in (SEP3, DIL3) else 5, 2 if op in (DIL3, DIL5) else 1
    nodes = _separable(f"{name}.a", source, shape, kernel, stride, dilation, norm)
    if op in (SEP3, SEP5):
        nodes += _separable(f"{name}.b", nodes[-1].name, nodes[-1].out_shape, kernel, 1, 1, norm)
    return nodes


@lru_cache(maxsize=1 << 10)
def _entry(
    plan: CellPlan, older: str, newer: str, norm: Normalisation
) -> tuple[tuple[NetworkNode, ...], tuple[str, str]]:
    """Nodes that bring the two inputs of a cell to its channels and its map, and the names of the results."""
    c, shape = plan.channels, (plan.c_newer, plan.height, plan.width)
    older_name, newer_name = f"{plan.name}.older", f"{plan.name}.newer"
    if plan.halve is not None:
        older_nodes = _factorized(older_name, older, (plan.c_older, *plan.halve), c, norm)
    else:
        older_shape = (plan.c_older, plan.height, plan.width)
        older_nodes = (Conv2d(older_name, (older,), older_shape, c, 1, rectified=True, norm=norm),)
    relu = Relu(f"{newer_name}.relu", (newer,), shape)  # the next cell reads it too
    convolution = Conv2d(newer_name, (newer,), shape, c, 1, rectified=True, norm=norm)
    return (*older_nodes, relu, convolution), (older_nodes[-1].name, newer_name)


def _factorized(name: str, source: str, shape: MapShape, channels: int, norm: Normalisation) -> tuple[NetworkNode, ...]:
    """Halve a map without losing pixels: two 1x1 convolutions of stride 2, the second one shifted by one pixel."""
    even = Conv2d(f"{name}.even", (source,), shape, channels // 2, 1, 2, rectified=True, norm=None)
    return (even, ShiftedConv2d(f"{name}.odd", (source, even.name), shape, channels, norm))


def _separable(
    name: str, source: str, shape: MapShape, kernel: int, stride: int, dilation: int, norm: Normalisation
) -> tuple[NetworkNode, ...]:
    """ReLU, depthwise and pointwise convolution, batch norm."""
    c = shape[0]
    depthwise = Conv2d(
        f"{name}.depthwise", (source,), shape, c, kernel, stride, dilation, groups=c, rectified=True, norm=None
    )
    return (depthwise, Conv2d(f"{name}.pointwise", (depthwise.name,), depthwise.out_shape, c, 1, norm=norm))
