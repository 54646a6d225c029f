"""Kinds of cells as graphs of nodes and edges, for drawings and relaxations. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CellEdge:
    """An edge between two nodes, by their positions. ``name``: its row of the relaxation; empty for an edge without an
    operation. ``operation``: that of one architecture; empty for none, and in the graph of a whole space."""

    start: int
    end: int
    name: str = ""
    operation: str = ""


@dataclass(frozen=True)
class CellGraph:
    """One kind of cell: ``nodes``, inputs first and the output last; ``edges``, each to a later node; and the
    ``operations`` that an edge can carry.

    ``inputs``: how many of its incoming edges a node of a discrete network has; None: all of them, with ``none`` as a
    choice like others.
    """

    name: str
    nodes: tuple[str, ...]
    edges: tuple[CellEdge, ...]
    operations: tuple[str, ...]
    inputs: int | None = None
