"""The supernet of the once-for-all MobileNetV3 space, and its subnets as plain modules.

Every part has the form ``part(x, how)``, where ``how`` comes from the architecture of this very call.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from nas.core.arch import Arch
from nas.supernet import Supernet
from search_spaces.layers.elastic import (
    ElasticBatchNorm,
    ElasticConv,
    ElasticDepthwise,
    ElasticLinear,
    ElasticSqueezeExcite,
)
from search_spaces.mobilenet_v3.space import StageParams, divisible, expanded, squeezed

if TYPE_CHECKING:
    from search_spaces.mobilenet_v3.space import MobileNetV3


def _activation(name: str) -> nn.Module:
    return nn.ReLU() if name == "relu" else nn.Hardswish()


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
    """Inverted residual: expand 1x1, depthwise, squeeze-excite, project 1x1; input and output may be narrowed."""

    def __init__(
        self, c_in: int, c_out: int, kernels: tuple[int, ...], expand: float, stride: int, stage: StageParams
    ) -> None:
        super().__init__()
        inner = expanded(c_in, expand)
        self.stride = stride
        self.act = stage.act
        self.expand = ElasticConv(c_in, inner)
        self.expand_norm = ElasticBatchNorm(inner)
        self.depthwise = ElasticDepthwise(inner, kernels, stride)
        self.depthwise_norm = ElasticBatchNorm(inner)
        self.se = ElasticSqueezeExcite(inner, squeezed(inner)) if stage.se else None
        self.project = ElasticConv(inner, c_out)
        self.project_norm = ElasticBatchNorm(c_out)

    def _act(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x, inplace=True) if self.act == "relu" else F.hardswish(x)

    def forward(self, x_BCHW: torch.Tensor, c_out: int, kernel: int, expand: float) -> torch.Tensor:
        """(B, c_in', H, W) -> (B, c_out, H/stride, W/stride)."""
        c_in = x_BCHW.shape[1]
        inner = expanded(c_in, expand)
        y = self._act(self.expand_norm(self.expand(x_BCHW, inner)))
        y = self._act(self.depthwise_norm(self.depthwise(y, kernel)))
        if self.se is not None:
            y = self.se(y, squeezed(inner))
        y = self.project_norm(self.project(y, c_out))
        out: torch.Tensor = x_BCHW + y if self.stride == 1 and c_in == c_out else y
        return out

    def cut(self, c_in: int, c_out: int, kernel: int, expand: float) -> nn.Module:
        """The part as a plain block."""
        inner = expanded(c_in, expand)
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            expand=self.expand.cut(c_in, inner),
            expand_norm=self.expand_norm.cut(inner),
            expand_act=_activation(self.act),
            depthwise=self.depthwise.cut(inner, kernel),
            depthwise_norm=self.depthwise_norm.cut(inner),
            depthwise_act=_activation(self.act),
        )
        if self.se is not None:
            parts["se"] = self.se.cut(inner, squeezed(inner))
        parts["project"] = self.project.cut(inner, c_out)
        parts["project_norm"] = self.project_norm.cut(c_out)
        body = nn.Sequential(parts)
        return Residual(body) if self.stride == 1 and c_in == c_out else body

    @torch.no_grad()
    def sort_channels(self) -> None:
        """Inner channels by importance: the L1 norm of their weights in the last 1x1 convolution, largest first."""
        order = self.project.weight.abs().sum((0, 2, 3)).argsort(descending=True)
        self.expand.weight.copy_(self.expand.weight[order])
        self.depthwise.weight.copy_(self.depthwise.weight[order])
        for norm in (self.expand_norm, self.depthwise_norm):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor.copy_(tensor[order])
        if self.se is not None:
            self.se.reduce.weight.copy_(self.se.reduce.weight[:, order])
            self.se.expand.weight.copy_(self.se.expand.weight[order])
            self.se.expand.bias.copy_(self.se.expand.bias[order])
            rank = self.se.expand.weight.abs().sum(0).argsort(descending=True)
            self.se.reduce.weight.copy_(self.se.reduce.weight[rank])
            self.se.reduce.bias.copy_(self.se.reduce.bias[rank])
            self.se.expand.weight.copy_(self.se.expand.weight[:, rank])
        self.project.weight.copy_(self.project.weight[:, order])


