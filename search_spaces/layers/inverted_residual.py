"""Inverted-residual blocks with elastic kernel, expansion and width, sized by typed layers."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from nas.core.layers import Activation, Conv2d, Layer, Pool2d, SqueezeExcite
from nas.core.network import Network
from search_spaces.layers.batch_norm import ElasticBatchNorm
from search_spaces.layers.convolution import ElasticConv
from search_spaces.layers.depthwise import ElasticDepthwise
from search_spaces.layers.importance import importance_order
from search_spaces.layers.residual import Residual
from search_spaces.layers.squeeze_excite import ElasticSqueezeExcite

_MODULES: dict[Activation, type[nn.Module]] = {
    "relu": nn.ReLU,
    "hswish": nn.Hardswish,
    "swish": nn.SiLU,
    "gelu": nn.GELU,
}


def activation_module(name: Activation) -> nn.Module:
    """The activation of a name as a module."""
    return _MODULES[name]()


def activated(x: torch.Tensor, name: Activation) -> torch.Tensor:
    """The activation of a name; a ReLU may overwrite ``x``."""
    match name:
        case "relu":
            return F.relu(x, inplace=True)
        case "hswish":
            return F.hardswish(x)
        case "swish":
            return F.silu(x)
        case "gelu":
            return F.gelu(x)


@dataclass(frozen=True)
class BlockLayers:
    """The typed layers of an inverted-residual block (``search_spaces.inverted_residual``)."""

    expand: Conv2d | None
    depthwise: Conv2d
    se: SqueezeExcite | None
    project: Conv2d
    pool: Pool2d | None = None
    shortcut: Conv2d | None = None

    @classmethod
    def of(cls, layers: Mapping[str, Layer]) -> BlockLayers:
        """From layers by the last part of their name."""
        expand, depthwise, project = layers.get("expand"), layers["depthwise"], layers["project"]
        se, pool, shortcut = layers.get("se"), layers.get("pool"), layers.get("shortcut")
        assert expand is None or isinstance(expand, Conv2d)
        assert isinstance(depthwise, Conv2d)
        assert isinstance(project, Conv2d)
        assert se is None or isinstance(se, SqueezeExcite)
        assert pool is None or isinstance(pool, Pool2d)
        assert shortcut is None or isinstance(shortcut, Conv2d)
        return cls(expand, depthwise, se, project, pool, shortcut)

    @property
    def inner(self) -> int:
        """Channels of the depthwise convolution."""
        return self.depthwise.out_channels


def stage_blocks(network: Network) -> list[list[BlockLayers]]:
    """The blocks of each stage of a network."""
    stages: dict[str, list[BlockLayers]] = {}
    for name, layers in network.blocks.items():
        stage, _, block = name.partition(".")
        if block:
            stages.setdefault(stage, []).append(BlockLayers.of(layers))
    return list(stages.values())


class ElasticBlock(nn.Module):
    """Expand 1x1, depthwise, squeeze-excite, project 1x1; input and output may be narrowed.

    ``largest``: its layers in the largest network; ``has_shortcut``: whether some networks convolve its input before
    they add it.
    """

    def __init__(self, largest: BlockLayers, kernels: Sequence[int], *, has_shortcut: bool = False) -> None:
        super().__init__()
        inner, c_out = largest.inner, largest.project.out_channels
        c_in = inner if largest.expand is None else largest.expand.in_shape[0]
        assert largest.depthwise.activation is not None
        self.act: Activation = largest.depthwise.activation
        self.expand = None if largest.expand is None else ElasticConv(c_in, inner)
        self.expand_norm = None if largest.expand is None else ElasticBatchNorm(inner)
        self.depthwise = ElasticDepthwise(inner, kernels, largest.depthwise.stride)
        self.depthwise_norm = ElasticBatchNorm(inner)
        self.se = None if largest.se is None else ElasticSqueezeExcite(inner, largest.se.squeezed)
        self.project = ElasticConv(inner, c_out)
        self.project_norm = ElasticBatchNorm(c_out)
        self.shortcut = ElasticConv(c_in, c_out) if has_shortcut else None

    def forward(self, x_BCHW: torch.Tensor, layers: BlockLayers) -> torch.Tensor:
        """(B, c_in, H, W) -> (B, c_out, H/stride, W/stride)."""
        y = x_BCHW
        if self.expand is not None and self.expand_norm is not None:
            y = activated(self.expand_norm(self.expand(y, layers.inner)), self.act)
        y = activated(self.depthwise_norm(self.depthwise(y, layers.depthwise.kernel)), self.act)
        if self.se is not None and layers.se is not None:
            y = self.se(y, layers.se.squeezed)
        y = self.project_norm(self.project(y, layers.project.out_channels))
        out: torch.Tensor = y if layers.project.residual is None else self._past(x_BCHW, layers) + y
        return out

    def mix(self, x_BCHW: torch.Tensor, choices: Sequence[BlockLayers], weights_O: torch.Tensor) -> torch.Tensor:
        """The weighted sum of what O choices compute, without their skip connections; shape as of ``forward``.

        A narrow choice uses the first channels of a wide one, so the expansion is computed once, and the depthwise
        convolution once for each kernel. The last batch norm neither scales nor shifts, as the weights do.
        """
        expanded = x_BCHW
        if self.expand is not None and self.expand_norm is not None:
            widest = max(layers.inner for layers in choices)
            expanded = activated(self.expand_norm(self.expand(x_BCHW, widest)), self.act)
        terms: list[torch.Tensor] = []
        for kernel in sorted({layers.depthwise.kernel for layers in choices}):
            same = [(o, layers) for o, layers in enumerate(choices) if layers.depthwise.kernel == kernel]
            channels = max(layers.inner for _, layers in same)
            filtered = activated(self.depthwise_norm(self.depthwise(expanded[:, :channels], kernel)), self.act)
            terms += [weights_O[o] * self._projected(filtered[:, : layers.inner], layers) for o, layers in same]
        return functools.reduce(torch.add, terms)

    def _projected(self, y: torch.Tensor, layers: BlockLayers) -> torch.Tensor:
        if self.se is not None and layers.se is not None:
            y = self.se(y, layers.se.squeezed)
        out: torch.Tensor = self.project_norm(self.project(y, layers.project.out_channels), affine=False)
        return out

    def _past(self, x: torch.Tensor, layers: BlockLayers) -> torch.Tensor:
        """What a skip connection makes of the input."""
        if layers.pool is not None:
            x = F.avg_pool2d(x, layers.pool.kernel, ceil_mode=True, count_include_pad=False)
        if self.shortcut is not None and layers.shortcut is not None:
            x = self.shortcut(x, layers.shortcut.out_channels)
        return x

    def cut(self, layers: BlockLayers) -> nn.Module:
        """A copy as a plain block."""
        inner, c_out = layers.inner, layers.project.out_channels
        modules: OrderedDict[str, nn.Module] = OrderedDict()
        if self.expand is not None and self.expand_norm is not None and layers.expand is not None:
            modules["expand"] = self.expand.cut(layers.expand.in_shape[0], inner)
            modules["expand_norm"] = self.expand_norm.cut(inner)
            modules["expand_act"] = activation_module(self.act)
        modules["depthwise"] = self.depthwise.cut(inner, layers.depthwise.kernel)
        modules["depthwise_norm"] = self.depthwise_norm.cut(inner)
        modules["depthwise_act"] = activation_module(self.act)
        if self.se is not None and layers.se is not None:
            modules["se"] = self.se.cut(inner, layers.se.squeezed)
        modules["project"] = self.project.cut(inner, c_out)
        modules["project_norm"] = self.project_norm.cut(c_out)
        body = nn.Sequential(modules)
        return body if layers.project.residual is None else Residual(body, self._cut_shortcut(layers))

    def _cut_shortcut(self, layers: BlockLayers) -> nn.Module | None:
        modules: list[nn.Module] = []
        if layers.pool is not None:
            modules.append(nn.AvgPool2d(layers.pool.kernel, ceil_mode=True, count_include_pad=False))
        if self.shortcut is not None and layers.shortcut is not None:
            modules.append(self.shortcut.cut(layers.shortcut.in_shape[0], layers.shortcut.out_channels))
        return nn.Sequential(*modules) if modules else None

    @torch.no_grad()
    def sort_channels(self, trained: Sequence[BlockLayers]) -> None:
        """Sort inner channels by the L1 norm of their weights in the last 1x1 convolution, largest first. ``trained``:
        layers of blocks whose function stays unchanged. A block that does not expand has no inner channels of its
        own."""
        if self.expand is None or self.expand_norm is None:
            return
        order = importance_order(self.project.weight.abs().sum((0, 2, 3)), {layers.inner for layers in trained})
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


class ElasticStages(nn.ModuleList):
    """Stages of elastic blocks; an architecture has the first blocks of each."""

    def __init__(self, stages: Iterable[Iterable[ElasticBlock]]) -> None:
        super().__init__(nn.ModuleList(blocks) for blocks in stages)

    def blocks(self, stage: int) -> list[ElasticBlock]:
        """All blocks of a stage."""
        blocks = self[stage]
        assert isinstance(blocks, nn.ModuleList)
        return [block for block in blocks if isinstance(block, ElasticBlock)]

    def all_blocks(self) -> list[ElasticBlock]:
        """The blocks of all stages, in order."""
        return [block for stage in range(len(self)) for block in self.blocks(stage)]

    def forward(self, x_BCHW: torch.Tensor, stages: Sequence[Sequence[BlockLayers]]) -> torch.Tensor:
        """(B, C, H, W) -> (B, c_out, H', W') through the blocks of a network (``stage_blocks``)."""
        x = x_BCHW
        for s, blocks in zip(range(len(self)), stages, strict=True):
            for module, layers in zip(self.blocks(s), blocks, strict=False):
                x = module(x, layers)
        return x

    def cut(self, stages: Sequence[Sequence[BlockLayers]]) -> OrderedDict[str, nn.Module]:
        """Copies of the blocks of a network as plain blocks, by name."""
        return OrderedDict(
            (f"stage{s + 1}_block{b + 1}", self.blocks(s)[b].cut(layers))
            for s, blocks in zip(range(len(self)), stages, strict=True)
            for b, layers in enumerate(blocks)
        )

    def sort_channels(self, stage: int, networks: Sequence[Sequence[Sequence[BlockLayers]]]) -> None:
        """Sort the inner channels of every block of a stage (Once-for-all, section 3.3). ``networks``: those whose
        function stays unchanged, by their blocks."""
        for b, block in enumerate(self.blocks(stage)):
            block.sort_channels([stages[stage][b] for stages in networks if b < len(stages[stage])])


def permute_norm(norm: ElasticBatchNorm, order: torch.Tensor) -> None:
    """Permute the channels of a batch norm in place."""
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.copy_(tensor[order])
