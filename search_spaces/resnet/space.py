"""Elastic ResNets: what can be chosen and what it costs. No torch here; the supernet is in ``network.py``.

Sources: residual blocks and networks of He et al. (CVPR 2016), with the stride of a bottleneck in its 3x3 convolution;
elastic dimensions of the ResNet-50 space of Once-for-all (Cai et al., ICLR 2020), whose networks have the stem and the
shortcuts of ResNet-D (He et al., CVPR 2019).

A network is: a stem, stages of residual blocks, global pooling, the classifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from nas.core.arch import Decision, Genes
from nas.core.layers import Conv2d, GlobalAveragePool, Linear, MapShape, Pool2d
from nas.core.network import NetworkNode, Relu
from nas.core.plugins import SearchSpaceType
from nas.core.ports import ImageShape
from nas.core.spec import parse_spec
from nas.spaces.block_chain import BlockChain, ChainBlock, NodeFactory
from nas.spaces.chain_space import ChainSpace, MapSize, strided
from search_spaces.inverted_residual import divisible
from search_spaces.presets import resolved

BlockKind = Literal["basic", "bottleneck"]
Stem = Literal["auto", "3x3", "7x7", "deep"]
Shortcut = Literal["strided", "pooled"]

SMALLEST_POOLED = 64  # rows of an image from which on an automatic stem halves the map twice
_CHOICES = 64
_LARGEST = {"resolutions": 2048, "widths": 8, "expands": 4}


class ResNetStage(BaseModel):
    """One stage: output ``width`` at multiplier 1, numbers of blocks to choose from, ``stride`` of its first block."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    width: int = Field(ge=8, le=8192)
    depths: tuple[int, ...] = Field(min_length=1, max_length=16)
    stride: Literal[1, 2] = 2

    @model_validator(mode="after")
    def _depths_are_sane(self) -> ResNetStage:
        if list(self.depths) != sorted(set(self.depths)) or not 0 < self.depths[0] <= self.depths[-1] <= 64:
            raise ValueError(f"depths: expected distinct numbers from 1 to 64 in rising order, got {self.depths}")
        return self


