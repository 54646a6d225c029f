"""Parts of a space as tables of allowed operations, for differentiable search inside each. No torch here."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import sample
from nas.core.relaxation import RelaxedSpace
from nas.training.fewshot.partition import SpacePartition

SEEN = 512  # random networks by which decisions are matched with edges


def edges_by_decision(space: RelaxedSpace) -> dict[int, tuple[int, tuple[int, ...]]]:
    """The decisions that are an edge's operation and nothing else: for each its edge, and the operation of each choice.

    Only these divide a mixture: a group of their choices is a set of operations of one edge. In cells where an edge is
    there or not as other decisions say, the others do not.
    """
    genes_NG = space.canonical(sample(space.decisions, np.random.default_rng(0), SEEN))
    tables_NEO = np.stack([space.table(genes_G) for genes_G in genes_NG])
    kept_E = (tables_NEO.sum(axis=2) == 1).all(axis=0)
    carried_NE = tables_NEO.argmax(axis=2)
    found: dict[int, tuple[int, tuple[int, ...]]] = {}
    for gene, decision in enumerate(space.decisions):
        for edge in np.flatnonzero(kept_E).tolist():
            pairs = {(int(c), int(o)) for c, o in zip(genes_NG[:, gene], carried_NE[:, edge], strict=True)}
            operations = dict(pairs)
            if len(pairs) == len(decision.choices) == len(set(operations.values())) > 1:
                found[gene] = (edge, tuple(operations[c] for c in range(len(decision.choices))))
    return found


def allowed_operations(space: RelaxedSpace, partition: SpacePartition, part: int) -> NDArray[np.bool_]:
    """The operations that networks of a part may have on each edge, shape (E, O).

    Raises KeyError for a partition by other decisions than ``edges_by_decision`` gives.
    """
    allowed_EO = np.ones(space.relaxation.shape, dtype=bool)
    edges = edges_by_decision(space)
    for gene, choices in partition.allowed()[part].items():
        edge, operations = edges[gene]
        allowed_EO[edge] = False
        allowed_EO[edge, [operations[c] for c in choices]] = True
    return allowed_EO
