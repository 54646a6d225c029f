"""The places of downsamplings in a ResNet-20 (Javan et al., Balanced mixture of supernets, AutoML 2023). No torch; the
supernet is in ``network.py``.

The network of He et al. (CVPR 2016) for small images: a stem and nine basic blocks, ten units in a row, whose channels
double before the fourth and the seventh block. Two of the blocks halve height and width; which ones is all there is to
choose, so every network has the same weights. ``[4, 3, 3]`` counts the units at each size: that is the usual network.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue

from nas.core.arch import Arch, Decision, Floats, Genes
from nas.core.errors import InvalidInput
from nas.core.layers import INPUT, Conv2d, GlobalAveragePool, Linear, MapShape, Skip
from nas.core.network import Add, Network, NetworkNode, Relu
from nas.core.plugins import SearchSpaceType
from nas.core.ports import ImageShape
from nas.spaces.base import DescribedSpace
from nas.spaces.costs import COSTS, network_costs
from search_spaces.presets import resolved

WIDTHS = 3  # groups of blocks with the same channels
STATES = 5  # of a block: at the size of the input, halving it, at a half, halving that, at a quarter


class SpaceParams(BaseModel):
    """``channels`` of the stem and the first group of blocks, doubled by each of the two after it; ``blocks`` in each
    group: three make a ResNet-20."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    channels: int = Field(default=16, ge=4, le=512, multiple_of=2)
    blocks: int = Field(default=3, ge=1, le=9)


PRESETS: dict[str, SpaceParams] = {
    "digits": SpaceParams(channels=4),
    "small": SpaceParams(channels=8),
    "resnet20": SpaceParams(channels=16),
}


def build(params: Mapping[str, JsonValue], shape: ImageShape) -> Resnet20Downsampling:
    """The 36 ways to place two downsamplings among the nine blocks of a ResNet-20.

    Raises UnknownName for a preset, InvalidSpec for unknown or impossible parameters.
    """
    return Resnet20Downsampling(resolved("resnet20_downsampling", params, PRESETS, "resnet20"), shape)


RESNET20_DOWNSAMPLING = SearchSpaceType(
    "resnet20_downsampling",
    "The 36 ways to place two downsamplings among the nine blocks of a ResNet-20.",
    build,
    tuple(PRESETS),
    published={"ResNet-20": {"preset": "resnet20"}},
    any_shape=True,
)


