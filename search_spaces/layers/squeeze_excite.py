"""Squeeze-excite (MobileNetV3, section 5.3) with elastic channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from search_spaces.layers.first_channels import first
from search_spaces.layers.plain_copies import filled


class SqueezeExcite2d(nn.Module):
    """Squeeze-excite with ReLU and h-sigmoid (MobileNetV3, section 5.3), as 1x1 convolutions on the pooled map."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.expand = nn.Conv2d(squeezed, channels, 1)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Same shape, each channel scaled by 0 to 1."""
        s_BC11 = F.adaptive_avg_pool2d(x_BCHW, 1)
        s_BC11 = F.hardsigmoid(self.expand(F.relu(self.reduce(s_BC11))))
        return x_BCHW * s_BC11


class ElasticSqueezeExcite(nn.Module):
    """Squeeze-excite over the first channels; ``squeezed`` follows from the active width."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, squeezed)
        self.expand = nn.Linear(squeezed, channels)

    def forward(self, x_BCHW: torch.Tensor, squeezed: int) -> torch.Tensor:
        """Same shape."""
        c = x_BCHW.shape[1]
        s_BC = x_BCHW.mean((2, 3))
        reduce, expand = self.reduce, self.expand
        s_BC = F.relu(F.linear(s_BC, first(reduce.weight, squeezed, c), first(reduce.bias, squeezed)))
        s_BC = F.hardsigmoid(F.linear(s_BC, first(expand.weight, c, squeezed), first(expand.bias, c)))
        return x_BCHW * s_BC[:, :, None, None]

    @torch.no_grad()
    def cut(self, channels: int, squeezed: int) -> SqueezeExcite2d:
        """The first channels as a plain squeeze-excite."""
        with torch.device("meta"):
            se = SqueezeExcite2d(channels, squeezed)
        reduce, expand = self.reduce, self.expand
        filled(se.reduce, weight=reduce.weight[:squeezed, :channels, None, None], bias=reduce.bias[:squeezed])
        filled(se.expand, weight=expand.weight[:channels, :squeezed, None, None], bias=expand.bias[:channels])
        return se
