"""What of a user's model a search may choose: widths of channel groups, and residual blocks.

Units of one group can be unequal: one is a channel of two layers, another of three. The units that are in all places
alike are one ``Width``; sizes of a narrowed model are linear in how many units of each width remain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from nas.models.blocks import ResidualBlock, find_residual_blocks
from nas.models.channels import ChannelAnalysis, analyse_channels
from nas.models.graph import ModelGraph
from nas.models.units import UnitArray

UnitOrder = Mapping[str, Sequence[int]]
"""By the name of a channel group, all of its units, the most important first."""
BlockSets = frozenset[frozenset[int]]
"""A part of a network that exists if of any of these sets of residual blocks, by position, all are there."""
_MIXERS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9))


@dataclass(frozen=True, eq=False)
class Width:
    """Interchangeable units of a channel group. ``units``: their positions in the group; ``channels``: how many
    channels of its first layer each is; ``places``: where the units are, as a part of the network."""

    name: str
    group: str
    units: NDArray[np.int64]
    channels: int
    places: BlockSets

    def ranked(self, order: UnitOrder | None = None) -> list[int]:
        """Its units, in the order of their group's."""
        own = set(self.units.tolist())
        return [unit for unit in (order or {}).get(self.group, sorted(own)) if unit in own]

    def choices(self, multiple: int, smallest_share: float, levels: int) -> tuple[int, ...]:
        """How many units may be kept, at most ``levels`` numbers from ``smallest_share`` to all: multiples of
        ``multiple`` channels, and all."""
        total = len(self.units)
        step = -(-multiple // self.channels)
        first = max(1, -(-int(np.ceil(smallest_share * total)) // step)) * step
        counts = [*range(first, total, step), total]
        positions = np.linspace(0, len(counts) - 1, min(levels, len(counts))).round().astype(int)
        return tuple(counts[i] for i in positions)


class ElasticModel:
    """A graph with its channel groups and blocks. ``block_sets`` of a node: the blocks that contain it, by position."""

    def __init__(self, graph: ModelGraph) -> None:
        self.graph = graph
        self.analysis: ChannelAnalysis = analyse_channels(graph)
        self.blocks: tuple[ResidualBlock, ...] = find_residual_blocks(graph)

    @cached_property
    def containing_blocks(self) -> dict[str, frozenset[int]]:
        """By the name of a node, the blocks without any of which it does not exist."""
        members = [{*block.nodes, block.addition} for block in self.blocks]
        return {
            node.name: frozenset(i for i, names in enumerate(members) if node.name in names)
            for node in self.graph.nodes
        }

    @cached_property
    def parameter_places(self) -> dict[str, BlockSets]:
        """By the name of a parameter, where it is read."""
        return {
            name: simplified({self.containing_blocks[reader.name] for reader in self.graph.readers[name]})
            for name in self.graph.parameter_names
        }

    @cached_property
    def widths(self) -> tuple[Width, ...]:
        """The widths of all groups, in the order of the graph; single units are none."""
        signatures = self._signatures
        widths = []
        for group in self.analysis.groups:
            numbers = self.analysis.numbers[group.name]
            _, first, inverse = np.unique(signatures[numbers], return_index=True, return_inverse=True)
            alike = [np.flatnonzero(inverse == i) for i in np.argsort(first)]
            several = [units for units in alike if len(units) > 1]
            for i, units in enumerate(several):
                name = group.name if len(several) == 1 else f"{group.name}.part{i + 1}"
                numbers_of_units = numbers[units]
                widths.append(Width(name, group.name, units, *self._extent(numbers_of_units)))
        return tuple(widths)

    @cached_property
    def _signatures(self) -> NDArray[np.uint64]:
        """By the number of a unit, a hash over all places in which it is and how often."""
        arrays = [*self.analysis.values.values(), *self.analysis.axes.values()]
        hashes = np.zeros(1 + max(int(units.max()) for units in arrays), dtype=np.uint64)
        for place, array in enumerate(arrays):
            units, counts = np.unique(array[array > 0], return_counts=True)
            hashes[units] = (hashes[units] + np.uint64(place + 1)) * _MIXERS[0] + counts.astype(np.uint64) * _MIXERS[1]
            hashes[units] ^= hashes[units] >> np.uint64(29)
        return hashes

    def _extent(self, numbers: UnitArray) -> tuple[int, BlockSets]:
        """Channels of one unit in the first layer that has it, and all places of units of one width."""
        unit, channels, places = int(numbers[0]), 0, set()
        for node in self.graph.nodes:
            own = int((self.analysis.values[node.name] == unit).sum())
            if own:
                channels = channels or own
                places.add(self.containing_blocks[node.name])
        for (name, _), units in self.analysis.axes.items():
            if (units == unit).any():
                places.update(self.parameter_places[name])
        return channels, simplified(places)


def simplified(places: set[frozenset[int]]) -> BlockSets:
    """Without sets that contain another one."""
    return frozenset(blocks for blocks in places if not any(other < blocks for other in places))


@lru_cache(maxsize=16)
def elastic_model(graph_json: bytes) -> ElasticModel:
    """The analysis of a graph, which takes seconds for a large one. Raises InvalidModel for anything but a graph."""
    return ElasticModel(ModelGraph.from_json(graph_json))
