"""Channel shuffle (ShuffleNet, Zhang et al., CVPR 2018)."""

from __future__ import annotations

import torch


def shuffled(x_BCHW: torch.Tensor, groups: int) -> torch.Tensor:
    """Channels of ``groups`` equal parts in turn: the first of each, the second of each, and so on."""
    b, c, h, w = x_BCHW.shape
    return x_BCHW.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)
