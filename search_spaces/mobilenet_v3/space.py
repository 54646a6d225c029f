"""The once-for-all MobileNetV3 space: what can be chosen and what it costs. No torch here; the supernet is in
``network.py``.

Sources: MobileNetV3 (Howard et al., ICCV 2019) for the blocks, Once-for-all (Cai et al., ICLR 2020) for the elastic
dimensions. The presets size the same space from 8x8 digits to the published ImageNet space.

A network is: stem 3x3 convolution, one fixed depthwise-separable block, stages of inverted-residual blocks, a 1x1
convolution, global pooling, a hidden layer, the classifier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from nas.core.arch import Decision, Genes, as_archs
from nas.core.layers import Activation, Conv2d, GlobalAveragePool, Linear
from nas.core.network import Network, NetworkNode
from nas.core.plugins import SearchSpaceType
from nas.core.ports import ImageShape
from nas.spaces.block_chain import BlockChain, ChainBlock, NodeFactory
from nas.spaces.chain_relaxation import ChainRelaxation
from nas.spaces.chain_space import MapSize, RelaxedChainSpace, strided
from search_spaces.inverted_residual import InvertedResidual, divisible
from search_spaces.presets import resolved


class StageParams(BaseModel):
    """One stage: output ``width`` at multiplier 1, ``stride`` of its first block, activation, squeeze-excite."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    width: int = Field(ge=8, le=2048)
    stride: Literal[1, 2]
    act: Activation
    se: bool


# What a decision can hold: a space beyond this would exhaust whoever looks at it, long before anything is trained.
_CHOICES = 64
_LARGEST = {"resolutions": 2048, "depths": 16, "kernels": 31, "expands": 16, "widths": 8}


