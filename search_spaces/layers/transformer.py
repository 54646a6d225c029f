"""Blocks of vision transformers: plain ones, with the names of DeiT's parameters, and elastic ones.

Heads have the same number of channels in all networks; queries, keys and values are cut separately, so that a narrow
network has whole heads.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import nn

from nas.spaces.transformer import TransformerSizes
from search_spaces.layers.importance import importance_order
from search_spaces.layers.plain_copies import filled
from search_spaces.layers.slices import UnitSlices

EPS = 1e-6  # of DeiT's layer norms


class SelfAttention(nn.Module):
    """Multi-head self-attention of a fixed number of tokens, written so that runtimes fuse it when exported."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.tokens, self.heads, self.head_dim = sizes.tokens, sizes.heads, sizes.head_dim
        inner = sizes.heads * sizes.head_dim
        self.qkv = nn.Linear(sizes.width, 3 * inner)
        self.proj = nn.Linear(inner, sizes.width)

    def forward(self, x_BNC: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        y_BNC: torch.Tensor = self.proj(attend(self.qkv(x_BNC), self.tokens, self.heads, self.head_dim))
        return y_BNC


def attend(qkv_BNC: torch.Tensor, tokens: int, heads: int, head_dim: int) -> torch.Tensor:
    """Attention from queries, keys and values of all heads, (B, N, 3 * heads * head_dim) to (B, N, heads * head_dim).
    Sizes are numbers, so that an exported model does not compute shapes."""
    split_BHNC = qkv_BNC.reshape(-1, tokens, 3 * heads, head_dim).transpose(1, 2)
    query, key, value = split_BHNC.split(heads, dim=1)  # type: ignore[no-untyped-call]
    scores_BHNN = (query @ key.transpose(-2, -1)) * head_dim**-0.5
    y_BHNC = scores_BHNN.softmax(-1) @ value
    y_BNC: torch.Tensor = y_BHNC.transpose(1, 2).reshape(-1, tokens, heads * head_dim)
    return y_BNC


class Mlp(nn.Module):
    """Two fully connected layers with GELU between them."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.fc1 = nn.Linear(sizes.width, sizes.hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(sizes.hidden, sizes.width)

    def forward(self, x_BNC: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        y_BNC: torch.Tensor = self.fc2(self.act(self.fc1(x_BNC)))
        return y_BNC


class TransformerBlock(nn.Module):
    """A plain block, (B, N, C) to the same shape; its parameters have the names of DeiT's."""

    def __init__(self, sizes: TransformerSizes) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.width, eps=EPS)
        self.attn = SelfAttention(sizes)
        self.norm2 = nn.LayerNorm(sizes.width, eps=EPS)
        self.mlp = Mlp(sizes)

    def forward(self, x_BNC: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        x_BNC = x_BNC + self.attn(self.norm1(x_BNC))
        out: torch.Tensor = x_BNC + self.mlp(self.norm2(x_BNC))
        return out


class ElasticLayerNorm(nn.Module):
    """Layer norm over the channels that a network uses."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x_BNC: torch.Tensor, channels: slice) -> torch.Tensor:
        """Same shape; ``channels`` are those that the input has."""
        return F.layer_norm(x_BNC, x_BNC.shape[-1:], self.weight[channels], self.bias[channels], EPS)

    @torch.no_grad()
    def cut(self, channels: slice) -> nn.LayerNorm:
        """A copy as a plain layer norm."""
        with torch.device("meta"):
            norm = nn.LayerNorm(channels.stop - channels.start, eps=EPS)
        return filled(norm, weight=self.weight[channels], bias=self.bias[channels])


class ElasticTransformerBlock(nn.Module):
    """A block of elastic width, heads and MLP, which uses the slices of its weights that ``channels``, ``heads`` and
    ``hidden`` give for its sizes."""

    def __init__(self, channels: UnitSlices, heads: UnitSlices, hidden: UnitSlices, head_dim: int) -> None:
        super().__init__()
        self.channels, self.heads, self.hidden, self.head_dim = channels, heads, hidden, head_dim
        c, h, m = channels.largest, heads.largest, hidden.largest
        self.norm1, self.norm2 = ElasticLayerNorm(c), ElasticLayerNorm(c)
        self.qkv_weight = nn.Parameter(_matrix(3, h, head_dim, c, inputs=c))
        self.qkv_bias = nn.Parameter(torch.zeros(3, h, head_dim))
        self.proj_weight = nn.Parameter(_matrix(c, h, head_dim, inputs=h * head_dim))
        self.proj_bias = nn.Parameter(torch.zeros(c))
        self.fc1_weight, self.fc1_bias = nn.Parameter(_matrix(m, c, inputs=c)), nn.Parameter(torch.zeros(m))
        self.fc2_weight, self.fc2_bias = nn.Parameter(_matrix(c, m, inputs=m)), nn.Parameter(torch.zeros(c))

    def forward(self, x_BNC: torch.Tensor, sizes: TransformerSizes) -> torch.Tensor:
        """Same shape, (B, N, ``sizes.width``)."""
        channels = self.channels.of(sizes.width)
        qkv, proj, fc1, fc2 = self._matrices(sizes)
        y = attend(F.linear(self.norm1(x_BNC, channels), *qkv), x_BNC.shape[1], sizes.heads, self.head_dim)
        x_BNC = x_BNC + F.linear(y, *proj)
        out: torch.Tensor = x_BNC + F.linear(F.gelu(F.linear(self.norm2(x_BNC, channels), *fc1)), *fc2)
        return out

    def _matrices(self, sizes: TransformerSizes) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Weight and bias of qkv, proj, fc1 and fc2."""
        c, h, m = self.channels.of(sizes.width), self.heads.of(sizes.heads), self.hidden.of(sizes.hidden)
        qkv = self.qkv_weight[:, h, :, c].reshape(-1, sizes.width), self.qkv_bias[:, h].reshape(-1)
        proj = self.proj_weight[c, h].reshape(sizes.width, -1), self.proj_bias[c]
        return qkv, proj, (self.fc1_weight[m, c], self.fc1_bias[m]), (self.fc2_weight[c, m], self.fc2_bias[c])

    @torch.no_grad()
    def cut(self, sizes: TransformerSizes) -> TransformerBlock:
        """A copy as a plain block."""
        with torch.device("meta"):
            block = TransformerBlock(sizes)
        channels = self.channels.of(sizes.width)
        block.norm1, block.norm2 = self.norm1.cut(channels), self.norm2.cut(channels)
        linears = (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2)
        for linear, (weight, bias) in zip(linears, self._matrices(sizes), strict=True):
            filled(linear, weight=weight, bias=bias)
        return block

    @torch.no_grad()
    def fill(self, block: TransformerBlock) -> None:
        """Take the weights of a plain block of the largest sizes."""
        for elastic, plain in ((self.norm1, block.norm1), (self.norm2, block.norm2)):
            elastic.weight.copy_(plain.weight)
            elastic.bias.copy_(plain.bias)
        own = [self.qkv_weight, self.qkv_bias, self.proj_weight, self.proj_bias]
        own += [self.fc1_weight, self.fc1_bias, self.fc2_weight, self.fc2_bias]
        linears = (block.attn.qkv, block.attn.proj, block.mlp.fc1, block.mlp.fc2)
        plain_tensors = [tensor for linear in linears for tensor in (linear.weight, linear.bias)]
        for parameter, tensor in zip(own, plain_tensors, strict=True):
            parameter.copy_(tensor.view_as(parameter))

    @torch.no_grad()
    def sort_units(self, heads: Collection[int], hidden: Collection[int]) -> None:
        """Sort heads and units of the MLP by the L1 norm of the weights that read them, largest first; ``heads`` and
        ``hidden``: numbers of them in networks whose function stays unchanged."""
        order = importance_order(self.proj_weight.abs().sum((0, 2)), heads)
        permute(self.qkv_weight, order, 1)
        permute(self.qkv_bias, order, 1)
        permute(self.proj_weight, order, 1)
        order = importance_order(self.fc2_weight.abs().sum(0), hidden)
        for parameter, dim in ((self.fc1_weight, 0), (self.fc1_bias, 0), (self.fc2_weight, 1)):
            permute(parameter, order, dim)

    def channel_importance(self) -> torch.Tensor:
        """The L1 norm of the weights that read each channel of a token, shape (C,)."""
        return self.qkv_weight.abs().sum((0, 1, 2)) + self.fc1_weight.abs().sum(0)

    @torch.no_grad()
    def permute_channels(self, order: torch.Tensor) -> None:
        """Bring the channels of tokens into another order."""
        for norm in (self.norm1, self.norm2):
            permute(norm.weight, order, 0)
            permute(norm.bias, order, 0)
        readers = ((self.qkv_weight, 3), (self.fc1_weight, 1))
        writers = ((self.proj_weight, 0), (self.proj_bias, 0), (self.fc2_weight, 0), (self.fc2_bias, 0))
        for parameter, dim in (*readers, *writers):
            permute(parameter, order, dim)


def permute(parameter: torch.Tensor, order: torch.Tensor, dim: int) -> None:
    """Bring the units of one dimension into another order, in place."""
    parameter.data.copy_(parameter.data.index_select(dim, order))


def _matrix(*shape: int, inputs: int) -> torch.Tensor:
    """Random weights by which outputs vary as much as ``inputs`` do (LeCun et al., 1998). The deviation of 0.02 that
    larger transformers begin with would leave narrow ones nearly still."""
    weights: torch.Tensor = torch.randn(*shape) * inputs**-0.5
    return weights