class SpaceParams(BaseModel):
    """Everything that sizes the space. Choices are sorted, smallest network first.

    ``resolutions``: heights of the input; none: that of the data's images. ``stem``: a 3x3 convolution; a 7x7
    convolution of stride 2 and max pooling; ``deep``, three 3x3 convolutions, the second of which may be missing, and
    max pooling; or one of the first two by the resolution. ``stem_width``: its channels at multiplier 1. ``shortcut``:
    where a block halves the map, its shortcut is a 1x1 convolution of stride 2 or follows an average over 2x2 pixels.
    ``expands``: inner channels of a block as a share of its output.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    block: BlockKind
    resolutions: tuple[int, ...] = ()
    stem: Stem = "auto"
    stem_width: int = Field(default=64, ge=8, le=1024)
    shortcut: Shortcut = "strided"
    stages: tuple[ResNetStage, ...] = Field(min_length=1, max_length=8)
    widths: tuple[float, ...] = (1.0,)
    expands: tuple[float, ...]
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _choices_are_sane(self) -> SpaceParams:
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            least = 0 if name == "resolutions" else 1
            if not least <= len(value) <= _CHOICES or not all(0 < v <= largest for v in value):
                raise ValueError(
                    f"{name}: expected {least} to {_CHOICES} choices above 0 and up to {largest}, got {value[:4]}..."
                )
            if list(value) != sorted(set(value)):
                raise ValueError(f"{name}: expected distinct choices in rising order, got {value}")
        if self.resolutions and self.resolutions[0] < 4:
            raise ValueError(f"resolutions: expected at least 4 pixels, got {self.resolutions[0]}")
        return self

    @model_validator(mode="after")
    def _choices_are_different_networks(self) -> SpaceParams:
        _check_distinct("widths", self.widths, self.stem_width)
        for stage in self.stages:
            _check_distinct("widths", self.widths, stage.width)
            for c_out in _channels(stage.width, self.widths):
                _check_distinct("expands", self.expands, c_out)
        return self


def _channels(channels: int, multipliers: Sequence[float]) -> tuple[int, ...]:
    """The channels that multipliers give."""
    return tuple(divisible(channels * multiplier) for multiplier in multipliers)


def _check_distinct(name: str, choices: Sequence[float], channels: int) -> None:
    results = _channels(channels, choices)
    if len(set(results)) < len(results):
        raise ValueError(
            f"{name}: expected choices that give different multiples of 8, got {choices}, by which {channels} channels "
            f"become {results}"
        )


def _stages(widths: Sequence[int], depths: Sequence[tuple[int, ...]]) -> tuple[ResNetStage, ...]:
    """Each stage but the first halves the map."""
    stages = enumerate(zip(widths, depths, strict=True))
    return tuple(ResNetStage(width=width, depths=depth, stride=2 if s else 1) for s, (width, depth) in stages)


_WIDTHS: dict[BlockKind, tuple[int, ...]] = {"basic": (64, 128, 256, 512), "bottleneck": (256, 512, 1024, 2048)}
_FULL: dict[BlockKind, float] = {"basic": 1.0, "bottleneck": 0.25}
"""Output channels of the stages and expansion of the networks of He et al. (2016, table 1)."""


def _digits(block: BlockKind) -> SpaceParams:
    width, full = (1, 1.0) if block == "basic" else (4, 0.25)
    return SpaceParams(
        block=block, resolutions=(6, 8), stem="3x3", stem_width=16, widths=(0.5, 1.0), expands=(full / 2, full),
        stages=_stages((32 * width, 64 * width), ((1, 2, 3), (1, 2, 3))),
    )  # fmt: skip


def _cifar10(block: BlockKind) -> SpaceParams:
    full = _FULL[block]
    return SpaceParams(
        block=block, resolutions=(24, 28, 32), stem="3x3", widths=(0.25, 0.5, 1.0), expands=(full / 2, full),
        stages=_stages(_WIDTHS[block], ((1, 2),) * 4),
    )  # fmt: skip


_RESOLUTIONS, _MULTIPLIERS = (128, 160, 192, 224), (0.65, 0.8, 1.0)
_OFA = SpaceParams(
    block="bottleneck", resolutions=_RESOLUTIONS, stem="7x7", widths=_MULTIPLIERS, expands=(0.2, 0.25, 0.35),
    stages=_stages(_WIDTHS["bottleneck"], ((2, 3, 4), (2, 3, 4), (4, 5, 6), (2, 3, 4))),
)  # fmt: skip
_BASIC = SpaceParams(
    block="basic", resolutions=_RESOLUTIONS, stem="7x7", widths=_MULTIPLIERS, expands=(0.5, 0.75, 1.0),
    stages=_stages(_WIDTHS["basic"], ((2, 3), (2, 3, 4), (2, 3, 4, 5, 6), (2, 3))),
)  # fmt: skip

PRESETS: dict[str, dict[BlockKind, SpaceParams]] = {
    "digits": {"basic": _digits("basic"), "bottleneck": _digits("bottleneck")},
    "cifar10": {"basic": _cifar10("basic"), "bottleneck": _cifar10("bottleneck")},
    "imagenet": {"bottleneck": _OFA, "basic": _BASIC},
    "ofa-resnet50": {"bottleneck": _OFA.model_copy(update={"stem": "deep", "shortcut": "pooled"})},
}
"""By block; the first is the one of the preset."""

_NETWORKS: dict[str, tuple[BlockKind, tuple[int, ...]]] = {
    "ResNet-18": ("basic", (2, 2, 2, 2)),
    "ResNet-34": ("basic", (3, 4, 6, 3)),
    "ResNet-50": ("bottleneck", (3, 4, 6, 3)),
}
"""Kind of block, and blocks of each stage (He et al., 2016, table 1)."""


def _of_published(block: BlockKind) -> dict[str, JsonValue]:
    """Parameters of a space of published networks, sized for the data's images."""
    sized: dict[str, JsonValue] = {"resolutions": [], "stem": "auto", "widths": [1.0], "expands": [_FULL[block]]}
    return {"preset": "imagenet", "block": block, **sized}


def build(params: Mapping[str, JsonValue], shape: ImageShape) -> ResNet:
    """The space for ``params`` (``preset``, by default ``cifar10``, plus overrides) and the data's images and classes.

    Raises UnknownName for a preset, InvalidSpec for unknown or impossible parameters.
    """
    block = params.get("block")
    presets = {
        name: next((sizes for kind, sizes in by_block.items() if kind == block), next(iter(by_block.values())))
        for name, by_block in PRESETS.items()
    }
    config = resolved("resnet", params, presets, "cifar10")
    resolutions = config.resolutions or (shape.height,)
    stem = config.stem if config.stem != "auto" else "7x7" if resolutions[-1] >= SMALLEST_POOLED else "3x3"
    sized = {**config.model_dump(), "resolutions": resolutions, "stem": stem}
    return ResNet(parse_spec(SpaceParams, sized), shape)


RESNET = SearchSpaceType(
    "resnet",
    "ResNets of variable resolution, depth, width and expansion, with basic or bottleneck blocks.",
    build,
    tuple(PRESETS),
    published={name: _of_published(block) for name, (block, _) in _NETWORKS.items()},
    any_shape=True,
)


