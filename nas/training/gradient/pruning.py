"""Gradual pruning at one level (GOLD-NAS: Bi et al., 2020): a penalty grows until weak operations die, a few at a time,
and every relaxation that stays unchanged for some epochs gives one network of a series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

Tensor = torch.Tensor
WEAKEST = 4  # operations that may die in an epoch although they are above SURELY
SURELY, MAYBE = 0.01, 0.05  # shares below which an operation dies, or may die
STEP = 2.0
PATIENCE = 3  # epochs without a death after which the relaxation counts as stable


def shares(strengths_EO: Tensor, nodes: Sequence[int]) -> Tensor:
    """Each strength as a share of all that end in the same node, over *all* its edges, shape (E, O)."""
    ends = torch.tensor(list(nodes), device=strengths_EO.device)
    same_EE = (ends[:, None] == ends[None, :]).to(strengths_EO.dtype)
    total_E1 = same_EE @ strengths_EO.sum(dim=1, keepdim=True)
    return strengths_EO / total_E1.clamp_min(1e-12)


def penalty(strengths_EO: Tensor, mask_EO: Tensor, nodes: Sequence[int], costs_EO: Tensor) -> Tensor:
    """Sum over living operations of log(1 + n r) (1 + cost): r the share, n the living operations of its node."""
    ends = torch.tensor(list(nodes), device=strengths_EO.device)
    same_EE = (ends[:, None] == ends[None, :]).to(strengths_EO.dtype)
    living_E1 = same_EE @ mask_EO.to(strengths_EO.dtype).sum(dim=1, keepdim=True)
    terms = torch.log1p(living_E1 * shares(strengths_EO, nodes)) * (1 + costs_EO)
    return (terms * mask_EO).sum()


def survivors(
    strengths_EO: Tensor,
    mask_EO: Tensor,
    nodes: Sequence[int],
    inputs: int | None = None,
    required: Sequence[Sequence[int]] = (),
) -> Tensor:
    """The mask after an epoch's deaths. The strongest operation of all never dies, so that the mask is never empty, nor
    do the strongest operations of as many edges into a node as networks have (``inputs``), nor that of a group of edges
    of which they have one (``required``): what is read off the relaxation has survived."""
    r = shares(strengths_EO * mask_EO, nodes)
    dead = mask_EO & (r <= SURELY)
    weak = torch.where(mask_EO & ~dead & (r <= MAYBE), r, torch.inf).flatten()
    for i in weak.argsort(stable=True)[:WEAKEST].tolist():
        if weak[i] < torch.inf:
            dead.view(-1)[i] = True
    if inputs is not None:
        dead &= ~_needed(strengths_EO * mask_EO, nodes, inputs)
    for rows in required:
        of_rows = (strengths_EO * mask_EO)[list(rows)]
        row, column = divmod(int(of_rows.argmax()), of_rows.shape[1])
        dead[rows[row], column] = False
    alive_EO = mask_EO & ~dead
    if not bool(alive_EO.any()):
        alive_EO.view(-1)[int((strengths_EO * mask_EO).argmax())] = True
    return alive_EO


def _needed(strengths_EO: Tensor, nodes: Sequence[int], inputs: int) -> Tensor:
    """The strongest operation of each of the strongest edges into every node, a bool table."""
    best_E, column_E = strengths_EO.max(dim=1)
    needed = torch.zeros_like(strengths_EO, dtype=torch.bool)
    for node in dict.fromkeys(nodes):
        rows = torch.tensor([e for e, n in enumerate(nodes) if n == node], device=strengths_EO.device)
        strongest = rows[best_E[rows].argsort(descending=True, stable=True)[:inputs]]
        needed[strongest, column_E[strongest]] = True
    return needed


@dataclass(frozen=True)
class Pressure:
    """The penalty's weight, by how much it grows next, and for how long nothing has died."""

    start: float
    weight: float = 0.0
    step: float | None = None
    quiet: int = 0

    def after(self, died: int) -> Pressure:
        """Pressure falls where many died and grows ever faster where few did."""
        quiet = 0 if died else self.quiet + 1
        if died >= WEAKEST:
            return replace(self, weight=self.weight / STEP, step=self.start, quiet=quiet)
        step = STEP * (self.start if self.step is None else self.step)
        return replace(self, weight=self.weight + step, step=step, quiet=quiet)

    @property
    def stable(self) -> bool:
        """Whether the relaxation has been unchanged for long enough to give a network of the series."""
        return self.quiet > PATIENCE
