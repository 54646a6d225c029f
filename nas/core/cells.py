"""Cells as graphs, for drawing: nodes and what leads from one to another. No torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CellEdge:
    """From one node to another, by their position. ``name`` is that of its row of the relaxation; one without a name
    carries no operation, it only passes on."""

    start: int
    end: int
    name: str = ""


@dataclass(frozen=True)
class CellGraph:
    """One kind of cell: its ``nodes``, inputs first and the output last; its edges, each to a later node; and the
    ``operations`` that an edge can carry. ``inputs``: how many of its edges a node keeps in a network, None: all, and
    not to carry anything (``none``) is a choice like others.

    A space of cells offers its kinds as ``cells``, as does the function that builds it.
    """

    name: str
    nodes: tuple[str, ...]
    edges: tuple[CellEdge, ...]
    operations: tuple[str, ...]
    inputs: int | None = None
