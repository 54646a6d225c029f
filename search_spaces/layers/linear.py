"""Fully connected layers with elastic inputs and outputs."""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from search_spaces.layers.plain_copies import filled


class ElasticLinear(nn.Module):
    """Fully connected layer over the first inputs and outputs."""

    def __init__(self, c_in: int, c_out: int, *, bias: bool = True) -> None:
        super().__init__()
        dense = nn.Linear(c_in, c_out, bias=bias)
        self.in_features, self.out_features = c_in, c_out
        self.weight, self.bias = dense.weight, dense.bias

    def forward(self, x_BC: torch.Tensor, c_out: int) -> torch.Tensor:
        """(B, c_in') -> (B, c_out)."""
        bias = None if self.bias is None else self.bias[:c_out]
        return F.linear(x_BC, self.weight[:c_out, : x_BC.shape[1]], bias)

    @torch.no_grad()
    def cut(self, c_in: int, c_out: int) -> nn.Linear:
        """The first channels as a plain linear layer."""
        with torch.device("meta"):
            linear = nn.Linear(c_in, c_out, bias=self.bias is not None)
        weight = self.weight[:c_out, :c_in]
        return (
            filled(linear, weight=weight)
            if self.bias is None
            else filled(linear, weight=weight, bias=self.bias[:c_out])
        )


def plain_head(classifier: ElasticLinear, c_in: int, dropout: float) -> OrderedDict[str, nn.Module]:
    """What follows the last map of ``c_in`` channels in a plain network: global pooling, dropout, the classifier."""
    return OrderedDict(
        pool=nn.AdaptiveAvgPool2d(1),
        flatten=nn.Flatten(),
        dropout=nn.Dropout(dropout),
        classifier=classifier.cut(c_in, classifier.out_features),
    )
