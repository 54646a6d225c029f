"""The continuous relaxation that differentiable search needs from a space: every network as a table of weights, one row
per edge, one column per operation. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.core.cells import CellGraph


@dataclass(frozen=True)
class Relaxation:
    """The rows and columns of a space's table of operation weights, E edges by O operations.

    ``nodes``: for each edge, the node it ends in; edges of different cells end in different nodes. ``inputs``: how many
    incoming edges each node of a discrete network has, None for all. ``none`` and ``skip``: the columns of the zero
    operation (None without one) and of the identity. ``parameter_free``: the columns without parameters, these two
    among them. ``available``: the operations that each edge has, None where all have all. ``nested``: pairs of columns
    (smaller, larger) whose operations can share weights, such as two kernel sizes. ``required``: groups of edges, of
    each of which a network has at least one; ``several``: an edge of a network may carry several operations: those
    whose scores are above 0. ``held``: the (gene, choice) of decisions that no row chooses, in which all networks of
    the relaxation agree.
    """

    edges: tuple[str, ...]
    operations: tuple[str, ...]
    nodes: tuple[int, ...]
    none: int | None
    skip: int
    parameter_free: tuple[int, ...]
    inputs: int | None = None
    available: tuple[tuple[bool, ...], ...] | None = None
    nested: tuple[tuple[int, int], ...] = ()
    held: tuple[tuple[int, int], ...] = ()
    required: tuple[tuple[int, ...], ...] = ()
    several: bool = False

    @classmethod
    def of_cells(
        cls,
        cells: Sequence[CellGraph],
        *,
        none: int,
        skip: int,
        parameter_free: tuple[int, ...],
        nested: tuple[tuple[int, int], ...] = (),
    ) -> Relaxation:
        """The table of all edges of ``cells`` that carry operations, which are the same in all cells."""
        ends = [(cell.name, edge.end) for cell in cells for edge in cell.edges if edge.name]
        numbers = {end: number for number, end in enumerate(dict.fromkeys(ends))}
        return cls(
            edges=tuple(edge.name for cell in cells for edge in cell.edges if edge.name),
            operations=cells[0].operations,
            nodes=tuple(numbers[end] for end in ends),
            none=none,
            skip=skip,
            parameter_free=parameter_free,
            inputs=cells[0].inputs,
            nested=nested,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """(E, O)."""
        return len(self.edges), len(self.operations)

    @property
    def real(self) -> NDArray[np.bool_]:
        """All columns but ``none``, as a mask of shape (O,)."""
        return np.array([o != self.none for o in range(len(self.operations))])

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The operations that each edge has, shape (E, O)."""
        return np.ones(self.shape, dtype=bool) if self.available is None else np.array(self.available)

    @property
    def uniform(self) -> Floats:
        """Equal probabilities of the operations that each edge has, shape (E, O)."""
        p_EO: Floats = self.mask / self.mask.sum(axis=1, keepdims=True)
        return p_EO


def skip_share(relaxation: Relaxation, table_EO: Floats) -> float:
    """Share of identities among the operations of a network, 0 to 1; 0 for a network without operations."""
    total = table_EO[:, relaxation.real].sum()
    return float(table_EO[:, relaxation.skip].sum() / total) if total else 0.0


def parameter_free_share(relaxation: Relaxation, table_EO: Floats) -> float:
    """Share of a network's edges without parameters (zero, identity, pooling); 1 for a network without edges."""
    total = table_EO.sum()
    return float(table_EO[:, list(relaxation.parameter_free)].sum() / total) if total else 1.0
