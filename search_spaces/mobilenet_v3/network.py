"""The supernet of the once-for-all MobileNetV3 space, and its subnets as plain modules.

Modules are sized by the typed layers of the largest network; a call computes with the layers of its architecture.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from nas.core.arch import Arch
from nas.core.layers import Activation, Conv2d, Layer, Linear, SqueezeExcite
from nas.core.network import Network
from nas.supernet import Supernet
from search_spaces.layers.batch_norm import ElasticBatchNorm
from search_spaces.layers.convolution import ElasticConv
from search_spaces.layers.depthwise import ElasticDepthwise
from search_spaces.layers.linear import ElasticLinear
from search_spaces.layers.squeeze_excite import ElasticSqueezeExcite


def _activation(name: Activation | None) -> nn.Module:
    return nn.ReLU() if name == "relu" else nn.Hardswish()


@dataclass(frozen=True)
class BlockLayers:
    """The typed layers of an inverted-residual block."""

    expand: Conv2d
    depthwise: Conv2d
    se: SqueezeExcite | None
    project: Conv2d

    @classmethod
    def of(cls, layers: Mapping[str, Layer]) -> BlockLayers:
        """From layers by the last part of their name."""
        expand, depthwise, project, se = layers["expand"], layers["depthwise"], layers["project"], layers.get("se")
        assert isinstance(expand, Conv2d)
        assert isinstance(depthwise, Conv2d)
        assert isinstance(project, Conv2d)
        assert se is None or isinstance(se, SqueezeExcite)
        return cls(expand, depthwise, se, project)


def stage_blocks(network: Network) -> list[list[BlockLayers]]:
    """The blocks of each stage of a network."""
    stages: dict[str, list[BlockLayers]] = {}
    for name, layers in network.blocks.items():
        stage, _, block = name.partition(".")
        if block:
            stages.setdefault(stage, []).append(BlockLayers.of(layers))
    return list(stages.values())


class Residual(nn.Module):
    """``x + body(x)``."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        out: torch.Tensor = x_BCHW + self.body(x_BCHW)
        return out


class ElasticBlock(nn.Module):
    """Inverted residual: expand 1x1, depthwise, squeeze-excite, project 1x1; input and output may be narrowed.

    ``largest``: its layers in the largest network.
    """

    def __init__(self, largest: BlockLayers, kernels: Sequence[int]) -> None:
        super().__init__()
        inner, c_out = largest.expand.out_channels, largest.project.out_channels
        self.act = largest.expand.activation
        self.expand = ElasticConv(largest.expand.in_shape[0], inner)
        self.expand_norm = ElasticBatchNorm(inner)
        self.depthwise = ElasticDepthwise(inner, kernels, largest.depthwise.stride)
        self.depthwise_norm = ElasticBatchNorm(inner)
        self.se = None if largest.se is None else ElasticSqueezeExcite(inner, largest.se.squeezed)
        self.project = ElasticConv(inner, c_out)
        self.project_norm = ElasticBatchNorm(c_out)

    def _act(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x, inplace=True) if self.act == "relu" else F.hardswish(x)

    def forward(self, x_BCHW: torch.Tensor, layers: BlockLayers) -> torch.Tensor:
        """(B, c_in, H, W) -> (B, c_out, H/stride, W/stride)."""
        y = self._act(self.expand_norm(self.expand(x_BCHW, layers.expand.out_channels)))
        y = self._act(self.depthwise_norm(self.depthwise(y, layers.depthwise.kernel)))
        if self.se is not None and layers.se is not None:
            y = self.se(y, layers.se.squeezed)
        y = self.project_norm(self.project(y, layers.project.out_channels))
        out: torch.Tensor = y if layers.project.residual is None else x_BCHW + y
        return out

    def cut(self, layers: BlockLayers) -> nn.Module:
        """A copy as a plain block."""
        inner, c_out = layers.expand.out_channels, layers.project.out_channels
        modules: OrderedDict[str, nn.Module] = OrderedDict(
            expand=self.expand.cut(layers.expand.in_shape[0], inner),
            expand_norm=self.expand_norm.cut(inner),
            expand_act=_activation(self.act),
            depthwise=self.depthwise.cut(inner, layers.depthwise.kernel),
            depthwise_norm=self.depthwise_norm.cut(inner),
            depthwise_act=_activation(self.act),
        )
        if self.se is not None and layers.se is not None:
            modules["se"] = self.se.cut(inner, layers.se.squeezed)
        modules["project"] = self.project.cut(inner, c_out)
        modules["project_norm"] = self.project_norm.cut(c_out)
        body = nn.Sequential(modules)
        return body if layers.project.residual is None else Residual(body)

    @torch.no_grad()
    def sort_channels(self, trained: Sequence[BlockLayers]) -> None:
        """Sort inner channels by the L1 norm of their weights in the last 1x1 convolution, largest first. ``trained``:
        layers of blocks whose function stays unchanged."""
        order = importance_order(
            self.project.weight.abs().sum((0, 2, 3)), {layers.expand.out_channels for layers in trained}
        )
        self.expand.weight.copy_(self.expand.weight[order])
        self.depthwise.weight.copy_(self.depthwise.weight[order])
        permute_norm(self.expand_norm, order)
        permute_norm(self.depthwise_norm, order)
        if self.se is not None:
            self.se.reduce.weight.copy_(self.se.reduce.weight[:, order])
            self.se.expand.weight.copy_(self.se.expand.weight[order])
            self.se.expand.bias.copy_(self.se.expand.bias[order])
            squeezed = {layers.se.squeezed for layers in trained if layers.se is not None}
            rank = importance_order(self.se.expand.weight.abs().sum(0), squeezed)
            self.se.reduce.weight.copy_(self.se.reduce.weight[rank])
            self.se.reduce.bias.copy_(self.se.reduce.bias[rank])
            self.se.expand.weight.copy_(self.se.expand.weight[:, rank])
        self.project.weight.copy_(self.project.weight[:, order])


