"""The topology space of NAS-Bench-201 (Dong and Yang, ICLR 2020). No torch here; the supernet is in ``network.py``.

A cell has four nodes; each of its six edges carries one of five operations, and a node sums its edges. The network is:
stem 3x3 convolution, three stages of equal cells with a residual block of stride 2 between them, batch norm, global
pooling, classifier. Edges on no path from input to output do nothing: they are inactive, and neither counted nor built.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from nas.core.arch import Arch, Decision, Floats, Genes, every, one_hot
from nas.core.cells import CellEdge, CellGraph
from nas.core.errors import InvalidInput
from nas.core.graph import Graph
from nas.core.liveness import NONE as NOTHING
from nas.core.liveness import Trace, chain
from nas.core.ports import ImageShape, Layer
from nas.core.relaxation import Relaxation
from search_spaces.identity import space_id
from search_spaces.presets import resolved

OPERATIONS = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")  # cheapest first
NONE, SKIP, POOL, CONV1, CONV3 = range(5)
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # from node, to node; in the order of the official strings
NODES = 4
STAGES = 3
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))  # edges of each way from input to output
CELLS = (
    CellGraph("cell", ("in", "1", "2", "out"), tuple(CellEdge(a, b, f"edge{a}{b}") for a, b in EDGES), OPERATIONS),
)
_INPUT, _OUTPUT = len(EDGES), len(EDGES) + 1  # of the graph, whose first places are the edges


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


def build(params: Mapping[str, Any], shape: ImageShape) -> NasBench201:
    """The cell space of NAS-Bench-201: 15,625 cells of six edges with five operations each.

    Raises UnknownName for a preset, InvalidSpec for unknown or impossible parameters.
    """
    return NasBench201(resolved("nas_bench_201", params, PRESETS, "benchmark"), shape)


build.presets = tuple(PRESETS)  # type: ignore[attr-defined]
build.cells = CELLS  # type: ignore[attr-defined]


def active_edges(genes_NG: Genes) -> NDArray[np.bool_]:
    """Which edges carry an operation and lie on a path from the input to the output, shape (N, 6)."""
    carries = genes_NG != NONE
    reached = np.zeros((len(genes_NG), NODES), dtype=bool)
    needed = np.zeros((len(genes_NG), NODES), dtype=bool)
    reached[:, 0] = needed[:, NODES - 1] = True
    for e, (a, b) in enumerate(EDGES):  # ordered by where they end
        reached[:, b] |= reached[:, a] & carries[:, e]
    for e, (a, b) in sorted(enumerate(EDGES), key=lambda edge: -edge[1][0]):  # by where they begin, last first
        needed[:, a] |= needed[:, b] & carries[:, e]
    ends = np.array(EDGES)
    active: NDArray[np.bool_] = carries & reached[:, ends[:, 0]] & needed[:, ends[:, 1]]
    return active


def to_string(arch: Arch) -> str:
    """The official name of a cell, such as ``|nor_conv_3x3~0|+|none~0|skip_connect~1|+|...|``."""
    groups = [
        "".join(f"|{OPERATIONS[g]}~{a}" for g, (a, b) in zip(arch.genes, EDGES, strict=True) if b == node) + "|"
        for node in range(1, NODES)
    ]
    return "+".join(groups)


def from_string(name: str) -> tuple[int, ...]:
    """The genes of a cell by its official name, not made canonical. Raises InvalidInput."""
    parts = [part for group in name.split("+") for part in group.strip("|").split("|")]
    expected = [str(a) for a, _ in EDGES]
    pairs = [part.partition("~") for part in parts]
    if [where for _, _, where in pairs] != expected or any(op not in OPERATIONS for op, _, _ in pairs):
        raise InvalidInput(f"not the name of a cell of NAS-Bench-201: {name!r}")
    return tuple(OPERATIONS.index(op) for op, _, _ in pairs)


class NasBench201:
    """The space as the engine sees it (``nas.core.ports.SearchSpace``). One gene per edge, ordered as ``EDGES``."""

    name = "nas_bench_201"
    decisions = tuple(Decision(f"edge{a}{b}.operation", OPERATIONS) for a, b in EDGES)
    relaxation = Relaxation(
        edges=tuple(f"edge{a}{b}" for a, b in EDGES),
        operations=OPERATIONS,
        nodes=tuple(b for _, b in EDGES),
        none=NONE,
        skip=SKIP,
        parameter_free=(NONE, SKIP, POOL),
    )
    graph = Graph(
        places=(*(f"edge{a}{b}" for a, b in EDGES), "input", "output"),
        operations=(*OPERATIONS[1:], "input", "output"),
        edges=(
            *((i, j) for i, (_, end) in enumerate(EDGES) for j, (start, _) in enumerate(EDGES) if end == start),
            *((_INPUT, e) for e, (a, _) in enumerate(EDGES) if a == 0),
            *((e, _OUTPUT) for e, (_, b) in enumerate(EDGES) if b == NODES - 1),
        ),
        place_C=(*(e for e in range(len(EDGES)) for _ in OPERATIONS[1:]), _INPUT, _OUTPUT),
        operation_C=(*(o for _ in EDGES for o in range(len(OPERATIONS) - 1)), 4, 5),
        presence_C=(1.0,) * (len(EDGES) * (len(OPERATIONS) - 1) + 2),
    )

    cells = CELLS

    def __init__(self, params: SpaceParams, shape: ImageShape) -> None:
        self.config = params
        self.shape = shape

    @property
    def params(self) -> Mapping[str, Any]:
        """All parameters, presets resolved."""
        return self.config.model_dump(mode="json")

    @cached_property
    def id(self) -> str:
        """Name plus a hash over parameters, input shape and classes."""
        s = self.shape
        return space_id(self.name, self.params, s.channels, s.height, s.width, s.classes)

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.config.channels * 2**s for s in range(STAGES))

    @property
    def partials(self) -> tuple[int, ...]:
        """All that divide the channels."""
        return tuple(n for n in range(1, self.config.channels + 1) if self.config.channels % n == 0)

    @property
    def regularisers(self) -> Mapping[str, float]:
        """What its networks can be trained with; those of the table were trained without."""
        return {"drop_path": 0.0}

    def canonical(self, genes_NG: Genes) -> Genes:
        """Edges on no path from input to output set to ``none``."""
        return np.where(active_edges(genes_NG), genes_NG, NONE)

    def discretise(self, scores_EO: Floats) -> Genes:
        """The best operation of every edge, ``none`` included, shape (6,)."""
        genes: Genes = self.canonical(scores_EO.argmax(axis=1)[None])[0]
        return genes

    def table(self, genes_G: Genes) -> Floats:
        """One-hot rows, shape (6, 5)."""
        return one_hot(self.decisions, genes_G[None]).reshape(len(EDGES), len(OPERATIONS))

    def input_shape(self, arch: Arch) -> tuple[int, int, int]:
        """(channels, height, width), the data's own for every network."""
        return (self.shape.channels, self.shape.height, self.shape.width)

    def layers(self, arch: Arch) -> list[Layer]:
        """Every layer of the canonical network with its shapes, parameters and MACs, in order."""
        genes = self.canonical(np.array([arch.genes]))[0]
        h, w = self.shape.height, self.shape.width
        out = [_conv("stem", self.shape.channels, self.widths[0], h, w, 3, 1, norm=True)]
        for s, c in enumerate(self.widths):
            if s > 0:
                out += _residual(f"stage{s + 1}.reduce", self.widths[s - 1], c, h, w)
                h, w = -(-h // 2), -(-w // 2)
            for cell in range(self.config.cells):
                for (a, b), op in zip(EDGES, genes, strict=True):
                    name, shape = f"stage{s + 1}.cell{cell + 1}.edge{a}{b}", (c, h, w)
                    if op in (CONV1, CONV3):
                        out.append(_conv(name, c, c, h, w, 3 if op == CONV3 else 1, 1, norm=True))
                    elif op in (SKIP, POOL):
                        detail = "identity" if op == SKIP else "3x3 average"
                        out.append(Layer(name, "skip" if op == SKIP else "pool", shape, shape, 0, 0, detail))
        c = self.widths[-1]
        shape = (c, h, w)
        return [
            *out,
            Layer("norm", "norm", shape, shape, 2 * c, 0, "batch norm, ReLU"),
            Layer("pool", "pool", shape, (c, 1, 1), 0, 0, "global average"),
            Layer(
                "classifier",
                "linear",
                (c, 1, 1),
                (self.shape.classes, 1, 1),
                (c + 1) * self.shape.classes,
                c * self.shape.classes,
            ),
        ]

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """Exact ``params``, ``macs``, ``model_bytes`` and ``peak_bytes`` of N networks, each shape (N,)."""
        canonical = self.canonical(genes_NG)
        base, by_operation = self._cost_table
        total = base + sum(by_operation[canonical[:, e]] for e in range(len(EDGES)))
        maps_K, folds_K = _cell_traces()
        cells_N = np.ravel_multi_index(tuple(canonical.T), (len(OPERATIONS),) * len(EDGES))
        maps_N, folds_N = maps_K[cells_N], folds_K[cells_N]
        cut_N = (canonical == NONE).all(axis=1)
        # A cell that is cut multiplies by a zero that the model holds; where the last cell ends in a convolution, the
        # batch norm after it is part of that.
        numbers_N = total[:, 2] + len(self.widths) * self.config.cells * cut_N - 4 * self.widths[-1] * folds_N
        return {
            "params": total[:, 0],
            "macs": total[:, 1],
            "model_bytes": 4 * numbers_N,
            "peak_bytes": 4 * self._peak(maps_N),
        }

    def _peak(self, maps_N: Floats) -> Floats:
        """Numbers that live at once, shape (N,), by maps that live at once in a cell: between two parts of the network
        a single tensor lives."""
        c, h, w = self.shape.channels, self.shape.height, self.shape.width
        maps = [width * -(-h // 2**s) * -(-w // 2**s) for s, width in enumerate(self.widths)]
        last = self.widths[-1]
        most = max(
            chain([c * h * w, c * h * w, c * h * w, maps[0]]),
            chain([maps[-1], maps[-1], maps[-1], last, last, self.shape.classes]),
            *(_reduction_peak(large, small) for large, small in pairwise(maps)),
        )
        return np.asarray(np.maximum(most, max(maps) * maps_N))

    @cached_property
    def _cost_table(self) -> tuple[Floats, Floats]:
        """Parameters, MACs and numbers that the exported model holds: without any edge, shape (3,), and of each
        operation on one edge, shape (5, 3)."""

        def totals(genes: tuple[int, ...]) -> Floats:
            layers = self.layers(Arch(self.name, genes))
            held = 2 * self.shape.channels + sum(_exported(x) for x in layers)  # the image's mean and scale
            return np.array([sum(x.params for x in layers), sum(x.macs for x in layers), held], dtype=np.float64)

        base = totals((NONE,) * len(EDGES))
        # The edge from input to output alone keeps itself alive.
        alone = [totals((NONE, NONE, NONE, op, NONE, NONE)) - base for op in range(len(OPERATIONS))]
        return base, np.stack(alone)

    def features(self, genes_NG: Genes) -> Floats:
        """What latency is learned from, shape (N, 110): the operation on each edge, how often each occurs, and pairs of
        operations on consecutive edges, which a runtime may fuse or must wait between."""
        canonical = self.canonical(genes_NG)
        edges = one_hot(self.decisions, canonical)
        counts = edges.reshape(len(edges), len(EDGES), len(OPERATIONS)).sum(axis=1)
        pairs = np.zeros((len(edges), len(OPERATIONS), len(OPERATIONS)))
        for first, (_, middle) in enumerate(EDGES):
            for second, (start, _) in enumerate(EDGES):
                if middle == start:
                    np.add.at(pairs, (np.arange(len(edges)), canonical[:, first], canonical[:, second]), 1.0)
        return np.concatenate([edges, counts, pairs.reshape(len(edges), -1)], axis=1)

    def graph_columns(self, genes_NG: Genes) -> Floats:
        """The operation of each edge, but for none, and the cell's input and output, shape (N, 26)."""
        edges = one_hot(self.decisions, self.canonical(genes_NG)).reshape(len(genes_NG), len(EDGES), len(OPERATIONS))
        return np.hstack([edges[:, :, 1:].reshape(len(edges), -1), np.ones((len(edges), 2))])

    def accuracy_features(self, genes_NG: Genes) -> Floats:
        """What accuracy is learned from, shape (N, 58): how often each sequence of operations leads from input to
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

        return NasBench201Supernet(self, seed)


def _exported(layer: Layer) -> int:
    """Weights of a layer in the exported model, where batch norm is a bias of the convolution before it; the last one
    follows a sum."""
    if layer.op == "norm":
        return 2 * layer.params  # mean and variance too
    normalised = layer.op in ("dense", "pointwise") and not layer.name.endswith("shortcut")
    return layer.params - (layer.out_shape[0] if normalised else 0)


def _reduction_peak(large: int, small: int) -> float:
    """Numbers that live at once between two stages, from a map of ``large`` to one of ``small``."""
    pooled = small // 2
    return max(pooled + chain([large, large, small, small, small]), 3 * small)


RELU, AVERAGE, ADD, MULTIPLY = range(1, 5)


@cache
def _cell_traces() -> tuple[Floats, NDArray[np.bool_]]:
    """Maps that live at once in an exported cell, and whether its output is that of a convolution, of every gene vector
    in the order of ``every``, as if it were canonical."""
    genes_KG = every(NasBench201.decisions)
    trace = Trace(len(genes_KG), 3 * len(EDGES) + 2)
    nodes = [trace.given(1.0)] + [np.full(len(genes_KG), -1)] * (NODES - 1)
    for e, (a, b) in enumerate(EDGES):
        op_N, made_N = genes_KG[:, e], nodes[b]
        convolves, carries = op_N >= CONV1, op_N != NONE
        x_N = trace.step(np.where(convolves, RELU, NOTHING), [nodes[a]], 1.0)
        kind_N = np.where(convolves, trace.own(), np.where(op_N == POOL, AVERAGE, NOTHING))
        x_N = trace.step(kind_N, [x_N], 1.0)
        sum_N = trace.step(np.where(carries & (made_N >= 0), ADD, NOTHING), [made_N, x_N], 1.0)
        nodes[b] = np.where(carries, np.where(made_N >= 0, sum_N, x_N), made_N)
    cut_N = nodes[-1] < 0
    zeros_N = trace.step(np.where(cut_N, MULTIPLY, NOTHING), [nodes[0]], 1.0)
    out_N = np.where(cut_N, zeros_N, nodes[-1])
    trace.keep(out_N)
    return trace.peak(), trace.made_by_own(out_N)


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


def _conv(name: str, c_in: int, c_out: int, h: int, w: int, kernel: int, stride: int, *, norm: bool) -> Layer:
    h_out, w_out = -(-h // stride), -(-w // stride)
    weights = c_in * c_out * kernel * kernel
    op = "pointwise" if kernel == 1 else "dense"
    detail = f"{kernel}x{kernel}" + (f", stride {stride}" if stride > 1 else "")
    params = weights + (2 * c_out if norm else 0)
    return Layer(name, op, (c_in, h, w), (c_out, h_out, w_out), params, weights * h_out * w_out, detail)


def _residual(name: str, c_in: int, c_out: int, h: int, w: int) -> list[Layer]:
    """ResNet's basic block with stride 2; its shortcut pools 2x2 and has a 1x1 convolution without batch norm."""
    half = (-(-h // 2), -(-w // 2))
    return [
        _conv(f"{name}.conv1", c_in, c_out, h, w, 3, 2, norm=True),
        _conv(f"{name}.conv2", c_out, c_out, *half, 3, 1, norm=True),
        Layer(f"{name}.pool", "pool", (c_in, h, w), (c_in, *half), 0, 0, "2x2 average"),
        _conv(f"{name}.shortcut", c_in, c_out, *half, 1, 1, norm=False),
    ]
