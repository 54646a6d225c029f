"""Random search: the honest baseline."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nas.core.arch import LISTABLE, Genes, every, sample, space_size
from nas.core.errors import InvalidInput
from nas.core.ports import History, SearchSpace


def propose(space: SearchSpace, history: History, rng: np.random.Generator, n: int) -> Genes:
    """``n`` distinct canonical networks that are not in ``history``, uniform over gene vectors, shape (n, G).

    Raises InvalidInput when the space has too few networks left.
    """
    return fresh(space, history, rng, n, lambda size: sample(space.decisions, rng, size))


def fresh(
    space: SearchSpace, history: History, rng: np.random.Generator, n: int, draw: Callable[[int], Genes]
) -> Genes:
    """``n`` distinct unseen canonical rows from ``draw(size)``, in the order drawn; completed by enumeration where a
    small space is nearly exhausted. Raises InvalidInput when there are not enough."""
    taken_rows = {row.tobytes() for row in np.ascontiguousarray(history.genes_NG)}
    rows: list[Genes] = []

    def take(genes_NG: Genes) -> None:
        for row in np.ascontiguousarray(space.canonical(genes_NG)):
            if len(rows) < n and row.tobytes() not in taken_rows:
                taken_rows.add(row.tobytes())
                rows.append(row)

    for _ in range(20):
        if len(rows) < n:
            take(draw(max(2 * n, 16)))
    size = space_size(space.decisions)
    if len(rows) < n and size <= LISTABLE:
        take(every(space.decisions)[rng.permutation(size)])
    if len(rows) < n:
        raise InvalidInput(f"space {space.id} is exhausted: expected {n} unseen networks, found {len(rows)}")
    return np.array(rows, dtype=np.int64).reshape(n, len(space.decisions))
