"""What differentiable search asks of a space: its networks as tables of weights, a row per edge and a column per
operation. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats, Genes
from nas.core.ports import SearchSpace


@dataclass(frozen=True)
class Mixture:
    """The rows and columns of a table of weights, E edges by O operations.

    ``nodes``: per edge, the node it ends in; edges of different cells end in different nodes. ``inputs``: how many of
    a node's edges a network keeps, None for all. ``none`` and ``skip`` are the columns of the operation that cuts an
    edge and of the identity; ``bare`` are those without parameters, these two among them.
    """

    edges: tuple[str, ...]
    operations: tuple[str, ...]
    nodes: tuple[int, ...]
    none: int
    skip: int
    bare: tuple[int, ...]
    inputs: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(E, O)."""
        return len(self.edges), len(self.operations)

    @property
    def real(self) -> NDArray[np.bool_]:
        """Which columns carry something, shape (O,)."""
        return np.array([o != self.none for o in range(len(self.operations))])


class RelaxedSpace(SearchSpace, Protocol):
    """A search space whose supernet is a ``nas.supernet.RelaxedSupernet``."""

    @property
    def mixture(self) -> Mixture: ...
    @property
    def partials(self) -> tuple[int, ...]:
        """Into how many equal parts the channels of its cells can be divided for mixing one part only; 1 among them."""

    def discretise(self, scores_EO: Floats) -> Genes:
        """The canonical network that a table of scores favours, shape (G,)."""

    def table(self, genes_G: Genes) -> Floats:
        """A network as weights 0 and 1, shape (E, O); an edge that it does not keep is a row of zeros."""


def is_relaxed(space: Any) -> TypeGuard[RelaxedSpace]:
    """Whether differentiable search can be used on a space."""
    return isinstance(getattr(space, "mixture", None), Mixture)


def skip_share(mixture: Mixture, table_EO: Floats) -> float:
    """Share of identities among the operations of a network, 0 to 1; 0 for a network without any operation."""
    total = table_EO[:, mixture.real].sum()
    return float(table_EO[:, mixture.skip].sum() / total) if total else 0.0


def bare_share(mixture: Mixture, table_EO: Floats) -> float:
    """Share of a network's edges that learn nothing: cut, skipped or pooled; 1 for a network without any edge."""
    kept = table_EO.sum()
    return float(table_EO[:, list(mixture.bare)].sum() / kept) if kept else 1.0