class Resnet20Downsampling(DescribedSpace[SpaceParams]):
    """The space as the engine sees it (``nas.core.ports.SearchSpace``).

    Two genes: how many units come before the first and before the second downsampling. Genes in the wrong order mean
    the same two places; twice the same place means that place and the next.
    """

    name = "resnet20_downsampling"

    def __init__(self, config: SpaceParams, shape: ImageShape) -> None:
        super().__init__(config, shape)
        self.depth = WIDTHS * config.blocks  # blocks in all; the stem is one unit more
        self.decisions = (
            Decision("first.downsampling", tuple(range(1, self.depth))),
            Decision("second.downsampling", tuple(range(2, self.depth + 1))),
        )

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Channels after each unit, the stem first."""
        groups = [self.config.channels * 2**g for g in range(WIDTHS) for _ in range(self.config.blocks)]
        return (self.config.channels, *groups)

    def canonical(self, genes_NG: Genes) -> Genes:
        """The first place before the second."""
        places = genes_NG + [1, 2]
        low, high = places.min(axis=1), places.max(axis=1)
        high = np.maximum(high, low + 1)
        return np.stack([low - 1, high - 2], axis=1)

    def counts(self, arch: Arch) -> tuple[int, int, int]:
        """Units at the size of the input, at a half and at a quarter of it, such as (4, 3, 3)."""
        first, second = (self.canonical(np.array([arch.genes]))[0] + [1, 2]).tolist()
        return first, second - first, self.depth + 1 - second

    def from_counts(self, counts: tuple[int, int, int]) -> Arch:
        """Inverse of ``counts``. Raises InvalidInput."""
        if len(counts) != 3 or min(counts) < 1 or sum(counts) != self.depth + 1:
            raise InvalidInput(f"expected three counts of at least 1 that sum to {self.depth + 1}, got {counts}")
        return Arch(self.id, (counts[0] - 1, counts[0] + counts[1] - 2))

    def strides(self, arch: Arch) -> tuple[int, ...]:
        """The stride of each block, 2 for two of them."""
        first, second = (self.canonical(np.array([arch.genes]))[0] + [1, 2]).tolist()
        return tuple(2 if unit in (first, second) else 1 for unit in range(1, self.depth + 1))

    def network(self, arch: Arch) -> Network:
        """The description of one network."""
        shape = (self.shape.channels, self.shape.height, self.shape.width)
        stem = Conv2d("stem", (INPUT,), shape, self.widths[0], 3)
        nodes: list[NetworkNode] = [stem, Relu("stem.relu", (stem.name,), stem.out_shape)]
        for b, stride in enumerate(self.strides(arch)):
            nodes += _basic_block(f"block{b + 1}", nodes[-1].name, nodes[-1].out_shape, self.widths[b + 1], stride)
        pool = GlobalAveragePool("pool", (nodes[-1].name,), nodes[-1].out_shape)
        return Network(shape, (*nodes, pool, Linear("classifier", ("pool",), pool.out_shape, self.shape.classes)))

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """Exact ``params``, ``macs``, ``model_bytes`` and ``peak_bytes`` of N networks, each shape (N,)."""
        table = self._cost_table
        rows_NC = np.array([table[tuple(row)] for row in self.canonical(genes_NG).tolist()]).reshape(-1, len(COSTS))
        return {name: rows_NC[:, c] for c, name in enumerate(COSTS)}

    @cached_property
    def _cost_table(self) -> dict[tuple[int, ...], tuple[float, ...]]:
        canonical = ((low, high) for high in range(self.depth - 1) for low in range(high + 1))
        return {genes: tuple(map(float, network_costs(self.network(Arch(self.name, genes))))) for genes in canonical}

    def features(self, genes_NG: Genes) -> Floats:
        """Inputs of latency predictors, shape (N, 5 * blocks): the size and the stride of each block. Latency is nearly
        additive over blocks, and a block of known channels has no other property."""
        places_NG = self.canonical(genes_NG) + [1, 2]
        units_B = np.arange(1, self.depth + 1)
        passed_NBG = units_B[None, :, None] >= places_NG[:, None, :]
        at_NBG = units_B[None, :, None] == places_NG[:, None, :]
        state_NB = 2 * passed_NBG.sum(axis=2) - at_NBG.sum(axis=2)
        features: Floats = (state_NB[:, :, None] == np.arange(STATES)).reshape(len(genes_NG), -1).astype(np.float64)
        return features

    @property
    def published(self) -> Mapping[str, tuple[int, ...]]:
        """ResNet-20 (He et al., section 4.2), where channels and blocks are its own."""
        if self.config != PRESETS["resnet20"]:
            return {}
        return {"ResNet-20": self.from_counts((4, 3, 3)).genes}

    def supernet(self, seed: int) -> Any:
        """A fresh supernet, weights drawn from ``seed``."""
        from search_spaces.resnet20_downsampling.network import Resnet20Supernet

        return Resnet20Supernet(self.shape.channels, self.widths, self.shape.classes, self.strides, seed)


@lru_cache(maxsize=1 << 12)  # networks share most of their layers
def _basic_block(name: str, source: str, in_shape: MapShape, channels: int, stride: int) -> tuple[NetworkNode, ...]:
    """Two 3x3 convolutions, added to a shortcut: a 1x1 convolution where channels change, otherwise every pixel that
    the stride leaves."""
    x = (source,)
    conv1 = Conv2d(f"{name}.conv1", x, in_shape, channels, 3, stride)
    relu1 = Relu(f"{name}.relu1", (conv1.name,), conv1.out_shape)
    conv2 = Conv2d(f"{name}.conv2", (relu1.name,), relu1.out_shape, channels, 3)
    shortcut: NetworkNode = Skip(f"{name}.shortcut", x, in_shape, stride)
    if in_shape[0] != channels:
        shortcut = Conv2d(f"{name}.shortcut", x, in_shape, channels, 1, stride)
    add = Add(f"{name}.add", (conv2.name, shortcut.name), conv2.out_shape)
    return (conv1, relu1, conv2, shortcut, add, Relu(f"{name}.relu2", (add.name,), add.out_shape))