class ResNet(ChainSpace[SpaceParams]):
    """The space as the engine sees it (``nas.core.ports.SearchSpace``).

    Genes in order: resolution; width of the stem and, where it is deep, width of its first convolutions and their
    number; then per stage width, depth, and the expansion of each block.
    """

    name = "resnet"

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Resolution, stem; then for each stage width, depth, and expansion of each block."""
        c = self.config
        out = [Decision("resolution", c.resolutions), Decision("stem.width", c.widths)]
        if c.stem == "deep":
            out += [Decision("stem.first.width", c.widths), Decision("stem.depth", (2, 3))]
        for s, stage in enumerate(c.stages, start=1):
            out += [Decision(f"stage{s}.width", c.widths), Decision(f"stage{s}.depth", stage.depths)]
            out += [Decision(f"stage{s}.block{b + 1}.expand", c.expands) for b in range(stage.depths[-1])]
        return tuple(out)

    @cached_property
    def _positions(self) -> dict[str, int]:
        """Of genes, by the names of their decisions."""
        return {decision.name: g for g, decision in enumerate(self.decisions)}

    def canonical(self, genes_NG: Genes) -> Genes:
        """Expansions of blocks beyond a stage's depth set to 0."""
        out = genes_NG.copy()
        for s, stage in enumerate(self.config.stages, start=1):
            depth_N = np.array(stage.depths)[genes_NG[:, self._positions[f"stage{s}.depth"]]]
            for b in range(stage.depths[-1]):
                out[depth_N <= b, self._positions[f"stage{s}.block{b + 1}.expand"]] = 0
        return out

    @cached_property
    def published(self) -> Mapping[str, tuple[int, ...]]:
        """ResNet-18, -34 and -50 at the resolution nearest to 224, as far as the space has their stages."""
        c = self.config
        stages = [(stage.width, stage.stride) for stage in c.stages]
        is_plain = c.stem != "deep" and c.shortcut == "strided" and c.stem_width == 64
        has_sizes = 1.0 in c.widths and _FULL[c.block] in c.expands
        if not is_plain or not has_sizes or stages != list(zip(_WIDTHS[c.block], (1, 2, 2, 2), strict=True)):
            return {}
        return {
            name: self._published_genes(depths)
            for name, (block, depths) in _NETWORKS.items()
            if block == c.block and all(d in stage.depths for d, stage in zip(depths, c.stages, strict=True))
        }

    def _published_genes(self, depths: Sequence[int]) -> tuple[int, ...]:
        c = self.config
        nearest = min(range(len(c.resolutions)), key=lambda i: abs(c.resolutions[i] - 224))
        of_axis = {"resolution": nearest, "width": c.widths.index(1.0), "expand": c.expands.index(_FULL[c.block])}
        genes_G = np.array([of_axis.get(decision.axis, 0) for decision in self.decisions], dtype=np.int64)
        for s, (stage, depth) in enumerate(zip(c.stages, depths, strict=True), start=1):
            genes_G[self._positions[f"stage{s}.depth"]] = stage.depths.index(depth)
        return tuple(self.canonical(genes_G[None])[0].tolist())

    def supernet(self, seed: int) -> Any:
        """A fresh supernet, weights drawn from ``seed``."""
        from search_spaces.resnet.network import ResNetSupernet

        c = self.config
        projecting = {
            f"stage{s}.block1" for s in range(1, len(c.stages) + 1) if len(c.widths) > 1 or not self._keeps(s)
        }
        return ResNetSupernet(self.largest_network, projecting, c.dropout, self.network, seed)

    @property
    def _stem_widths(self) -> tuple[int, ...]:
        return _channels(self.config.stem_width, self.config.widths)

    def _keeps(self, s: int) -> bool:
        """Whether stage ``s``, from 1, keeps the shape of its input at multiplier 1."""
        c, stage = self.config, self.config.stages[s - 1]
        return stage.stride == 1 and stage.width == (c.stem_width if s == 1 else c.stages[s - 2].width)

    @cached_property
    def chain(self) -> BlockChain:
        """Stem, the blocks of each stage, head."""
        c, position = self.config, self._positions
        maps = [self.size_of(resolution) for resolution in c.resolutions]
        stem_genes = tuple(g for name, g in position.items() if name.startswith("stem."))
        blocks = [ChainBlock("stem", (0, *stem_genes), self._stem)]
        maps_after = maps if c.stem == "3x3" else strided(strided(maps, 2), 2)
        before, widths = position["stem.width"], self._stem_widths
        for s, stage in enumerate(c.stages, start=1):
            own, own_widths = position[f"stage{s}.width"], _channels(stage.width, c.widths)
            first = self._stage_block(maps_after, stage.stride, widths, own_widths, keeps=self._keeps(s))
            maps_after = strided(maps_after, stage.stride)
            later = self._stage_block(maps_after, 1, None, own_widths)
            for b in range(stage.depths[-1]):
                name = f"stage{s}.block{b + 1}"
                genes = (0, *(() if b else (before,)), own, position[f"{name}.expand"])
                shallowest = next(i for i, depth in enumerate(stage.depths) if depth > b)
                required = (position[f"stage{s}.depth"], shallowest) if shallowest > 0 else None
                blocks.append(ChainBlock(name, genes, later if b else first, required))
            before, widths = own, own_widths
        blocks.append(ChainBlock("head", (0, before), self._head(maps_after, widths)))
        marks = ("dense",) if c.block == "bottleneck" else ()  # basic blocks have two dense convolutions
        return BlockChain(self.decisions, blocks, ("dense", "pointwise", "linear"), self.shape.channels, marks)

    def _stem(self, _: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
        """By resolution, width and, where it is deep, width and number of its first convolutions."""
        c, channels = self.config, self._stem_widths[choices[1]]
        image = (self.shape.channels, *self.size_of(c.resolutions[choices[0]]))
        if c.stem == "3x3":
            return [Conv2d("stem.conv1", (source,), image, channels, 3, activation="relu")]
        if c.stem == "7x7":
            nodes = [Conv2d("stem.conv1", (source,), image, channels, 7, 2, activation="relu")]
        else:
            narrow, depth = choices[2:]
            inner = divisible(self._stem_widths[narrow] // 2)
            nodes = [Conv2d("stem.conv1", (source,), image, inner, 3, 2, activation="relu")]
            shape = nodes[0].out_shape
            if depth:
                first = nodes[0].name
                nodes.append(Conv2d("stem.conv2", (first,), shape, inner, 3, activation="relu", residual=first))
            nodes.append(Conv2d("stem.conv3", (nodes[-1].name,), shape, channels, 3, activation="relu"))
        return [*nodes, Pool2d("stem.pool", (nodes[-1].name,), nodes[-1].out_shape, "max", 3, 2)]

    def _stage_block(
        self,
        maps: Sequence[MapSize],
        stride: int,
        widths_before: Sequence[int] | None,
        widths: Sequence[int],
        *,
        keeps: bool = True,
    ) -> NodeFactory:
        """Blocks by resolution, previous width for the first of a stage, own width and expansion. ``keeps``: the input
        is added as it is where it has as many channels."""
        c = self.config

        def nodes(name: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
            resolution, *previous, width, expand = choices
            c_out = widths[width]
            c_in = c_out if widths_before is None else widths_before[previous[0]]
            inner = divisible(c_out * c.expands[expand])
            past: list[NetworkNode] = []
            if not keeps or c_in != c_out:
                past = projection(name, source, (c_in, *maps[resolution]), c_out, stride, c.shortcut)
            return residual_block(name, source, (c_in, *maps[resolution]), past, c_out, inner, stride, c.block)

        return nodes

    def _head(self, maps: Sequence[MapSize], widths: Sequence[int]) -> NodeFactory:
        classes = self.shape.classes

        def nodes(_: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
            resolution, width = choices
            pool = GlobalAveragePool("pool", (source,), (widths[width], *maps[resolution]))
            return [pool, Linear("classifier", (pool.name,), pool.out_shape, classes)]

        return nodes


_KERNELS: dict[BlockKind, tuple[int, ...]] = {"basic": (3, 3), "bottleneck": (1, 3, 1)}


def residual_block(
    name: str,
    source: str,
    in_shape: MapShape,
    past: Sequence[NetworkNode],
    c_out: int,
    inner: int,
    stride: int,
    block: BlockKind,
) -> list[NetworkNode]:
    """Two 3x3 convolutions, or a 1x1, a 3x3 and a 1x1 convolution, the first 3x3 with the stride; added to what the
    shortcut ``past`` them gives, or, where it has no nodes, to their input."""
    residual = past[-1].name if past else source
    kernels, nodes = _KERNELS[block], list(past)
    before, shape = source, in_shape
    for k, kernel in enumerate(kernels):
        is_last = k == len(kernels) - 1
        conv = Conv2d(
            f"{name}.conv{k + 1}",
            (before,),
            shape,
            c_out if is_last else inner,
            kernel,
            stride if k == kernels.index(3) else 1,
            activation=None if is_last else "relu",
            residual=residual if is_last else None,
        )
        nodes.append(conv)
        before, shape = conv.name, conv.out_shape
    return [*nodes, Relu(f"{name}.relu", (before,), shape)]


def projection(
    name: str, source: str, in_shape: MapShape, c_out: int, stride: int, shortcut: Shortcut
) -> list[NetworkNode]:
    """The shortcut of a block whose shape changes."""
    if stride == 1 or shortcut == "strided":
        return [Conv2d(f"{name}.shortcut", (source,), in_shape, c_out, 1, stride)]
    pool = Pool2d(f"{name}.pool", (source,), in_shape, "average", stride, stride)
    return [pool, Conv2d(f"{name}.shortcut", (pool.name,), pool.out_shape, c_out, 1)]
