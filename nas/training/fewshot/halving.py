"""Successive halving (Jamieson and Talwalkar, AISTATS 2016) of subspaces, as GM-NAS (Hu et al., ICLR 2022) searches the
cells of DARTS: all are trained for a while, the better half for longer, until one is left. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log2


def rung_epochs(subspaces: int, epochs: int) -> list[int]:
    """The epochs after which the worse half is trained no further, at equal distances from each other and from both
    ends of the training. Distinct where there are more epochs than halvings."""
    halvings = ceil(log2(subspaces))
    return [round(epochs * (i + 1) / (halvings + 1)) for i in range(halvings)]


def better_half(scores: Sequence[float]) -> list[int]:
    """The positions of the higher scores, half of them and the middle one, in order; of equal ones the earlier."""
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return sorted(ranked[: ceil(len(scores) / 2)])


def trained_share(subspaces: int, epochs: int) -> float:
    """The epochs that are trained, as a share of those without halving."""
    total, alive, before = 0, subspaces, 0
    for rung in (*rung_epochs(subspaces, epochs), epochs):
        total += alive * (rung - before)
        alive, before = ceil(alive / 2), rung
    return total / (subspaces * epochs)
