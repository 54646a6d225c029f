"""Channel shuffle (ShuffleNet, Zhang et al., CVPR 2018)."""

from __future__ import annotations

import torch
from torch import nn


def shuffled(x_BCHW: torch.Tensor, groups: int) -> torch.Tensor:
    """Channels of ``groups`` equal parts in turn: the first of each, the second of each, and so on."""
    b, c, h, w = x_BCHW.shape
    return x_BCHW.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class Shuffle2d(nn.Module):
    """``shuffled`` as a module. It picks the channels by their positions, which is exported as one operator where views
    would be three and those that compute their sizes."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.order: torch.Tensor
        self.register_buffer("order", torch.arange(channels).view(groups, -1).T.flatten(), persistent=False)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        return x_BCHW.index_select(1, self.order)
