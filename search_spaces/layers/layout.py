"""In which order images lie in memory, and convolutions that make use of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def has_channels_last(x_BCHW: torch.Tensor) -> bool:
    """Whether images have their channels last in memory, and not both orders at once, as maps of one pixel have."""
    return x_BCHW.is_contiguous(memory_format=torch.channels_last) and not x_BCHW.is_contiguous()


def pointwise(x_BCHW: torch.Tensor, weight_OC11: torch.Tensor) -> torch.Tensor:
    """A 1x1 convolution without bias, (B, C, H, W) -> (B, O, H, W). On a CPU, images with their channels last are a
    matrix already: it is one product, where torch would first bring them into another order."""
    if x_BCHW.device.type != "cpu" or not has_channels_last(x_BCHW):
        return F.conv2d(x_BCHW, weight_OC11)
    return F.linear(x_BCHW.permute(0, 2, 3, 1), weight_OC11.flatten(1)).permute(0, 3, 1, 2)
