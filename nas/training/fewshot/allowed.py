"""The operations of a subspace as tables over edges, for differentiable search inside each. No torch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import sample
from nas.core.ports import RelaxedSpace
from nas.training.fewshot.partition import SpacePartition

SAMPLED = 512  # random networks by which decisions are matched with edges


def edges_by_decision(space: RelaxedSpace) -> dict[int, tuple[int, tuple[int, ...]]]:
    """Decisions that determine the operation of one edge and nothing else: their edge, and the operation of each
    choice.

    Only these can split a relaxation: a group of their choices is a set of operations of one edge. In cells where other
    decisions determine the presence of an edge, no other decision qualifies.
    """
    genes_NG = space.canonical(sample(space.decisions, np.random.default_rng(0), SAMPLED))
    tables_NEO = np.stack([space.table(genes_G) for genes_G in genes_NG])
    always_E = (tables_NEO.sum(axis=2) == 1).all(axis=0)
    operation_NE = tables_NEO.argmax(axis=2)
    edges: dict[int, tuple[int, tuple[int, ...]]] = {}
    for gene, decision in enumerate(space.decisions):
        for edge in np.flatnonzero(always_E).tolist():
            pairs = {(int(c), int(o)) for c, o in zip(genes_NG[:, gene], operation_NE[:, edge], strict=True)}
            operations = dict(pairs)
            if len(pairs) == len(decision.choices) == len(set(operations.values())) > 1:
                edges[gene] = (edge, tuple(operations[c] for c in range(len(decision.choices))))
    return edges


def allowed_operations(space: RelaxedSpace, partition: SpacePartition, subspace: int) -> NDArray[np.bool_]:
    """The operations that networks of a subspace may have on each edge, shape (E, O).

    Raises KeyError for a partition by decisions outside ``edges_by_decision``.
    """
    allowed_EO = np.ones(space.relaxation.shape, dtype=bool)
    edges = edges_by_decision(space)
    for gene, choices in partition.allowed_choices()[subspace].items():
        edge, operations = edges[gene]
        allowed_EO[edge] = False
        allowed_EO[edge, [operations[c] for c in choices]] = True
    return allowed_EO
