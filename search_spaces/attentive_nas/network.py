"""The supernet of the AttentiveNAS space, and its subnets as plain modules.

Modules are sized by the typed layers of the largest network; a call computes with the layers of its architecture.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from nas.core.arch import Arch
from nas.core.layers import Conv2d, Linear
from nas.core.network import Network
from nas.supernet import Supernet
from search_spaces.layers.batch_norm import ElasticBatchNorm
from search_spaces.layers.convolution import ElasticConv
from search_spaces.layers.inverted_residual import ElasticBlock, ElasticStages, stage_blocks
from search_spaces.layers.linear import ElasticLinear


@dataclass(frozen=True)
class EndLayers:
    """The typed layers of a network before and after its stages."""

    stem: Conv2d
    final: Conv2d
    hidden: Linear

    @classmethod
    def of(cls, network: Network) -> EndLayers:
        """Those of a network."""
        layers = {layer.name: layer for layer in network.layers}
        stem, final, hidden = layers["stem"], layers["final"], layers["hidden"]
        assert isinstance(stem, Conv2d)
        assert isinstance(final, Conv2d)
        assert isinstance(hidden, Linear)
        return cls(stem, final, hidden)


class AttentiveNASSupernet(Supernet):
    """Weights of every network of the space; see ``nas.supernet.Supernet`` for the contract.

    ``largest``: the network that holds all weights; ``kernels``: of each stage; ``describe`` gives the network of an
    architecture.
    """

    def __init__(
        self,
        largest: Network,
        kernels: Sequence[Sequence[int]],
        dropout: float,
        describe: Callable[[Arch], Network],
        seed: int,
    ) -> None:
        super().__init__()
        self.describe, self.dropout = describe, dropout
        ends = EndLayers.of(largest)
        classes = largest.layers[-1].out_shape[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = ElasticConv(ends.stem.in_shape[0], ends.stem.out_channels, 3, ends.stem.stride)
            self.stem_norm = ElasticBatchNorm(ends.stem.out_channels)
            self.stages = ElasticStages(
                [ElasticBlock(block, sizes, has_shortcut=b == 0) for b, block in enumerate(blocks)]
                for blocks, sizes in zip(stage_blocks(largest), kernels, strict=True)
            )
            self.final = ElasticConv(ends.final.in_shape[0], ends.final.out_channels)
            self.final_norm = ElasticBatchNorm(ends.final.out_channels)
            self.hidden = ElasticLinear(ends.final.out_channels, ends.hidden.out_features, bias=False)
            self.classifier = ElasticLinear(ends.hidden.out_features, classes)

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        """Logits (B, classes) of ``arch``. The input has any resolution; training draws it together with the arch."""
        network = self.describe(arch)
        ends = EndLayers.of(network)
        x = F.silu(self.stem_norm(self.stem(x_BCHW, ends.stem.out_channels)))
        x = self.stages(x, stage_blocks(network))
        x = F.silu(self.final_norm(self.final(x, ends.final.out_channels))).mean((2, 3))
        x = F.silu(self.hidden(x, ends.hidden.out_features))
        x = F.dropout(x, self.dropout, self.training)
        logits: torch.Tensor = self.classifier(x, self.classifier.out_features)
        return logits

    def subnet(self, arch: Arch) -> nn.Module:
        """A plain ``nn.Sequential`` of this architecture with copied weights."""
        network = self.describe(arch)
        ends = EndLayers.of(network)
        modules: OrderedDict[str, nn.Module] = OrderedDict(
            stem=self.stem.cut(self.stem.c_in, ends.stem.out_channels),
            stem_norm=self.stem_norm.cut(ends.stem.out_channels),
            stem_act=nn.SiLU(),
        )
        modules |= self.stages.cut(stage_blocks(network))
        modules |= OrderedDict(
            final=self.final.cut(ends.final.in_shape[0], ends.final.out_channels),
            final_norm=self.final_norm.cut(ends.final.out_channels),
            final_act=nn.SiLU(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            hidden=self.hidden.cut(ends.final.out_channels, ends.hidden.out_features),
            hidden_act=nn.SiLU(),
            dropout=nn.Dropout(self.dropout),
            classifier=self.classifier.cut(ends.hidden.out_features, self.classifier.out_features),
        )
        return nn.Sequential(modules).train(self.training)

    def compiled_parts(self) -> list[ElasticBlock]:
        """The blocks, each of which has a variant for every kernel and width."""
        return self.stages.all_blocks()

    @torch.no_grad()
    def sort_channels(self, trained: Sequence[Arch] = ()) -> None:
        """Sort the inner channels of every block that expands (Once-for-all, section 3.3)."""
        networks = [stage_blocks(self.describe(arch)) for arch in trained]
        for s in range(len(self.stages)):
            self.stages.sort_channels(s, networks)
