"""The topology space of NAS-Bench-201 (Dong and Yang, ICLR 2020). No torch here; the supernet is in ``network.py``.

A cell has four nodes; each of its six edges carries one of five operations, and a node sums its edges. The network is:
stem 3x3 convolution, three stages of equal cells with a residual block of stride 2 between them, batch norm, global
pooling, classifier. Edges on no path from input to output do nothing: they are inactive, and neither counted nor built.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, cached_property, lru_cache
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from nas.core.arch import Arch, Decision, Floats, Genes, every, one_hot
from nas.core.graph import GraphEncoding
from nas.core.layers import INPUT, BatchNorm, Conv2d, GlobalAveragePool, Linear, MapShape, Pool2d, Skip
from nas.core.network import Add, Network, NetworkNode, Zeros
from nas.core.plugins import SearchSpaceType
from nas.core.ports import ImageShape
from nas.spaces.activation_memory import NO_OPERATOR, PopulationTrace, graph_peak
from nas.spaces.base import DescribedSpace
from nas.spaces.costs import FLOAT_BYTES, part_counts
from nas.spaces.exported_graph import exported_graph, lower
from search_spaces.nas_bench_201.cell import (
    CELLS,
    CONV1,
    CONV3,
    EDGES,
    GRAPH,
    NODES,
    NONE,
    OPERATIONS,
    PATHS,
    POOL,
    RELAXATION,
    SKIP,
    active_edges,
    from_string,
)
from search_spaces.presets import resolved

STAGES = 3


class SpaceParams(BaseModel):
    """``channels`` of the first stage, doubled by each of the two after it; ``cells`` in each stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    channels: int = Field(default=16, ge=4, le=512, multiple_of=2)
    cells: int = Field(default=5, ge=1, le=20)


PRESETS: dict[str, SpaceParams] = {
    "digits": SpaceParams(channels=8, cells=1),
    "small": SpaceParams(channels=8, cells=2),
    "benchmark": SpaceParams(channels=16, cells=5),
}


def build(params: Mapping[str, JsonValue], shape: ImageShape) -> NasBench201:
    """The cell space of NAS-Bench-201: 15,625 cells of six edges with five operations each.

    Raises UnknownName for a preset, InvalidSpec for unknown or impossible parameters.
    """
    return NasBench201(resolved("nas_bench_201", params, PRESETS, "benchmark"), shape)


NAS_BENCH_201 = SearchSpaceType(
    "nas_bench_201",
    "The cell space of NAS-Bench-201: 15,625 cells of six edges with five operations each.",
    build,
    tuple(PRESETS),
    CELLS,
    relaxed=True,
    published={"ResNet": {}},
    any_shape=True,
)


