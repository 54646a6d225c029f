"""The layer-wise space of FBNet (Wu et al., CVPR 2019): one of nine blocks at each of 22 places. No torch here; the
supernet is in ``network.py``.

A network is: stem 3x3 convolution, stages of blocks, a 1x1 convolution, global pooling, the classifier. A block expands
by a 1x1 convolution, convolves each channel, and projects by a 1x1 convolution; with two groups, both 1x1 convolutions
are grouped and channels are shuffled between. A skipped block is the identity or, where the shape changes, a strided
1x1 convolution, as in HW-NAS-Bench (Li et al., ICLR 2021), whose CIFAR and ImageNet sizes are presets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from nas.core.arch import Arch, Decision, Genes
from nas.core.layers import ChannelShuffle, Conv2d, GlobalAveragePool, Linear, MapShape, Skip
from nas.core.network import NetworkNode
from nas.core.plugins import SearchSpaceType
from nas.core.ports import ImageShape
from nas.spaces.block_chain import BlockChain, ChainBlock, NodeFactory
from nas.spaces.chain_relaxation import ChainRelaxation
from nas.spaces.chain_space import RelaxedChainSpace
from search_spaces.presets import resolved

SKIP = "skip"


@dataclass(frozen=True)
class Operation:
    """A block: the kernel of its depthwise convolution, its expansion, and the groups of its 1x1 convolutions."""

    kernel: int
    expand: int
    groups: int = 1


OPERATIONS: dict[str, Operation | None] = {
    SKIP: None,
    "k3_e1_g2": Operation(3, 1, groups=2),
    "k5_e1_g2": Operation(5, 1, groups=2),
    "k3_e1": Operation(3, 1),
    "k5_e1": Operation(5, 1),
    "k3_e3": Operation(3, 3),
    "k5_e3": Operation(5, 3),
    "k3_e6": Operation(3, 6),
    "k5_e6": Operation(5, 6),
}
"""The candidate blocks (FBNet, table 2), those with the fewest layers and channels first."""

_NAMES = tuple(OPERATIONS)


class FBNetStage(BaseModel):
    """One stage: output ``width``, number of ``blocks``, ``stride`` of its first block."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    width: int = Field(ge=2, le=2048, multiple_of=2)
    blocks: int = Field(ge=1, le=16)
    stride: Literal[1, 2]


