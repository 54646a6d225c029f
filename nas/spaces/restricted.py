"""A search space without the choices that a device cannot run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.core.arch import Floats, Genes
from nas.core.ports import SearchSpace
from nas.core.unsupported import ExcludedChoice
from nas.spaces.wrapper import SpaceWrapper


class RestrictedSpace(SpaceWrapper):
    """Networks of ``inner`` in which excluded choices are replaced by the nearest smaller choice that is allowed, or by
    the smallest. Decisions, genes and id are those of ``inner``, whose predictors and supernet it shares."""

    def __init__(self, inner: SearchSpace, excluded: Sequence[ExcludedChoice]) -> None:
        super().__init__(inner)
        names = [decision.name for decision in inner.decisions]
        refused = {(names.index(e.decision), e.choice) for e in excluded}
        allowed = [[(g, c) not in refused for c in range(len(d.choices))] for g, d in enumerate(inner.decisions)]
        self._replaced = [np.array([_nearest(c, of_one) for c in range(len(of_one))]) for of_one in allowed]

    @property
    def unrestricted(self) -> SearchSpace:
        """Of ``inner``."""
        return self.inner.unrestricted

    def canonical(self, genes_NG: Genes) -> Genes:
        """Of ``inner``, without excluded choices in active genes."""
        genes_NG = self.inner.canonical(genes_NG)
        allowed_NG = np.stack([table[genes_NG[:, g]] for g, table in enumerate(self._replaced)], axis=1)
        return self.inner.canonical(allowed_NG)

    def discretise(self, scores_EO: Floats) -> Genes:
        """By ``inner``, without excluded choices."""
        genes: Genes = self.discretise_all(scores_EO[None])[0]
        return genes

    def discretise_all(self, scores_NEO: Floats) -> Genes:
        """By ``inner``, without excluded choices."""
        return self.canonical(self.inner_relaxed.discretise_all(scores_NEO))


def restricted(space: SearchSpace, excluded: Sequence[ExcludedChoice]) -> SearchSpace:
    """The space without the excluded choices, or as it is where there are none."""
    return RestrictedSpace(space, excluded) if excluded else space


def _nearest(choice: int, allowed: Sequence[bool]) -> int:
    below = [c for c in range(choice + 1) if allowed[c]]
    return below[-1] if below else allowed.index(True)