class NasBench201(DescribedSpace[SpaceParams]):
    """The space as the engine sees it (``nas.core.ports.SearchSpace``). One gene per edge, ordered as ``EDGES``."""

    name = "nas_bench_201"
    decisions = tuple(Decision(f"edge{a}{b}.operation", OPERATIONS) for a, b in EDGES)
    relaxation = RELAXATION
    cells = CELLS

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.config.channels * 2**s for s in range(STAGES))

    @property
    def partials(self) -> tuple[int, ...]:
        """The divisors of the channels."""
        return tuple(n for n in range(1, self.config.channels + 1) if self.config.channels % n == 0)

    @property
    def regularisers(self) -> Mapping[str, float]:
        """Dropped paths, by default without: the networks of the table were trained so."""
        return {"drop_path": 0.0}

    def canonical(self, genes_NG: Genes) -> Genes:
        """Edges on no path from input to output set to ``none``."""
        return np.where(active_edges(genes_NG), genes_NG, NONE)

    def discretise(self, scores_EO: Floats) -> Genes:
        """The best operation of every edge, ``none`` included, shape (6,)."""
        genes: Genes = self.discretise_all(scores_EO[None])[0]
        return genes

    def discretise_all(self, scores_NEO: Floats) -> Genes:
        """The best operation of every edge of N cells, shape (N, 6)."""
        return self.canonical(scores_NEO.argmax(axis=2))

    def table(self, genes_G: Genes) -> Floats:
        """One-hot rows, shape (6, 5)."""
        return one_hot(self.decisions, genes_G[None]).reshape(len(EDGES), len(OPERATIONS))

    def network(self, arch: Arch) -> Network:
        """The description of the canonical network."""
        genes = self.canonical(np.array([arch.genes]))[0].tolist()
        nodes = self._stem()
        for s, channels in enumerate(self.widths):
            if s > 0:
                nodes += _reduction(f"stage{s + 1}.reduce", nodes[-1].name, nodes[-1].out_shape, channels)
            for cell in range(self.config.cells):
                nodes += _cell(f"stage{s + 1}.cell{cell + 1}", nodes[-1].name, nodes[-1].out_shape, genes)
        return Network(self.input_shape(arch), (*nodes, *self._head(nodes[-1].name, nodes[-1].out_shape)))

    def _stem(self) -> list[NetworkNode]:
        image = (self.shape.channels, self.shape.height, self.shape.width)
        return [Conv2d("stem", (INPUT,), image, self.widths[0], 3)]

    def _head(self, source: str, shape: MapShape) -> list[NetworkNode]:
        norm = BatchNorm("norm", (source,), shape)
        pool = GlobalAveragePool("pool", (norm.name,), shape)
        return [norm, pool, Linear("classifier", (pool.name,), pool.out_shape, self.shape.classes)]

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """Exact ``params``, ``macs``, ``model_bytes`` and ``peak_bytes`` of N networks, each shape (N,)."""
        canonical = self.canonical(genes_NG)
        total = self._summed_costs(canonical)
        maps_K, folds_K = _cell_traces()
        cells_N = np.ravel_multi_index(tuple(canonical.T), (len(OPERATIONS),) * len(EDGES))
        # The zero of a cell without a path is a weight; where the last cell ends in a convolution, that takes up the
        # batch norm after it.
        zeros_N = len(self.widths) * self.config.cells * (canonical == NONE).all(axis=1)
        folded_N = 4 * self.widths[-1] * folds_K[cells_N]
        return {
            "params": total[:, 0],
            "macs": total[:, 1],
            "model_bytes": total[:, 2] + FLOAT_BYTES * (zeros_N - folded_N),
            "peak_bytes": FLOAT_BYTES * np.maximum(self._peak_outside_cells, max(self._maps) * maps_K[cells_N]),
        }

    def costs_as_written(self, genes_NG: Genes) -> dict[str, Floats]:
        """``params`` and ``macs`` of cells as they stand, inactive edges included."""
        total_N3 = self._summed_costs(genes_NG)
        return {"params": total_N3[:, 0], "macs": total_N3[:, 1]}

    def _summed_costs(self, genes_NG: Genes) -> Floats:
        """Parameters, MACs and model bytes over all edges, shape (N, 3)."""
        base, by_operation = self._cost_table
        return np.asarray(base + sum(by_operation[genes_NG[:, e]] for e in range(len(EDGES))))

    @cached_property
    def _shapes(self) -> tuple[MapShape, ...]:
        """The maps of each stage."""
        h, w = self.shape.height, self.shape.width
        return tuple((c, -(-h // 2**s), -(-w // 2**s)) for s, c in enumerate(self.widths))

    @property
    def _maps(self) -> list[int]:
        return [prod(shape) for shape in self._shapes]

    @cached_property
    def _peak_outside_cells(self) -> int:
        """Numbers that live at once; between two cells or other parts of the network a single tensor lives."""
        image, shapes = self.shape.channels, self._shapes
        graphs = [
            lower(self._stem(), {INPUT: image * self.shape.height * self.shape.width}, image_channels=image),
            lower(self._head("x", shapes[-1]), {"x": prod(shapes[-1])}),
            *(lower(_reduction("", "x", a, b[0]), {"x": prod(a)}) for a, b in pairwise(shapes)),
        ]
        return max(graph_peak(graph) for graph in graphs)

    @cached_property
    def _cost_table(self) -> tuple[Floats, Floats]:
        """Parameters, MACs and model bytes: without any edge and without the zeros of its cells, shape (3,), and of
        each operation on one edge of all cells, shape (5, 3)."""
        by_operation = np.zeros((len(OPERATIONS), 3))
        for op in range(len(OPERATIONS)):
            for shape in self._shapes:
                nodes = _edge("edge", "x", shape, op)
                by_operation[op] += self.config.cells * np.array(part_counts(nodes, lower(nodes, {"x": prod(shape)})))
        empty = self.network(Arch(self.name, (NONE,) * len(EDGES)))
        base = np.array(part_counts(empty.nodes, exported_graph(empty)), dtype=np.float64)
        base[2] -= FLOAT_BYTES * len(self.widths) * self.config.cells
        return base, by_operation

    def features(self, genes_NG: Genes) -> Floats:
        """Inputs of latency predictors, shape (N, 60): the operation on each edge, how often each occurs, and pairs of
        operations on consecutive edges, which a runtime may fuse or must wait between."""
        return self.features_as_written(self.canonical(genes_NG))

    def features_as_written(self, genes_NG: Genes) -> Floats:
        """``features`` of cells as they stand, inactive edges included, as NAS-Bench-201 measured them."""
        edges = one_hot(self.decisions, genes_NG)
        counts = edges.reshape(len(edges), len(EDGES), len(OPERATIONS)).sum(axis=1)
        pairs = np.zeros((len(edges), len(OPERATIONS), len(OPERATIONS)))
        for first, (_, middle) in enumerate(EDGES):
            for second, (start, _) in enumerate(EDGES):
                if middle == start:
                    np.add.at(pairs, (np.arange(len(edges)), genes_NG[:, first], genes_NG[:, second]), 1.0)
        return np.concatenate([edges, counts, pairs.reshape(len(edges), -1)], axis=1)

    @property
    def published(self) -> Mapping[str, tuple[int, ...]]:
        """The residual block of ResNet as a cell, to which the paper compares others."""
        operation_by_edge = {(0, 1): CONV3, (1, 2): CONV3, (0, 3): SKIP, (2, 3): SKIP}
        return {"ResNet": tuple(operation_by_edge.get(edge, NONE) for edge in EDGES)}

    def from_notation(self, text: str) -> tuple[int, ...]:
        """The genes of a cell by its official name, such as ``|nor_conv_3x3~0|+...``. Raises InvalidInput."""
        return from_string(text)

    @property
    def graph_encoding(self) -> GraphEncoding:
        """The operation of each edge, but for ``none``, and the cell's input and output: rows of 26 columns."""
        return GraphEncoding(GRAPH, self._graph_columns)

    def _graph_columns(self, genes_NG: Genes) -> Floats:
        edges = one_hot(self.decisions, self.canonical(genes_NG)).reshape(len(genes_NG), len(EDGES), len(OPERATIONS))
        return np.hstack([edges[:, :, 1:].reshape(len(edges), -1), np.ones((len(edges), 2))])

    def accuracy_features(self, genes_NG: Genes) -> Floats:
        """Inputs of accuracy predictors, shape (N, 58): how often each sequence of operations leads from input to
        output, identities left out; most, fewest and total of operations, convolutions and pools on these ways; and how
        often each operation occurs. Equal for cells that are equal as graphs."""
        features_NF = _ways(self.canonical(genes_NG))
        features_NF[:, _SEQUENCES:] *= 0.5 / self._feature_spread
        return features_NF

    @cached_property
    def _feature_spread(self) -> Floats:
        summary = _ways(self.canonical(every(self.decisions)))[:, _SEQUENCES:]
        spread = summary.std(axis=0)
        spread[-len(OPERATIONS) :] = 1.0  # counts of operations are near enough to each other
        return np.asarray(spread)

    def supernet(self, seed: int) -> Any:
        """A fresh supernet, weights drawn from ``seed``."""
        from search_spaces.nas_bench_201.network import NasBench201Supernet

        return NasBench201Supernet(
            self.shape.channels, self.widths, self.config.cells, self.shape.classes, self.canonical, seed
        )


@cache
def _cell_traces() -> tuple[Floats, NDArray[np.bool_]]:
    """Maps that live at once in an exported cell, and whether its output is that of a convolution, of every gene vector
    in the order of ``every``, as if it were canonical."""
    genes_KG = every(NasBench201.decisions)
    graphs = [lower(_edge("edge", "x", (1, 1, 1), op), {"x": 1}) for op in range(len(OPERATIONS))]
    trace = PopulationTrace(len(genes_KG), 3 * len(EDGES) + 2)
    nodes = [trace.add_input(1.0)] + [np.full(len(genes_KG), -1)] * (NODES - 1)
    for e, (a, b) in enumerate(EDGES):
        op_N, sum_N = genes_KG[:, e], nodes[b]
        out_N = trace.choose(graphs, op_N, [nodes[a]])
        adds_N = (op_N != NONE) & (sum_N >= 0)
        added_N = trace.step(np.where(adds_N, trace.kind("Add"), NO_OPERATOR), [sum_N, out_N], 1.0)
        nodes[b] = np.where(op_N == NONE, sum_N, np.where(adds_N, added_N, out_N))
    cut_N = nodes[-1] < 0
    zeros_N = trace.step(np.where(cut_N, trace.own(), NO_OPERATOR), [nodes[0]], 1.0)
    last_N = np.where(cut_N, zeros_N, nodes[-1])
    trace.keep(last_N)
    return trace.peak(), trace.made_by_convolution(last_N)


_SEQUENCES = 40  # of up to three operations that are neither none nor identity


def _ways(canonical_NG: Genes) -> Floats:
    """Counts of sequences, summaries of the ways and counts of operations; see ``accuracy_features``."""
    n, rows = len(canonical_NG), np.arange(len(canonical_NG))
    sequences_NS = np.zeros((n, _SEQUENCES))
    ways: list[Floats] = []
    for edges in PATHS:
        ops_NL = canonical_NG[:, edges]
        open_N = (ops_NL != NONE).all(axis=1)
        code_N, length_N = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        for op_N in ops_NL.T:
            code_N = np.where(op_N > SKIP, 3 * code_N + op_N - POOL, code_N)
            length_N += op_N > SKIP
        start_N = (3**length_N - 1) // 2  # sequences that are shorter
        sequences_NS[rows[open_N], (start_N + code_N)[open_N]] += 1.0
        counts = [length_N, *((ops_NL == op).sum(axis=1) for op in (CONV3, CONV1, POOL))]
        ways.append(np.where(open_N[:, None], np.stack(counts, axis=1), np.nan))
    ways_WNC = np.stack(ways)
    closed = np.isnan(ways_WNC)
    most_NC, fewest_NC = np.where(closed, -1.0, ways_WNC).max(axis=0), np.where(closed, 9.0, ways_WNC).min(axis=0)
    total_NC = np.where(closed, 0.0, ways_WNC).sum(axis=0)
    count_N1 = (~closed[:, :, 0]).sum(axis=0)[:, None]
    operations_NO = (canonical_NG[:, :, None] == np.arange(len(OPERATIONS))).sum(axis=1)
    return np.concatenate([sequences_NS, most_NC, fewest_NC, total_NC, count_N1, operations_NO], axis=1)


@lru_cache(maxsize=1 << 14)  # networks share most of their layers
def _edge(name: str, source: str, shape: MapShape, op: int) -> tuple[NetworkNode, ...]:
    """An operation on an edge: nothing, or a layer that keeps the shape."""
    if op == NONE:
        return ()
    if op == SKIP:
        return (Skip(name, (source,), shape),)
    if op == POOL:
        return (Pool2d(name, (source,), shape, "average", 3),)
    return (Conv2d(name, (source,), shape, shape[0], 3 if op == CONV3 else 1, rectified=True),)


def _cell(name: str, source: str, shape: MapShape, genes: Sequence[int]) -> list[NetworkNode]:
    """A cell of canonical ``genes``: every node sums its edges as they come."""
    out: list[NetworkNode] = []
    sums: dict[int, str] = {0: source}
    for (a, b), op in zip(EDGES, genes, strict=True):
        if op != NONE:
            out += _edge(f"{name}.edge{a}{b}", sums[a], shape, op)
            if b in sums:
                out.append(Add(f"{name}.node{b}.add{a}", (sums[b], out[-1].name), shape))
            sums[b] = out[-1].name
    return out or [Zeros(f"{name}.zeros", (source,), shape)]


@lru_cache(maxsize=1 << 10)
def _reduction(name: str, source: str, shape: MapShape, channels: int) -> tuple[NetworkNode, ...]:
    """ResNet's basic block with stride 2; its shortcut pools 2x2 and has a 1x1 convolution without batch norm."""
    pool = Pool2d(f"{name}.pool", (source,), shape, "average", 2, 2)
    conv1 = Conv2d(f"{name}.conv1", (source,), shape, channels, 3, 2, rectified=True)
    conv2 = Conv2d(f"{name}.conv2", (conv1.name,), conv1.out_shape, channels, 3, rectified=True)
    shortcut = Conv2d(f"{name}.shortcut", (pool.name,), pool.out_shape, channels, 1, norm=None)
    add = Add(f"{name}.add", (conv2.name, shortcut.name), conv2.out_shape)
    return (pool, conv1, conv2, shortcut, add)
