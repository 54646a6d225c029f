"""Networks of convolution and transformer blocks after AsCAN: what can be chosen and what it costs. No torch here; the
supernet is in ``network.py``.

Source: AsCAN (asymmetric convolution-attention networks, Snap Research, 2024): convolutions prevail in early stages,
transformer blocks in late ones, and within a stage transformer blocks come last. The widths and depths of the presets
are our own; the authors' strings of blocks are not reproduced.

A network is: stem 3x3 convolution, stages whose first block halves the map, global pooling, the classifier. Blocks are
inverted residuals (MBConv, MobileNetV2), fused ones, whose expansion is a 3x3 convolution (FusedMBConv, EfficientNetV2,
Tan and Le, ICML 2021), and transformer blocks. These have no positions: convolutions with padding bring them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from nas.core.arch import Arch, Decision, Floats, Genes
from nas.core.graph import GraphEncoding
from nas.core.layers import Conv2d, GlobalAveragePool, Linear, MapShape
from nas.core.network import Network, NetworkNode
from nas.core.plugins import SearchSpaceType
from nas.core.ports import ImageShape
from nas.core.token_layers import MapToTokens, TokensToMap
from nas.spaces.block_chain import BlockChain, ChainBlock, NodeFactory
from nas.spaces.chain_space import ChainSpace
from nas.spaces.transformer import transformer_block
from search_spaces.inverted_residual import InvertedResidual, divisible
from search_spaces.presets import resolved

MOST_TOKENS = 28  # side of the largest map that transformer blocks read
MLP_RATIO = 4
_CHOICES = 16
_LARGEST = {"resolutions": 2048, "depths": 12, "expands": 4, "widths": 8}
_GENES = 4  # of a stage: width, depth, transformers, expand


class HybridStage(BaseModel):
    """One stage: output ``width`` at multiplier 1, its convolution blocks, and whether some of its blocks may be
    transformer blocks, which only ``mbconv`` stages have, since they have more weights than those."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    width: int = Field(ge=8, le=2048)
    conv: Literal["mbconv", "fused"]
    transformers: bool

    @model_validator(mode="after")
    def _transformers_are_larger(self) -> HybridStage:
        if self.transformers and self.conv == "fused":
            raise ValueError("transformers: expected conv 'mbconv' in a stage with them, got 'fused'")
        return self