def importance_order(importance_C: torch.Tensor, boundaries: Collection[int]) -> torch.Tensor:
    """The channels by falling importance, within groups that end at ``boundaries``: the first n channels are the same
    set as before for every n of them."""
    ends = sorted({*boundaries, len(importance_C)})
    groups = zip([0, *ends], ends, strict=False)
    return torch.cat([start + importance_C[start:end].argsort(descending=True) for start, end in groups])


def permute_norm(norm: ElasticBatchNorm, order: torch.Tensor) -> None:
    """Permute the channels of a batch norm in place."""
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.copy_(tensor[order])


class MobileNetV3Supernet(Supernet):
    """Weights of every network of the space; see ``nas.supernet.Supernet`` for the contract.

    ``largest``: the network that holds all weights; ``kernels``: of its depthwise convolutions; ``describe`` gives the
    network of an architecture.
    """

    def __init__(
        self,
        largest: Network,
        kernels: Sequence[int],
        dropout: float,
        describe: Callable[[Arch], Network],
        seed: int,
    ) -> None:
        super().__init__()
        self.describe, self.dropout = describe, dropout
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
            self.stages = nn.ModuleList(
                nn.ModuleList(ElasticBlock(block, kernels) for block in blocks) for blocks in stage_blocks(largest)
            )
            self.final = ElasticConv(final.in_shape[0], final.out_channels)
            self.final_norm = ElasticBatchNorm(final.out_channels)
            self.hidden = nn.Linear(final.out_channels, hidden.out_features, bias=False)
            self.classifier = ElasticLinear(hidden.out_features, classifier.out_features)

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        """Logits (B, classes) of ``arch``. The input has any resolution; training draws it together with the arch."""
        x = F.hardswish(self.stem_norm(self.stem(x_BCHW, self.stem.c_out)))
        y = F.relu(self.first_depthwise_norm(self.first_depthwise(x, 3)))
        x = x + self.first_project_norm(self.first_project(y, self.first_project.c_out))
        for modules, blocks in zip(self.stages, stage_blocks(self.describe(arch)), strict=True):
            assert isinstance(modules, nn.ModuleList)
            for module, layers in zip(modules, blocks, strict=False):  # an architecture has the first blocks of a stage
                x = module(x, layers)
        x = F.hardswish(self.final_norm(self.final(x, self.final.c_out))).mean((2, 3))
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
        c_in = width
        for s, (elastic, blocks) in enumerate(zip(self.stages, stage_blocks(self.describe(arch)), strict=True)):
            assert isinstance(elastic, nn.ModuleList)
            for b, layers in enumerate(blocks):
                block = elastic[b]
                assert isinstance(block, ElasticBlock)
                modules[f"stage{s + 1}_block{b + 1}"] = block.cut(layers)
                c_in = layers.project.out_channels
        modules |= OrderedDict(
            final=self.final.cut(c_in, self.final.c_out),
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
        return [module for module in self.modules() if isinstance(module, ElasticBlock)]

    @torch.no_grad()
    def sort_channels(self, trained: Sequence[Arch] = ()) -> None:
        """Sort the inner channels of every block (Once-for-all, section 3.3), and the channels between the blocks of
        every stage by the L1 norm of the weights that read them."""
        networks = [stage_blocks(self.describe(arch)) for arch in trained]
        for s, blocks in enumerate(self.stages):
            assert isinstance(blocks, nn.ModuleList)
            for b, block in enumerate(blocks):
                assert isinstance(block, ElasticBlock)
                block.sort_channels([stages[s][b] for stages in networks if b < len(stages[s])])
            self._sort_stage(s, {stages[s][0].project.out_channels for stages in networks})

    def _sort_stage(self, s: int, boundaries: Collection[int]) -> None:
        """Sort the output channels of a stage's blocks, which residual connections share."""
        blocks = _blocks(self.stages[s])
        readers = [block.expand for block in blocks[1:]]
        readers.append(_blocks(self.stages[s + 1])[0].expand if s + 1 < len(self.stages) else self.final)
        importance_C = torch.stack([reader.weight.abs().sum((0, 2, 3)) for reader in readers]).sum(0)
        order = importance_order(importance_C, boundaries)
        for block in blocks:
            block.project.weight.copy_(block.project.weight[order])
            permute_norm(block.project_norm, order)
        for reader in readers:
            reader.weight.copy_(reader.weight[:, order])


def _blocks(stage: nn.Module) -> list[ElasticBlock]:
    assert isinstance(stage, nn.ModuleList)
    return [block for block in stage if isinstance(block, ElasticBlock)]
