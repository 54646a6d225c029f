"""What a graph predictor asks of a space: its networks as places that hold operations, and which place feeds which.
No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

from nas.core.arch import Floats, Genes
from nas.core.ports import SearchSpace


@dataclass(frozen=True)
class Graph:
    """All that the networks of a space can be: V places, what each of them may hold, and from where it is fed.

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


class GraphSpace(SearchSpace, Protocol):
    """A search space that tells its networks' graphs."""

    @property
    def graph(self) -> Graph: ...

    def graph_columns(self, genes_NG: Genes) -> Floats:
        """N networks as rows of ``graph``, shape (N, C)."""


def has_graph(space: Any) -> TypeGuard[GraphSpace]:
    """Whether a space tells its networks' graphs."""
    return isinstance(getattr(space, "graph", None), Graph)
