"""Images on their way into a network: scaling, normalisation, and augmentation, batched on the training device.

Pixel values are 0 to 255 throughout, also in ``mean`` and ``std``; exported models take the same values
(``nas.export.Normalised``). Resizing and augmenting commute with normalising, so the order is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray


def channel_stats(images_NCHW: NDArray[np.uint8]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of every channel, in pixel values; a constant channel's deviation counts as 1.

    Exact and the same on every machine: counted over the 256 values.
    """
    values = np.arange(256.0)
    means, stds = [], []
    for c in range(images_NCHW.shape[1]):
        counts = np.bincount(images_NCHW[:, c].ravel(), minlength=256)
        mean = float(counts @ values / counts.sum())
        std = float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))
        means.append(mean)
        stds.append(std if std > 0 else 1.0)
    return tuple(means), tuple(stds)


def to_float(
    images_NCHW: torch.Tensor, mean: Sequence[float], std: Sequence[float], resolution: int | None = None
) -> torch.Tensor:
    """uint8 images as normalised floats of ``resolution`` x ``resolution`` pixels; None keeps their size."""
    shape = (1, -1, 1, 1)
    mean_1C11 = torch.tensor(mean, dtype=torch.float32, device=images_NCHW.device).view(shape)
    std_1C11 = torch.tensor(std, dtype=torch.float32, device=images_NCHW.device).view(shape)
    x_BCHW = (images_NCHW.float() - mean_1C11) / std_1C11
    return x_BCHW if resolution is None else resize(x_BCHW, resolution)


def resize(x_BCHW: torch.Tensor, resolution: int) -> torch.Tensor:
    """Square images of ``resolution`` pixels, bilinear; shrinking averages what it drops (antialias)."""
    if x_BCHW.shape[-2:] == (resolution, resolution):
        return x_BCHW
    return F.interpolate(x_BCHW, size=(resolution, resolution), mode="bilinear", antialias=True)


def augment(
    x_BCHW: torch.Tensor,
    generator: torch.Generator,
    *,
    flip: bool,
    shift: float = 0.1,
    rotate_degrees: float = 10.0,
    zoom: float = 0.1,
) -> torch.Tensor:
    """Every image moved by its own random shift (share of its side), rotation, zoom and, if ``flip``, mirroring.

    Same shape; border pixels continue the image. Shifts are whole pixels, so that an image that is neither turned nor
    zoomed keeps its pixels unblurred.
    """
    b, _, h, w = x_BCHW.shape

    def uniform(limit: float) -> torch.Tensor:
        draw = torch.rand(b, generator=generator, device=generator.device)
        return ((draw * 2 - 1) * limit).to(x_BCHW.device)

    angle, scale = torch.deg2rad(uniform(rotate_degrees)), 1 + uniform(zoom)
    mirror = torch.where(uniform(1.0) < 0, -1.0, 1.0) if flip else torch.ones_like(scale)
    right = torch.round(uniform(shift * w)) * 2 / w  # the grid spans -1 to 1
    down = torch.round(uniform(shift * h)) * 2 / h
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    theta_B23 = torch.stack([cos * mirror, -sin, right, sin * mirror, cos, down], dim=1).view(b, 2, 3)
    grid = F.affine_grid(theta_B23, [b, 1, h, w], align_corners=False)
    return F.grid_sample(x_BCHW, grid.to(x_BCHW.dtype), padding_mode="border", align_corners=False)
