"""Networks of convolution and transformer blocks after AsCAN: what can be chosen and what it costs. No torch here; the
supernet is in ``network.py``.

Source: AsCAN (asymmetric convolution-attention networks, Snap Research, 2024): convolutions prevail in early stages,
transformer blocks in late ones, and within a stage transformer blocks come last. The widths and depths of the presets
are our own; the authors' strings of blocks are not reproduced.

A network is: stem 3x3 convolution, stages whose first block halves the map, global pooling, the classifier. Blocks are
those of ``search_spaces.operators`` and transformer blocks. These have no positions: convolutions with padding bring
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, get_args

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
from search_spaces.inverted_residual import divisible
from search_spaces.operators.blocks import CONVOLUTIONS, MIXERS, BlockName
from search_spaces.presets import resolved

MOST_TOKENS = 28  # side of the largest map that transformer blocks read
MLP_RATIO = 4
_KINDS = (
    *("dense", "depthwise3", "pointwise", "norm", "linear", "attention"),
    *("max_pool", "inception", "eca", "evonorm", "partial", "depthwise7", "aggregation"),
)
_CHOICES = 16
_LARGEST = {"resolutions": 2048, "depths": 12, "expands": 4, "widths": 8}
_AXES = ("width", "depth", "transformers", "expand", "conv")  # of a stage; the last where there is a choice


class HybridStage(BaseModel):
    """One stage: output ``width`` at multiplier 1, the kind of its convolution blocks, or several of them to choose
    from, and whether some of its blocks may be transformer blocks. Those have more weights than all kinds but
    ``fused``."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    width: int = Field(ge=8, le=2048)
    conv: BlockName | tuple[BlockName, ...]
    transformers: bool

    @model_validator(mode="after")
    def _kinds_are_chosen_well(self) -> HybridStage:
        names = [name for name in get_args(BlockName) if name in self.convs]
        if list(self.convs) != names or not names:
            raise ValueError(f"conv: expected distinct kinds in the order of {get_args(BlockName)}, got {self.conv}")
        if self.transformers and "fused" in self.convs:
            raise ValueError("transformers: expected another conv than 'fused' in a stage with them")
        if self.width % 8 and any(conv not in ("mbconv", "fused") for conv in self.convs):
            raise ValueError(f"width: expected a multiple of 8 channels for {self.convs}, got {self.width}")
        return self

    @property
    def convs(self) -> tuple[BlockName, ...]:
        """The kinds of convolution blocks, the lightest first."""
        return (self.conv,) if isinstance(self.conv, str) else self.conv


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


