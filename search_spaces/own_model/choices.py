"""The choices of a space, and which network genes describe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from nas.core.arch import Arch
from nas.models.blocks import ResidualBlock
from nas.models.narrowing import NarrowedGraph, narrow_graph
from nas.models.shapes import with_sizes
from search_spaces.own_model.elasticity import ElasticModel, UnitOrder, Width


@dataclass(frozen=True, eq=False)
class ElasticChoices:
    """What can be chosen of a model. Genes in order: resolution, then for each of ``kept_counts`` how many units of the
    width remain, then for each of ``blocks`` whether it is there."""

    model: ElasticModel
    resolutions: tuple[int, ...]
    kept_counts: Mapping[Width, tuple[int, ...]]
    blocks: tuple[ResidualBlock, ...]

    @property
    def widths(self) -> tuple[Width, ...]:
        """In the order of their genes."""
        return tuple(self.kept_counts)

    @property
    def first_block(self) -> int:
        """The position of the first gene of a block."""
        return 1 + len(self.kept_counts)

    def counts(self, arch: Arch) -> dict[Width, int]:
        """How many units of each width a network keeps."""
        genes = arch.genes[1 : self.first_block]
        return {width: counts[gene] for (width, counts), gene in zip(self.kept_counts.items(), genes, strict=True)}

    def kept_units(self, arch: Arch, order: UnitOrder | None = None) -> dict[str, list[int]]:
        """By channel group, which of its units a network keeps. ``order``: all units of each group, the most important
        first; None: as they come. Groups that are not named remain whole."""
        removed: dict[str, set[int]] = {}
        for width, count in self.counts(arch).items():
            removed.setdefault(width.group, set()).update(width.ranked(order)[count:])
        units = {group.name: group.units for group in self.model.analysis.groups}
        return {name: [i for i in range(units[name]) if i not in without] for name, without in removed.items()}

    def skipped_blocks(self, arch: Arch) -> tuple[str, ...]:
        """The names of the residual blocks that a network lacks."""
        genes = arch.genes[self.first_block :]
        return tuple(block.name for block, gene in zip(self.blocks, genes, strict=True) if gene == 0)

    def narrowed(self, arch: Arch, order: UnitOrder | None = None) -> NarrowedGraph:
        """The graph of one network at its resolution, with units by ``order`` as in ``kept_units``."""
        units = self.kept_units(arch, order)
        narrowed = narrow_graph(self.model.graph, self.model.analysis, units, self.skipped_blocks(arch))
        return replace(narrowed, graph=with_sizes(narrowed.graph, self.resolutions[arch.genes[0]]))
