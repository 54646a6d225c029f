"""The cell of NAS-Bench-201: its operations and edges, which edges are active, and the official names of cells."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Arch, Genes
from nas.core.cells import CellEdge, CellGraph
from nas.core.errors import InvalidInput
from nas.core.graph import Graph
from nas.core.relaxation import Relaxation

OPERATIONS = ("none", "skip_connect", "avg_pool_3x3", "nor_conv_1x1", "nor_conv_3x3")  # cheapest first
NONE, SKIP, POOL, CONV1, CONV3 = range(5)
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # from node, to node; in the order of the official strings
NODES = 4
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))  # edges of each way from input to output
CELLS = (
    CellGraph("cell", ("in", "1", "2", "out"), tuple(CellEdge(a, b, f"edge{a}{b}") for a, b in EDGES), OPERATIONS),
)
_INPUT, _OUTPUT = len(EDGES), len(EDGES) + 1  # places of the graph after those of the edges
RELAXATION = Relaxation.of_cells(
    CELLS, none=NONE, skip=SKIP, parameter_free=(NONE, SKIP, POOL), nested=((CONV1, CONV3),)
)
GRAPH = Graph(
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


def active_edges(genes_NG: Genes) -> NDArray[np.bool_]:
    """A mask of the edges that carry an operation and lie on a path from input to output, shape (N, 6)."""
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
