"""The cells of DARTS: their operations and edges, where each stands in a network, and genotypes as the paper's code
writes them."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal, get_args

from nas.core.arch import Genes
from nas.core.cells import CellEdge, CellGraph
from nas.core.errors import InvalidInput
from nas.core.graph import Graph
from nas.core.relaxation import Relaxation

OperationName = Literal[  # what an edge of a network can carry, the cheapest first
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "dil_conv_3x3",
    "dil_conv_5x5",
    "sep_conv_3x3",
    "sep_conv_5x5",
]
OPERATIONS: tuple[str, ...] = ("none", *get_args(OperationName))
NONE, MAX, AVG, SKIP, DIL3, DIL5, SEP3, SEP5 = range(8)
NODES = 4

CellKind = Literal["normal", "reduce"]
KINDS: tuple[CellKind, ...] = ("normal", "reduce")
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
RELAXATION = Relaxation.of_cells(
    CELLS, none=NONE, skip=SKIP, parameter_free=(NONE, MAX, AVG, SKIP), nested=((DIL3, DIL5), (SEP3, SEP5))
)
NodeInputs = tuple[tuple[tuple[int, int], ...], ...]  # (state, operation) of each node, by their positions
Genotype = Mapping[CellKind, tuple[tuple[str, int], ...]]
_CONCATS = ("normal_concat", "reduce_concat")
_CONCATENATED = ("range(2, 6)", "[2, 3, 4, 5]", "(2, 3, 4, 5)")  # all nodes, as every cell of this space has it


def _graph() -> Graph:
    """The graph of a normal and a reduction cell, side by side: for each kind its edges, two inputs and output."""
    places_per_cell = len(EDGES) + 3
    places: list[str] = []
    wires: list[tuple[int, int]] = []
    columns: list[tuple[int, int]] = []
    for k, kind in enumerate(KINDS):
        begin, inputs, output = (
            k * places_per_cell,
            k * places_per_cell + len(EDGES),
            k * places_per_cell + places_per_cell - 1,
        )
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


GRAPH = _graph()


@dataclass(frozen=True)
class CellPlan:
    """A cell in its place in the network: channels of its two inputs and of its nodes, and its map *before* it reduces.

    ``halve``: height and width of the older input if these are still those before the last cell reduced them.
    """

    name: str
    kind: CellKind
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

    @property
    def node_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of its nodes."""
        return self.channels, *self.after

    def state_shape(self, from_input: bool) -> tuple[int, int, int]:
        """(channels, height, width) of the two states that are inputs, or of its nodes."""
        return (self.channels, self.height, self.width) if from_input else self.node_shape

    def stride(self, state: int) -> int:
        """The stride of an operation on a state: the two inputs of a reduction cell are halved."""
        return 2 if self.kind == "reduce" and state < 2 else 1


def node_inputs(genes_G: Genes | Sequence[int], kind: CellKind) -> NodeInputs:
    """The two (state, operation) of each node of a kind of cell, operations as indices of ``OPERATIONS``."""
    first = KINDS.index(kind) * 3 * NODES
    out = []
    for node in range(NODES):
        pair, op_a, op_b = (int(g) for g in genes_G[first + 3 * node : first + 3 * node + 3])
        a, b = PAIRS[node][pair]
        out.append(((a, op_a + 1), (b, op_b + 1)))
    return tuple(out)


def genotype(genes_G: Genes | Sequence[int]) -> dict[CellKind, tuple[tuple[str, int], ...]]:
    """A network in the notation of the paper's code: per kind of cell eight (operation, state), two per node."""
    return {kind: tuple((OPERATIONS[op], a) for pair in node_inputs(genes_G, kind) for a, op in pair) for kind in KINDS}


def from_genotype(cells: Genotype) -> tuple[int, ...]:
    """The genes of a genotype. Raises InvalidInput for one that is none."""
    genes: list[int] = []
    for kind in KINDS:
        cell = cells.get(kind, ())
        if len(cell) != 2 * NODES or any(op not in OPERATIONS[1:] for op, _ in cell):
            names = ", ".join(OPERATIONS[1:])
            raise InvalidInput(
                f"{kind} cell: expected {2 * NODES} pairs of an operation ({names}) and a state, got {cell}"
            )
        for node in range(NODES):
            (op_a, a), (op_b, b) = sorted(cell[2 * node : 2 * node + 2], key=lambda pair: pair[1])
            if (a, b) not in PAIRS[node]:
                raise InvalidInput(f"{kind} cell, node {node}: expected two states below {node + 2}, got {a} and {b}")
            genes += [PAIRS[node].index((a, b)), OPERATIONS.index(op_a) - 1, OPERATIONS.index(op_b) - 1]
    return tuple(genes)