class SpaceParams(BaseModel):
    """Everything that sizes the space. ``resolution``: height of the input; ``final``: channels of the last
    convolution."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    resolution: int = Field(ge=4, le=2048)
    stem: int = Field(ge=2, le=512, multiple_of=2)
    stem_stride: Literal[1, 2]
    stages: tuple[FBNetStage, ...] = Field(min_length=1, max_length=16)
    final: int = Field(ge=2, le=8192)
    dropout: float = Field(default=0.2, ge=0, lt=1)


def _stages(*rows: tuple[int, int, Literal[1, 2]]) -> tuple[FBNetStage, ...]:
    return tuple(FBNetStage(width=w, blocks=n, stride=s) for w, n, s in rows)


_IMAGENET = SpaceParams(
    resolution=224,
    stem=16,
    stem_stride=2,
    stages=_stages((16, 1, 1), (24, 4, 2), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1)),
    final=1984,
)

PRESETS: dict[str, SpaceParams] = {
    "digits": SpaceParams(
        resolution=8, stem=8, stem_stride=1, stages=_stages((8, 1, 1), (16, 2, 2), (24, 2, 1)), final=64
    ),
    "cifar": SpaceParams(
        resolution=32,
        stem=16,
        stem_stride=1,
        stages=_stages((16, 1, 1), (24, 4, 1), (32, 4, 2), (64, 4, 2), (112, 4, 1), (184, 4, 2), (352, 1, 1)),
        final=1504,
    ),
    "imagenet": _IMAGENET,
    "imagenet-small": _IMAGENET.model_copy(update={"final": 1504}),
}


def _published(*stages: str) -> tuple[int, ...]:
    return tuple(_NAMES.index(name) for stage in stages for name in stage.split())


_NETWORKS = {
    "FBNet-A": _published(
        "skip",
        "k3_e3 k3_e1 skip skip",
        "k5_e6 k3_e3 k5_e1 k3_e3",
        "k5_e6 k5_e3 k5_e1_g2 k5_e6",
        "k3_e6 k5_e1_g2 k5_e3 k3_e1_g2",
        "k5_e6 k5_e6 k5_e3 k5_e6",
        "k5_e6",
    ),
    "FBNet-B": _published(
        "k3_e1",
        "k3_e6 k5_e1 k3_e1 k3_e1",
        "k5_e6 k5_e3 k3_e6 k5_e6",
        "k5_e6 k5_e1 skip k5_e3",
        "k5_e6 k3_e1 k5_e1 k5_e3",
        "k5_e6 k5_e1 k5_e6 k5_e6",
        "k3_e6",
    ),
    "FBNet-C": _published(
        "k3_e1",
        "k3_e6 skip k3_e1 k3_e1",
        "k5_e6 k5_e3 k5_e6 k3_e6",
        "k5_e6 k5_e3 k5_e6 k5_e6",
        "k5_e6 k5_e6 k5_e6 k5_e3",
        "k5_e6 k5_e6 k5_e6 k5_e6",
        "k3_e6",
    ),
}
"""The networks that FBNet found for three devices (FBNet, figure 4)."""

PUBLISHED: dict[str, Mapping[str, tuple[int, ...]]] = {
    "imagenet-small": {
        "FBNet-A": _NETWORKS["FBNet-A"],
        "FBNet-B1": _NETWORKS["FBNet-B"],
        "FBNet-C1": _NETWORKS["FBNet-C"],
    },
    "imagenet": {"FBNet-B": _NETWORKS["FBNet-B"], "FBNet-C": _NETWORKS["FBNet-C"]},
}
"""By the preset that holds them; B1 and C1 of the authors' repository are B and C with fewer channels at the end."""


def build(params: Mapping[str, JsonValue], shape: ImageShape) -> FBNet:
    """The space for ``params`` (``preset``, by default ``cifar``, plus overrides) and the data's channels and classes.

    Raises UnknownName for a preset, InvalidSpec for unknown or impossible parameters.
    """
    return FBNet(resolved("fbnet", params, PRESETS, "cifar"), shape)


FBNET = SearchSpaceType(
    "fbnet",
    "The space of FBNet: one of eight inverted-residual blocks, or none, at each place of a network.",
    build,
    tuple(PRESETS),
    relaxed=True,
    published={name: {"preset": preset} for preset, networks in PUBLISHED.items() for name in networks},
    any_shape=True,
)


