"""Cells of free topology: any edge of a cell may carry an operation, or none. No torch here.

A node adds up all edges that carry something, however many: SNAS (Xie et al., ICLR 2019) keeps an edge unless its best
operation is none. In the space of GOLD-NAS (Bi et al., 2020) every cell has a topology of its own, and an edge may
carry several operations at once. A node without any edge would be a constant, and an input that no node reads would
leave the cell before it without effect: both have one operation at least.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue, model_validator

from nas.core.arch import Arch, Decision, Floats, Genes, one_hot
from nas.core.network import Network, NetworkNode
from nas.core.plugins import SearchSpaceType
from nas.core.ports import ImageShape
from nas.core.relaxation import Relaxation
from nas.spaces.activation_memory import NO_OPERATOR, PopulationTrace
from nas.spaces.costs import COSTS, FLOAT_BYTES, part_counts
from nas.spaces.exported_graph import ExportedGraph, exported_graph
from search_spaces.darts_cell.base import CellNetworks, SpaceParams
from search_spaces.darts_cell.cell import (
    AVG,
    EDGES,
    KINDS,
    MAX,
    NODES,
    NONE,
    OPERATIONS,
    SKIP,
    CellPlan,
    NodeInputs,
    OperationName,
)
from search_spaces.presets import resolved

# Groups of edges of a cell, of each of which a network has one: out of both inputs, and into every node.
_REQUIRED = (
    *([e for e, (start, _) in enumerate(EDGES) if start == a] for a in range(2)),
    *([e for e, (_, end) in enumerate(EDGES) if end == node] for node in range(NODES)),
)
_COMPLETED = (EDGES.index((0, 0)), EDGES.index((1, 0)), *(EDGES.index((node + 1, node)) for node in range(NODES)))
_NOTHING = ExportedGraph((0,), (), {}, 0)
MOST_TOGETHER = 3  # operations of which an edge may carry any subset


class FreeParams(SpaceParams):
    """``operations`` that an edge can carry, cheapest first; ``several``: it may carry more than one of them;
    ``shared``: all cells of a kind are equal."""

    operations: tuple[OperationName, ...] = Field(default=("skip_connect", "sep_conv_3x3"), min_length=1)
    several: bool = True
    shared: bool = False

    @model_validator(mode="after")
    def _operations_are_ordered(self) -> FreeParams:
        columns = [OPERATIONS.index(name) for name in self.operations]
        if columns != sorted(set(columns)):
            raise ValueError(
                f"operations: expected distinct ones in the order {', '.join(OPERATIONS[1:])}, got "
                f"{', '.join(self.operations)}"
            )
        if self.several and len(columns) > MOST_TOGETHER:
            raise ValueError(
                f"operations: expected at most {MOST_TOGETHER} where an edge may carry several, got {len(columns)}"
            )
        return self


PRESETS: dict[str, FreeParams] = {
    "digits": FreeParams(channels=4, cells=3),
    "gold": FreeParams(channels=36, cells=14),
    "snas": FreeParams(channels=16, cells=8, operations=get_args(OperationName), several=False, shared=True),
}


def build(params: Mapping[str, JsonValue], shape: ImageShape) -> FreeCell:
    """Cells of DARTS whose edges are chosen freely.

    Raises UnknownName for a preset, InvalidSpec for unknown or impossible parameters.
    """
    return FreeCell(resolved("free_cell", params, PRESETS, "gold"), shape)


FREE_CELL = SearchSpaceType(
    "free_cell",
    "Cells of DARTS with any number of edges into a node, of GOLD-NAS or SNAS.",
    build,
    tuple(PRESETS),
    relaxed=True,
    any_shape=True,
)


class FreeCell(CellNetworks[FreeParams]):
    """The space as the engine sees it (``nas.core.ports.SearchSpace``). One gene for each edge of each group of cells
    that are equal: what the edge carries."""

    name = "free_cell"

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups of equal cells: the kinds of cells, or all cells."""
        return KINDS if self.config.shared else tuple(plan.name for plan in self.plans)

    def group_of(self, index: int) -> int:
        """The group of a cell by its place in the network, counted from 0."""
        return KINDS.index(self.plans[index].kind) if self.config.shared else index

    @cached_property
    def columns(self) -> tuple[int, ...]:
        """The operations that an edge can carry, as positions in ``OPERATIONS``."""
        return tuple(OPERATIONS.index(name) for name in self.config.operations)

    @cached_property
    def carried_CO(self) -> NDArray[np.bool_]:
        """What an edge carries, by its choice, shape (C, 8)."""
        number = len(self.columns)
        choices = 2**number if self.config.several else number + 1
        carried = np.zeros((choices, len(OPERATIONS)), dtype=bool)
        for i, column in enumerate(self.columns):
            bits = (np.arange(choices) >> i) & 1 == 1
            carried[:, column] = bits if self.config.several else np.arange(choices) == i + 1
        return carried

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """What each edge carries."""
        names = ["+".join(OPERATIONS[o] for o in np.flatnonzero(row)) or "none" for row in self.carried_CO]
        return tuple(Decision(f"{edge}.operation", tuple(names)) for edge in self._edge_names)

    @property
    def _edge_names(self) -> tuple[str, ...]:
        return tuple(f"{group}.state{a}.node{node}" for group in self.groups for a, node in EDGES)

    @cached_property
    def relaxation(self) -> Relaxation:
        """A row for each edge of each group, a column for each operation of DARTS; those that no edge can carry are not
        available."""
        can_carry = (not self.config.several, *(o in self.columns for o in range(1, len(OPERATIONS))))
        return Relaxation(
            edges=self._edge_names,
            operations=OPERATIONS,
            nodes=tuple(g * NODES + node for g in range(len(self.groups)) for _, node in EDGES),
            none=NONE,
            skip=SKIP,
            parameter_free=(NONE, MAX, AVG, SKIP),
            available=(can_carry,) * len(self._edge_names),
            required=tuple(
                tuple(group * len(EDGES) + row for row in rows)
                for group in range(len(self.groups))
                for rows in _REQUIRED
            ),
            several=self.config.several,
        )

    def canonical(self, genes_NG: Genes) -> Genes:
        """A node without any edge gets the cheapest operation on the state before it, and so does node 0 on an input of
        the cell that no node reads."""
        out = genes_NG.copy().reshape(len(genes_NG), len(self.groups), len(EDGES))
        for rows, row in zip(_REQUIRED, _COMPLETED, strict=True):
            out[..., row] = np.where((out[..., rows] == 0).all(axis=2), 1, out[..., row])
        return out.reshape(genes_NG.shape)

    def discretise(self, scores_EO: Floats) -> Genes:
        """As ``discretise_all``, shape (G,)."""
        genes: Genes = self.discretise_all(scores_EO[None])[0]
        return genes

    def discretise_all(self, scores_NEO: Floats) -> Genes:
        """The best operation of every edge, ``none`` included; where an edge may carry several, all whose score is
        above 0. Of edges of which a network has at least one, the best operation is there in any case. Shape (N, G)."""
        scores_NEO = np.where(self.relaxation.mask, scores_NEO, -np.inf)
        if self.config.several:
            carried_NEO = scores_NEO > 0
        else:
            carried_NEO = np.arange(len(OPERATIONS)) == scores_NEO.argmax(axis=2)[..., None]
        carried_NEO = carried_NEO & self.relaxation.real
        real_NEO = np.where(self.relaxation.real, scores_NEO, -np.inf)
        for rows in map(list, self.relaxation.required):
            of_rows = carried_NEO[:, rows].reshape(len(scores_NEO), -1)
            best_N = real_NEO[:, rows].reshape(of_rows.shape).argmax(axis=1)
            is_empty = ~of_rows.any(axis=1)
            of_rows[is_empty, best_N[is_empty]] = True
            carried_NEO[:, rows] = of_rows.reshape(len(scores_NEO), len(rows), -1)
        weights = 1 << np.arange(len(self.columns)) if self.config.several else 1 + np.arange(len(self.columns))
        genes: Genes = carried_NEO[..., list(self.columns)].astype(np.int64) @ weights
        return genes

    def table(self, genes_G: Genes) -> Floats:
        """Ones for what each edge carries, shape (E, 8)."""
        table_EO: Floats = self.carried_CO[genes_G].astype(np.float64)
        table_EO[:, NONE] = 0.0 if self.config.several else genes_G == 0
        return table_EO

    def inputs_of(self, genes_G: Sequence[int] | Genes, index: int) -> NodeInputs:
        """The (state, operation) of each node of a cell, by its place in the network."""
        first = self.group_of(index) * len(EDGES)
        inputs: list[list[tuple[int, int]]] = [[] for _ in range(NODES)]
        for (a, node), choice in zip(EDGES, genes_G[first : first + len(EDGES)], strict=True):
            inputs[node] += [(a, int(op)) for op in np.flatnonzero(self.carried_CO[choice])]
        return tuple(map(tuple, inputs))

    def network(self, arch: Arch) -> Network:
        """The description of the canonical network."""
        genes_G = self.canonical(np.array([arch.genes], dtype=np.int64))[0]
        stem = self.stem()
        nodes: list[NetworkNode] = [stem]
        older = newer = stem.name
        for index, plan in enumerate(self.plans):
            nodes += self.cell(plan, older, newer, self.inputs_of(genes_G, index))
            older, newer = newer, nodes[-1].name
        return Network(self.input_shape(arch), (*nodes, *self.head(newer)))

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """Exact ``params``, ``macs``, ``model_bytes`` and ``peak_bytes`` of N networks, each shape (N,)."""
        carried_NGEO = self._carried(genes_NG)
        base, by_edge_GEOK = self._cost_table
        total_NK = base + np.einsum("ngeo,geok->nk", carried_NGEO, by_edge_GEOK)
        return dict(zip(COSTS, [*total_NK.T, FLOAT_BYTES * self._peak(carried_NGEO)], strict=True))

    def features(self, genes_NG: Genes) -> Floats:
        """Inputs of latency predictors, shape (N, F): every gene, and how often each operation occurs in cells of each
        kind, on their inputs and on their nodes."""
        genes_NG = self.canonical(genes_NG)
        carried_NGEO = self._carried(genes_NG)[..., list(self.columns)]
        counts = np.zeros((len(genes_NG), len(KINDS), 2, len(self.columns)))
        from_input = np.array([a < 2 for a, _ in EDGES])
        for index, plan in enumerate(self.plans):
            of_cell = carried_NGEO[:, self.group_of(index)]
            for i, edges in enumerate((from_input, ~from_input)):
                counts[:, KINDS.index(plan.kind), i] += of_cell[:, edges].sum(axis=1)
        return np.concatenate([one_hot(self.decisions, genes_NG), counts.reshape(len(genes_NG), -1)], axis=1)

    def supernet(self, seed: int) -> Any:
        """A fresh supernet, weights drawn from ``seed``."""
        from search_spaces.darts_cell.network import CellLayout, DartsSupernet

        def inputs_of(arch: Arch) -> list[NodeInputs]:
            genes_G = self.canonical(np.array([arch.genes], dtype=np.int64))[0]
            return [self.inputs_of(genes_G, index) for index in range(len(self.plans))]

        layout = CellLayout(self.columns, tuple(map(self.group_of, range(len(self.plans)))), inputs_of)
        shape = self.shape
        return DartsSupernet(self.plans, shape.channels, shape.classes, self.config.evaluation, seed, layout)

    def _carried(self, genes_NG: Genes) -> NDArray[np.bool_]:
        """What the edges of canonical networks carry, shape (N, groups, 14, 8)."""
        shape = len(genes_NG), len(self.groups), len(EDGES), len(OPERATIONS)
        return self.carried_CO[self.canonical(genes_NG)].reshape(shape)

    @cached_property
    def _cost_table(self) -> tuple[Floats, Floats]:
        """Parameters, MACs and model bytes: without any operation, shape (3,), and of an operation on an edge of all
        cells of a group, shape (groups, 14, 8, 3)."""
        by_edge = np.zeros((len(self.groups), len(EDGES), len(OPERATIONS), len(COSTS) - 1))
        for index, plan in enumerate(self.plans):
            for op in self.columns:
                of_states = [part_counts(*self.operation_graph(plan, op, is_input)) for is_input in (False, True)]
                for e, (a, _) in enumerate(EDGES):
                    by_edge[self.group_of(index), e, op] += of_states[a < 2]
        smallest = Arch(self.name, (0,) * len(self.decisions))
        network = self.network(smallest)
        base = np.array(part_counts(network.nodes, exported_graph(network)), dtype=np.float64)
        carried_1GEO = self._carried(np.array([smallest.genes], dtype=np.int64))
        return base - np.einsum("ngeo,geok->k", carried_1GEO, by_edge), by_edge

    def _peak(self, carried_NGEO: NDArray[np.bool_]) -> Floats:
        """Numbers that live at once, shape (N,): the most of any cell, and of what comes before and after them."""
        peak_N = np.full(len(carried_NGEO), float(max(self.peak_outside_cells, *self.entry_peaks)))
        maps_by_group: dict[int, Floats] = {}  # normal cells of a group differ in the size of their maps alone
        for index, plan in enumerate(self.plans):
            group, size = self.group_of(index), prod(plan.node_shape)
            if plan.kind == "reduce" or group not in maps_by_group:
                maps_by_group[group] = self._body_peak(carried_NGEO[:, group], plan) / size
            rectified = 0 if plan is self.plans[-1] else plan.c_newer * plan.height * plan.width
            peak_N = np.maximum(peak_N, rectified + maps_by_group[group] * size)
        return peak_N

    def _body_peak(self, carried_NEO: NDArray[np.bool_], plan: CellPlan) -> Floats:
        """Numbers that live at once in the nodes of a cell, shape (N,), beside what is kept for the next."""
        slots = [[op] for op in self.columns] if self.config.several else [list(self.columns)]
        graphs = {
            (op, is_input): self.operation_graph(plan, op, is_input)[1]
            for op in self.columns
            for is_input in (True, False)
        }
        longest = max(len(graph.operators) for graph in graphs.values())
        trace = PopulationTrace(len(carried_NEO), 3 + len(EDGES) * len(slots) * (1 + longest))
        state, node_size = plan.channels * plan.height * plan.width, prod(plan.node_shape)
        states = [trace.add_input(state), trace.add_input(state)]
        add = trace.kind("Add")
        for node in range(NODES):
            total_N = np.full(len(carried_NEO), -1)
            for e, (a, _) in ((e, edge) for e, edge in enumerate(EDGES) if edge[1] == node):
                for slot in slots:
                    carries_N, op_N = carried_NEO[:, e, slot].any(axis=1), carried_NEO[:, e, slot].argmax(axis=1)
                    choices = [*(graphs[op, a < 2] for op in slot), _NOTHING]
                    term_N = trace.choose(choices, np.where(carries_N, op_N, len(slot)), [states[a]])
                    term_N = np.where(carries_N, term_N, -1)
                    adds_N = (total_N >= 0) & (term_N >= 0)
                    first_N = np.where(total_N >= 0, total_N, term_N)
                    total_N = trace.step(np.where(adds_N, add, NO_OPERATOR), [first_N, term_N], node_size)
            states.append(total_N)
        trace.step(trace.own(), states[2:], NODES * node_size)
        return trace.peak()
