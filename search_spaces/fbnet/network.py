"""The supernet of the FBNet space: every operation of every place has weights of its own, as in FBNet's stochastic
super net (Wu et al., CVPR 2019, section 3.2).

Modules are made from the typed layers of the networks that have one operation everywhere.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from nas.core.arch import Arch
from nas.core.layers import ChannelShuffle, Conv2d, Layer, Linear, Skip
from nas.core.network import Network
from nas.supernet import RelaxedSupernet
from search_spaces.layers import channel_shuffle
from search_spaces.layers.batch_norm import ElasticBatchNorm
from search_spaces.layers.depthwise import PlainDepthwise
from search_spaces.layers.linear import ElasticLinear, plain_head
from search_spaces.layers.plain_copies import filled
from search_spaces.layers.residual import Residual


def _convolution(layer: Conv2d) -> nn.Conv2d:
    kind = PlainDepthwise if layer.op == "depthwise" else nn.Conv2d
    c_in, padding = layer.in_shape[0], layer.kernel // 2
    return kind(c_in, layer.out_channels, layer.kernel, layer.stride, padding, groups=layer.groups, bias=False)


class ConvNormRelu(nn.Module):
    """A convolution, batch norm and the ReLU after them, if there is one."""

    def __init__(self, layer: Conv2d) -> None:
        super().__init__()
        self.layer = layer
        self.conv = _convolution(layer)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        self.norm = ElasticBatchNorm(layer.out_channels)

    def forward(self, x_BCHW: torch.Tensor, *, affine: bool = True) -> torch.Tensor:
        """(B, c_in, H, W) -> (B, c_out, H/stride, W/stride); without ``affine`` the norm neither scales nor shifts."""
        y: torch.Tensor = self.norm(self.conv(x_BCHW), affine=affine)
        return F.relu(y) if self.layer.activation else y

    @torch.no_grad()
    def cut(self) -> nn.Module:
        """A copy as plain modules."""
        with torch.device("meta"):
            conv = _convolution(self.layer)
        modules = OrderedDict[str, nn.Module](
            conv=filled(conv, weight=self.conv.weight), norm=self.norm.cut(self.layer.out_channels)
        )
        if self.layer.activation:
            modules["act"] = nn.ReLU()
        return nn.Sequential(modules)


class Block(nn.Module):
    """The layers of one operation at one place, one after another, and the sum with their input where they have it."""

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: _part(layer) for name, layer in layers.items()})
        self.is_residual = any(isinstance(layer, Conv2d) and layer.residual for layer in layers.values())

    def forward(self, x_BCHW: torch.Tensor, *, affine: bool = True) -> torch.Tensor:
        """(B, c_in, H, W) -> (B, c_out, H/stride, W/stride); without ``affine`` the last norm neither scales nor
        shifts."""
        y, last = x_BCHW, len(self.parts) - 1
        for i, part in enumerate(self.parts.values()):
            y = part(y, affine=affine or i < last) if isinstance(part, ConvNormRelu) else part(y)
        return x_BCHW + y if self.is_residual else y

    def cut(self) -> nn.Module:
        """A copy as a plain block."""
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        for name, part in self.parts.items():
            modules[name] = part.cut() if isinstance(part, ConvNormRelu) else part
        body = nn.Sequential(modules)
        return Residual(body) if self.is_residual else body


def _part(layer: Layer) -> nn.Module:
    match layer:
        case Conv2d():
            return ConvNormRelu(layer)
        case ChannelShuffle():
            return channel_shuffle.Shuffle2d(layer.in_shape[0], layer.groups)
        case Skip():
            return nn.Identity()
        case _:
            raise AssertionError(f"no block has a layer of kind {layer.op}")


class FBNetSupernet(RelaxedSupernet):
    """Weights of every network of the space; see ``nas.supernet`` for the contract.

    ``networks``: for each choice of a block, the network that has it at every place. ``operations``: the choice of each
    column of the relaxation.
    """

    def __init__(self, networks: Sequence[Network], operations: Sequence[int], dropout: float, seed: int) -> None:
        super().__init__()
        self.operations, self.dropout = tuple(operations), dropout
        layers = {layer.name: layer for layer in networks[-1].layers}
        stem, final, classifier = layers["stem"], layers["final"], layers["classifier"]
        assert isinstance(stem, Conv2d)
        assert isinstance(final, Conv2d)
        assert isinstance(classifier, Linear)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = ConvNormRelu(stem)
            self.places = nn.ModuleDict(
                {
                    place.replace(".", "_"): nn.ModuleList(Block(network.blocks[place]) for network in networks)
                    for place in networks[-1].blocks
                }
            )
            self.final = ConvNormRelu(final)
            self.classifier = ElasticLinear(final.out_channels, classifier.out_features)

    def _blocks(self, arch: Arch) -> dict[str, Block]:
        blocks: dict[str, Block] = {}
        for (place, operations), gene in zip(self.places.items(), arch.genes, strict=True):
            assert isinstance(operations, nn.ModuleList)
            block = operations[gene]
            assert isinstance(block, Block)
            blocks[place] = block
        return blocks

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        """Logits (B, classes) of ``arch``."""
        x = self.stem(x_BCHW)
        for block in self._blocks(arch).values():
            x = block(x)
        return self._classified(x)

    def mix(
        self,
        x_BCHW: torch.Tensor,
        weights_EO: torch.Tensor,
        *,
        active_EO: torch.Tensor | None = None,
        edges_E: torch.Tensor | None = None,
        partial: int = 1,
        entangled: bool = False,
    ) -> torch.Tensor:
        """(B, C, H, W) -> (B, classes): every place is the sum of its blocks times its row of ``weights_EO``."""
        active = (torch.ones_like(weights_EO) if active_EO is None else active_EO).bool().tolist()
        x = self.stem(x_BCHW)
        for e, blocks in enumerate(self.places.values()):
            assert isinstance(blocks, nn.ModuleList)
            computed = [o for o in range(len(self.operations)) if active[e][o]]
            terms = [weights_EO[e, o] * blocks[self.operations[o]](x, affine=False) for o in computed]
            x = functools.reduce(torch.add, terms)
        return self._classified(x)

    def _classified(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x = self.final(x_BCHW).mean((2, 3))
        x = F.dropout(x, self.dropout, self.training)
        logits: torch.Tensor = self.classifier(x, self.classifier.out_features)
        return logits

    def subnet(self, arch: Arch) -> nn.Module:
        """A plain ``nn.Sequential`` of this architecture with copied weights."""
        modules: OrderedDict[str, nn.Module] = OrderedDict(stem=self.stem.cut())
        for place, block in self._blocks(arch).items():
            modules[place] = block.cut()
        modules |= OrderedDict(
            final=self.final.cut(),
            **plain_head(self.classifier, self.classifier.in_features, self.dropout),
        )
        return nn.Sequential(modules).train(self.training)
