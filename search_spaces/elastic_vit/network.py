"""The supernet of elastic vision transformers, and its subnets as plain modules with the names of DeiT's parameters.

Modules are sized by the typed layers of the largest network; a call computes with the layers of its architecture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from nas.core.arch import Arch
from nas.core.layers import Linear
from nas.core.network import Network
from nas.core.token_layers import PatchEmbedding
from nas.spaces.transformer import TransformerSizes
from nas.supernet import AdaptiveRates, Supernet
from search_spaces.elastic_vit.blocks import shared_blocks
from search_spaces.elastic_vit.learngene import Sharing
from search_spaces.layers.importance import importance_order
from search_spaces.layers.plain_copies import filled
from search_spaces.layers.slices import UnitSlices
from search_spaces.layers.transformer import (
    EPS,
    ElasticLayerNorm,
    ElasticTransformerBlock,
    TransformerBlock,
    permute,
)

POSITION_DEVIATION = 0.5
"""Of positions at the start, as much as patches of normalised images vary: with the 0.02 of ViT, short trainings end
before networks tell places apart."""


def blocks_of(network: Network) -> list[TransformerSizes]:
    """The sizes of the blocks of a network."""
    return [TransformerSizes.of(layers) for layers in network.blocks.values()]


def patches_of(network: Network) -> PatchEmbedding:
    """The patch embedding of a network, its first layer."""
    patches = network.layers[0]
    assert isinstance(patches, PatchEmbedding)
    return patches


class PatchTokens(nn.Module):
    """Patches as tokens: a convolution, the class token, positions. ``patch_embed.proj`` is the convolution."""

    def __init__(self, layer: PatchEmbedding) -> None:
        super().__init__()
        self.sizes = (layer.out_channels, layer.patches)
        self.proj = nn.Conv2d(layer.in_shape[0], layer.out_channels, layer.patch, layer.patch)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, N, width)."""
        tokens: torch.Tensor = self.proj(x_BCHW)
        return tokens.reshape(-1, *self.sizes).transpose(1, 2)