class FBNet(RelaxedChainSpace[SpaceParams]):
    """The space as the engine sees it (``nas.core.ports.SearchSpace``). One gene for each block: its operation."""

    name = "fbnet"

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """The operation of each block."""
        return tuple(Decision(f"{place}.operation", _NAMES) for place in self._places)

    @property
    def _places(self) -> list[str]:
        stages = enumerate(self.config.stages, start=1)
        return [f"stage{s}.block{b + 1}" for s, stage in stages for b in range(stage.blocks)]

    def canonical(self, genes_NG: Genes) -> Genes:
        """As they are: every decision has an effect."""
        return genes_NG.copy()

    def input_shape(self, arch: Arch) -> MapShape:
        """(channels, resolution, width in the shape of the data's images)."""
        return (self.shape.channels, *self.size_of(self.config.resolution))

    @cached_property
    def published(self) -> Mapping[str, tuple[int, ...]]:
        """FBNet-A, B1 and C1 in the preset ``imagenet-small``, FBNet-B and FBNet-C in ``imagenet``."""
        presets = [name for name, preset in PRESETS.items() if preset == self.config]
        return PUBLISHED.get(presets[0], {}) if presets else {}

    @cached_property
    def chain_relaxation(self) -> ChainRelaxation:
        """A row for each block, a column for each operation; ``skip`` is the last."""
        return ChainRelaxation(self.chain, self.decisions, (0,) * len(self.decisions), self.canonical)

    def supernet(self, seed: int) -> Any:
        """A fresh supernet, weights drawn from ``seed``."""
        from search_spaces.fbnet.network import FBNetSupernet

        operations = [_NAMES.index(name) for name in self.relaxation.operations]
        uniform = [Arch(self.id, (o,) * len(self.decisions)) for o in range(len(OPERATIONS))]
        return FBNetSupernet([self.network(arch) for arch in uniform], operations, self.config.dropout, seed)

    @cached_property
    def chain(self) -> BlockChain:
        """Stem, the blocks of each stage, head."""
        c = self.config
        stem = Conv2d("stem", ("input",), self.input_shape(Arch("", ())), c.stem, 3, c.stem_stride, activation="relu")
        blocks, shape, places = [ChainBlock("stem", (), lambda *_: [stem])], stem.out_shape, iter(self._places)
        for stage in c.stages:
            first = _factory(shape, stage.width, stage.stride)
            shape = (stage.width, -(-shape[1] // stage.stride), -(-shape[2] // stage.stride))
            later = _factory(shape, stage.width, 1)
            for b in range(stage.blocks):
                blocks.append(ChainBlock(next(places), (len(blocks) - 1,), later if b else first))
        blocks.append(ChainBlock("head", (), self._head(shape)))
        kinds = ("dense", "depthwise3", "depthwise5", "grouped", "pointwise", "shuffle", "linear")
        return BlockChain(self.decisions, blocks, kinds, self.shape.channels)

    def _head(self, shape: MapShape) -> NodeFactory:
        def nodes(_: str, source: str, __: tuple[int, ...]) -> list[NetworkNode]:
            final = Conv2d("final", (source,), shape, self.config.final, 1, activation="relu")
            pool = GlobalAveragePool("pool", (final.name,), final.out_shape)
            return [final, pool, Linear("classifier", (pool.name,), pool.out_shape, self.shape.classes)]

        return nodes


def _factory(in_shape: MapShape, c_out: int, stride: int) -> NodeFactory:
    """Blocks by their operation."""

    def nodes(name: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
        operation = OPERATIONS[_NAMES[choices[0]]]
        if operation is None:
            return skipped(name, source, in_shape, c_out, stride)
        return block(name, source, in_shape, c_out, stride, operation)

    return nodes


def skipped(name: str, source: str, in_shape: MapShape, c_out: int, stride: int) -> list[NetworkNode]:
    """The identity, or a strided 1x1 convolution where the shape changes."""
    if stride == 1 and in_shape[0] == c_out:
        return [Skip(f"{name}.skip", (source,), in_shape)]
    return [Conv2d(f"{name}.skip", (source,), in_shape, c_out, 1, stride, activation="relu")]


def block(
    name: str, source: str, in_shape: MapShape, c_out: int, stride: int, operation: Operation
) -> list[NetworkNode]:
    """Expand 1x1, shuffle of groups, depthwise, project 1x1; a skip connection where the shape stays the same."""
    inner, groups = in_shape[0] * operation.expand, operation.groups
    expand = Conv2d(f"{name}.expand", (source,), in_shape, inner, 1, groups=groups, activation="relu")
    nodes: list[NetworkNode] = [expand]
    if groups > 1:
        nodes.append(ChannelShuffle(f"{name}.shuffle", (expand.name,), expand.out_shape, groups))
    depthwise = Conv2d(
        f"{name}.depthwise",
        (nodes[-1].name,),
        expand.out_shape,
        inner,
        operation.kernel,
        stride,
        groups=inner,
        activation="relu",
    )
    residual = source if stride == 1 and in_shape[0] == c_out else None
    project = Conv2d(
        f"{name}.project", (depthwise.name,), depthwise.out_shape, c_out, 1, groups=groups, residual=residual
    )
    return [*nodes, depthwise, project]
