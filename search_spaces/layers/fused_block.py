"""FusedMBConv (EfficientNetV2, Tan and Le, ICML 2021, section 3.2) with elastic expansion and width."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from nas.core.layers import Conv2d, Layer
from search_spaces.layers.batch_norm import ElasticBatchNorm
from search_spaces.layers.convolution import ElasticConv
from search_spaces.layers.residual import Residual


@dataclass(frozen=True)
class FusedLayers:
    """The typed layers of a fused block: a 3x3 convolution that expands, and a 1x1 convolution that projects."""

    expand: Conv2d
    project: Conv2d

    @classmethod
    def of(cls, layers: Mapping[str, Layer]) -> FusedLayers:
        """From layers by the last part of their name."""
        expand, project = layers["expand"], layers["project"]
        assert isinstance(expand, Conv2d)
        assert isinstance(project, Conv2d)
        return cls(expand, project)


class ElasticFusedBlock(nn.Module):
    """Expand 3x3 with swish, project 1x1; ``largest``: its layers in the largest network."""

    def __init__(self, largest: FusedLayers) -> None:
        super().__init__()
        expand, project = largest.expand, largest.project
        self.expand = ElasticConv(expand.in_shape[0], expand.out_channels, expand.kernel, expand.stride)
        self.expand_norm = ElasticBatchNorm(expand.out_channels)
        self.project = ElasticConv(expand.out_channels, project.out_channels)
        self.project_norm = ElasticBatchNorm(project.out_channels)

    def forward(self, x_BCHW: torch.Tensor, layers: FusedLayers) -> torch.Tensor:
        """(B, c_in, H, W) -> (B, c_out, H/stride, W/stride)."""
        y = F.silu(self.expand_norm(self.expand(x_BCHW, layers.expand.out_channels)))
        y = self.project_norm(self.project(y, layers.project.out_channels))
        out: torch.Tensor = y if layers.project.residual is None else x_BCHW + y
        return out

    def cut(self, layers: FusedLayers) -> nn.Module:
        """A copy as a plain block."""
        inner, c_out = layers.expand.out_channels, layers.project.out_channels
        modules: OrderedDict[str, nn.Module] = OrderedDict(
            expand=self.expand.cut(layers.expand.in_shape[0], inner),
            expand_norm=self.expand_norm.cut(inner),
            expand_act=nn.SiLU(),
            project=self.project.cut(inner, c_out),
            project_norm=self.project_norm.cut(c_out),
        )
        body = nn.Sequential(modules)
        return body if layers.project.residual is None else Residual(body)