class SpaceParams(BaseModel):
    """Everything that sizes the space. Choices are sorted, smallest network first."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    resolutions: tuple[int, ...]
    stem: int = Field(ge=8, le=512)
    stem_stride: Literal[1, 2]
    stages: tuple[StageParams, ...] = Field(min_length=1, max_length=8)
    depths: tuple[int, ...] = (2, 3, 4)
    kernels: tuple[int, ...] = (3, 5, 7)
    expands: tuple[float, ...] = (3, 4, 6)
    widths: tuple[float, ...] = (1.0,)
    final: int = Field(ge=8, le=4096)
    hidden: int = Field(ge=8, le=8192)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _choices_are_sane(self) -> SpaceParams:
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            if not 0 < len(value) <= _CHOICES or not all(0 < v <= largest for v in value):
                raise ValueError(
                    f"{name}: expected 1 to {_CHOICES} choices above 0 and up to {largest}, got {value[:4]}..."
                )
            if list(value) != sorted(set(value)):
                raise ValueError(f"{name}: expected distinct choices in rising order, got {value}")
        if any(k % 2 == 0 for k in self.kernels):
            raise ValueError(f"kernels: expected odd sizes, got {self.kernels}")
        if self.resolutions[0] < 4:
            raise ValueError(f"resolutions: expected at least 4 pixels, got {self.resolutions[0]}")
        return self


def _stages(*rows: tuple[int, Literal[1, 2], Activation, bool]) -> tuple[StageParams, ...]:
    return tuple(StageParams(width=w, stride=s, act=a, se=se) for w, s, a, se in rows)


def _imagenet(multiplier: float) -> SpaceParams:
    def width(channels: int) -> int:
        return divisible(channels * multiplier)

    return SpaceParams(
        resolutions=tuple(range(128, 225, 4)),
        stem=width(16),
        stem_stride=2,
        stages=_stages(
            (width(24), 2, "relu", False),
            (width(40), 2, "relu", True),
            (width(80), 2, "hswish", False),
            (width(112), 1, "hswish", True),
            (width(160), 2, "hswish", True),
        ),
        final=width(960),
        hidden=width(1280),
    )


PRESETS: dict[str, SpaceParams] = {
    "digits": SpaceParams(
        resolutions=(4, 8, 12, 16),
        stem=16,
        stem_stride=1,
        stages=_stages((24, 2, "relu", False), (32, 2, "relu", False), (48, 1, "hswish", True)),
        depths=(1, 2, 3, 4),
        kernels=(3, 5),
        expands=(2, 3, 4),
        widths=(0.5, 0.75, 1.0),
        final=128,
        hidden=128,
    ),
    "cifar": SpaceParams(
        resolutions=(24, 28, 32),
        stem=16,
        stem_stride=1,
        stages=_stages(
            (24, 1, "relu", False),
            (40, 2, "relu", True),
            (80, 2, "hswish", False),
            (112, 1, "hswish", True),
            (160, 2, "hswish", True),
        ),
        final=480,
        hidden=640,
    ),
    "imagenet": _imagenet(1.0),
    "imagenet-w1.2": _imagenet(1.2),
}


_LARGE = (
    ((3, 4), (3, 3)),
    ((5, 3), (5, 3), (5, 3)),
    ((3, 6), (3, 2.5), (3, 2.3), (3, 2.3)),
    ((3, 6), (3, 6)),
    ((5, 6), (5, 6), (5, 6)),
)
"""MobileNetV3-Large (Howard et al., table 1): kernel and expansion of each block, by stage."""


def build(params: Mapping[str, JsonValue], shape: ImageShape) -> MobileNetV3:
    """The space for ``params`` (``preset`` plus overrides, or all keys) and the data's channels and classes.

    Raises UnknownName for a preset, InvalidSpec for unknown or impossible parameters.
    """
    return MobileNetV3(resolved("mobilenet_v3", params, PRESETS), shape)


MOBILENET_V3 = SearchSpaceType(
    "mobilenet_v3",
    "MobileNetV3 networks of variable depth, width, kernel size, expansion and resolution.",
    build,
    tuple(PRESETS),
    relaxed=True,
    published={"MobileNetV3-Large": {"preset": "imagenet", "expands": [2.3, 2.5, 3, 4, 6]}},
    any_shape=True,
)


class MobileNetV3(RelaxedChainSpace[SpaceParams]):
    """The space as the engine sees it (``nas.core.ports.SearchSpace``).

    Genes in order: resolution; then per stage width, depth, and per block kernel, expand.
    """

    name = "mobilenet_v3"

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Resolution; then for each stage width, depth, and kernel and expansion of each block."""
        c = self.config
        out = [Decision("resolution", c.resolutions)]
        for s in range(len(c.stages)):
            out += [Decision(f"stage{s + 1}.width", c.widths), Decision(f"stage{s + 1}.depth", c.depths)]
            for b in range(c.depths[-1]):
                out += [Decision(f"stage{s + 1}.block{b + 1}.kernel", c.kernels)]
                out += [Decision(f"stage{s + 1}.block{b + 1}.expand", c.expands)]
        return tuple(out)

    # Positions of genes: resolution 0; stage s starts at 1 + s * (2 + 2 * blocks).
    def _start(self, stage: int) -> int:
        return 1 + stage * (2 + 2 * self.config.depths[-1])

    def canonical(self, genes_NG: Genes) -> Genes:
        """Kernel and expand genes of blocks beyond a stage's depth set to 0."""
        out = genes_NG.copy()
        depths = np.array(self.config.depths)
        for s in range(len(self.config.stages)):
            start = self._start(s)
            depth_N = depths[genes_NG[:, start + 1]]
            for b in range(self.config.depths[-1]):
                out[depth_N <= b, start + 2 + 2 * b : start + 4 + 2 * b] = 0
        return out

    @cached_property
    def published(self) -> Mapping[str, tuple[int, ...]]:
        """MobileNetV3-Large, where stem, stages and head are those of the ImageNet space; where the space lacks one of
        its expansions, it has the nearest."""
        published = PRESETS["imagenet"]
        fixed = {"stem", "stem_stride", "stages", "final", "hidden"}
        c = self.config
        if c.model_dump(include=fixed) != published.model_dump(include=fixed) or not set(c.depths) >= {2, 3, 4}:
            return {}
        genes = [_nearest(c.resolutions, 224)]
        for blocks in _LARGE:
            genes += [_nearest(c.widths, 1.0), c.depths.index(len(blocks))]
            for b in range(c.depths[-1]):
                kernel, expand = blocks[b] if b < len(blocks) else (c.kernels[0], c.expands[0])
                genes += [_nearest(c.kernels, kernel), _nearest(c.expands, expand)]
        return {"MobileNetV3-Large": tuple(genes)}

    @cached_property
    def chain_relaxation(self) -> ChainRelaxation:
        """A row for each block: its kernel and expansion, and ``skip`` where a stage may end before it. Resolution is
        held at that of the images, widths at the largest."""
        c = self.config
        held_G = [len(d.choices) - 1 if d.axis == "width" else 0 for d in self.decisions]
        held_G[0] = _nearest(c.resolutions, self.shape.height)
        return ChainRelaxation(self.chain, self.decisions, held_G, self.canonical)

    def supernet(self, seed: int) -> Any:
        """A fresh supernet, weights drawn from ``seed``."""
        from search_spaces.mobilenet_v3.network import MobileNetV3Supernet

        c = self.config
        return MobileNetV3Supernet(self.largest_network, c.kernels, c.dropout, self.network, self._by_operation, seed)

    def _by_operation(self) -> list[Network]:
        """For each operation of the relaxation but ``skip`` the network that has it in all blocks."""
        return [self.network(arch) for arch in as_archs(self.id, self.chain_relaxation.by_operation())]

    @cached_property
    def chain(self) -> BlockChain:
        """Stem, the blocks of each stage, head."""
        c = self.config
        maps = strided([self.size_of(resolution) for resolution in c.resolutions], c.stem_stride)
        blocks = [ChainBlock("stem", (0,), self._stem)]
        before: tuple[int, ...] = ()  # position of the gene of the previous width, if it can be chosen
        widths: tuple[int, ...] = (c.stem,)
        for s, stage in enumerate(c.stages):
            start = self._start(s)
            first = self._stage_block(stage, maps, stage.stride, widths)
            maps = strided(maps, stage.stride)
            later = self._stage_block(stage, maps, 1, None)
            for b in range(c.depths[-1]):
                genes = (0, *(before if b == 0 else ()), start, start + 2 + 2 * b, start + 3 + 2 * b)
                shallowest = next(i for i, depth in enumerate(c.depths) if depth > b)
                required = (start + 1, shallowest) if shallowest > 0 else None
                blocks.append(ChainBlock(f"stage{s + 1}.block{b + 1}", genes, later if b else first, required))
            before, widths = (start,), tuple(divisible(stage.width * width) for width in c.widths)
        blocks.append(ChainBlock("head", (0, *before), self._head(maps, widths)))
        kernels = {3, *c.kernels}  # stored predictors were fitted to features in the order of this set
        kinds = ("dense", *(f"depthwise{kernel}" for kernel in kernels), "pointwise", "se", "linear")
        return BlockChain(self.decisions, blocks, kinds, self.shape.channels)

    def _stem(self, _: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
        c, resolution = self.config, self.config.resolutions[choices[0]]
        image = (self.shape.channels, *self.size_of(resolution))
        stem = Conv2d("stem", (source,), image, c.stem, 3, c.stem_stride, activation="hswish")
        depthwise = Conv2d("first.depthwise", ("stem",), stem.out_shape, c.stem, 3, groups=c.stem, activation="relu")
        project = Conv2d("first.project", (depthwise.name,), depthwise.out_shape, c.stem, 1, residual="stem")
        return [stem, depthwise, project]

    def _stage_block(
        self, stage: StageParams, maps: Sequence[MapSize], stride: int, widths_before: Sequence[int] | None
    ) -> NodeFactory:
        """Blocks by resolution, previous width where there is a choice of it, own width, kernel and expansion.
        ``widths_before``: of the previous stage; None: the own width."""
        c = self.config

        def nodes(name: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
            resolution, *previous, width, kernel, expand = choices
            c_out, size = divisible(stage.width * c.widths[width]), maps[resolution]
            c_in = c_out if widths_before is None else widths_before[previous[0] if previous else 0]
            shape = (c_in, *size)
            return inverted_residual(name, source, shape, c_out, stride, c.kernels[kernel], c.expands[expand], stage)

        return nodes

    def _head(self, maps: Sequence[MapSize], widths: Sequence[int]) -> NodeFactory:
        c, classes = self.config, self.shape.classes

        def nodes(_: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
            resolution, width = choices
            shape = (widths[width], *maps[resolution])
            final = Conv2d("final", (source,), shape, c.final, 1, activation="hswish")
            pool = GlobalAveragePool("pool", (final.name,), final.out_shape)
            hidden = Linear("hidden", (pool.name,), pool.out_shape, c.hidden, bias=False, activation="hswish")
            return [final, pool, hidden, Linear("classifier", (hidden.name,), hidden.out_shape, classes)]

        return nodes


def _nearest(choices: Sequence[float], value: float) -> int:
    """The position of the choice nearest to a value; of two, the larger."""
    return min(range(len(choices)), key=lambda i: (abs(choices[i] - value), -choices[i]))


def inverted_residual(
    name: str,
    source: str,
    in_shape: tuple[int, int, int],
    c_out: int,
    stride: int,
    kernel: int,
    expand: float,
    stage: StageParams,
) -> list[NetworkNode]:
    """Expand 1x1, depthwise, squeeze-excite, project 1x1; a skip connection where the shape stays the same."""
    return InvertedResidual(c_out, kernel, expand, stride, stage.act, stage.se).nodes(name, source, in_shape)
