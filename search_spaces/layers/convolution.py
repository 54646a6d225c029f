"""Pointwise and dense convolutions with elastic channels."""

from __future__ import annotations

import torch
from torch import nn

from nas.convolution import PlainConv2d, conv2d
from search_spaces.layers.first_channels import first
from search_spaces.layers.layout import pointwise
from search_spaces.layers.plain_copies import filled


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
        weight = first(self.weight, c_out, x_BCHW.shape[1])
        if self.kernel == self.stride == 1:
            return pointwise(x_BCHW, weight)
        return conv2d(x_BCHW, weight, stride=self.stride, padding=self.kernel // 2)

    @torch.no_grad()
    def cut(self, c_in: int, c_out: int) -> nn.Conv2d:
        """The first channels as a plain convolution."""
        with torch.device("meta"):
            conv = PlainConv2d(c_in, c_out, self.kernel, self.stride, self.kernel // 2, bias=False)
        return filled(conv, weight=self.weight[:c_out, :c_in])
