"""Networks as graphs for predictors: places that hold operations, and which place feeds which. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nas.core.arch import Floats, Genes


@dataclass(frozen=True)
class Graph:
    """All networks of a space in one graph: V places, which operations each can hold, and which places feed it.

    ``edges``: pairs of places, from and to, without a circle. A network is a row of C columns, such as 1 for the
    operation that an edge of a cell carries. Column c is of the place ``place_C[c]`` and the operation
    ``operation_C[c]``, of O that places share. A place is there as far as its columns, times ``presence_C``, add up to
    1; one whose columns are all 0 is not, and neither are the edges to and from it.
    """

    places: tuple[str, ...]
    operations: tuple[str, ...]
    edges: tuple[tuple[int, int], ...]
    place_C: tuple[int, ...]
    operation_C: tuple[int, ...]
    presence_C: tuple[float, ...]


@dataclass(frozen=True)
class GraphEncoding:
    """The graph of a space, and its networks in it: ``columns`` gives N networks as rows of ``graph``, shape (N, C)."""

    graph: Graph
    columns: Callable[[Genes], Floats]
