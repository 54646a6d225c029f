"""The supernet of elastic ResNets, and its subnets as plain modules.

Modules are sized by the typed layers of the largest network; a call computes with the layers of its architecture.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from nas.core.arch import Arch
from nas.core.layers import INPUT, Conv2d, Layer, Linear, Pool2d
from nas.core.network import Network
from nas.supernet import Supernet
from search_spaces.layers.importance import importance_order
from search_spaces.layers.inverted_residual import permute_norm
from search_spaces.layers.layer_block import ElasticConvLayer, Layers, PlainLayerBlock, computed
from search_spaces.layers.linear import ElasticLinear, plain_head
from search_spaces.layers.plain_copies import module_key

STEM = "stem"


class ElasticConvBlock(nn.Module):
    """Convolutions and pools by the last part of their names; with ``rectified``, a ReLU after the last of them."""

    def __init__(self, largest: Layers, *, rectified: bool) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({name: _part(layer) for name, layer in largest.items()})
        self.rectified = rectified

    def forward(self, x_BCHW: torch.Tensor, layers: Layers) -> torch.Tensor:
        """(B, c_in, H, W) -> (B, c_out, H', W')."""
        y = computed(layers, {name: self._called(name, layer) for name, layer in layers.items()}, x_BCHW)
        return F.relu(y) if self.rectified else y

    def _called(self, name: str, layer: Layer) -> Callable[..., torch.Tensor]:
        part = self.parts[name]
        return partial(part, layer) if isinstance(part, ElasticConvLayer) else part

    def cut(self, layers: Layers) -> nn.Module:
        """A copy as a plain block."""
        plain = PlainLayerBlock(layers, {name: self._cut(name, layer) for name, layer in layers.items()})
        return nn.Sequential(plain, nn.ReLU()) if self.rectified else plain

    def _cut(self, name: str, layer: Layer) -> nn.Module:
        part = self.parts[name]
        if not isinstance(part, ElasticConvLayer):
            return copy.deepcopy(part)
        assert isinstance(layer, Conv2d)
        return part.cut(layer)


def _part(layer: Layer) -> nn.Module:
    match layer:
        case Conv2d():
            return ElasticConvLayer(layer)
        case Pool2d(mode="max"):
            return nn.MaxPool2d(layer.kernel, layer.stride, layer.kernel // 2)
        case Pool2d(mode="average", kernel=2):
            return nn.AvgPool2d(layer.kernel, layer.stride, ceil_mode=True, count_include_pad=False)
        case _:
            raise AssertionError(f"no block has a layer of kind {layer.op}")


def _with_shortcut(layers: Layers) -> dict[str, Layer]:
    """The layers of a block that keeps its shape in the largest network and projects its input in others."""
    last = list(layers.values())[-1]
    in_shape = layers["conv1"].in_shape
    return {"shortcut": Conv2d("shortcut", (INPUT,), in_shape, last.out_shape[0], 1), **layers}


@dataclass
class SharedChannels:
    """Channels that have one order in all layers: those of the layers that write them, which residual connections add
    up, and those of the layers that read them. Layers are named."""

    writers: list[str] = field(default_factory=list)
    readers: list[str] = field(default_factory=list)


def shared_channels(network: Network, projecting: Collection[str] = ()) -> list[SharedChannels]:
    """The channels of the largest network that can be permuted. ``projecting``: blocks whose input is convolved by
    their shortcut in some networks, not necessarily in this one."""
    shared: dict[str, SharedChannels] = {INPUT: SharedChannels()}  # by the name of a node whose output has them
    for node in network.nodes:
        source = shared[node.inputs[0]]
        if isinstance(node, Conv2d | Linear):
            source.readers.append(node.name)
        if isinstance(node, Conv2d):
            shared[node.name] = SharedChannels() if node.residual is None else shared[node.residual]
            shared[node.name].writers.append(node.name)
        elif not isinstance(node, Linear):
            shared[node.name] = source
    for block in projecting:
        if f"{block}.shortcut" not in shared:
            channels = shared[f"{block}.relu"]
            channels.readers.append(f"{block}.shortcut")
            channels.writers.append(f"{block}.shortcut")
    return list({id(channels): channels for channels in shared.values() if channels.writers}.values())


class ResNetSupernet(Supernet):
    """Weights of every network of the space; see ``nas.supernet`` for the contract.

    ``largest``: the network that holds all weights but those of shortcuts that other networks have; ``projecting``:
    blocks that have one in some networks; ``describe`` gives the network of an architecture.
    """

    def __init__(
        self,
        largest: Network,
        projecting: Collection[str],
        dropout: float,
        describe: Callable[[Arch], Network],
        seed: int,
    ) -> None:
        super().__init__()
        self.describe, self.dropout = describe, dropout
        self._shared = shared_channels(largest, projecting)
        classifier = largest.layers[-1]
        assert isinstance(classifier, Linear)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.blocks = nn.ModuleDict()
            for name, layers in largest.blocks.items():
                added = name in projecting and "shortcut" not in layers
                sized = _with_shortcut(layers) if added else layers
                self.blocks[module_key(name)] = ElasticConvBlock(sized, rectified=name != STEM)
            self.classifier = ElasticLinear(classifier.in_shape[0], classifier.out_features)

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        """Logits (B, classes) of ``arch``. The input has any resolution; training draws it together with the arch."""
        x = x_BCHW
        for name, layers in self.describe(arch).blocks.items():
            x = self._block(name)(x, layers)
        x = F.dropout(x.mean((2, 3)), self.dropout, self.training)
        logits: torch.Tensor = self.classifier(x, self.classifier.out_features)
        return logits

    @torch.no_grad()
    def subnet(self, arch: Arch) -> nn.Module:
        """A plain ``nn.Sequential`` of this architecture with copied weights."""
        network = self.describe(arch)
        modules: OrderedDict[str, nn.Module] = OrderedDict(
            (module_key(name), self._block(name).cut(layers)) for name, layers in network.blocks.items()
        )
        modules |= plain_head(self.classifier, network.layers[-1].in_shape[0], self.dropout)
        return nn.Sequential(modules).train(self.training)

    def compiled_parts(self) -> Sequence[nn.Module]:
        """The blocks."""
        return list(self.blocks.values())

    @torch.no_grad()
    def sort_channels(self, trained: Sequence[Arch] = ()) -> None:
        """Sort channels, inside of blocks and between them, by the L1 norm of the weights that read them (Once-for-all,
        section 3.3)."""
        networks = [{layer.name: layer for layer in self.describe(arch).layers} for arch in trained]
        for channels in self._shared:
            importances = [self._weight(name).abs().transpose(0, 1).flatten(1).sum(1) for name in channels.readers]
            boundaries = {n[name].out_shape[0] for n in networks for name in channels.writers if name in n}
            order = importance_order(torch.stack(importances).sum(0), boundaries)
            for name in channels.writers:
                weight = self._weight(name)
                weight.copy_(weight[order])
                norm = self._conv(name).norm
                assert norm is not None
                permute_norm(norm, order)
            for name in channels.readers:
                weight = self._weight(name)
                weight.copy_(weight[:, order])

    def _block(self, name: str) -> ElasticConvBlock:
        block = self.blocks[module_key(name)]
        assert isinstance(block, ElasticConvBlock)
        return block

    def _conv(self, layer: str) -> ElasticConvLayer:
        block, _, part = layer.rpartition(".")
        conv = self._block(block).parts[part]
        assert isinstance(conv, ElasticConvLayer)
        return conv

    def _weight(self, layer: str) -> torch.Tensor:
        """Weights of a layer, shape (outputs, inputs, ...)."""
        return self._conv(layer).conv.weight if "." in layer else self.classifier.weight
