"""Selection by perturbation: the importance of an operation is the accuracy that the supernet loses without it.

DARTS-PT: Wang et al., ICLR 2021, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch

from nas.core.relaxation import Relaxation


@dataclass(frozen=True)
class AccuracyAndLoss:
    """Accuracy in % and mean cross-entropy in nats."""

    accuracy: float
    loss: float


Target = tuple[str, int]  # ("edge", row) or ("node", node)


def targets(
    relaxation: Relaxation, edges_by_cell: Sequence[Sequence[int]], rng: np.random.Generator
) -> list[tuple[Target, ...]]:
    """Everything to decide, in rounds that are each followed by training: the operation of an edge of every cell, in
    random order; then, where nodes have a number of inputs, the edges into a node of every cell, in random order. In
    the cells of DARTS these are the paper's 14 + 3 rounds, one edge or node of either cell at a time."""
    by_cell: list[list[Target]] = []
    for rows in edges_by_cell:
        of_cell: list[Target] = [("edge", int(rows[i])) for i in rng.permutation(len(rows))]
        if relaxation.inputs is not None:
            ends = [relaxation.nodes[e] for e in rows]
            spare = [n for n in dict.fromkeys(ends) if ends.count(n) > relaxation.inputs]
            of_cell += [("node", int(spare[i])) for i in rng.permutation(len(spare))]
        by_cell.append(of_cell)
    return [tuple(t for t in together if t is not None) for together in zip_longest(*by_cell)]


def trials(relaxation: Relaxation, mask_EO: torch.Tensor, target: Target) -> list[tuple[int, int | None]]:
    """What to remove, one at a time: operations ``(edge, column)`` of an edge, or whole edges ``(edge, None)`` of a
    node."""
    kind, where = target
    if kind == "edge":
        return [(where, o) for o in mask_EO[where].nonzero().flatten().tolist() if o != relaxation.none]
    return [(e, None) for e, n in enumerate(relaxation.nodes) if n == where and bool(mask_EO[e].any())]


def without(weights_EO: torch.Tensor, trial: tuple[int, int | None]) -> torch.Tensor:
    """The weights with one operation or one edge at zero; the others stay as they are."""
    remaining = weights_EO.clone()
    edge, op = trial
    if op is None:
        remaining[edge] = 0.0
    else:
        remaining[edge, op] = 0.0
    return remaining


def decide(
    mask_EO: torch.Tensor,
    target: Target,
    candidates: Sequence[tuple[int, int | None]],
    scores: Sequence[AccuracyAndLoss],
    strengths_EO: torch.Tensor,
) -> torch.Tensor:
    """The mask after a decision. An edge keeps the operation without which accuracy is lowest; a node drops the edge
    without which it is highest. Ties are broken by loss, by strength, by index."""
    remaining = mask_EO.clone()
    order = range(len(candidates))
    strengths = [_strength(strengths_EO, candidate) for candidate in candidates]
    if target[0] == "edge":
        best = min(order, key=lambda i: (scores[i].accuracy, -scores[i].loss, -strengths[i], i))
        edge, op = candidates[best]
        assert op is not None
        remaining[edge] = False
        remaining[edge, op] = True
        return remaining
    worst = min(order, key=lambda i: (-scores[i].accuracy, scores[i].loss, strengths[i], i))
    remaining[candidates[worst][0]] = False
    return remaining


def _strength(strengths_EO: torch.Tensor, trial: tuple[int, int | None]) -> float:
    edge, op = trial
    return float(strengths_EO[edge].max() if op is None else strengths_EO[edge, op])
