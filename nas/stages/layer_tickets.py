"""Layer tickets: a residual network without some of its blocks, the least needed ones removed one by one (When layers
play the lottery, all tickets win at initialization: Jordao et al., ICCV Workshops 2023).

Whole blocks can be removed before training, and what remains learns as well as before. Which block is needed least is
told from the change of the outputs, measured again after each removal, since blocks stand in for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nas.core.arch import Decision, Genes


def layer_tickets(
    decisions: Sequence[Decision],
    canonical: Callable[[Genes], Genes],
    parent_G: Genes,
    distortion: Callable[[Genes], float],
) -> Iterator[Genes]:
    """The parent without one block, without two and so on, as genes (G,), until one block is left, or none where there
    is one alone. Widths and resolution stay. ``distortion`` measures a network."""
    blocks = [g for g, decision in enumerate(decisions) if decision.axis == "depth" and parent_G[g] > 0]
    genes_G, last = parent_G, min(1, len(blocks) - 1)
    while len(blocks) > last:
        without = [_without(canonical, genes_G, block) for block in blocks]
        least = int(np.argmin([distortion(candidate_G) for candidate_G in without]))
        genes_G = without[least]
        blocks = [g for g in blocks if g != blocks[least] and genes_G[g] > 0]
        yield genes_G


def _without(canonical: Callable[[Genes], Genes], genes_G: Genes, block: int) -> Genes:
    changed_1G = genes_G[None].copy()
    changed_1G[0, block] = 0
    return np.asarray(canonical(changed_1G)[0])