def from_notation(text: str) -> tuple[int, ...]:
    """The genes of a genotype as the paper's code prints it: ``Genotype(normal=[('sep_conv_3x3', 0), ...], ...)``.
    Raises InvalidInput for what is none."""
    expected = "expected a genotype, Genotype(normal=[('sep_conv_3x3', 0), ...], reduce=[...])"
    try:
        call = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        raise InvalidInput(f"{expected}, got {text!r}") from error
    if not isinstance(call, ast.Call) or call.args:
        raise InvalidInput(f"{expected}, got {text!r}")
    fields = {keyword.arg or "**": keyword.value for keyword in call.keywords}
    for name, value in fields.items():
        if name not in KINDS and not (name in _CONCATS and ast.unparse(value) in _CONCATENATED):
            raise InvalidInput(
                f"{expected}, and {' and '.join(_CONCATS)} as {_CONCATENATED[0]}, got {name}={ast.unparse(value)}"
            )
    return from_genotype({kind: _pairs(fields[kind], expected) for kind in KINDS if kind in fields})


def _pairs(value: ast.expr, expected: str) -> tuple[tuple[str, int], ...]:
    """The (operation, state) pairs of a cell."""
    try:
        pairs = ast.literal_eval(value)
    except ValueError as error:
        raise InvalidInput(f"{expected}, got {ast.unparse(value)}") from error
    match pairs:
        case [*_] if all(_is_pair(pair) for pair in pairs):
            return tuple((str(op), int(state)) for op, state in pairs)
    raise InvalidInput(f"{expected}, got {ast.unparse(value)}")


def _is_pair(pair: object) -> bool:
    match pair:
        case [str(), int()]:
            return True
    return False


PUBLISHED = {
    "DARTS-V1": "Genotype(normal=[('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 0), ('sep_conv_3x3', 1), "
    "('skip_connect', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('skip_connect', 2)], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 0), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('avg_pool_3x3', 0)])",
    "DARTS-V2": "Genotype(normal=[('sep_conv_3x3', 0), ('sep_conv_3x3', 1), ('sep_conv_3x3', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('skip_connect', 0), ('skip_connect', 0), ('dil_conv_3x3', 2)], "
    "reduce=[('max_pool_3x3', 0), ('max_pool_3x3', 1), ('skip_connect', 2), ('max_pool_3x3', 1), ('max_pool_3x3', 0), "
    "('skip_connect', 2), ('skip_connect', 2), ('max_pool_3x3', 1)])",
    "P-DARTS": "Genotype(normal=[('skip_connect', 0), ('dil_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 1), "
    "('sep_conv_3x3', 1), ('sep_conv_3x3', 3), ('sep_conv_3x3', 0), ('dil_conv_5x5', 4)], "
    "reduce=[('avg_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_3x3', 0), ('dil_conv_5x5', 2), ('max_pool_3x3', 0), "
    "('dil_conv_3x3', 1), ('dil_conv_3x3', 1), ('dil_conv_5x5', 3)])",
    "PC-DARTS": "Genotype(normal=[('sep_conv_3x3', 1), ('skip_connect', 0), ('sep_conv_3x3', 0), ('dil_conv_3x3', 1), "
    "('sep_conv_5x5', 0), ('sep_conv_3x3', 1), ('avg_pool_3x3', 0), ('dil_conv_3x3', 1)], "
    "reduce=[('sep_conv_5x5', 1), ('max_pool_3x3', 0), ('sep_conv_5x5', 1), ('sep_conv_5x5', 2), ('sep_conv_3x3', 0), "
    "('sep_conv_3x3', 3), ('sep_conv_3x3', 1), ('sep_conv_3x3', 2)])",
}
"""Cells that were found on CIFAR-10, by the names of their papers: DARTS (Liu et al., ICLR 2019), first and second
order, P-DARTS (Chen et al., ICCV 2019) and PC-DARTS (Xu et al., ICLR 2020)."""
