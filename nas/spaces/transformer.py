"""The block of vision transformers as typed layers (ViT, Dosovitskiy et al., ICLR 2021, equations 2 and 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nas.core.layers import Layer, MapShape
from nas.core.network import NetworkNode
from nas.core.token_layers import Attention, LayerNorm, TokenLinear


def transformer_block(
    name: str, source: str, in_shape: MapShape, heads: int, head_dim: int, hidden: int
) -> list[NetworkNode]:
    """Layer norm, self-attention and their sum with the input; layer norm, an MLP of ``hidden`` units with GELU, and
    their sum with what it reads."""
    width = in_shape[0]
    norm1 = LayerNorm(f"{name}.norm1", (source,), in_shape)
    qkv = TokenLinear(f"{name}.qkv", (norm1.name,), in_shape, 3 * heads * head_dim)
    attention = Attention(f"{name}.attention", (qkv.name,), qkv.out_shape, heads)
    proj = TokenLinear(f"{name}.proj", (attention.name,), attention.out_shape, width, residual=source)
    norm2 = LayerNorm(f"{name}.norm2", (proj.name,), in_shape)
    fc1 = TokenLinear(f"{name}.fc1", (norm2.name,), in_shape, hidden, activation="gelu")
    fc2 = TokenLinear(f"{name}.fc2", (fc1.name,), fc1.out_shape, width, residual=proj.name)
    return [norm1, qkv, attention, proj, norm2, fc1, fc2]


@dataclass(frozen=True)
class TransformerSizes:
    """Sizes of a transformer block: channels of a token, heads and their channels, units of the MLP, tokens."""

    width: int
    heads: int
    head_dim: int
    hidden: int
    tokens: int

    @classmethod
    def of(cls, layers: Mapping[str, Layer]) -> TransformerSizes:
        """From the layers of ``transformer_block`` by the last part of their name."""
        attention, fc1 = layers["attention"], layers["fc1"]
        assert isinstance(attention, Attention)
        assert isinstance(fc1, TokenLinear)
        head_dim = attention.out_shape[0] // attention.heads
        width, tokens, _ = fc1.in_shape
        return cls(width, attention.heads, head_dim, fc1.out_features, tokens)
