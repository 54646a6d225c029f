"""Uniformly narrowed copies: shares of widths, resolutions, and budgets."""

from __future__ import annotations

import numpy as np

from nas.core.arch import Decision, Floats, Genes
from nas.explorers.uniform_scaling import uniform_copies, widest_copies

DECISIONS = (
    Decision("resolution", (16, 32)),
    Decision("a.width", (8, 16, 24, 32)),
    Decision("b.width", (32, 64, 96, 128)),
    Decision("c.depth", (0, 1)),
)
PARENT_G = np.array([1, 3, 3, 1])


def cost(genes_NG: Genes) -> Floats:
    """The work of two layers, which grows with widths and area."""
    sides, widths = np.array([16, 32])[genes_NG[:, 0]], [np.array([8, 16, 24, 32]), np.array([32, 64, 96, 128])]
    return np.asarray(sides**2 * widths[0][genes_NG[:, 1]] * widths[1][genes_NG[:, 2]], dtype=np.float64)


def test_copies_keep_one_share_of_all_widths_and_every_block() -> None:
    copies_RSG = uniform_copies(DECISIONS, PARENT_G, np.array([1.0, 0.5]))
    assert copies_RSG.tolist() == [[[0, 3, 3, 1], [0, 1, 1, 1]], [[1, 3, 3, 1], [1, 1, 1, 1]]]


def test_a_space_without_resolutions_has_copies_of_one() -> None:
    copies_RSG = uniform_copies(DECISIONS[1:], PARENT_G[1:], np.array([0.25]))
    assert copies_RSG.tolist() == [[[0, 0, 1]]]


def test_each_budget_is_used_by_the_widest_copy_of_each_resolution() -> None:
    full = float(cost(PARENT_G[None])[0])
    copies = list(widest_copies(DECISIONS, lambda genes: genes, PARENT_G, cost, [full, full / 4, full / 20]))
    assert [[c.tolist() for c in of_budget] for of_budget in copies] == [
        [[0, 3, 3, 1], [1, 3, 3, 1]],
        [[0, 3, 3, 1], [1, 1, 1, 1]],  # half of both widths is a quarter of the work
        [[0, 0, 0, 1]],  # the smallest copy of the higher resolution takes a sixteenth of the work
    ]
