"""The space of AttentiveNAS and AlphaNet (Wang et al., CVPR 2021 and ICML 2021). No torch here; the supernet is in
``network.py``.

A network is: stem 3x3 convolution, seven stages of inverted-residual blocks, a 1x1 convolution that expands six times,
global pooling, a hidden layer, the classifier; swish everywhere. Resolution and the widths of stem and hidden layer can
be chosen, and for each stage as a whole width, depth, kernel and expansion. Every block has a skip connection: where
its shape changes, the input is averaged over pixels and convolved by 1x1 filters. The first stage does not expand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue

from nas.core.arch import Decision, Genes
from nas.core.layers import Activation, Conv2d, GlobalAveragePool, Linear
from nas.core.network import NetworkNode
from nas.core.plugins import SearchSpaceType
from nas.core.ports import ImageShape
from nas.spaces.block_chain import BlockChain, ChainBlock, NodeFactory
from nas.spaces.chain_space import ChainSpace, MapSize, strided
from search_spaces.inverted_residual import InvertedResidual
from search_spaces.presets import resolved

_SWISH: Activation = "swish"
_CHOICES = 64  # of a decision, at most


def _rising(values: tuple[int, ...]) -> tuple[int, ...]:
    if list(values) != sorted(set(values)):
        raise ValueError(f"expected distinct choices in rising order, got {values}")
    return values


def _odd(values: tuple[int, ...]) -> tuple[int, ...]:
    if any(value % 2 == 0 for value in values):
        raise ValueError(f"expected odd sizes, got {values}")
    return values


_NotEmpty = Field(min_length=1, max_length=_CHOICES)
Widths = Annotated[tuple[Annotated[int, Field(ge=8, le=4096, multiple_of=8)], ...], _NotEmpty, AfterValidator(_rising)]
Resolutions = Annotated[tuple[Annotated[int, Field(ge=4, le=2048)], ...], _NotEmpty, AfterValidator(_rising)]
Depths = Annotated[tuple[Annotated[int, Field(ge=1, le=16)], ...], _NotEmpty, AfterValidator(_rising)]
Expands = Annotated[tuple[Annotated[int, Field(ge=1, le=16)], ...], _NotEmpty, AfterValidator(_rising)]
Kernels = Annotated[
    tuple[Annotated[int, Field(ge=1, le=31)], ...], _NotEmpty, AfterValidator(_rising), AfterValidator(_odd)
]


class ElasticStage(BaseModel):
    """The choices of one stage, ``stride`` of its first block, squeeze-excite. Blocks that expand by 1 alone have no
    expansion."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    widths: Widths
    depths: Depths
    kernels: Kernels = (3, 5)
    expands: Expands
    stride: Literal[1, 2]
    se: bool


