"""Elastic layers: each holds the weights of its largest form and computes with the first channels of them.

``cut`` copies these channels into a plain torch module with the same output.
Kernel transformation: Once-for-all (Cai et al., ICLR 2020), section 3.3.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn

M = TypeVar("M", bound=nn.Module)

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
    y_CBO = torch.bmm(x_BCHW.reshape(b, c, h * w).transpose(0, 1), matrix_COI.transpose(1, 2))
    return y_CBO.transpose(0, 1).reshape(b, c, h_out, w_out)


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


def shuffled(x_BCHW: torch.Tensor, groups: int) -> torch.Tensor:
    """Channels of ``groups`` equal parts in turn: the first of each, the second of each, and so on."""
    b, c, h, w = x_BCHW.shape
    return x_BCHW.view(b, groups, c // groups, h, w).transpose(1, 2).reshape(b, c, h, w)


class ElasticConv(nn.Module):
    """Pointwise or dense convolution ``c_in -> c_out`` without bias; uses the first channels on both sides."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        self.c_in, self.c_out = c_in, c_out
        self.kernel, self.stride = kernel, stride
        self.weight = nn.Parameter(torch.empty(c_out, c_in, kernel, kernel))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BCHW: torch.Tensor, c_out: int) -> torch.Tensor:
        """(B, c_in', H, W) -> (B, c_out, H/stride, W/stride)."""
        weight = self.weight[:c_out, : x_BCHW.shape[1]]
        return F.conv2d(x_BCHW, weight, stride=self.stride, padding=self.kernel // 2)

    @torch.no_grad()
    def cut(self, c_in: int, c_out: int) -> nn.Conv2d:
        """The first channels as a plain convolution."""
        with torch.device("meta"):
            conv = nn.Conv2d(c_in, c_out, self.kernel, self.stride, self.kernel // 2, bias=False)
        return _filled(conv, weight=self.weight[:c_out, :c_in])


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
        weight = self.weight[:channels]
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
        if x_BCHW.shape[-2] * x_BCHW.shape[-1] <= SMALL_MAP:
            return depthwise_by_matmul(x_BCHW, weight, self.stride)
        return F.conv2d(x_BCHW, weight, stride=self.stride, padding=size // 2, groups=channels)

    @torch.no_grad()
    def cut(self, channels: int, size: int) -> nn.Conv2d:
        """The first channels as a plain depthwise convolution."""
        with torch.device("meta"):
            conv = nn.Conv2d(channels, channels, size, self.stride, size // 2, groups=channels, bias=False)
        return _filled(conv, weight=self.kernel(size, channels))


class ElasticBatchNorm(nn.Module):
    """Batch norm over the first channels. In training mode it records nothing (see ``nas.supernet.Supernet``)."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.running_mean: torch.Tensor
        self.running_var: torch.Tensor
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x_BCHW: torch.Tensor, *, affine: bool = True) -> torch.Tensor:
        """Same shape; without ``affine`` neither scaled nor shifted."""
        c = x_BCHW.shape[1]
        weight, bias = (self.weight[:c], self.bias[:c]) if affine else (None, None)
        if self.training:
            return F.batch_norm(x_BCHW, None, None, weight, bias, training=True, eps=self.eps)
        return F.batch_norm(x_BCHW, self.running_mean[:c], self.running_var[:c], weight, bias, eps=self.eps)

    @torch.no_grad()
    def cut(self, channels: int) -> nn.BatchNorm2d:
        """The first channels as a plain batch norm."""
        with torch.device("meta"):
            norm = nn.BatchNorm2d(channels, eps=self.eps)
        return _filled(
            norm,
            weight=self.weight[:channels],
            bias=self.bias[:channels],
            running_mean=self.running_mean[:channels],
            running_var=self.running_var[:channels],
            num_batches_tracked=torch.zeros((), dtype=torch.long, device=self.weight.device),
        )


class ElasticLinear(nn.Module):
    """Fully connected layer with bias over the first inputs and outputs."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        dense = nn.Linear(c_in, c_out)
        self.in_features, self.out_features = c_in, c_out
        self.weight, self.bias = dense.weight, dense.bias

    def forward(self, x_BC: torch.Tensor, c_out: int) -> torch.Tensor:
        """(B, c_in') -> (B, c_out)."""
        return F.linear(x_BC, self.weight[:c_out, : x_BC.shape[1]], self.bias[:c_out])

    @torch.no_grad()
    def cut(self, c_in: int, c_out: int) -> nn.Linear:
        """The first channels as a plain linear layer."""
        with torch.device("meta"):
            linear = nn.Linear(c_in, c_out)
        return _filled(linear, weight=self.weight[:c_out, :c_in], bias=self.bias[:c_out])


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
        s_BC = F.relu(F.linear(s_BC, self.reduce.weight[:squeezed, :c], self.reduce.bias[:squeezed]))
        s_BC = F.hardsigmoid(F.linear(s_BC, self.expand.weight[:c, :squeezed], self.expand.bias[:c]))
        return x_BCHW * s_BC[:, :, None, None]

    @torch.no_grad()
    def cut(self, channels: int, squeezed: int) -> SqueezeExcite2d:
        """The first channels as a plain squeeze-excite."""
        with torch.device("meta"):
            se = SqueezeExcite2d(channels, squeezed)
        reduce, expand = self.reduce, self.expand
        _filled(se.reduce, weight=reduce.weight[:squeezed, :channels, None, None], bias=reduce.bias[:squeezed])
        _filled(se.expand, weight=expand.weight[:channels, :squeezed, None, None], bias=expand.bias[:channels])
        return se


def _filled(module: M, **tensors: torch.Tensor) -> M:
    """The module, built on the meta device so that nothing was drawn or computed for it, with copies of ``tensors``."""
    for name, tensor in tensors.items():
        copy = tensor.detach().clone(memory_format=torch.contiguous_format)
        setattr(module, name, nn.Parameter(copy) if name in ("weight", "bias") else copy)
    return module
