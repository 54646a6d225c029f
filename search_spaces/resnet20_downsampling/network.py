"""The supernet of the downsampling space: one ResNet-20 that takes its strides from the architecture of each call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from nas.convolution import conv2d
from nas.core.arch import Arch
from nas.supernet import Supernet
from search_spaces.layers.batch_norm import ElasticBatchNorm
from search_spaces.layers.convolution import ElasticConv
from search_spaces.layers.linear import ElasticLinear


class StridedConvNorm(nn.Module):
    """Convolution of any stride, batch norm."""

    def __init__(self, c_in: int, c_out: int, kernel: int) -> None:
        super().__init__()
        self.c_in, self.c_out = c_in, c_out
        self.conv = ElasticConv(c_in, c_out, kernel)
        self.norm = ElasticBatchNorm(c_out)

    def forward(self, x_BCHW: torch.Tensor, stride: int = 1) -> torch.Tensor:
        """(B, c_in, H, W) -> (B, c_out, H/stride, W/stride)."""
        padding = self.conv.kernel // 2
        out: torch.Tensor = self.norm(conv2d(x_BCHW, self.conv.weight, stride=stride, padding=padding))
        return out

    def cut(self, stride: int = 1) -> list[nn.Module]:
        """Copies as plain modules, with a fixed stride."""
        conv = self.conv.cut(self.c_in, self.c_out)
        conv.stride = (stride, stride)
        return [conv, self.norm.cut(self.c_out)]


class ElasticBasicBlock(nn.Module):
    """Basic block of any stride. The shortcut is a 1x1 convolution where channels change, else it leaves pixels out."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = StridedConvNorm(c_in, c_out, 3), StridedConvNorm(c_out, c_out, 3)
        self.shortcut = StridedConvNorm(c_in, c_out, 1) if c_in != c_out else None

    def forward(self, x_BCHW: torch.Tensor, stride: int) -> torch.Tensor:
        """(B, c_in, H, W) -> (B, c_out, H/stride, W/stride)."""
        y = self.conv2(F.relu(self.conv1(x_BCHW, stride)))
        shortcut = x_BCHW[:, :, ::stride, ::stride] if self.shortcut is None else self.shortcut(x_BCHW, stride)
        return F.relu(y + shortcut)

    def cut(self, stride: int) -> BasicBlock:
        """A copy with a fixed stride."""
        shortcut: nn.Module = nn.Identity() if stride == 1 else nn.MaxPool2d(1, stride)
        if self.shortcut is not None:
            shortcut = nn.Sequential(*self.shortcut.cut(stride))
        return BasicBlock(nn.Sequential(*self.conv1.cut(stride), nn.ReLU(), *self.conv2.cut()), shortcut)


class BasicBlock(nn.Module):
    """A plain basic block."""

    def __init__(self, body: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.body, self.shortcut = body, shortcut

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C', H', W')."""
        return F.relu(self.body(x_BCHW) + self.shortcut(x_BCHW))


class Resnet20Supernet(Supernet):
    """Weights of every network of the space, which all networks use whole; see ``nas.supernet`` for the contract.

    ``widths``: channels after the stem and after each block; ``strides``: the stride of each block in an architecture.
    """

    def __init__(
        self, channels: int, widths: Sequence[int], classes: int, strides: Callable[[Arch], Sequence[int]], seed: int
    ) -> None:
        super().__init__()
        self.strides = strides
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = StridedConvNorm(channels, widths[0], 3)
            self.blocks = nn.ModuleList(ElasticBasicBlock(c_in, c_out) for c_in, c_out in pairwise(widths))
            self.classifier = ElasticLinear(widths[-1], classes)

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        """(B, C, H, W) -> (B, classes)."""
        y = F.relu(self.stem(x_BCHW))
        for block, stride in zip(self.blocks, self.strides(arch), strict=True):
            y = block(y, stride)
        logits: torch.Tensor = self.classifier(y.mean((2, 3)), self.classifier.out_features)
        return logits

    def subnet(self, arch: Arch) -> nn.Module:
        """A stand-alone network with copied weights."""
        modules: list[nn.Module] = [*self.stem.cut(), nn.ReLU()]
        for block, stride in zip(self.blocks, self.strides(arch), strict=True):
            assert isinstance(block, ElasticBasicBlock)
            modules.append(block.cut(stride))
        classifier = self.classifier.cut(self.classifier.in_features, self.classifier.out_features)
        return nn.Sequential(*modules, nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifier).train(self.training)
