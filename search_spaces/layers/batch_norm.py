"""Batch norm with elastic channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from search_spaces.layers.first_channels import first
from search_spaces.layers.plain_copies import filled


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
        weight, bias = (first(self.weight, c), first(self.bias, c)) if affine else (None, None)
        if self.training:
            return F.batch_norm(x_BCHW, None, None, weight, bias, training=True, eps=self.eps)
        return F.batch_norm(x_BCHW, self.running_mean[:c], self.running_var[:c], weight, bias, eps=self.eps)

    @torch.no_grad()
    def cut(self, channels: int) -> nn.BatchNorm2d:
        """The first channels as a plain batch norm."""
        with torch.device("meta"):
            norm = nn.BatchNorm2d(channels, eps=self.eps)
        return filled(
            norm,
            weight=self.weight[:channels],
            bias=self.bias[:channels],
            running_mean=self.running_mean[:channels],
            running_var=self.running_var[:channels],
            num_batches_tracked=torch.zeros((), dtype=torch.long, device=self.weight.device),
        )
