"""A search space without some choices: those that a device cannot run, or that no relaxation trains."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nas.core.arch import Floats, Genes, as_genes
from nas.core.errors import InvalidSpec
from nas.core.events import Candidate
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


def trained_by_gradient(space: SearchSpace) -> SearchSpace:
    """The space without networks that its relaxation does not hold, and that a differentiable search does not train.

    Raises InvalidSpec where a device does not run a choice in which all networks of the relaxation agree.
    """
    held = () if space.relaxation is None else space.relaxation.held
    untrained = [
        ExcludedChoice(decision.name, choice, "the relaxation does not hold it")
        for decision, trained in ((space.decisions[gene], choice) for gene, choice in held)
        for choice in range(len(decision.choices))
        if choice != trained
    ]
    trained_space = restricted(space, untrained)
    if held:
        genes_G = trained_space.canonical(np.zeros((1, len(space.decisions)), dtype=np.int64))[0]
        for gene, choice in held:
            if genes_G[gene] != choice:
                decision = space.decisions[gene]
                raise InvalidSpec(
                    f"a differentiable search of {space.name} trains {decision.name} {decision.choices[choice]} alone, "
                    f"which the device does not run: expected a space without this choice"
                )
    return trained_space


def networks_of(space: SearchSpace, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Those of the candidates of another search that a restricted space still has."""
    if not candidates:
        return ()
    genes_NG = as_genes([c.arch for c in candidates])
    unchanged_N = (space.canonical(genes_NG) == genes_NG).all(axis=1)
    return tuple(c for c, is_unchanged in zip(candidates, unchanged_N, strict=True) if is_unchanged)


def _nearest(choice: int, allowed: Sequence[bool]) -> int:
    below = [c for c in range(choice + 1) if allowed[c]]
    return below[-1] if below else allowed.index(True)
