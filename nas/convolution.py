"""Convolutions that may learn on any processor.

oneDNN's weight gradient of a strided 1x1 convolution writes beyond its workspace where channels lie last in memory, are
fewer than eight, and the processor has AVX2 and nothing newer (uxlfoundation/oneDNN#6035): the process dies, or
the gradient is wrong. The same convolution of every stride-th pixel is computed by another kernel, and is no slower.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv2d(
    x_BCHW: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | str | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    """As ``torch.nn.functional.conv2d``."""
    if weight.requires_grad and torch.is_grad_enabled() and weight.shape[2:] == (1, 1) and padding in (0, (0, 0)):
        rows, columns = (stride, stride) if isinstance(stride, int) else stride
        if max(rows, columns) > 1:
            x_BCHW, stride = x_BCHW[:, :, ::rows, ::columns], 1
    return F.conv2d(x_BCHW, weight, bias, stride, padding, dilation, groups)


class PlainConv2d(nn.Conv2d):
    """``torch.nn.Conv2d`` by ``conv2d``; nothing else differs, exported models included."""

    def _conv_forward(self, x_BCHW: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return conv2d(x_BCHW, weight, bias, self.stride, self.padding, self.dilation, self.groups)
