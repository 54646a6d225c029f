"""The networks that a stage before exploring has found, and what lies around them."""

from __future__ import annotations

import numpy as np

from nas.core.arch import Genes, neighbours, sample
from nas.core.events import SearchState
from nas.core.ports import History, SearchSpace
from nas.explorers import random
from nas.stages.results import DiscretizeResult, LadderResult, SensitivityResult


def derived_networks(state: SearchState) -> Genes:
    """The networks that a stage before has found, shape (N, G)."""
    if (discretised := DiscretizeResult.read(state.finished)) is not None:
        return np.array(discretised.networks, dtype=np.int64)
    if (ladder := LadderResult.read(state.finished)) is not None:
        return np.array(ladder.networks, dtype=np.int64)
    if (filled := SensitivityResult.read(state.finished)) is not None:
        return np.array([*filled.networks, *filled.scaled], dtype=np.int64)
    return np.array([], dtype=np.int64)


def around(space: SearchSpace, history: History, derived_NG: Genes, rng: np.random.Generator, n: int) -> Genes:
    """``n`` networks that are not in ``history``: the derived, from the middle of their sizes outwards, then neighbours
    of them, and beyond these random ones."""
    near = [rng.permutation(neighbours(space.decisions, genes_G.tolist())) for genes_G in derived_NG]
    ordered_batches = iter([np.concatenate([_middle_first(space, derived_NG), *near])])

    def draw(size: int) -> Genes:
        return next(ordered_batches, sample(space.decisions, rng, size))

    return random.fresh(space, history, rng, n, draw)


def _middle_first(space: SearchSpace, genes_NG: Genes) -> Genes:
    """The networks by MACs: that in the middle, then the middle of each half, and so on."""
    order, parts = [], [np.argsort(space.costs(genes_NG)["macs"], kind="stable")]
    while parts:
        part = parts.pop(0)
        middle = len(part) // 2
        order.append(part[middle])
        parts += [half for half in (part[middle + 1 :], part[:middle]) if len(half)]
    return genes_NG[order]
