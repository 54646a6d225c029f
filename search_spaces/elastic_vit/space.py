"""Vision transformers of variable resolution, width, depth, heads and MLP ratio: what can be chosen and what it costs.
No torch here; the supernet is in ``network.py``.

Sources: ViT (Dosovitskiy et al., ICLR 2021) and DeiT (Touvron et al., ICML 2021) for the network, AutoFormer (Chen et
al., ICCV 2021) for what is elastic, Scala (Zhang et al., 2024) for the slices of channels that networks of different
sizes use. AutoFormer's relative positions are left out: positions are learned, as in DeiT.

A network is: patches as tokens, blocks of self-attention and MLP, the class token or the mean of all, layer norm, the
classifier. The number of channels of a head is the same for all networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

from nas.core.arch import Arch, Decision, Genes
from nas.core.errors import InvalidSpec
from nas.core.layers import Linear
from nas.core.network import Network, NetworkNode
from nas.core.parent import ParentModel, Preprocessing
from nas.core.plugins import SearchSpaceType
from nas.core.ports import ImageShape
from nas.core.token_layers import LayerNorm, PatchEmbedding, TokenPool
from nas.spaces.block_chain import BlockChain, ChainBlock, NodeFactory
from nas.spaces.chain_space import ChainSpace
from nas.spaces.transformer import transformer_block
from search_spaces.elastic_vit.learngene import Sharing
from search_spaces.elastic_vit.start import TransformerStart
from search_spaces.presets import resolved

_CHOICES = 32
_LARGEST = {"resolutions": 2048, "widths": 4096, "depths": 64, "heads": 64, "ratios": 8}
_KINDS = ("patches", "norm", "linear", "attention")


def _is_none(value: object) -> bool:
    return value is None


class ElasticVitParams(BaseModel):
    """Everything that sizes the space. Choices are sorted, smallest network first.

    ``resolutions``: sides of the image, multiples of ``patch``. ``widths``: channels of a token. ``depths``: blocks.
    ``heads`` and ``ratios`` are chosen for each block: heads of ``head_dim`` channels, and units of the MLP relative to
    the width. ``pooling``: what the classifier reads, a class token or the mean of all tokens. ``slices``: narrow
    networks use the ``first`` channels, heads and units of the shared weights, or, ``isolated``, only the smallest
    network does, and those between it and the largest use the last ones (Scala). ``sharing``: blocks have no weights of
    their own, but are expanded from two by their depth (``linear``, TLEG), or share those of ``shared_stages``
    (``stages``, SWS). ``start``: what a user's model gives: all its weights, or, where it is a network of a space with
    that ``sharing``, blocks for networks of any depth."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    resolutions: tuple[int, ...]
    patch: int = Field(ge=1, le=64)
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    head_dim: int = Field(ge=1, le=256)
    ratios: tuple[float, ...]
    pooling: Literal["class", "mean"] = "class"
    slices: Literal["first", "isolated"] = "first"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    # Left out of ids where they are as in networks that were stored before there was a choice.
    sharing: Sharing | None = Field(default=None, exclude_if=_is_none)
    shared_stages: int | None = Field(default=None, ge=1, le=64, exclude_if=_is_none)
    start: Sharing | None = Field(default=None, exclude_if=_is_none)

    @model_validator(mode="after")
    def _choices_are_sane(self) -> ElasticVitParams:
        for name, largest in _LARGEST.items():
            value = getattr(self, name)
            if not 0 < len(value) <= _CHOICES or not all(0 < v <= largest for v in value):
                raise ValueError(
                    f"{name}: expected 1 to {_CHOICES} choices above 0 and up to {largest}, got {value[:4]}..."
                )
            if list(value) != sorted(set(value)):
                raise ValueError(f"{name}: expected distinct choices in rising order, got {value}")
        if any(resolution % self.patch for resolution in self.resolutions):
            raise ValueError(f"resolutions: expected multiples of the patch, {self.patch}, got {self.resolutions}")
        return self

    @model_validator(mode="after")
    def _stages_are_shared(self) -> ElasticVitParams:
        if (self.sharing == "stages") != (self.shared_stages is not None):
            raise ValueError("shared_stages: expected a number beside 'sharing: stages', and none without")
        if self.shared_stages is not None and self.shared_stages > self.depths[0]:
            raise ValueError(
                f"shared_stages: expected at most {self.depths[0]}, the blocks of the shallowest network, got "
                f"{self.shared_stages}"
            )
        return self

    def tokens(self, resolution: int) -> int:
        """Tokens of an image, the class token included."""
        return (resolution // self.patch) ** 2 + (self.pooling == "class")

    def hidden(self, width: int, ratio: float) -> int:
        """Units of an MLP."""
        return max(1, int(width * ratio))


def _imagenet(widths: tuple[int, ...], heads: tuple[int, ...]) -> ElasticVitParams:
    return ElasticVitParams(
        resolutions=(160, 192, 224), patch=16, widths=widths, depths=(10, 11, 12), heads=heads, head_dim=64,
        ratios=(2.0, 3.0, 4.0),
    )  # fmt: skip


PRESETS: dict[str, ElasticVitParams] = {
    "digits": ElasticVitParams(
        resolutions=(6, 8), patch=2, widths=(24, 32, 48), depths=(2, 3, 4), heads=(1, 2, 3), head_dim=16,
        ratios=(1.0, 2.0, 3.0), pooling="mean",
    ),
    "cifar": ElasticVitParams(
        resolutions=(24, 28, 32), patch=4, widths=(96, 128, 192), depths=(4, 5, 6, 7), heads=(2, 3, 4, 6), head_dim=32,
        ratios=(1.0, 2.0, 3.0), pooling="mean",
    ),
    "deit-tiny": _imagenet((128, 160, 192), (2, 3)),
    "deit-small": _imagenet((192, 256, 320, 384), (3, 4, 5, 6)),
    "autoformer-tiny": ElasticVitParams(
        resolutions=(224,), patch=16, widths=(192, 216, 240), depths=(12, 13, 14), heads=(3, 4), head_dim=64,
        ratios=(3.0, 3.5, 4.0),
    ),
}  # fmt: skip

_DEIT = {"DeiT-tiny": (192, 3), "DeiT-small": (384, 6)}
"""Width and heads (Touvron et al., table 1); 12 blocks of MLP ratio 4, patches of 16, 224 pixels."""
_AUTOFORMER_TINY = (
    (3.5, 3.5, 3.0, 3.5, 3.0, 3.0, 4.0, 4.0, 3.5, 4.0, 3.5, 4.0, 3.5),
    (3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 3, 3),
)
"""AutoFormer-tiny, MLP ratios and heads of its 13 blocks of width 192, as recalled from the authors' configuration; its
parameters and MACs are those that they print."""


def build(params: Mapping[str, JsonValue], shape: ImageShape, parent: ParentModel | None = None) -> ElasticVit:
    """The space for ``params`` (``preset`` plus overrides) and the data's channels and classes. ``parent``: a trained
    vision transformer, whose weights the supernet begins with.

    Raises UnknownName for a preset, InvalidSpec for unknown or impossible parameters and for a parent that is not the
    largest network.
    """
    return ElasticVit(resolved("elastic_vit", params, PRESETS, "digits"), shape, parent)


ELASTIC_VIT = SearchSpaceType(
    "elastic_vit",
    "Vision transformers of variable resolution, width, depth, heads and MLP ratio.",
    build,
    tuple(PRESETS),
    build_from=build,
    published={name: {"preset": name.lower()} for name in (*_DEIT, "AutoFormer-tiny")},
)


class ElasticVit(ChainSpace[ElasticVitParams]):
    """The space as the engine sees it (``nas.core.ports.SearchSpace``).

    Genes in order: resolution, width, depth; then for each block heads and MLP ratio.
    """

    name: ClassVar[str] = "elastic_vit"

    def __init__(self, config: ElasticVitParams, shape: ImageShape, parent: ParentModel | None = None) -> None:
        super().__init__(config, shape)
        if parent is None and config.start is not None:
            raise InvalidSpec(f"start: expected a model to begin with beside {config.start!r}, got none")
        if parent is not None and config.sharing is not None:
            raise InvalidSpec(f"sharing: expected none beside a model to begin with, got {config.sharing!r}")
        self._start = None if parent is None else TransformerStart.of(parent, self._ends[1], config.start)
        if self._start is not None and self._start.side not in config.resolutions:
            raise InvalidSpec(f"resolutions: expected {self._start.side} of the model, got {config.resolutions}")

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """Resolution, width and depth; then heads and ratio of each block."""
        c = self.config
        out = [Decision("resolution", c.resolutions), Decision("width", c.widths), Decision("depth", c.depths)]
        for b in range(c.depths[-1]):
            out += [Decision(f"encoder.block{b + 1}.heads", c.heads), Decision(f"encoder.block{b + 1}.ratio", c.ratios)]
        return tuple(out)

    def canonical(self, genes_NG: Genes) -> Genes:
        """Genes of blocks beyond the depth set to 0."""
        out = genes_NG.copy()
        depth_N = np.array(self.config.depths)[genes_NG[:, 2]]
        for b in range(self.config.depths[-1]):
            out[depth_N <= b, 3 + 2 * b : 5 + 2 * b] = 0
        return out

    @cached_property
    def published(self) -> Mapping[str, tuple[int, ...]]:
        """Those of DeiT-tiny, DeiT-small and AutoFormer-tiny that the space has."""
        deit = {name: self._genes(width, [(heads, 4.0)] * 12) for name, (width, heads) in _DEIT.items()}
        ratios, heads = _AUTOFORMER_TINY
        autoformer = self._genes(192, list(zip(heads, ratios, strict=True)))
        named = {**deit, "AutoFormer-tiny": autoformer}
        return {name: genes for name, genes in named.items() if genes is not None}

    def _genes(self, width: int, blocks: Sequence[tuple[int, float]]) -> tuple[int, ...] | None:
        """The genes of a network with patches of 16 of 224 pixels and a class token; ``blocks``: heads and ratio of
        each. None: the space lacks it."""
        c = self.config
        is_alike = (c.patch, c.head_dim, c.pooling) == (16, 64, "class")
        has_sizes = 224 in c.resolutions and width in c.widths and len(blocks) in c.depths
        if not is_alike or not has_sizes or not all(h in c.heads and r in c.ratios for h, r in blocks):
            return None
        of_blocks = [(c.heads.index(heads), c.ratios.index(ratio)) for heads, ratio in blocks]
        of_blocks += [(0, 0)] * (c.depths[-1] - len(blocks))
        first = (c.resolutions.index(224), c.widths.index(width), c.depths.index(len(blocks)))
        return (*first, *(gene for genes in of_blocks for gene in genes))

    def supernet(self, seed: int) -> Any:
        """A fresh supernet, weights drawn from ``seed``."""
        from search_spaces.elastic_vit.network import ElasticVitSupernet

        c, (smallest, largest) = self.config, self._ends
        net = ElasticVitSupernet(
            smallest, largest, c.slices == "isolated", c.dropout, self.network, seed, c.sharing, c.shared_stages or 1
        )
        if self._start is not None:
            net.fill(self._start.arrays())
        return net

    @property
    def pretrained_genes(self) -> tuple[int, ...] | None:
        """Those of the model that the supernet begins with, if with all of it."""
        if self._start is None or self._start.sharing is not None:
            return None
        largest = tuple(len(d.choices) - 1 for d in self.decisions)
        return (self.config.resolutions.index(self._start.side), *largest[1:])

    @property
    def references(self) -> Mapping[str, tuple[int, ...]]:
        """The model that the supernet begins with."""
        return {} if self.pretrained_genes is None else {"parent": self.pretrained_genes}

    @property
    def preprocessing(self) -> Preprocessing | None:
        """That of the model that the supernet begins with."""
        return None if self._start is None else self._start.parent.preprocessing

    @cached_property
    def _ends(self) -> tuple[Network, Network]:
        """The smallest and the largest network."""
        return self.network(Arch(self.id, (0,) * len(self.decisions))), self.largest_network

    @cached_property
    def chain(self) -> BlockChain:
        """Patches, the blocks, head."""
        depths = self.config.depths
        blocks = [ChainBlock("patches", (0, 1), self._patches)]
        block = self._block()
        for b in range(depths[-1]):
            shallowest = next(i for i, depth in enumerate(depths) if depth > b)
            required = (2, shallowest) if shallowest > 0 else None
            blocks.append(ChainBlock(f"encoder.block{b + 1}", (0, 1, 3 + 2 * b, 4 + 2 * b), block, required))
        blocks.append(ChainBlock("head", (0, 1), self._head))
        return BlockChain(self.decisions, blocks, _KINDS, self.shape.channels, marks=("attention",))

    def _patches(self, _: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
        c = self.config
        resolution, width = c.resolutions[choices[0]], c.widths[choices[1]]
        image = (self.shape.channels, resolution, resolution)
        return [PatchEmbedding("patches", (source,), image, width, c.patch, c.pooling == "class")]

    def _block(self) -> NodeFactory:
        """A block by resolution, width, heads and ratio."""
        c = self.config

        def nodes(name: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
            resolution, width, heads, ratio = choices
            shape = (c.widths[width], c.tokens(c.resolutions[resolution]), 1)
            hidden = c.hidden(c.widths[width], c.ratios[ratio])
            return transformer_block(name, source, shape, c.heads[heads], c.head_dim, hidden)

        return nodes

    def _head(self, _: str, source: str, choices: tuple[int, ...]) -> list[NetworkNode]:
        c = self.config
        shape = (c.widths[choices[1]], c.tokens(c.resolutions[choices[0]]), 1)
        pool = TokenPool("pool", (source,), shape, c.pooling)
        norm = LayerNorm("norm", (pool.name,), pool.out_shape)
        return [pool, norm, Linear("classifier", (norm.name,), norm.out_shape, self.shape.classes)]
