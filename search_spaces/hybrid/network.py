"""The supernet of hybrid networks, and its subnets as plain modules.

Each place has the weights of its convolution block, of every kind, and of its transformer block. Modules are sized by
the typed layers of the largest networks; a call computes with the layers of its architecture.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from nas.core.arch import Arch
from nas.core.layers import Conv2d, Layer, Linear
from nas.core.network import Network
from nas.spaces.transformer import TransformerSizes
from nas.supernet import AdaptiveRates, Supernet
from search_spaces.layers.batch_norm import ElasticBatchNorm
from search_spaces.layers.convolution import ElasticConv
from search_spaces.layers.fused_block import ElasticFusedBlock, FusedLayers
from search_spaces.layers.inverted_residual import BlockLayers, ElasticBlock
from search_spaces.layers.layer_block import ElasticLayerBlock
from search_spaces.layers.linear import ElasticLinear, plain_head
from search_spaces.layers.plain_copies import module_key
from search_spaces.layers.slices import UnitSlices
from search_spaces.layers.transformer import ElasticTransformerBlock

HybridBlock = BlockLayers | FusedLayers | TransformerSizes | Mapping[str, Layer]
AnyConvBlock = ElasticBlock | ElasticFusedBlock | ElasticLayerBlock
_INVERTED_RESIDUAL, _FUSED = {"expand", "depthwise", "project"}, {"expand", "project"}


def blocks_of(network: Network) -> dict[str, HybridBlock]:
    """The blocks of a network by name, such as ``stage1.block2``."""
    blocks: dict[str, HybridBlock] = {}
    for name, layers in network.blocks.items():
        if "attention" in layers:
            blocks[name] = TransformerSizes.of(layers)
        elif layers.keys() == _INVERTED_RESIDUAL:
            blocks[name] = BlockLayers.of(layers)
        elif layers.keys() == _FUSED:
            blocks[name] = FusedLayers.of(layers)
        elif "expand" in layers:
            blocks[name] = layers
    return blocks


class HybridNetwork(nn.Sequential, AdaptiveRates):
    """A plain network."""


class ToTokens(nn.Module):
    """The pixels of a map of fixed size as tokens."""

    def __init__(self, channels: int, tokens: int) -> None:
        super().__init__()
        self.sizes = (channels, tokens)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, N, C)."""
        return x_BCHW.reshape(-1, *self.sizes).transpose(1, 2)


class ToMap(nn.Module):
    """Tokens as the pixels of a map of fixed size."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.sizes = (channels, side, side)

    def forward(self, x_BNC: torch.Tensor) -> torch.Tensor:
        """(B, N, C) -> (B, C, H, W)."""
        return x_BNC.transpose(1, 2).reshape(-1, *self.sizes)


class HybridSupernet(Supernet, AdaptiveRates):
    """Weights of every network of the space; see ``nas.supernet.Supernet`` for the contract.

    ``convolutions``: the largest networks without transformer blocks, one for each kind of convolutions;
    ``transformers``: the largest with them; ``describe`` gives the network of an architecture.
    """

    def __init__(
        self,
        convolutions: Sequence[Network],
        transformers: Network,
        dropout: float,
        describe: Callable[[Arch], Network],
        seed: int,
    ) -> None:
        super().__init__()
        self.describe, self.dropout = describe, dropout
        stem, classifier = convolutions[0].layers[0], convolutions[0].layers[-1]
        largest = {name: block for network in convolutions for name, block in blocks_of(network).items()}
        assert isinstance(stem, Conv2d)
        assert isinstance(classifier, Linear)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = ElasticConv(stem.in_shape[0], stem.out_channels, 3, stem.stride)
            self.stem_norm = ElasticBatchNorm(stem.out_channels)
            self.convolutions = nn.ModuleDict({module_key(name): _conv_block(block) for name, block in largest.items()})
            self.transformers = nn.ModuleDict(
                {
                    module_key(name): _transformer(block)
                    for name, block in blocks_of(transformers).items()
                    if isinstance(block, TransformerSizes)
                }
            )
            self.classifier = ElasticLinear(classifier.in_shape[0], classifier.out_features)

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        """Logits (B, classes) of ``arch``. The input has any resolution; training draws it together with the arch."""
        x = F.silu(self.stem_norm(self.stem(x_BCHW, self.stem.c_out)))
        for name, block in blocks_of(self.describe(arch)).items():
            if isinstance(block, TransformerSizes):
                side = x.shape[2:]
                x = self._transformer(name)(x.flatten(2).transpose(1, 2), block).transpose(1, 2).unflatten(2, side)
            else:
                x = self._convolution(name)(x, block)
        x = F.dropout(x.mean((2, 3)), self.dropout, self.training)
        logits: torch.Tensor = self.classifier(x, self.classifier.out_features)
        return logits

    @torch.no_grad()
    def subnet(self, arch: Arch) -> nn.Module:
        """A plain ``nn.Sequential`` of this architecture with copied weights."""
        network, width = self.describe(arch), self.stem.c_out
        modules: OrderedDict[str, nn.Module] = OrderedDict(
            stem=self.stem.cut(self.stem.c_in, width), stem_norm=self.stem_norm.cut(width), stem_act=nn.SiLU()
        )
        blocks = blocks_of(network)
        for layer in network.layers:
            stage, _, part = layer.name.rpartition(".")
            if part == "tokens":
                modules[f"{stage}_tokens"] = ToTokens(*layer.out_shape[:2])
            elif part == "map":
                modules[f"{stage}_map"] = ToMap(*layer.out_shape[:2])
            elif stage in blocks:
                modules[module_key(stage)] = self._cut(stage, blocks.pop(stage))
        modules |= plain_head(self.classifier, network.layers[-1].in_shape[0], self.dropout)
        return HybridNetwork(modules).train(self.training)

    def _cut(self, name: str, block: HybridBlock) -> nn.Module:
        if isinstance(block, TransformerSizes):
            return self._transformer(name).cut(block)
        return self._convolution(name).cut(block)  # type: ignore[arg-type]

    def _transformer(self, name: str) -> ElasticTransformerBlock:
        module = self.transformers[module_key(name)]
        assert isinstance(module, ElasticTransformerBlock)
        return module

    def _convolution(self, name: str) -> AnyConvBlock:
        module = self.convolutions[module_key(name)]
        assert isinstance(module, ElasticBlock | ElasticFusedBlock | ElasticLayerBlock)
        return module

    def compiled_parts(self) -> Sequence[nn.Module]:
        """The blocks."""
        return [*self.convolutions.values(), *self.transformers.values()]


def _conv_block(block: HybridBlock) -> AnyConvBlock:
    if isinstance(block, FusedLayers):
        return ElasticFusedBlock(block)
    if isinstance(block, BlockLayers):
        return ElasticBlock(block, (3,))
    assert isinstance(block, Mapping)
    return ElasticLayerBlock(block)


def _transformer(sizes: TransformerSizes) -> ElasticTransformerBlock:
    channels, heads, hidden = (UnitSlices(0, size) for size in (sizes.width, sizes.heads, sizes.hidden))
    return ElasticTransformerBlock(channels, heads, hidden, sizes.head_dim)
