"""The cell space of DARTS (Liu et al., ICLR 2019, section 3.1). No torch here; the supernet is in ``network.py``.

A network is a stack of equal normal cells with two equal reduction cells at a third and at two thirds of it. A cell has
two inputs, the outputs of the two cells before, and four nodes; each node adds up two operations on two different
earlier states, and the cell's output is the concatenation of its nodes. Search network and evaluation network are the
same space with other parameters: while searching, normalisation has no scale of its own, and pooling is normalised.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from nas.core.arch import Arch, Decision, Floats, Genes, one_hot
from nas.core.cells import CellEdge, CellGraph
from nas.core.errors import InvalidInput
from nas.core.graph import Graph
from nas.core.liveness import NONE as NOTHING
from nas.core.liveness import Trace, chain
from nas.core.ports import ImageShape, Layer
from nas.core.relaxation import Relaxation
from search_spaces.identity import space_id
from search_spaces.presets import resolved

# Cheapest first. The last seven are what an edge of a network can carry.
OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "sep_conv_3x3",
    "sep_conv_5x5",
)
NONE, MAX, AVG, SKIP, DIL3, DIL5, SEP3, SEP5 = range(8)
NODES = 4

Kind = Literal["normal", "reduce"]
KINDS: tuple[Kind, ...] = ("normal", "reduce")
PAIRS = tuple(tuple(combinations(range(node + 2), 2)) for node in range(NODES))  # inputs of each node
EDGES = tuple((a, node) for node in range(NODES) for a in range(node + 2))  # from state, to node
CELLS = tuple(
    CellGraph(
        name,
        ("cell −2", "cell −1", *map(str, range(NODES)), "out"),
        (
            *(CellEdge(a, node + 2, f"{kind}.state{a}.node{node}") for a, node in EDGES),
            *(CellEdge(node + 2, NODES + 2) for node in range(NODES)),
        ),
        OPERATIONS,
        inputs=2,
    )
    for kind, name in zip(KINDS, ("normal cell", "reduction cell"), strict=True)
)


class SpaceParams(BaseModel):
    """``channels`` of a node in the first cells, doubled by each reduction; ``cells`` in all; ``evaluation``: the
    network that is trained alone, with scales in its normalisation and none after pooling."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    channels: int = Field(default=16, ge=4, le=512, multiple_of=2)
    cells: int = Field(default=8, ge=3, le=64)
    evaluation: bool = False


PRESETS: dict[str, SpaceParams] = {
    "digits": SpaceParams(channels=4, cells=3),
    "search": SpaceParams(channels=16, cells=8),
    "evaluation": SpaceParams(channels=36, cells=20, evaluation=True),
}


def build(params: Mapping[str, Any], shape: ImageShape) -> DartsCell:
    """The cell space of DARTS: 1,037,664,180 normal cells and as many reduction cells.

    Raises UnknownName for a preset, InvalidSpec for unknown or impossible parameters.
    """
    return DartsCell(resolved("darts_cell", params, PRESETS, "search"), shape)


build.presets = tuple(PRESETS)  # type: ignore[attr-defined]
build.cells = CELLS  # type: ignore[attr-defined]


def _graph() -> Graph:
    """Of a normal and a reduction cell, side by side. Places: per kind its edges, its two inputs and its output."""
    each = len(EDGES) + 3
    places: list[str] = []
    wires: list[tuple[int, int]] = []
    columns: list[tuple[int, int]] = []
    for k, kind in enumerate(KINDS):
        begin, inputs, output = k * each, k * each + len(EDGES), k * each + each - 1
        places += [*(f"{kind}.state{a}.node{node}" for a, node in EDGES), f"{kind}.older", f"{kind}.newer", kind]
        for i, (a, _) in enumerate(EDGES):
            columns += [(begin + i, k * len(OPERATIONS) + op - 1) for op in range(1, len(OPERATIONS))]
            before = [inputs + a] if a < 2 else [begin + j for j, (_, other) in enumerate(EDGES) if other == a - 2]
            wires += [*((j, begin + i) for j in before), (begin + i, output)]
        columns += [(place, k * len(OPERATIONS) + len(OPERATIONS) - 1) for place in (inputs, inputs + 1)]
        columns += [(output, len(KINDS) * len(OPERATIONS))]
    operations = [f"{kind}.{op}" for kind in KINDS for op in (*OPERATIONS[1:], "input")]
    place_C, operation_C = zip(*columns, strict=True)
    return Graph(tuple(places), (*operations, "output"), tuple(wires), place_C, operation_C, (1.0,) * len(columns))


