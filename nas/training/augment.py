"""Augmentation, batched, by one affine grid per batch; every random number comes from the given generator."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray


def channel_stats(images_NCHW: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel of images scaled to 0..1."""
    pixels = images_NCHW.astype(np.float64) / 255.0
    return (
        tuple(float(v) for v in pixels.mean((0, 2, 3))),
        tuple(float(max(v, 1e-3)) for v in pixels.std((0, 2, 3))),
    )


def to_float(
    images_BCHW: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...], resolution: int
) -> torch.Tensor:
    """uint8 images as normalised float32 at ``resolution``; bilinear, antialiased when shrinking."""
    x = images_BCHW.float().div_(255.0)
    m = torch.tensor(mean, device=x.device).view(1, -1, 1, 1)
    s = torch.tensor(std, device=x.device).view(1, -1, 1, 1)
    x = (x - m) / s
    if x.shape[-2:] != (resolution, resolution):
        shrinking = resolution < min(x.shape[-2:])
        x = F.interpolate(x, size=(resolution, resolution), mode="bilinear", align_corners=False, antialias=shrinking)
    return x


def augment(
    x_BCHW: torch.Tensor,
    generator: torch.Generator,
    *,
    flip: bool,
    shift: float = 0.1,
    rotate_degrees: float = 10.0,
    zoom: float = 0.1,
) -> torch.Tensor:
    """Random shift (share of the image), rotation, zoom and, if ``flip``, horizontal mirroring; same shape."""
    b, device = len(x_BCHW), x_BCHW.device

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(b, generator=generator, device=device) * 2 - 1) * limit

    angle = torch.deg2rad(uniform(rotate_degrees))
    scale = 1 + uniform(zoom)
    mirror = torch.where(torch.rand(b, generator=generator, device=device) < 0.5, -1.0, 1.0) if flip else 1.0
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [cos * mirror, -sin, uniform(2 * shift), sin * mirror, cos, uniform(2 * shift)]
    theta_B23 = torch.stack(rows, dim=1).view(b, 2, 3)
    grid = F.affine_grid(theta_B23, list(x_BCHW.shape), align_corners=False)
    return F.grid_sample(x_BCHW, grid, mode="bilinear", padding_mode="border", align_corners=False)
