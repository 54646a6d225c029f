"""Which operation matters is not what its logit says but what the supernet loses without it.

DARTS-PT: Wang et al., ICLR 2021, section 4.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from nas.core.relaxation import Relaxation
from nas.training.calibration import Score

Decision = tuple[str, int]  # ("edge", row) or ("node", node)


def decisions(relaxation: Relaxation, rng: np.random.Generator) -> list[Decision]:
    """All that has to be decided: the operation of every edge in random order; then, where nodes keep only some of
    their edges, one edge to drop at a time, in random order."""
    edges: list[Decision] = [("edge", int(e)) for e in rng.permutation(len(relaxation.edges))]
    if relaxation.inputs is None:
        return edges
    spare = [n for n in dict.fromkeys(relaxation.nodes) for _ in range(relaxation.nodes.count(n) - relaxation.inputs)]
    return [*edges, *(("node", int(spare[i])) for i in rng.permutation(len(spare)))]


def trials(relaxation: Relaxation, mask_EO: torch.Tensor, decision: Decision) -> list[tuple[int, int | None]]:
    """What to take away, one at a time: operations ``(edge, column)`` of an edge, or whole edges ``(edge, None)`` of a
    node."""
    kind, where = decision
    if kind == "edge":
        return [(where, o) for o in mask_EO[where].nonzero().flatten().tolist() if o != relaxation.none]
    return [(e, None) for e, n in enumerate(relaxation.nodes) if n == where and bool(mask_EO[e].any())]


def without(weights_EO: torch.Tensor, trial: tuple[int, int | None]) -> torch.Tensor:
    """The weights with one operation or one edge at zero; the others are not raised for it."""
    left = weights_EO.clone()
    edge, op = trial
    if op is None:
        left[edge] = 0.0
    else:
        left[edge, op] = 0.0
    return left


def decide(
    mask_EO: torch.Tensor,
    decision: Decision,
    found: Sequence[tuple[int, int | None]],
    scores: Sequence[Score],
    strengths_EO: torch.Tensor,
) -> torch.Tensor:
    """The mask after a decision. An edge keeps the operation without which accuracy is lowest; a node drops the edge
    without which it is highest. Ties are broken by loss, by strength, by index."""
    left = mask_EO.clone()
    order = range(len(found))
    if decision[0] == "edge":
        best = min(order, key=lambda i: (scores[i].accuracy, -scores[i].loss, -_strength(strengths_EO, found[i]), i))
        edge, op = found[best]
        assert op is not None
        left[edge] = False
        left[edge, op] = True
        return left
    worst = min(order, key=lambda i: (-scores[i].accuracy, scores[i].loss, _strength(strengths_EO, found[i]), i))
    left[found[worst][0]] = False
    return left


def _strength(strengths_EO: torch.Tensor, trial: tuple[int, int | None]) -> float:
    edge, op = trial
    return float(strengths_EO[edge].max() if op is None else strengths_EO[edge, op])