class HybridParams(BaseModel):
    """Everything that sizes the space. Choices are sorted, smallest network first; ``widths`` multiply those of all
    stages, rounded to whole heads of ``head_dim`` channels."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    resolutions: tuple[int, ...]
    stem: int = Field(ge=8, le=512)
    stem_stride: Literal[1, 2]
    stages: tuple[HybridStage, ...] = Field(min_length=1, max_length=6)
    depths: tuple[int, ...]
    expands: tuple[float, ...]
    widths: tuple[float, ...]
    head_dim: int = Field(ge=4, le=256)
    dropout: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _choices_are_sane(self) -> HybridParams:
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            if not 0 < len(value) <= _CHOICES or not all(0 < v <= largest for v in value):
                raise ValueError(f"{name}: expected 1 to {_CHOICES} choices above 0 and up to {largest}, got {value}")
            if list(value) != sorted(set(value)):
                raise ValueError(f"{name}: expected distinct choices in rising order, got {value}")
        if self.resolutions[0] < 4:
            raise ValueError(f"resolutions: expected at least 4 pixels, got {self.resolutions[0]}")
        return self


def _stages(*rows: tuple[int, Literal["mbconv", "fused"], bool]) -> tuple[HybridStage, ...]:
    return tuple(HybridStage(width=width, conv=conv, transformers=has) for width, conv, has in rows)


PRESETS: dict[str, HybridParams] = {
    "digits": HybridParams(
        resolutions=(6, 8), stem=16, stem_stride=1,
        stages=_stages((16, "fused", False), (32, "mbconv", True)),
        depths=(1, 2, 3), expands=(2, 3, 4), widths=(0.5, 1.0), head_dim=8,
    ),
    "cifar": HybridParams(
        resolutions=(24, 28, 32), stem=24, stem_stride=1,
        stages=_stages((32, "fused", False), (64, "mbconv", True), (128, "mbconv", True)),
        depths=(1, 2, 3, 4), expands=(2, 3, 4), widths=(0.5, 0.75, 1.0), head_dim=32,
    ),
    "imagenet": HybridParams(
        resolutions=(160, 192, 224), stem=32, stem_stride=2,
        stages=_stages((64, "fused", False), (96, "fused", False), (192, "mbconv", True), (384, "mbconv", True)),
        depths=(2, 3, 4, 5), expands=(2, 3, 4), widths=(0.5, 0.75, 1.0), head_dim=32,
    ),
}  # fmt: skip


def build(params: Mapping[str, JsonValue], shape: ImageShape) -> Hybrid:
    """The space for ``params`` (``preset`` plus overrides) and the data's channels and classes.

    Raises UnknownName for a preset, InvalidSpec for unknown or impossible parameters.
    """
    return Hybrid(resolved("hybrid", params, PRESETS, "digits"), shape)


HYBRID = SearchSpaceType(
    "hybrid",
    "Networks of convolution blocks in early stages and transformer blocks in late ones (AsCAN).",
    build,
    tuple(PRESETS),
)


class Hybrid(ChainSpace[HybridParams]):
    """The space as the engine sees it (``nas.core.ports.SearchSpace``).

    Genes in order: resolution; then for each stage width, depth, transformer blocks and expansion. The first block of
    a stage is always a convolution block.
    """

    name: ClassVar[str] = "hybrid"

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Resolution; then width, depth, transformer blocks and expansion of each stage."""
        c = self.config
        out = [Decision("resolution", c.resolutions)]
        for s, stage in enumerate(c.stages):
            transformer_counts = c.depths[-1] if stage.transformers else 1
            out += [Decision(f"stage{s + 1}.width", c.widths), Decision(f"stage{s + 1}.depth", c.depths)]
            out += [Decision(f"stage{s + 1}.transformers", tuple(range(transformer_counts)))]
            out += [Decision(f"stage{s + 1}.expand", c.expands)]
        return tuple(out)

    def canonical(self, genes_NG: Genes) -> Genes:
        """Transformer blocks set to as many as there are: at most all blocks of a stage but the first, none on maps of
        more than 28x28, and no larger share of the blocks than in the next stage (asymmetry)."""
        out, c = genes_NG.copy(), self.config
        depths, sides = np.array(c.depths), np.array([self._sides(r) for r in c.resolutions])
        share_N = np.ones(len(genes_NG))
        for s in reversed(range(len(c.stages))):
            start = 1 + _GENES * s
            depth_N, side_N = depths[genes_NG[:, start + 1]], sides[genes_NG[:, 0], s + 1]
            allowed_N = np.where(side_N > MOST_TOKENS, 0, np.minimum(depth_N - 1, np.floor(share_N * depth_N + 1e-9)))
            out[:, start + 2] = np.minimum(out[:, start + 2], allowed_N)
            share_N = out[:, start + 2] / depth_N if c.stages[s].transformers else share_N
        return out

    def _sides(self, resolution: int) -> tuple[int, ...]:
        """Sides of the maps that the stem and the stages give."""
        sides = [-(-resolution // self.config.stem_stride)]
        for _ in self.config.stages:
            sides.append(-(-sides[-1] // 2))
        return tuple(sides)

    def width(self, stage: HybridStage, multiplier: float) -> int:
        """Channels of a stage: whole heads."""
        return divisible(stage.width * multiplier, self.config.head_dim)

    def network(self, arch: Arch) -> Network:
        """The description of the canonical network."""
        [genes] = self.canonical(np.array([arch.genes], dtype=np.int64))
        return super().network(Arch(arch.space, tuple(genes.tolist())))

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """Those of the canonical networks."""
        return super().costs(self.canonical(genes_NG))

    def features(self, genes_NG: Genes) -> Floats:
        """Those of the canonical networks."""
        return super().features(self.canonical(genes_NG))

    @cached_property
    def graph_encoding(self) -> GraphEncoding:
        """The stages of ``chain``, one after the other."""
        encoding = self.chain.graph_encoding
        return GraphEncoding(encoding.graph, lambda genes_NG: encoding.columns(self.canonical(genes_NG)))

    def supernet(self, seed: int) -> Any:
        """A fresh supernet, weights drawn from ``seed``."""
        from search_spaces.hybrid.network import HybridSupernet

        largest = [len(d.choices) - 1 for d in self.decisions]
        by_axis = zip(self.decisions, largest, strict=True)
        convolutions = [0 if decision.axis == "transformers" else gene for decision, gene in by_axis]
        # On the smallest image, no stage has too many tokens that has fewer on another.
        ends = [self.network(Arch(self.id, tuple(genes))) for genes in (convolutions, [0, *largest[1:]])]
        return HybridSupernet(ends[0], ends[1], self.config.dropout, self.network, seed)

    @cached_property
    def chain(self) -> BlockChain:
        """Stem, the stages, head."""
        c = self.config
        blocks = [ChainBlock("stem", (0,), self._stem)]
        before: tuple[int, ...] = ()  # position of the gene of the previous width
        widths: tuple[int, ...] = (c.stem,)
        for s, stage in enumerate(c.stages):
            start = 1 + _GENES * s
            genes = (0, *before, *range(start, start + _GENES))
            blocks.append(ChainBlock(f"stage{s + 1}", genes, self._stage(s, widths)))
            before, widths = (start,), tuple(self.width(stage, multiplier) for multiplier in c.widths)
        blocks.append(ChainBlock("head", (0, *before), self._head(widths)))
        kinds = ("dense", "depthwise3", "pointwise", "norm", "linear", "attention")
        return BlockChain(self.decisions, blocks, kinds, self.shape.channels, marks=())

    def _stem(self, _: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
        c, resolution = self.config, self.config.resolutions[choices[0]]
        image = (self.shape.channels, resolution, resolution)
        return [Conv2d("stem", (source,), image, c.stem, 3, c.stem_stride, activation="swish")]

    def _stage(self, s: int, widths_before: Sequence[int]) -> NodeFactory:
        """A stage by resolution, previous width where there is a choice of it, width, depth, transformer blocks and
        expansion."""
        c, stage = self.config, self.config.stages[s]

        def nodes(name: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
            resolution, *previous, width, depth, transformers, expand = choices
            side = self._sides(c.resolutions[resolution])[s]
            shape = (widths_before[previous[0] if previous else 0], side, side)
            blocks = c.depths[depth]
            convolutions = max(1, blocks - transformers)
            out: list[NetworkNode] = []
            for b in range(convolutions):
                block = f"{name}.block{b + 1}"
                stride, c_out = 2 if b == 0 else 1, self.width(stage, c.widths[width])
                out += self._conv(stage, block, source, shape, c_out, stride, c.expands[expand])
                source, shape = out[-1].name, out[-1].out_shape
            return [*out, *self._attend(name, source, shape, range(convolutions, blocks))]

        return nodes

    def _conv(
        self, stage: HybridStage, name: str, source: str, shape: MapShape, c_out: int, stride: int, expand: float
    ) -> list[NetworkNode]:
        if stage.conv == "mbconv":
            return InvertedResidual(c_out, 3, expand, stride, "swish", se=False).nodes(name, source, shape)
        inner = divisible(shape[0] * expand)
        fused = Conv2d(f"{name}.expand", (source,), shape, inner, 3, stride, activation="swish")
        residual = source if stride == 1 and shape[0] == c_out else None
        return [fused, Conv2d(f"{name}.project", (fused.name,), fused.out_shape, c_out, 1, residual=residual)]

    def _attend(self, stage: str, source: str, shape: MapShape, blocks: Sequence[int]) -> list[NetworkNode]:
        """Transformer blocks on the pixels of a map as tokens."""
        if not blocks:
            return []
        to_tokens = MapToTokens(f"{stage}.tokens", (source,), shape)
        out: list[NetworkNode] = [to_tokens]
        for b in blocks:
            heads = shape[0] // self.config.head_dim
            name = f"{stage}.block{b + 1}"
            out += transformer_block(
                name, out[-1].name, to_tokens.out_shape, heads, self.config.head_dim, MLP_RATIO * shape[0]
            )
        return [*out, TokensToMap(f"{stage}.map", (out[-1].name,), to_tokens.out_shape, shape[1])]

    def _head(self, widths: Sequence[int]) -> NodeFactory:
        classes = self.shape.classes

        def nodes(_: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
            resolution, width = choices
            side = self._sides(self.config.resolutions[resolution])[-1]
            pool = GlobalAveragePool("pool", (source,), (widths[width], side, side))
            return [pool, Linear("classifier", (pool.name,), pool.out_shape, classes)]

        return nodes
