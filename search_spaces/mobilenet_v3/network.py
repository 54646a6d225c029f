"""The supernet of the once-for-all MobileNetV3 space, and its subnets as plain modules.

Modules are sized by the typed layers of the largest network; a call computes with the layers of its architecture.
"""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from nas.core.arch import Arch
from nas.core.layers import Conv2d, Linear
from nas.core.network import Network
from nas.supernet import RelaxedSupernet
from search_spaces.layers.batch_norm import ElasticBatchNorm
from search_spaces.layers.convolution import ElasticConv
from search_spaces.layers.depthwise import ElasticDepthwise
from search_spaces.layers.importance import importance_order
from search_spaces.layers.inverted_residual import BlockLayers, ElasticBlock, ElasticStages, permute_norm, stage_blocks
from search_spaces.layers.linear import ElasticLinear
from search_spaces.layers.residual import Residual


class MobileNetV3Supernet(RelaxedSupernet):
    """Weights of every network of the space; see ``nas.supernet`` for the contract.

    ``largest``: the network that holds all weights; ``kernels``: of its depthwise convolutions; ``describe`` gives the
    network of an architecture. ``relaxed`` gives for each operation of the relaxation but ``skip``, the last,
    the network that has it in all blocks.
    """

    def __init__(
        self,
        largest: Network,
        kernels: Sequence[int],
        dropout: float,
        describe: Callable[[Arch], Network],
        relaxed: Callable[[], Sequence[Network]],
        seed: int,
    ) -> None:
        super().__init__()
        self.describe, self.dropout = describe, dropout
        self._relaxed_networks = relaxed
        layers = {layer.name: layer for layer in largest.layers}
        stem, final, hidden, classifier = (layers[name] for name in ("stem", "final", "hidden", "classifier"))
        assert isinstance(stem, Conv2d)
        assert isinstance(final, Conv2d)
        assert isinstance(hidden, Linear)
        assert isinstance(classifier, Linear)
        width = stem.out_channels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = ElasticConv(stem.in_shape[0], width, 3, stem.stride)
            self.stem_norm = ElasticBatchNorm(width)
            self.first_depthwise = ElasticDepthwise(width, (3,), 1)
            self.first_depthwise_norm = ElasticBatchNorm(width)
            self.first_project = ElasticConv(width, width)
            self.first_project_norm = ElasticBatchNorm(width)
            self.stages = ElasticStages(
                [ElasticBlock(block, kernels) for block in blocks] for blocks in stage_blocks(largest)
            )
            self.final = ElasticConv(final.in_shape[0], final.out_channels)
            self.final_norm = ElasticBatchNorm(final.out_channels)
            self.hidden = nn.Linear(final.out_channels, hidden.out_features, bias=False)
            self.classifier = ElasticLinear(hidden.out_features, classifier.out_features)

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        """Logits (B, classes) of ``arch``. The input has any resolution; training draws it together with the arch."""
        x = self.stages(self._before_stages(x_BCHW), stage_blocks(self.describe(arch)))
        return self._after_stages(x)

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
        """(B, C, H, W) -> (B, classes): every block is mixed by its row of ``weights_EO``. The depth of a stage is that
        of a network drawn block by block: what blocks behind one of weight w for ``skip`` add to their input is scaled
        by 1 - w."""
        active = (torch.ones_like(weights_EO) if active_EO is None else active_EO).bool().tolist()
        x, first = self._before_stages(x_BCHW), 0
        for s in range(len(self.stages)):
            rows = slice(first, first + len(self.stages.blocks(s)))
            x = self._mixed_stage(x, s, weights_EO[rows], active[rows])
            first = rows.stop
        return self._after_stages(x)

    def _mixed_stage(
        self, x_BCHW: torch.Tensor, s: int, weights_BO: torch.Tensor, active: Sequence[Sequence[bool]]
    ) -> torch.Tensor:
        x, reach = x_BCHW, torch.ones((), device=x_BCHW.device)
        for b, block in enumerate(self.stages.blocks(s)):
            computed = [o for o in range(len(self._relaxed)) if active[b][o]]
            if not computed:  # the stage ends here
                break
            choices = [self._relaxed[o][s][b] for o in computed]
            mixed = reach * block.mix(x, choices, weights_BO[b, computed])
            x = mixed if choices[0].project.residual is None else x + mixed
            reach = reach * (1.0 - weights_BO[b, -1])
        return x

    @functools.cached_property
    def _relaxed(self) -> list[list[list[BlockLayers]]]:
        """The layers of each operation, stage and block."""
        return [stage_blocks(network) for network in self._relaxed_networks()]

    def _before_stages(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x = F.hardswish(self.stem_norm(self.stem(x_BCHW, self.stem.c_out)))
        y = F.relu(self.first_depthwise_norm(self.first_depthwise(x, 3)))
        out: torch.Tensor = x + self.first_project_norm(self.first_project(y, self.first_project.c_out))
        return out

    def _after_stages(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        x = F.hardswish(self.final_norm(self.final(x_BCHW, self.final.c_out))).mean((2, 3))
        x = F.hardswish(self.hidden(x))
        x = F.dropout(x, self.dropout, self.training)
        logits: torch.Tensor = self.classifier(x, self.classifier.out_features)
        return logits

    def subnet(self, arch: Arch) -> nn.Module:
        """A plain ``nn.Sequential`` of this architecture with copied weights."""
        width = self.stem.c_out
        modules: OrderedDict[str, nn.Module] = OrderedDict(
            stem=self.stem.cut(self.stem.c_in, width),
            stem_norm=self.stem_norm.cut(width),
            stem_act=nn.Hardswish(),
            first=Residual(
                nn.Sequential(
                    OrderedDict(
                        depthwise=self.first_depthwise.cut(width, 3),
                        depthwise_norm=self.first_depthwise_norm.cut(width),
                        depthwise_act=nn.ReLU(),
                        project=self.first_project.cut(width, width),
                        project_norm=self.first_project_norm.cut(width),
                    )
                )
            ),
        )
        stages = stage_blocks(self.describe(arch))
        modules |= self.stages.cut(stages)
        modules |= OrderedDict(
            final=self.final.cut(stages[-1][-1].project.out_channels, self.final.c_out),
            final_norm=self.final_norm.cut(self.final.c_out),
            final_act=nn.Hardswish(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            hidden=copy.deepcopy(self.hidden),
            hidden_act=nn.Hardswish(),
            dropout=nn.Dropout(self.dropout),
            classifier=self.classifier.cut(self.classifier.in_features, self.classifier.out_features),
        )
        return nn.Sequential(modules).train(self.training)

    def compiled_parts(self) -> list[ElasticBlock]:
        """The blocks, each of which has a variant for every kernel and width."""
        return self.stages.all_blocks()

    @torch.no_grad()
    def sort_channels(self, trained: Sequence[Arch] = ()) -> None:
        """Sort the inner channels of every block (Once-for-all, section 3.3), and the channels between the blocks of
        every stage by the L1 norm of the weights that read them."""
        networks = [stage_blocks(self.describe(arch)) for arch in trained]
        for s in range(len(self.stages)):
            self.stages.sort_channels(s, networks)
            self._sort_stage(s, {stages[s][0].project.out_channels for stages in networks})

    def _sort_stage(self, s: int, boundaries: Collection[int]) -> None:
        """Sort the output channels of a stage's blocks, which residual connections share."""
        blocks = self.stages.blocks(s)
        readers = [_expansion(block) for block in blocks[1:]]
        readers.append(_expansion(self.stages.blocks(s + 1)[0]) if s + 1 < len(self.stages) else self.final)
        importance_C = torch.stack([reader.weight.abs().sum((0, 2, 3)) for reader in readers]).sum(0)
        order = importance_order(importance_C, boundaries)
        for block in blocks:
            block.project.weight.copy_(block.project.weight[order])
            permute_norm(block.project_norm, order)
        for reader in readers:
            reader.weight.copy_(reader.weight[:, order])


def _expansion(block: ElasticBlock) -> ElasticConv:
    assert block.expand is not None
    return block.expand
