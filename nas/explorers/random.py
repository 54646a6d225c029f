"""Random search: the honest baseline."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nas.core.arch import Genes, sample
from nas.core.errors import InvalidInput
from nas.core.ports import History, SearchSpace


def propose(space: SearchSpace, history: History, rng: np.random.Generator, n: int) -> Genes:
    """``n`` distinct canonical networks that are not in ``history``, uniform over gene vectors, shape (n, G).

    Raises InvalidInput when the space has too few networks left.
    """
    return fresh(space, lambda size: sample(space.decisions, rng, size), history.genes_NG, n)


def fresh(space: SearchSpace, draw: Callable[[int], Genes], seen_NG: Genes, n: int, tries: int = 50) -> Genes:
    """``n`` distinct unseen canonical rows from ``draw(size)``, in the order drawn."""
    seen = {row.tobytes() for row in np.ascontiguousarray(seen_NG)}
    rows: list[Genes] = []
    for _ in range(tries):
        for row in np.ascontiguousarray(space.canonical(draw(max(2 * n, 16)))):
            if row.tobytes() not in seen and len(rows) < n:
                seen.add(row.tobytes())
                rows.append(row)
        if len(rows) == n:
            return np.array(rows, dtype=np.int64).reshape(n, len(space.decisions))
    raise InvalidInput(f"space {space.id} has too few networks left: expected {n} unseen ones, found {len(rows)}")