class MobileNetV3Supernet(Supernet):
    """Weights of every network of ``space``; see ``nas.supernet.Supernet`` for the contract."""

    def __init__(self, space: MobileNetV3, seed: int) -> None:
        super().__init__()
        self.space = space
        c = space.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = ElasticConv(space.shape.channels, c.stem, 3, c.stem_stride)
            self.stem_norm = ElasticBatchNorm(c.stem)
            self.first_depthwise = ElasticDepthwise(c.stem, (3,), 1)
            self.first_depthwise_norm = ElasticBatchNorm(c.stem)
            self.first_project = ElasticConv(c.stem, c.stem)
            self.first_project_norm = ElasticBatchNorm(c.stem)
            stages = []
            c_in = c.stem
            for stage in c.stages:
                c_out = divisible(stage.width * c.widths[-1])
                stages.append(
                    nn.ModuleList(
                        ElasticBlock(
                            c_in if b == 0 else c_out,
                            c_out,
                            c.kernels,
                            c.expands[-1],
                            stage.stride if b == 0 else 1,
                            stage,
                        )
                        for b in range(c.depths[-1])
                    )
                )
                c_in = c_out
            self.stages = nn.ModuleList(stages)
            self.final = ElasticConv(c_in, c.final)
            self.final_norm = ElasticBatchNorm(c.final)
            self.hidden = nn.Linear(c.final, c.hidden, bias=False)
            self.classifier = ElasticLinear(c.hidden, space.shape.classes)

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        """Logits (B, classes) of ``arch``. The input has any resolution; training draws it together with the arch."""
        ch = self.space.choices(arch)
        x = F.hardswish(self.stem_norm(self.stem(x_BCHW, self.space.config.stem)))
        y = F.relu(self.first_depthwise_norm(self.first_depthwise(x, 3)))
        x = x + self.first_project_norm(self.first_project(y, self.space.config.stem))
        for s, blocks in enumerate(self.stages):
            assert isinstance(blocks, nn.ModuleList)
            for b in range(ch.depths[s]):
                x = blocks[b](x, ch.widths[s], ch.kernels[s][b], ch.expands[s][b])
        x = F.hardswish(self.final_norm(self.final(x, self.space.config.final))).mean((2, 3))
        x = F.hardswish(self.hidden(x))
        x = F.dropout(x, self.space.config.dropout, self.training)
        logits: torch.Tensor = self.classifier(x, self.space.shape.classes)
        return logits

    def subnet(self, arch: Arch) -> nn.Module:
        """A plain ``nn.Sequential`` of this architecture with copied weights."""
        c, ch = self.space.config, self.space.choices(arch)
        parts: OrderedDict[str, nn.Module] = OrderedDict(
            stem=self.stem.cut(self.space.shape.channels, c.stem),
            stem_norm=self.stem_norm.cut(c.stem),
            stem_act=nn.Hardswish(),
            first=Residual(
                nn.Sequential(
                    OrderedDict(
                        depthwise=self.first_depthwise.cut(c.stem, 3),
                        depthwise_norm=self.first_depthwise_norm.cut(c.stem),
                        depthwise_act=nn.ReLU(),
                        project=self.first_project.cut(c.stem, c.stem),
                        project_norm=self.first_project_norm.cut(c.stem),
                    )
                )
            ),
        )
        c_in = c.stem
        for s, blocks in enumerate(self.stages):
            assert isinstance(blocks, nn.ModuleList)
            for b in range(ch.depths[s]):
                block = blocks[b]
                assert isinstance(block, ElasticBlock)
                parts[f"stage{s + 1}_block{b + 1}"] = block.cut(c_in, ch.widths[s], ch.kernels[s][b], ch.expands[s][b])
                c_in = ch.widths[s]
        hidden = copy.deepcopy(self.hidden)
        parts |= OrderedDict(
            final=self.final.cut(c_in, c.final),
            final_norm=self.final_norm.cut(c.final),
            final_act=nn.Hardswish(),
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            hidden=hidden,
            hidden_act=nn.Hardswish(),
            dropout=nn.Dropout(c.dropout),
            classifier=self.classifier.cut(c.hidden, self.space.shape.classes),
        )
        return nn.Sequential(parts).train(self.training)

    def sort_channels(self) -> None:
        """Sorts the inner channels of every block (Once-for-all, section 3.3)."""
        for blocks in self.stages:
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                assert isinstance(block, ElasticBlock)
                block.sort_channels()