Genotype = Mapping[Kind, tuple[tuple[str, int], ...]]


@dataclass(frozen=True)
class CellPlan:
    """Where a cell stands: channels of its two inputs and of its nodes, and its map *before* it reduces. ``halve``:
    height and width of the older input where these are still those before the last cell reduced them."""

    name: str
    kind: Kind
    c_older: int
    c_newer: int
    channels: int
    height: int
    width: int
    halve: tuple[int, int] | None

    @property
    def after(self) -> tuple[int, int]:
        """Height and width of its nodes."""
        if self.kind == "normal":
            return self.height, self.width
        return -(-self.height // 2), -(-self.width // 2)

    def stride(self, state: int) -> int:
        """Of an operation on a state: the two inputs of a reduction cell are halved."""
        return 2 if self.kind == "reduce" and state < 2 else 1


class DartsCell:
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
    relaxation = Relaxation(
        edges=tuple(f"{kind}.state{a}.node{node}" for kind in KINDS for a, node in EDGES),
        operations=OPERATIONS,
        nodes=tuple(k * NODES + node for k in range(len(KINDS)) for _, node in EDGES),
        none=NONE,
        skip=SKIP,
        parameter_free=(NONE, MAX, AVG, SKIP),
        inputs=2,
    )
    graph = _graph()

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

    @cached_property
    def plans(self) -> tuple[CellPlan, ...]:
        """All cells in order."""
        total, c = self.config.cells, self.config.channels
        older = newer = 3 * c
        h, w = self.shape.height, self.shape.width
        halve: tuple[int, int] | None = None
        plans = []
        for i in range(total):
            kind: Kind = "reduce" if i in (total // 3, 2 * total // 3) else "normal"
            c *= 2 if kind == "reduce" else 1
            plans.append(CellPlan(f"cell{i + 1}", kind, older, newer, c, h, w, halve))
            older, newer, halve = newer, NODES * c, (h, w) if kind == "reduce" else None
            if kind == "reduce":
                h, w = -(-h // 2), -(-w // 2)
        return tuple(plans)

    @property
    def partials(self) -> tuple[int, ...]:
        """All that leave an even number of channels, half of which a factorized reduction makes."""
        return tuple(n for n in range(1, self.config.channels + 1) if self.config.channels % (2 * n) == 0)

    @property
    def regularisers(self) -> Mapping[str, float]:
        """What its networks can be trained with: of evaluation networks as published (section A.1.1)."""
        large = self.config.evaluation
        return {"drop_path": 0.2 if large else 0.0, "auxiliary": 0.4 if large else 0.0}

    def canonical(self, genes_NG: Genes) -> Genes:
        """Every gene is active: all nodes are part of their cell's output."""
        return genes_NG.copy()

    def discretise(self, scores_EO: Floats) -> Genes:
        """The two best edges of every node by their best operation, ``none`` apart, shape (24,)."""
        genes: list[int] = []
        row = 0
        for _ in KINDS:
            for node in range(NODES):
                own = scores_EO[row : row + node + 2, 1:]
                row += node + 2
                a, b = sorted(np.argsort(-own.max(axis=1), kind="stable")[:2].tolist())
                genes += [PAIRS[node].index((a, b)), int(own[a].argmax()), int(own[b].argmax())]
        return np.array(genes, dtype=np.int64)

    def table(self, genes_G: Genes) -> Floats:
        """Ones for the two operations of every node, shape (28, 8)."""
        table = np.zeros(self.relaxation.shape)
        for kind in KINDS:
            for node in range(NODES):
                for a, op in self.chosen(genes_G, kind)[node]:
                    table[KINDS.index(kind) * len(EDGES) + EDGES.index((a, node)), op] = 1.0
        return table

    def chosen(self, genes_G: Genes | tuple[int, ...], kind: str) -> tuple[tuple[tuple[int, int], ...], ...]:
        """Per node, its two (state, operation), operations as indices of ``OPERATIONS``."""
        first = KINDS.index(kind) * 3 * NODES
        out = []
        for node in range(NODES):
            pair, op_a, op_b = (int(g) for g in genes_G[first + 3 * node : first + 3 * node + 3])
            a, b = PAIRS[node][pair]
            out.append(((a, op_a + 1), (b, op_b + 1)))
        return tuple(out)

    def input_shape(self, arch: Arch) -> tuple[int, int, int]:
        """(channels, height, width), the data's own for every network."""
        return (self.shape.channels, self.shape.height, self.shape.width)

    def layers(self, arch: Arch) -> list[Layer]:
        """Every layer of the network with its shapes, parameters and MACs, in order."""
        s, c = self.shape, self.config.channels
        out = [_conv("stem", s.channels, 3 * c, s.height, s.width, 3, affine=True)]
        for plan in self.plans:
            out += self._entry(plan)
            h, w = plan.after
            for node, pair in enumerate(self.chosen(arch.genes, plan.kind)):
                for a, op in pair:
                    out += self._operation(plan, f"{plan.name}.state{a}.node{node}", op, plan.stride(a))
            c = plan.channels
            out.append(Layer(f"{plan.name}.concat", "concat", (c, h, w), (NODES * c, h, w), 0, 0, f"{NODES} nodes"))
        c_out, (h, w) = NODES * self.plans[-1].channels, self.plans[-1].after
        pool = Layer("pool", "pool", (c_out, h, w), (c_out, 1, 1), 0, 0, "global average")
        weights = c_out * s.classes
        return [
            *out,
            pool,
            Layer("classifier", "linear", (c_out, 1, 1), (s.classes, 1, 1), weights + s.classes, weights),
        ]

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """Exact ``params``, ``macs``, ``model_bytes`` and ``peak_bytes`` of N networks, each shape (N,)."""
        base, by_edge = self._cost_table
        total = np.tile(base, (len(genes_NG), 1))
        for k in range(len(KINDS)):
            for node in range(NODES):
                g = 3 * (k * NODES + node)
                inputs = np.array(PAIRS[node])[genes_NG[:, g]]
                for which in (0, 1):
                    total += by_edge[k, (inputs[:, which] < 2).astype(int), genes_NG[:, g + 1 + which] + 1]
        return {
            "params": total[:, 0],
            "macs": total[:, 1],
            "model_bytes": 4 * total[:, 2],
            "peak_bytes": 4 * self._peak(genes_NG),
        }

    def _peak(self, genes_NG: Genes) -> Floats:
        """Numbers that live at once, shape (N,). A cell's newer input, rectified, is kept for the cell after it."""
        s, stem = self.shape, 3 * self.config.channels * self.shape.height * self.shape.width
        image = s.channels * s.height * s.width
        most, last = chain([image, image, image, stem, stem]), self.plans[-1]
        pooled = NODES * last.channels
        most = max(most, chain([pooled * last.after[0] * last.after[1], pooled, s.classes]))
        most_N = np.full(len(genes_NG), most)
        normal_N = self._cell_peak(genes_NG, "normal", 1.0, 1.0, ())
        for plan in self.plans:
            state = plan.channels * plan.height * plan.width
            newer = plan.c_newer * plan.height * plan.width
            if plan is self.plans[0]:
                entry: float = newer + 2 * state  # its two inputs are one
            else:
                h, w = plan.halve or (plan.height, plan.width)
                older, part = plan.c_older * h * w, state / 2
                if plan.halve:
                    sliced = _sliced(plan.c_older, h, w)
                    most_entry = max(older + part + sliced[0], part + chain([*sliced, part]), 2.0 * state)
                else:
                    most_entry = older + state
                entry = max(newer + most_entry, state + 2 * newer, newer + 2 * state)
            kept = 0 if plan is last else newer
            if plan.kind == "normal":
                body_N = state * normal_N
            else:
                node = plan.channels * plan.after[0] * plan.after[1]
                slices = _sliced(plan.channels, plan.height, plan.width)
                body_N = self._cell_peak(genes_NG, "reduce", state, node, slices)
            most_N = np.maximum(most_N, np.maximum(entry, kept + body_N))
        return most_N

    def _cell_peak(self, genes_NG: Genes, kind: Kind, state: float, node: float, slices: tuple[float, ...]) -> Floats:
        """What lives at once in an exported cell, shape (N,), beside what is kept for the next: its two inputs are of
        size ``state``, its nodes of size ``node``; ``slices`` are made where an input is halved."""
        trace = Trace(len(genes_NG), 3 + NODES * (1 + 2 * (6 + (2 + len(slices) if slices else 0))))
        states = [trace.given(state), trace.given(state)]
        for n in range(NODES):
            g = 3 * (KINDS.index(kind) * NODES + n)
            inputs_N2 = np.array(PAIRS[n])[genes_NG[:, g]]
            made = []
            for which in (0, 1):
                a_N, op_N = inputs_N2[:, which], genes_NG[:, g + 1 + which] + 1
                halves = (op_N == SKIP) & (a_N < 2) & bool(slices)
                convolves, pools, twice = op_N >= DIL3, op_N < SKIP, op_N >= SEP3
                normed = pools & (not self.config.evaluation)

                def where(mask: NDArray[np.bool_], operator: int) -> Genes:
                    return np.where(mask, operator, NOTHING)

                x_N = np.stack(states, axis=1)[np.arange(len(genes_NG)), a_N]
                x_N = trace.step(where(convolves | halves, RELU), [x_N], np.where(a_N < 2, state, node))
                first_N = np.where(pools, op_N + RELU, where(convolves | halves, trace.own()))
                y_N = trace.step(first_N, [x_N], np.where(halves, node / 2, node))
                if slices:
                    for i, size in enumerate(slices):
                        x_N = trace.step(where(halves, SLICE + i), [x_N], size)
                    x_N = trace.step(where(halves, trace.own()), [x_N], node / 2)
                    y_N = trace.step(where(halves, trace.own()), [y_N, x_N], node)
                y_N = trace.step(where(convolves | halves | normed, trace.own()), [y_N], node)
                y_N = trace.step(where(twice, RELU), [y_N], node)
                y_N = trace.step(where(twice, trace.own()), [y_N], node)
                made.append(trace.step(where(twice, trace.own()), [y_N], node))
            states.append(trace.step(ADD, made, node))
        trace.step(trace.own(), states[2:], NODES * node)
        return trace.peak()

    @cached_property
    def _cost_table(self) -> tuple[Floats, Floats]:
        """Parameters, MACs and numbers that the exported model holds: without any operation, shape (3,); and of an
        operation in all cells of a kind, by whether its state is an input of the cell, shape (2, 2, 8, 3)."""
        by_edge = np.zeros((len(KINDS), 2, len(OPERATIONS), 3))
        for plan in self.plans:
            for from_input in (0, 1):
                for op in range(1, len(OPERATIONS)):
                    found = self._operation(plan, "", op, plan.stride(0 if from_input else 2))
                    by_edge[KINDS.index(plan.kind), from_input, op] += self._sums(found)
        smallest = Arch(self.name, (0,) * len(self.decisions))  # max pooling everywhere, of two states that are inputs
        base = self._sums(self.layers(smallest))
        base[2] += 2 * self.shape.channels  # the image's mean and scale
        for k, kind in enumerate(KINDS):
            for pair in self.chosen(smallest.genes, kind):
                base -= sum(by_edge[k, int(a < 2), op] for a, op in pair)
        return base, by_edge

    def features(self, genes_NG: Genes) -> Floats:
        """What latency is learned from, shape (N, F): every gene, and how often each operation occurs in cells of each
        kind, on their inputs and on their nodes."""
        counts = np.zeros((len(genes_NG), len(KINDS), 2, len(OPERATIONS)))
        rows = np.arange(len(genes_NG))
        for k in range(len(KINDS)):
            for node in range(NODES):
                g = 3 * (k * NODES + node)
                inputs = np.array(PAIRS[node])[genes_NG[:, g]]
                for which in (0, 1):
                    counts[rows, k, (inputs[:, which] < 2).astype(int), genes_NG[:, g + 1 + which] + 1] += 1.0
        return np.concatenate([one_hot(self.decisions, genes_NG), counts.reshape(len(genes_NG), -1)], axis=1)

    def graph_columns(self, genes_NG: Genes) -> Floats:
        """Per kind of cell the operation of every edge that is kept, and ones for inputs and output, shape (N, 202)."""
        n, rows = len(genes_NG), np.arange(len(genes_NG))
        parts: list[Floats] = []
        for k in range(len(KINDS)):
            edges = np.zeros((n, len(EDGES), len(OPERATIONS) - 1))
            for node in range(NODES):
                g = 3 * (k * NODES + node)
                inputs = np.array(PAIRS[node])[genes_NG[:, g]]
                first = EDGES.index((0, node))
                for which in (0, 1):
                    edges[rows, first + inputs[:, which], genes_NG[:, g + 1 + which]] = 1.0
            parts += [edges.reshape(n, -1), np.ones((n, 3))]
        return np.hstack(parts)

    def supernet(self, seed: int) -> Any:
        """A fresh supernet, weights drawn from ``seed``."""
        from search_spaces.darts_cell.network import DartsSupernet

        return DartsSupernet(self, seed)

    def _sums(self, layers: list[Layer]) -> Floats:
        held = sum(self._exported(x) for x in layers)
        return np.array([sum(x.params for x in layers), sum(x.macs for x in layers), held], dtype=np.float64)

    def _exported(self, layer: Layer) -> int:
        """Weights of a layer in the exported model: batch norm is a bias of the convolution before it, or has four
        numbers a channel after anything else."""
        c, affine = layer.out_shape[0], self.config.evaluation
        if layer.op == "dense":
            return layer.params - c
        if layer.op == "pool" and layer.detail.startswith("3x3"):
            return 0 if affine else 4 * c
        if layer.op != "pointwise" or layer.name.endswith(".even"):
            return layer.params
        return layer.params - (2 * c if affine else 0) + (4 * c if layer.name.endswith(".odd") else c)

    def _entry(self, plan: CellPlan) -> Iterator[Layer]:
        """What brings a cell's two inputs to its channels and its map."""
        affine, c = self.config.evaluation, plan.channels
        if plan.halve is not None:
            h, w = plan.halve
            yield from _factorized(f"{plan.name}.older", plan.c_older, c, h, w, affine)
        else:
            yield _conv(f"{plan.name}.older", plan.c_older, c, plan.height, plan.width, 1, affine=affine)
        yield _conv(f"{plan.name}.newer", plan.c_newer, c, plan.height, plan.width, 1, affine=affine)

    def _operation(self, plan: CellPlan, name: str, op: int, stride: int) -> list[Layer]:
        affine, c = self.config.evaluation, plan.channels
        h, w = (plan.height, plan.width) if stride == 2 or plan.kind == "normal" else plan.after
        h_out, w_out = -(-h // stride), -(-w // stride)
        if op in (MAX, AVG):
            detail = f"3x3 {'max' if op == MAX else 'average'}" + (f", stride {stride}" if stride > 1 else "")
            return [Layer(name, "pool", (c, h, w), (c, h_out, w_out), 0, 0, detail)]
        if op == SKIP:
            if stride == 2:
                return list(_factorized(name, c, c, h, w, affine))
            return [Layer(name, "skip", (c, h, w), (c, h, w), 0, 0, "identity")]
        kernel = 3 if op in (SEP3, DIL3) else 5
        out = _separable(f"{name}.a", c, h, w, kernel, stride, 2 if op in (DIL3, DIL5) else 1, affine)
        if op in (SEP3, SEP5):
            out += _separable(f"{name}.b", c, h_out, w_out, kernel, 1, 1, affine)
        return out


def genotype(space: DartsCell, genes_G: Genes | tuple[int, ...]) -> dict[Kind, tuple[tuple[str, int], ...]]:
    """A network in the notation of the paper's code: per kind of cell eight (operation, state), two per node."""
    return {
        kind: tuple((OPERATIONS[op], a) for pair in space.chosen(genes_G, kind) for a, op in pair) for kind in KINDS
    }


def from_genotype(given: Genotype) -> tuple[int, ...]:
    """The genes of a genotype. Raises InvalidInput for one that is none."""
    genes: list[int] = []
    for kind in KINDS:
        cell = given.get(kind, ())
        if len(cell) != 2 * NODES or any(op not in OPERATIONS[1:] for op, _ in cell):
            known = ", ".join(OPERATIONS[1:])
            raise InvalidInput(
                f"{kind} cell: expected {2 * NODES} pairs of an operation ({known}) and a state, got {cell}"
            )
        for node in range(NODES):
            (op_a, a), (op_b, b) = sorted(cell[2 * node : 2 * node + 2], key=lambda pair: pair[1])
            if (a, b) not in PAIRS[node]:
                raise InvalidInput(f"{kind} cell, node {node}: expected two states below {node + 2}, got {a} and {b}")
            genes += [PAIRS[node].index((a, b)), OPERATIONS.index(op_a) - 1, OPERATIONS.index(op_b) - 1]
    return tuple(genes)


RELU, ADD, SLICE = 1, 8, 9  # operators of the exported graph; pools are between


def _sliced(c: int, h: int, w: int) -> tuple[float, ...]:
    """Sizes of a map from its second row on, from its second column on as well, and with a border where it is odd."""
    return (c * (h - 1) * w, c * (h - 1) * (w - 1), *((c * (h - 1 + h % 2) * (w - 1 + w % 2),) * (h % 2 or w % 2)))


def _conv(name: str, c_in: int, c_out: int, h: int, w: int, kernel: int, *, affine: bool) -> Layer:
    weights = c_in * c_out * kernel * kernel
    op = "pointwise" if kernel == 1 else "dense"
    params = weights + (2 * c_out if affine else 0)
    return Layer(name, op, (c_in, h, w), (c_out, h, w), params, weights * h * w, f"{kernel}x{kernel}")


def _factorized(name: str, c_in: int, c_out: int, h: int, w: int, affine: bool) -> Iterator[Layer]:
    """Halves a map without losing pixels: two 1x1 convolutions of stride 2, the second one pixel on."""
    half = (-(-h // 2), -(-w // 2))
    weights = c_in * (c_out // 2)
    for part, params in (("even", weights), ("odd", weights + (2 * c_out if affine else 0))):
        detail = "1x1, stride 2" + (", one pixel on" if part == "odd" else "")
        out_shape = (c_out if part == "odd" else c_out // 2, *half)
        yield Layer(f"{name}.{part}", "pointwise", (c_in, h, w), out_shape, params, weights * half[0] * half[1], detail)


def _separable(name: str, c: int, h: int, w: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[Layer]:
    h_out, w_out = -(-h // stride), -(-w // stride)
    taps, weights = c * kernel * kernel, c * c
    detail = f"{kernel}x{kernel}" + (f", dilation {dilation}" if dilation > 1 else "")
    detail += f", stride {stride}" if stride > 1 else ""
    return [
        Layer(f"{name}.depthwise", "depthwise", (c, h, w), (c, h_out, w_out), taps, taps * h_out * w_out, detail),
        Layer(
            f"{name}.pointwise",
            "pointwise",
            (c, h_out, w_out),
            (c, h_out, w_out),
            weights + (2 * c if affine else 0),
            weights * h_out * w_out,
            "1x1",
        ),
    ]