class VisionTransformer(AdaptiveRates):
    """A plain network with the names of DeiT's parameters."""

    def __init__(self, network: Network, dropout: float) -> None:
        super().__init__()
        patches, classifier = patches_of(network), network.layers[-1]
        assert isinstance(classifier, Linear)
        width, tokens, _ = patches.out_shape
        self.patch_embed = PatchTokens(patches)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if patches.class_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, width))
        self.blocks = nn.Sequential(*(TransformerBlock(sizes) for sizes in blocks_of(network)))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, classifier.out_features)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Logits of shape (B, classes)."""
        x_BNC = self.blocks(embedded(self.patch_embed(x_BCHW), self.cls_token, self.pos_embed))
        x_BC = self.norm(x_BNC.mean(1) if self.cls_token is None else x_BNC[:, 0])
        logits: torch.Tensor = self.head(self.dropout(x_BC))
        return logits


def embedded(tokens_BNC: torch.Tensor, class_1C: torch.Tensor | None, positions_1NC: torch.Tensor) -> torch.Tensor:
    """Tokens with their positions, behind the class token if there is one: a zero that the class token, which is part
    of the positions, is added to, so that an exported model does not read the number of images."""
    if class_1C is None:
        return tokens_BNC + positions_1NC
    class_position_11C, patch_positions = positions_1NC[:, :1], positions_1NC[:, 1:]
    return F.pad(tokens_BNC, (0, 0, 1, 0)) + torch.cat([class_1C + class_position_11C, patch_positions], dim=1)


class ElasticVitSupernet(Supernet, AdaptiveRates):
    """Weights of every network of the space; see ``nas.supernet.Supernet`` for the contract.

    ``smallest`` and ``largest``: the networks at the ends, of which the second holds all weights; ``isolated``: which
    channels networks between them use (``UnitSlices``); ``describe`` gives the network of an architecture; ``sharing``:
    how blocks share weights, in so many ``stages`` if in stages.
    """

    def __init__(
        self,
        smallest: Network,
        largest: Network,
        isolated: bool,
        dropout: float,
        describe: Callable[[Arch], Network],
        seed: int,
        sharing: Sharing | None = None,
        stages: int = 1,
    ) -> None:
        super().__init__()
        self.describe, self.dropout, self.isolated = describe, dropout, isolated
        patches, classifier = patches_of(largest), largest.layers[-1]
        assert isinstance(classifier, Linear)
        narrow, wide = blocks_of(smallest)[0], blocks_of(largest)[0]
        self.channels = UnitSlices(narrow.width, wide.width, isolated)
        heads = UnitSlices(narrow.heads, wide.heads, isolated)
        hidden = UnitSlices(narrow.hidden, wide.hidden, isolated)
        self._largest = largest
        self.side = patches.in_shape[1] // patches.patch
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            convolution = nn.Conv2d(patches.in_shape[0], wide.width, patches.patch)
            assert convolution.bias is not None
            self.patch_weight, self.patch_bias = convolution.weight, convolution.bias
            self.class_token = (
                nn.Parameter(POSITION_DEVIATION * torch.randn(1, 1, wide.width)) if patches.class_token else None
            )
            self.positions = nn.Parameter(POSITION_DEVIATION * torch.randn(1, patches.out_shape[1], wide.width))
            self.blocks = shared_blocks(
                lambda: ElasticTransformerBlock(self.channels, heads, hidden, wide.head_dim),
                len(blocks_of(largest)),
                sharing,
                stages,
            )
            self.norm = ElasticLayerNorm(wide.width)
            self.head = nn.Linear(wide.width, classifier.out_features)

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        """Logits (B, classes) of ``arch``. The input has any resolution; training draws it together with the arch."""
        network = self.describe(arch)
        c = self.channels.of(patches_of(network).out_channels)
        x_BCHW = F.conv2d(x_BCHW, self.patch_weight[c], self.patch_bias[c], stride=self.patch_weight.shape[-1])
        class_token = None if self.class_token is None else self.class_token[..., c]
        x = embedded(x_BCHW.flatten(2).transpose(1, 2), class_token, self._positions(x_BCHW.shape[-1])[..., c])
        x = self.blocks(x, blocks_of(network))
        x = self.norm(x.mean(1) if self.class_token is None else x[:, 0], c)
        x = F.dropout(x, self.dropout, self.training)
        return F.linear(x, self.head.weight[:, c], self.head.bias)

    @torch.no_grad()
    def subnet(self, arch: Arch) -> nn.Module:
        """A plain ``VisionTransformer`` of this architecture with copied weights."""
        network = self.describe(arch)
        patches = patches_of(network)
        c = self.channels.of(patches.out_channels)
        with torch.device("meta"):
            net = VisionTransformer(network, self.dropout)
        filled(net.patch_embed.proj, weight=self.patch_weight[c], bias=self.patch_bias[c])
        if self.class_token is not None:
            net.cls_token = nn.Parameter(self.class_token[..., c].clone())
        net.pos_embed = nn.Parameter(self._positions(patches.in_shape[1] // patches.patch)[..., c].clone())
        net.blocks = self.blocks.cut(blocks_of(network))
        net.norm = self.norm.cut(c)
        filled(net.head, weight=self.head.weight[:, c], bias=self.head.bias)
        return net.train(self.training)

    @torch.no_grad()
    def fill(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take the weights of a trained network of the largest sizes, by the names of DeiT; its positions are
        interpolated where it takes images of another side."""
        with torch.device("meta"):
            net = VisionTransformer(self._largest, self.dropout)
        weights = {name: torch.from_numpy(array.astype("float32")) for name, array in arrays.items()}
        positions = weights["pos_embed"]
        side = math.isqrt(positions.shape[1] - (self.class_token is not None))
        weights["pos_embed"] = resized_positions(positions, side, self.side)
        net.load_state_dict(weights, assign=True)
        for block, plain in zip(self.blocks.stored, net.blocks, strict=True):
            assert isinstance(plain, TransformerBlock)
            block.fill(plain)
        own = [self.patch_weight, self.patch_bias, self.positions, self.norm.weight, self.norm.bias]
        tensors = [
            net.patch_embed.proj.weight,
            net.patch_embed.proj.bias,
            net.pos_embed,
            net.norm.weight,
            net.norm.bias,
        ]
        pairs = zip(
            [*own, self.head.weight, self.head.bias, self.class_token],
            [*tensors, net.head.weight, net.head.bias, net.cls_token],
            strict=True,
        )
        for parameter, tensor in pairs:
            if parameter is not None and tensor is not None:
                parameter.copy_(tensor)

    def compiled_parts(self) -> Sequence[nn.Module]:
        """The blocks."""
        return self.blocks.stored

    @torch.no_grad()
    def sort_channels(self, trained: Sequence[Arch] = ()) -> None:
        """Sort heads and MLP units of each block, and the channels of tokens, by the L1 norm of the weights that read
        them. Isolated slices are not nested: they stay, as do blocks that share weights."""
        if self.isolated or not self.blocks.can_be_sorted:
            return
        networks = [blocks_of(self.describe(arch)) for arch in trained]
        for b, block in enumerate(self.blocks.stored):
            sizes = [blocks[b] for blocks in networks if b < len(blocks)]
            block.sort_units({size.heads for size in sizes}, {size.hidden for size in sizes})
        importance_C = torch.stack([block.channel_importance() for block in self.blocks.stored]).sum(0)
        order = importance_order(importance_C + self.head.weight.abs().sum(0), {b[0].width for b in networks})
        for block in self.blocks.stored:
            block.permute_channels(order)
        own = [(self.patch_weight, 0), (self.patch_bias, 0), (self.positions, 2), (self.head.weight, 1)]
        own += [(self.norm.weight, 0), (self.norm.bias, 0)]
        for parameter, dim in own if self.class_token is None else [*own, (self.class_token, 2)]:
            permute(parameter, order, dim)

    def _positions(self, side: int) -> torch.Tensor:
        return resized_positions(self.positions, self.side, side)


def resized_positions(positions_1NC: torch.Tensor, side: int, new_side: int) -> torch.Tensor:
    """Learned positions of a square grid of ``side`` patches on one of ``new_side``, by bicubic interpolation (ViT,
    section 3.2); that of a class token, which comes first, stays."""
    if side == new_side:
        return positions_1NC
    extra = positions_1NC.shape[1] - side**2
    grid_1CHW = positions_1NC[:, extra:].transpose(1, 2).reshape(1, -1, side, side)
    grid_1CHW = F.interpolate(grid_1CHW, size=(new_side, new_side), mode="bicubic", align_corners=False)
    return torch.cat([positions_1NC[:, :extra], grid_1CHW.flatten(2).transpose(1, 2)], dim=1)
