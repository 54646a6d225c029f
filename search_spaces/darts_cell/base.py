"""Networks that are stacks of cells of DARTS (Liu et al., ICLR 2019, section 3.1): what spaces of such cells share.

Two reduction cells stand at a third and at two thirds of a network. A cell has two inputs, the outputs of the two cells
before, and four nodes, each the sum of operations on earlier states; its output is the concatenation of its nodes. No
torch here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from math import prod
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field

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
from nas.core.network import Add, NetworkNode, Relu
from nas.spaces.activation_memory import graph_peak
from nas.spaces.base import DescribedSpace
from nas.spaces.exported_graph import ExportedGraph, lower
from search_spaces.darts_cell.cell import (
    AVG,
    DIL3,
    DIL5,
    MAX,
    NODES,
    OPERATIONS,
    SEP3,
    SEP5,
    SKIP,
    CellKind,
    CellPlan,
)


class SpaceParams(BaseModel):
    """``channels`` of a node in the first cells, doubled by each reduction; ``cells`` in all; ``evaluation``: the
    network that is trained from scratch, with scales in its normalisation and none after pooling."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    channels: int = Field(default=16, ge=4, le=512, multiple_of=2)
    cells: int = Field(default=8, ge=3, le=64)
    evaluation: bool = False


P = TypeVar("P", bound=SpaceParams)


class CellNetworks(DescribedSpace[P]):
    """A space of networks that are stacks of cells."""

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

    def stem(self) -> Conv2d:
        image = (self.shape.channels, self.shape.height, self.shape.width)
        return Conv2d("stem", (INPUT,), image, 3 * self.config.channels, 3)

    def head(self, source: str) -> list[NetworkNode]:
        channels, height, width = self.plans[-1].node_shape
        pool = GlobalAveragePool("pool", (source,), (NODES * channels, height, width), flatten=False)
        return [pool, Linear("classifier", (pool.name,), pool.out_shape, self.shape.classes)]

    @property
    def _norm(self) -> Normalisation:
        return "affine" if self.config.evaluation else "plain"

    def cell(
        self, plan: CellPlan, older: str, newer: str, inputs: Sequence[Sequence[tuple[int, int]]]
    ) -> list[NetworkNode]:
        """A cell whose nodes have ``inputs``: at least one (state, operation) each, those of one state side by side."""
        entry, inputs_of_cell = _entry(plan, older, newer, self._norm)
        nodes, states = list(entry), list(inputs_of_cell)
        for node, of_node in enumerate(inputs):
            name, total = f"{plan.name}.node{node}", ""
            for i, (a, op) in enumerate(of_node):
                is_alone = [state for state, _ in of_node].count(a) == 1
                edge = f"{plan.name}.state{a}.node{node}" + ("" if is_alone else f".{OPERATIONS[op]}")
                nodes += self._operation(plan, edge, states[a], op, a < 2)
                if total:
                    summands = (total, nodes[-1].name)
                    nodes.append(Add(name if i + 1 == len(of_node) else f"{name}.sum{i}", summands, plan.node_shape))
                total = nodes[-1].name
            states.append(total)
        return [*nodes, Concat(f"{plan.name}.concat", tuple(states[2:]), plan.node_shape)]

    def operation_graph(
        self, plan: CellPlan, op: int, from_input: bool
    ) -> tuple[tuple[NetworkNode, ...], ExportedGraph]:
        """An operation alone, on an input ``x`` of the cell or on one of its nodes."""
        nodes = self._operation(plan, "operation", "x", op, from_input)
        return nodes, lower(nodes, {"x": prod(plan.state_shape(from_input))})

    def _operation(self, plan: CellPlan, name: str, source: str, op: int, from_input: bool) -> tuple[NetworkNode, ...]:
        stride = 2 if plan.kind == "reduce" and from_input else 1
        return _operation(name, source, op, plan.state_shape(from_input), stride, self._norm)

    @cached_property
    def peak_outside_cells(self) -> int:
        stem, last = self.stem(), self.plans[-1]
        before = lower([stem], {INPUT: prod(stem.in_shape)}, image_channels=self.shape.channels)
        after = lower(self.head("newer"), {"newer": NODES * prod(last.node_shape)})
        return max(graph_peak(before), graph_peak(after))

    @cached_property
    def entry_peaks(self) -> list[int]:
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
