"""Typed layers of tokens, of which vision transformers are made (Dosovitskiy et al., ICLR 2021).

N tokens of C channels have the shape (C, N, 1); in an exported model they are a tensor (batch, N, C).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from nas.core.layer_base import ACTIVATION_TEXT, Activation, LayerBase, MapShape


@dataclass(frozen=True)
class PatchEmbedding(LayerBase):
    """Square patches of a map as tokens: a convolution with bias whose kernel and stride are ``patch``, with
    ``class_token`` a learned token before them, and a learned position added to each. The sides of ``in_shape`` are
    multiples of ``patch``."""

    out_channels: int
    patch: int
    class_token: bool

    op = "patches"

    @cached_property
    def detail(self) -> str:
        """Text such as ``16x16 patches + class token``."""
        return f"{self.patch}x{self.patch} patches{' + class token' if self.class_token else ''}"

    @cached_property
    def patches(self) -> int:
        """Number of patches."""
        return (self.in_shape[1] // self.patch) * (self.in_shape[2] // self.patch)

    @cached_property
    def out_shape(self) -> MapShape:
        """(out_channels, tokens, 1)."""
        return self.out_channels, self.patches + self.class_token, 1

    @cached_property
    def weights(self) -> int:
        """Numbers in the filters."""
        return self.in_shape[0] * self.patch**2 * self.out_channels

    @cached_property
    def params(self) -> int:
        """Filters and bias, positions, and the class token."""
        return self.weights + self.out_channels * (1 + self.out_shape[1] + self.class_token)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.weights * self.patches

    @property
    def window(self) -> int:
        """The side of a patch."""
        return self.patch


@dataclass(frozen=True)
class LayerNorm(LayerBase):
    """Layer norm over the channels of each token, with scale and shift."""

    op = "norm"
    detail = "layer norm"

    @cached_property
    def params(self) -> int:
        """Scale and shift."""
        return 2 * self.in_shape[0]


@dataclass(frozen=True)
class TokenLinear(LayerBase):
    """A fully connected layer with bias on every token. After it come ``activation`` and, with ``residual``, the sum
    with the output of the layer of that name."""

    out_features: int
    activation: Activation | None = None
    residual: str | None = None

    op = "linear"

    @cached_property
    def detail(self) -> str:
        """Text such as ``tokens, GELU``."""
        return ", ".join(
            filter(None, ["tokens", ACTIVATION_TEXT[self.activation], "+ input" if self.residual is not None else ""])
        )

    @cached_property
    def out_shape(self) -> MapShape:
        """(out_features, tokens, 1)."""
        return self.out_features, *self.in_shape[1:]

    @cached_property
    def weights(self) -> int:
        """Numbers in the matrix."""
        return self.in_shape[0] * self.out_features

    @cached_property
    def params(self) -> int:
        """Matrix and bias."""
        return self.weights + self.out_features

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of one image."""
        return self.weights * self.in_shape[1]


@dataclass(frozen=True)
class Attention(LayerBase):
    """Multi-head self-attention (Vaswani et al., NeurIPS 2017, section 3.2) without its linear layers. ``in_shape``:
    queries, keys and values of all heads, (3 * heads * channels of a head, tokens, 1)."""

    heads: int

    op = "attention"

    @cached_property
    def detail(self) -> str:
        """Text such as ``3 heads``."""
        return f"{self.heads} head{'s' if self.heads > 1 else ''}"

    @cached_property
    def out_shape(self) -> MapShape:
        """(heads * channels of a head, tokens, 1)."""
        return self.in_shape[0] // 3, *self.in_shape[1:]

    @cached_property
    def scores(self) -> int:
        """Numbers by which tokens attend to tokens."""
        return self.heads * self.in_shape[1] ** 2

    @cached_property
    def macs(self) -> int:
        """Of queries and keys, and of scores and values."""
        channels, tokens, _ = self.out_shape
        return 2 * tokens**2 * channels


@dataclass(frozen=True)
class TokenPool(LayerBase):
    """One token for all: the first, which is the class token, or their mean."""

    mode: Literal["class", "mean"]

    op = "pool"

    @cached_property
    def detail(self) -> str:
        """``class token`` or ``mean of tokens``."""
        return "class token" if self.mode == "class" else "mean of tokens"

    @cached_property
    def out_shape(self) -> MapShape:
        """(channels, 1, 1)."""
        return self.in_shape[0], 1, 1


@dataclass(frozen=True)
class MapToTokens(LayerBase):
    """The pixels of a map as tokens."""

    op = "transpose"
    detail = "map to tokens"

    @cached_property
    def out_shape(self) -> MapShape:
        """(channels, pixels, 1)."""
        channels, height, width = self.in_shape
        return channels, height * width, 1


@dataclass(frozen=True)
class TokensToMap(LayerBase):
    """Tokens as the pixels of a map of ``height`` rows."""

    height: int

    op = "transpose"

    @cached_property
    def detail(self) -> str:
        """Text such as ``tokens to map of 8 rows``."""
        return f"tokens to map of {self.height} rows"

    @cached_property
    def out_shape(self) -> MapShape:
        """(channels, height, tokens / height)."""
        channels, tokens, _ = self.in_shape
        return channels, self.height, tokens // self.height


TokenLayer: TypeAlias = LayerNorm | TokenLinear | Attention | TokenPool | TokensToMap