def _stages(*rows: tuple[int, BlockName | tuple[BlockName, ...], bool]) -> tuple[HybridStage, ...]:
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
    "digits-operators": HybridParams(
        resolutions=(6, 8), stem=16, stem_stride=1,
        stages=_stages((16, ("mbconv", "evonorm"), False), (32, ("pool", "inception", "eca", "partial", "ls"), True)),
        depths=(1, 2, 3), expands=(3,), widths=(0.5, 1.0), head_dim=16,
    ),
    "cifar-operators": HybridParams(
        resolutions=(24, 32), stem=24, stem_stride=1,
        stages=_stages(
            (32, ("mbconv", "fused"), False),
            (64, ("pool", "inception", "mbconv", "eca", "partial", "ls"), True),
            (128, ("pool", "inception", "mbconv", "eca", "partial", "ls"), True),
        ),
        depths=(1, 2, 3, 4), expands=(3,), widths=(0.5, 0.75, 1.0), head_dim=32,
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

    Genes in order: resolution; then for each stage width, depth, transformer blocks, expansion and, where there is a
    choice, the kind of its convolution blocks. The first block of a stage is always a convolution block: an inverted
    residual where the kind keeps the shape of its input.
    """

    name: ClassVar[str] = "hybrid"

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Resolution; then width, depth, transformer blocks, expansion and kind of convolutions of each stage."""
        c = self.config
        out = [Decision("resolution", c.resolutions)]
        for s, stage in enumerate(c.stages):
            transformer_counts = tuple(range(c.depths[-1] if stage.transformers else 1))
            choices = (c.widths, c.depths, transformer_counts, c.expands, stage.convs)
            of_stage = zip(_AXES, choices, strict=True)
            out += [Decision(f"stage{s + 1}.{a}", v) for a, v in of_stage if a != "conv" or len(v) > 1]
        return tuple(out)

    @cached_property
    def _places(self) -> list[dict[str, int]]:
        """The positions of the genes of each stage, by axis."""
        stages: list[dict[str, int]] = [{} for _ in self.config.stages]
        for g, decision in enumerate(self.decisions[1:], start=1):
            stage, _, axis = decision.name.partition(".")
            stages[int(stage.removeprefix("stage")) - 1][axis] = g
        return stages

    def canonical(self, genes_NG: Genes) -> Genes:
        """Transformer blocks set to as many as there are: at most all blocks of a stage but the first, none on maps of
        more than 28x28, and no larger share of the blocks than in the next stage (asymmetry). Of kinds of convolutions
        that give the same single block, the first."""
        out, c = genes_NG.copy(), self.config
        depths, sides = np.array(c.depths), np.array([self._sides(r) for r in c.resolutions])
        share_N = np.ones(len(genes_NG))
        for s in reversed(range(len(c.stages))):
            gene = self._places[s]
            depth_N, side_N = depths[genes_NG[:, gene["depth"]]], sides[genes_NG[:, 0], s + 1]
            allowed_N = np.where(side_N > MOST_TOKENS, 0, np.minimum(depth_N - 1, np.floor(share_N * depth_N + 1e-9)))
            transformers_N = np.minimum(out[:, gene["transformers"]], allowed_N)
            out[:, gene["transformers"]] = transformers_N
            share_N = transformers_N / depth_N if c.stages[s].transformers else share_N
            if "conv" in gene:
                is_single_N = depth_N - transformers_N == 1
                out[:, gene["conv"]] = np.where(
                    is_single_N, self._first_alike(s)[out[:, gene["conv"]]], out[:, gene["conv"]]
                )
        return out

    def _first_alike(self, s: int) -> Genes:
        """For each kind of convolution of a stage, the first that begins a stage with the same block."""
        begins = ["mbconv" if conv in MIXERS else conv for conv in self.config.stages[s].convs]
        return np.array([begins.index(kind) for kind in begins], dtype=np.int64)

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

        kinds = range(max(len(stage.convs) for stage in self.config.stages))
        convolutions = [self._largest(transformers=0, conv=kind) for kind in reversed(kinds)]
        # On the smallest image, no stage has too many tokens that has fewer on another.
        transformers = self._largest(resolution=0)
        return HybridSupernet(convolutions, transformers, self.config.dropout, self.network, seed)

    def _largest(self, **by_axis: int) -> Network:
        """The largest network, but for the genes of some axes, as far as there are so many choices."""
        genes = [min(by_axis.get(d.axis, len(d.choices)), len(d.choices) - 1) for d in self.decisions]
        return self.network(Arch(self.id, tuple(genes)))

    @cached_property
    def chain(self) -> BlockChain:
        """Stem, the stages, head."""
        c = self.config
        blocks = [ChainBlock("stem", (0,), self._stem)]
        before: tuple[int, ...] = ()  # position of the gene of the previous width
        widths: tuple[int, ...] = (c.stem,)
        for s, stage in enumerate(c.stages):
            gene = self._places[s]
            blocks.append(ChainBlock(f"stage{s + 1}", (0, *before, *gene.values()), self._stage(s, widths)))
            before, widths = (gene["width"],), tuple(self.width(stage, multiplier) for multiplier in c.widths)
        blocks.append(ChainBlock("head", (0, *before), self._head(widths)))
        return BlockChain(self.decisions, blocks, _KINDS, self.shape.channels, marks=())

    def _stem(self, _: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
        c, resolution = self.config, self.config.resolutions[choices[0]]
        image = (self.shape.channels, resolution, resolution)
        return [Conv2d("stem", (source,), image, c.stem, 3, c.stem_stride, activation="swish")]

    def _stage(self, s: int, widths_before: Sequence[int]) -> NodeFactory:
        """A stage by resolution, previous width where there is a choice of it, width, depth, transformer blocks and
        expansion."""
        c, stage = self.config, self.config.stages[s]

        def nodes(name: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
            previous = choices[1 : -len(self._places[s])]
            width, depth, transformers, expand, *conv = choices[-len(self._places[s]) :]
            resolution, kind = choices[0], stage.convs[conv[0] if conv else 0]
            side = self._sides(c.resolutions[resolution])[s]
            shape = (widths_before[previous[0] if previous else 0], side, side)
            blocks = c.depths[depth]
            convolutions = max(1, blocks - transformers)
            out: list[NetworkNode] = []
            for b in range(convolutions):
                word = "block" if kind == "mbconv" or len(stage.convs) == 1 or (kind in MIXERS and b == 0) else kind
                block, c_out = f"{name}.{word}{b + 1}", self.width(stage, c.widths[width])
                out += _convolution_block(kind, block, source, shape, c_out, b == 0, c.expands[expand])
                source, shape = out[-1].name, out[-1].out_shape
            return [*out, *self._attend(name, source, shape, range(convolutions, blocks))]

        return nodes

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


def _convolution_block(
    kind: BlockName, name: str, source: str, shape: MapShape, c_out: int, is_first: bool, expand: float
) -> list[NetworkNode]:
    """A block of a stage, whose first halves the map: an inverted residual where its kind keeps the shape."""
    if kind not in MIXERS:
        return CONVOLUTIONS[kind](name, source, shape, c_out, 2 if is_first else 1, expand)
    if is_first:
        return CONVOLUTIONS["mbconv"](name, source, shape, c_out, 2, expand)
    return MIXERS[kind](name, source, shape, expand)
