"""Depthwise convolutions with elastic kernel and channels, and a faster form for small maps.

Kernel transformation: Once-for-all (Cai et al., ICLR 2020), section 3.3.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from search_spaces.layers.first_channels import first
from search_spaces.layers.layout import has_channels_last
from search_spaces.layers.plain_copies import filled

# Up to this many pixels, a depthwise convolution is faster as matrix products (see benchmarks/depthwise.py).
SMALL_MAP = 36


def depthwise_by_matmul(x_BCHW: torch.Tensor, weight_C1KK: torch.Tensor, stride: int) -> torch.Tensor:
    """A depthwise ``conv2d`` with "same" padding, as one matrix product per channel.

    On maps of a few pixels the CPU's convolution kernels, backward above all, cost tens of times their arithmetic.
    """
    b, c, h, w = x_BCHW.shape
    taps_OI, h_out, w_out = _taps(h, w, weight_C1KK.shape[-1], stride)
    flat_CT = F.pad(weight_C1KK.reshape(c, -1), (0, 1))  # the extra tap is the zero of the padding
    matrix_COI = flat_CT[:, taps_OI.to(weight_C1KK.device)]
    if has_channels_last(x_BCHW):
        # Matrices whose rows and columns both have gaps would be copied one by one.
        x_CBI = x_BCHW.permute(1, 0, 2, 3).reshape(c, b, h * w)
        y_BOC = torch.bmm(x_CBI, matrix_COI.transpose(1, 2)).permute(1, 2, 0).contiguous()
        return y_BOC.view(b, h_out, w_out, c).permute(0, 3, 1, 2)
    y_CBO = torch.bmm(x_BCHW.reshape(b, c, h * w).transpose(0, 1), matrix_COI.transpose(1, 2))
    return y_CBO.transpose(0, 1).reshape(b, c, h_out, w_out)


def is_small_map(x_BCHW: torch.Tensor) -> bool:
    """Whether ``depthwise_by_matmul`` is faster for this input."""
    return x_BCHW.device.type == "cpu" and x_BCHW.shape[-2] * x_BCHW.shape[-1] <= SMALL_MAP


@functools.cache
def _taps(h: int, w: int, kernel: int, stride: int) -> tuple[torch.Tensor, int, int]:
    """For every output and input pixel the kernel tap that joins them, ``kernel**2`` where none does; and the output
    size."""
    pad = kernel // 2
    h_out, w_out = (h - 1) // stride + 1, (w - 1) // stride + 1
    y = torch.arange(h)[None] - torch.arange(h_out)[:, None] * stride + pad
    x = torch.arange(w)[None] - torch.arange(w_out)[:, None] * stride + pad
    tap = y[:, None, :, None] * kernel + x[None, :, None, :]
    inside = ((y >= 0) & (y < kernel))[:, None, :, None] & ((x >= 0) & (x < kernel))[None, :, None, :]
    return torch.where(inside, tap, kernel * kernel).reshape(h_out * w_out, h * w), h_out, w_out


class ElasticDepthwise(nn.Module):
    """Depthwise convolution with elastic kernel size and channels.

    Kernels are nested: the next smaller kernel is the centre of the larger one times a learned matrix that is shared by
    all channels, starting as identity (7 -> 5 -> 3 in a chain).
    """

    def __init__(self, channels: int, kernels: Sequence[int], stride: int) -> None:
        super().__init__()
        self.kernels = tuple(sorted(kernels, reverse=True))
        self.stride = stride
        largest = self.kernels[0]
        self.weight = nn.Parameter(torch.empty(channels, 1, largest, largest))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.transforms = nn.ParameterList([nn.Parameter(torch.eye(k * k)) for k in self.kernels[1:]])

    def kernel(self, size: int, channels: int) -> torch.Tensor:
        """The filter of ``size`` for the first ``channels``, shape (channels, 1, size, size)."""
        weight = first(self.weight, channels)
        for smaller, matrix in zip(self.kernels[1:], self.transforms, strict=True):
            if weight.shape[-1] == size:
                break
            crop = (weight.shape[-1] - smaller) // 2
            centre = weight[:, :, crop : crop + smaller, crop : crop + smaller]
            weight = F.linear(centre.reshape(channels, smaller * smaller), matrix)
            weight = weight.view(channels, 1, smaller, smaller)
        return weight

    def forward(self, x_BCHW: torch.Tensor, size: int) -> torch.Tensor:
        """(B, C', H, W) -> (B, C', H/stride, W/stride) with a kernel of ``size``."""
        channels = x_BCHW.shape[1]
        weight = self.kernel(size, channels)
        if is_small_map(x_BCHW):
            return depthwise_by_matmul(x_BCHW, weight, self.stride)
        return F.conv2d(x_BCHW, weight, stride=self.stride, padding=size // 2, groups=channels)

    @torch.no_grad()
    def cut(self, channels: int, size: int) -> nn.Conv2d:
        """The first channels as a plain depthwise convolution."""
        with torch.device("meta"):
            conv = PlainDepthwise(channels, channels, size, self.stride, size // 2, groups=channels, bias=False)
        return filled(conv, weight=self.kernel(size, channels))


class PlainDepthwise(nn.Conv2d):
    """A depthwise convolution without bias and with "same" padding, which learns from small maps as fast as elastic
    ones do. In evaluation it is the plain convolution that it is exported as."""

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, C, H/stride, W/stride)."""
        if self.training and is_small_map(x_BCHW):
            return depthwise_by_matmul(x_BCHW, self.weight, self.stride[0])
        return super().forward(x_BCHW)
