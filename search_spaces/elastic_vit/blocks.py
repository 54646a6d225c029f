"""The blocks of a supernet of vision transformers: how many of them hold weights, and which weights each place has.

``OwnBlocks`` are those of AutoFormer; the others are auxiliary networks, whose few blocks become blocks of any depth
(``search_spaces.elastic_vit.learngene``).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn
from torch.func import functional_call

from nas.spaces.transformer import TransformerSizes
from search_spaces.elastic_vit.learngene import Sharing, stage_sources
from search_spaces.layers.transformer import ElasticTransformerBlock, TransformerBlock


class PlacedBlock(Protocol):
    """What stands at a place of a network: an ``ElasticTransformerBlock``, or what computes as one."""

    def __call__(self, x_BNC: torch.Tensor, sizes: TransformerSizes) -> torch.Tensor:
        """(B, N, width) -> the same shape."""
        ...

    def cut(self, sizes: TransformerSizes) -> TransformerBlock:
        """A copy as a plain block."""
        ...


class OwnBlocks(nn.ModuleList):
    """A block with weights of its own for each place; a network has the first ones. ``can_be_sorted``: whether heads,
    units and channels may change their order."""

    can_be_sorted = True

    @property
    def stored(self) -> list[ElasticTransformerBlock]:
        """The blocks that hold weights."""
        return [block for block in self if isinstance(block, ElasticTransformerBlock)]

    def of(self, depth: int) -> Sequence[PlacedBlock]:
        """The blocks of a network."""
        return self.stored[:depth]

    def forward(self, x_BNC: torch.Tensor, sizes: Sequence[TransformerSizes]) -> torch.Tensor:
        """(B, N, width) through a network's blocks -> the same shape."""
        for block, size in zip(self.of(len(sizes)), sizes, strict=True):
            x_BNC = block(x_BNC, size)
        return x_BNC

    def cut(self, sizes: Sequence[TransformerSizes]) -> nn.Sequential:
        """Copies of a network's blocks as plain blocks."""
        return nn.Sequential(*(block.cut(size) for block, size in zip(self.of(len(sizes)), sizes, strict=True)))


class StageBlocks(OwnBlocks):
    """A block for each stage of consecutive places, which share its weights (SWS)."""

    can_be_sorted = False

    def of(self, depth: int) -> Sequence[PlacedBlock]:
        """The blocks of a network."""
        stored = self.stored
        return [stored[stage] for stage in stage_sources(len(stored), depth)]


class LinearBlocks(OwnBlocks):
    """Two blocks, of which place l of L has the sum of the first and l / L times the second (TLEG)."""

    can_be_sorted = False

    def __init__(self, blocks: Sequence[ElasticTransformerBlock]) -> None:
        super().__init__(blocks)
        _, slope = self.stored
        for norm in (slope.norm1, slope.norm2):
            nn.init.zeros_(norm.weight)

    def of(self, depth: int) -> Sequence[PlacedBlock]:
        """The blocks of a network."""
        base, slope = self.stored
        return [LinearBlock(base, slope, place / depth) for place in range(depth)]


@dataclass(frozen=True)
class LinearBlock:
    """``base`` plus ``share`` times ``slope``."""

    base: ElasticTransformerBlock
    slope: ElasticTransformerBlock
    share: float

    def __call__(self, x_BNC: torch.Tensor, sizes: TransformerSizes) -> torch.Tensor:
        """(B, N, width) -> the same shape."""
        out: torch.Tensor = functional_call(self.base, self._weights(), (x_BNC, sizes))
        return out

    @torch.no_grad()
    def cut(self, sizes: TransformerSizes) -> TransformerBlock:
        """A copy as a plain block."""
        block = copy.deepcopy(self.base)
        block.load_state_dict(self._weights())
        return block.cut(sizes)

    def _weights(self) -> dict[str, torch.Tensor]:
        slope = dict(self.slope.named_parameters())
        return {name: weight + self.share * slope[name] for name, weight in self.base.named_parameters()}


def shared_blocks(
    make: Callable[[], ElasticTransformerBlock], depth: int, sharing: Sharing | None, stages: int
) -> OwnBlocks:
    """The blocks of networks of up to ``depth``, each of which ``make`` draws; ``stages``: of shared weights."""
    if sharing is None:
        return OwnBlocks(make() for _ in range(depth))
    if sharing == "stages":
        return StageBlocks(make() for _ in range(stages))
    return LinearBlocks([make(), make()])
