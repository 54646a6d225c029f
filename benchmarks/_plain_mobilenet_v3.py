"""MobileNetV3-Large (Howard et al., ICCV 2019, table 1) from plain torch modules."""

from __future__ import annotations

import torch
from torch import nn

# kernel, inner channels, output channels, squeeze-excite, activation, stride
ROWS = (
    (3, 16, 16, False, nn.ReLU, 1),
    (3, 64, 24, False, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 1),
    (5, 72, 40, True, nn.ReLU, 2),
    (5, 120, 40, True, nn.ReLU, 1),
    (5, 120, 40, True, nn.ReLU, 1),
    (3, 240, 80, False, nn.Hardswish, 2),
    (3, 200, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 184, 80, False, nn.Hardswish, 1),
    (3, 480, 112, True, nn.Hardswish, 1),
    (3, 672, 112, True, nn.Hardswish, 1),
    (5, 672, 160, True, nn.Hardswish, 2),
    (5, 960, 160, True, nn.Hardswish, 1),
    (5, 960, 160, True, nn.Hardswish, 1),
)


class SqueezeExcite(nn.Module):
    """Channels scaled by what is learned from their means."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = -(-channels // 32) * 8
        self.scale = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        out: torch.Tensor = x_BCHW * self.scale(x_BCHW)
        return out


class Block(nn.Module):
    """An inverted residual."""

    def __init__(self, c_in: int, kernel: int, inner: int, c_out: int, se: bool, act: type[nn.Module], stride: int):
        super().__init__()
        self.residual = stride == 1 and c_in == c_out
        parts = [] if inner == c_in else [nn.Conv2d(c_in, inner, 1, bias=False), nn.BatchNorm2d(inner), act()]
        parts += [nn.Conv2d(inner, inner, kernel, stride, kernel // 2, groups=inner, bias=False)]
        parts += [nn.BatchNorm2d(inner), *((SqueezeExcite(inner),) if se else ()), act()]
        self.body = nn.Sequential(*parts, nn.Conv2d(inner, c_out, 1, bias=False), nn.BatchNorm2d(c_out))

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """(B, c_in, H, W) -> (B, c_out, H/stride, W/stride)."""
        y: torch.Tensor = self.body(x_BCHW)
        return x_BCHW + y if self.residual else y


def mobilenet_v3_large(classes: int) -> nn.Module:
    """The network, untrained, for three input channels."""
    blocks, c_in = [], 16
    for kernel, inner, c_out, se, act, stride in ROWS:
        blocks.append(Block(c_in, kernel, inner, c_out, se, act, stride))
        c_in = c_out
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.Hardswish(),
        *blocks,
        nn.Conv2d(160, 960, 1, bias=False),
        nn.BatchNorm2d(960),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(960, 1280),
        nn.Hardswish(),
        nn.Dropout(0.2),
        nn.Linear(1280, classes),
    )


@torch.no_grad()
def macs(module: nn.Module, x_BCHW: torch.Tensor) -> int:
    """Multiplications of a network's convolutions and linear layers, for one image of the batch."""
    counted = 0

    def count(layer: nn.Module, _inputs: object, out: torch.Tensor) -> None:
        nonlocal counted
        assert isinstance(layer, nn.Conv2d | nn.Linear)
        counted += out[0].numel() * layer.weight[0].numel()

    layers = [m for m in module.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    module.eval()(x_BCHW[:1])
    for hook in hooks:
        hook.remove()
    return counted