class SpaceParams(BaseModel):
    """Everything that sizes the space. Choices are sorted, smallest network first. ``final_expand``: of the convolution
    before pooling; ``head``: widths of the hidden layer."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    resolutions: Resolutions
    stem: Widths
    stem_stride: Literal[1, 2]
    stages: tuple[ElasticStage, ...] = Field(min_length=1, max_length=16)
    final_expand: int = Field(default=6, ge=1, le=16)
    head: Widths
    dropout: float = Field(default=0.2, ge=0, lt=1)


Row = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], Literal[1, 2], bool]


def _stages(*rows: Row) -> tuple[ElasticStage, ...]:
    return tuple(ElasticStage(widths=w, depths=d, expands=e, stride=s, se=se) for w, d, e, s, se in rows)


PRESETS: dict[str, SpaceParams] = {
    "digits": SpaceParams(
        resolutions=(4, 8, 12),
        stem=(8, 16),
        stem_stride=1,
        stages=_stages(
            ((8, 16), (1, 2), (1,), 1, False),
            ((16, 24), (1, 2, 3), (2, 3), 2, False),
            ((24, 32), (1, 2), (2, 3), 2, True),
        ),
        final_expand=2,
        head=(64, 96),
    ),
    "cifar": SpaceParams(
        resolutions=(24, 28, 32),
        stem=(16, 24),
        stem_stride=1,
        stages=_stages(
            ((16, 24), (1, 2), (1,), 1, False),
            ((24, 32), (2, 3), (3, 4), 1, False),
            ((32, 40), (2, 3, 4), (3, 4), 2, True),
            ((64, 72), (2, 3, 4), (3, 4), 2, False),
            ((112, 120), (2, 3, 4), (3, 4), 1, True),
            ((160, 168, 176), (2, 3, 4), (6,), 2, True),
        ),
        final_expand=4,
        head=(640, 768),
    ),
    "imagenet": SpaceParams(
        resolutions=(192, 224, 256, 288),
        stem=(16, 24),
        stem_stride=2,
        stages=_stages(
            ((16, 24), (1, 2), (1,), 1, False),
            ((24, 32), (3, 4, 5), (4, 5, 6), 2, False),
            ((32, 40), (3, 4, 5, 6), (4, 5, 6), 2, True),
            ((64, 72), (3, 4, 5, 6), (4, 5, 6), 2, False),
            ((112, 120, 128), (3, 4, 5, 6, 7, 8), (4, 5, 6), 1, True),
            ((192, 200, 208, 216), (3, 4, 5, 6, 7, 8), (6,), 2, True),
            ((216, 224), (1, 2), (6,), 1, True),
        ),
        head=(1792, 1984),
    ),
}

PUBLISHED: dict[str, tuple[int, tuple[int, ...], str, str, str]] = {
    "AttentiveNAS-A0": (192, (16, 16, 24, 32, 64, 112, 192, 216, 1792), "1333331", "3333333", "1444466"),
    "AttentiveNAS-A1": (224, (16, 16, 24, 32, 64, 112, 192, 216, 1984), "1333331", "3335353", "1444466"),
    "AttentiveNAS-A2": (224, (16, 16, 24, 32, 64, 112, 200, 224, 1984), "1333341", "3333353", "1454466"),
    "AttentiveNAS-A3": (224, (16, 16, 24, 32, 64, 112, 208, 224, 1984), "2334351", "3335333", "1444466"),
    "AttentiveNAS-A4": (256, (16, 16, 24, 32, 64, 112, 192, 216, 1984), "1334351", "3335353", "1445466"),
    "AttentiveNAS-A5": (256, (16, 16, 24, 32, 72, 112, 192, 216, 1792), "1333461", "3335333", "1454466"),
    "AttentiveNAS-A6": (288, (16, 16, 24, 32, 64, 112, 216, 224, 1984), "1334461", "3333353", "1465466"),
}
"""The published networks: resolution, widths from stem to head, and depth, kernel and expansion, a digit a stage."""


def build(params: Mapping[str, JsonValue], shape: ImageShape) -> AttentiveNAS:
    """The space for ``params`` (``preset``, by default ``cifar``, plus overrides) and the data's channels and classes.

    Raises UnknownName for a preset, InvalidSpec for unknown or impossible parameters.
    """
    return AttentiveNAS(resolved("attentive_nas", params, PRESETS, "cifar"), shape)


ATTENTIVE_NAS = SearchSpaceType(
    "attentive_nas",
    "The space of AttentiveNAS and AlphaNet: resolution, and width, depth, kernel and expansion of each stage.",
    build,
    tuple(PRESETS),
    published={name: {"preset": "imagenet"} for name in PUBLISHED},
    any_shape=True,
)
_PER_STAGE = 4  # genes: width, depth, kernel, expand


class AttentiveNAS(ChainSpace[SpaceParams]):
    """The space as the engine sees it (``nas.core.ports.SearchSpace``).

    Genes in order: resolution, width of the stem; then per stage width, depth, kernel, expand; width of the head.
    """

    name = "attentive_nas"

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Resolution, the stem's width, those of each stage, the head's width."""
        c = self.config
        out = [Decision("resolution", c.resolutions), Decision("stem.width", c.stem)]
        for s, stage in enumerate(c.stages, start=1):
            out += [Decision(f"stage{s}.width", stage.widths), Decision(f"stage{s}.depth", stage.depths)]
            out += [Decision(f"stage{s}.kernel", stage.kernels), Decision(f"stage{s}.expand", stage.expands)]
        return (*out, Decision("head.width", c.head))

    def canonical(self, genes_NG: Genes) -> Genes:
        """As they are: every decision has an effect."""
        return genes_NG.copy()

    @cached_property
    def published(self) -> Mapping[str, tuple[int, ...]]:
        """AttentiveNAS-A0 to A6, in the preset ``imagenet``."""
        if self.config != PRESETS["imagenet"]:
            return {}
        return {name: self._genes(*network) for name, network in PUBLISHED.items()}

    def _genes(
        self, resolution: int, widths: Sequence[int], depths: str, kernels: str, expands: str
    ) -> tuple[int, ...]:
        stages = zip(widths[1:-1], map(int, depths), map(int, kernels), map(int, expands), strict=True)
        published = [resolution, widths[0], *(choice for stage in stages for choice in stage), widths[-1]]
        return tuple(d.choices.index(choice) for d, choice in zip(self.decisions, published, strict=True))

    def supernet(self, seed: int) -> Any:
        """A fresh supernet, weights drawn from ``seed``."""
        from search_spaces.attentive_nas.network import AttentiveNASSupernet

        kernels = [stage.kernels for stage in self.config.stages]
        return AttentiveNASSupernet(self.largest_network, kernels, self.config.dropout, self.network, seed)

    @cached_property
    def chain(self) -> BlockChain:
        """Stem, the blocks of each stage, head."""
        c = self.config
        maps = strided([self.size_of(resolution) for resolution in c.resolutions], c.stem_stride)
        blocks, width_gene, widths = [ChainBlock("stem", (0, 1), self._stem)], 1, c.stem
        for s, stage in enumerate(c.stages):
            start = 2 + s * _PER_STAGE
            first = _stage_block(stage, maps, stage.stride, widths)
            maps = strided(maps, stage.stride)
            later = _stage_block(stage, maps, 1, None)
            for b in range(stage.depths[-1]):
                own = (start, start + 2, start + 3)
                genes = (0, *own) if b else (0, width_gene, *own)
                shallowest = next(i for i, depth in enumerate(stage.depths) if depth > b)
                required = (start + 1, shallowest) if shallowest > 0 else None
                blocks.append(ChainBlock(f"stage{s + 1}.block{b + 1}", genes, later if b else first, required))
            width_gene, widths = start, stage.widths
        blocks.append(ChainBlock("head", (0, width_gene, len(self.decisions) - 1), self._head(maps, widths)))
        kernels = sorted({kernel for stage in c.stages for kernel in stage.kernels})
        kinds = ("dense", *(f"depthwise{kernel}" for kernel in kernels), "pointwise", "se", "linear", "pool")
        return BlockChain(self.decisions, blocks, kinds, self.shape.channels)

    def _stem(self, _: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
        c, resolution = self.config, self.config.resolutions[choices[0]]
        image = (self.shape.channels, *self.size_of(resolution))
        return [Conv2d("stem", (source,), image, c.stem[choices[1]], 3, c.stem_stride, activation=_SWISH)]

    def _head(self, maps: Sequence[MapSize], widths: Sequence[int]) -> NodeFactory:
        c, classes = self.config, self.shape.classes

        def nodes(_: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
            resolution, width, hidden_width = choices
            shape = (widths[width], *maps[resolution])
            final = Conv2d("final", (source,), shape, c.final_expand * shape[0], 1, activation=_SWISH)
            pool = GlobalAveragePool("pool", (final.name,), final.out_shape)
            hidden = Linear("hidden", (pool.name,), pool.out_shape, c.head[hidden_width], bias=False, activation=_SWISH)
            return [final, pool, hidden, Linear("classifier", (hidden.name,), hidden.out_shape, classes)]

        return nodes


def _stage_block(
    stage: ElasticStage, maps: Sequence[MapSize], stride: int, widths_before: Sequence[int] | None
) -> NodeFactory:
    """Blocks by resolution, width of the previous stage (None: the own width), own width, kernel and expansion."""

    def nodes(name: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
        resolution, *previous, width, kernel, expand = choices
        c_out, size = stage.widths[width], maps[resolution]
        c_in = c_out if widths_before is None else widths_before[previous[0]]
        block = InvertedResidual(
            c_out,
            stage.kernels[kernel],
            stage.expands[expand],
            stride,
            _SWISH,
            stage.se,
            always_expands=stage.expands != (1,),
            is_always_residual=True,
        )
        return block.nodes(name, source, (c_in, *size))

    return nodes
