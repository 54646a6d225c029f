"""Networks that were measured as their genes say, with parts that do nothing, instead of their simplified form.

A benchmark table may list cells whose inactive operations were built and timed. Their latency is learned from features
of the cell as it stands; since the features of a canonical network are the same either way, the predictor then serves
searches, whose networks are canonical.
"""

from __future__ import annotations

from nas.core.arch import Floats, Genes
from nas.core.errors import InvalidInput
from nas.core.ports import SearchSpace
from nas.spaces.wrapper import SpaceWrapper


class AsWrittenSpace(SpaceWrapper):
    """A space in which no gene is inactive: every gene vector is a network of its own, as it was measured."""

    def __init__(self, inner: SearchSpace) -> None:
        super().__init__(inner)
        if inner.features_as_written is None:
            raise InvalidInput(f"expected a space that builds inactive genes as written, got {inner.name}")
        self._features = inner.features_as_written

    def canonical(self, genes_NG: Genes) -> Genes:
        """The genes as they are."""
        return genes_NG

    def features(self, genes_NG: Genes) -> Floats:
        """Features of networks with their inactive parts."""
        return self._features(genes_NG)

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """Costs of networks with their inactive parts where they are known, and of their simplified form otherwise."""
        as_written = self.inner.costs_as_written
        return {**self.inner.costs(genes_NG), **({} if as_written is None else as_written(genes_NG))}


def measured_space(space: SearchSpace, as_written: bool) -> SearchSpace:
    """The space in which measured networks are fitted."""
    return AsWrittenSpace(space) if as_written else space
