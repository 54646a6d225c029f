"""Images on their way into a network: scaling, normalisation, and augmentation, batched on the training device.

Pixel values are 0 to 255 throughout, also in ``mean`` and ``std``; exported models take the same values
(``nas.export.Normalised``). Resizing and augmenting commute with normalising, so the order is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray


@dataclass(frozen=True)
class Augmentation:
    """How far an image may be moved: ``shift`` as a share of its side, ``rotate_deg`` to either side, ``scale`` as a
    share of its size to either side. A moved image is continued by its border pixels."""

    shift: float = 0.125
    rotate_deg: float = 0.0
    scale: float = 0.0
    flip: bool = False


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


def augment(x_BCHW: torch.Tensor, how: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Every image moved by its own random shift, turn, scale and flip; same shape.

    Shifts are whole pixels, so that an image that is only shifted or flipped keeps its pixels unblurred.
    """
    b, _, h, w = x_BCHW.shape

    def uniform(extent: float) -> torch.Tensor:
        draw = torch.rand(b, generator=generator, device=generator.device)
        return ((draw * 2 - 1) * extent).to(x_BCHW.device)

    angle, zoom = torch.deg2rad(uniform(how.rotate_deg)), 1 + uniform(how.scale)
    mirror = torch.where(uniform(1.0) < 0, -1.0, 1.0) if how.flip else torch.ones_like(zoom)
    right = torch.round(uniform(how.shift * w)) * 2 / w  # the grid spans -1 to 1
    down = torch.round(uniform(how.shift * h)) * 2 / h
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    rows = (torch.stack([cos * mirror, -sin, right], dim=1), torch.stack([sin * mirror, cos, down], dim=1))
    grid = F.affine_grid(torch.stack(rows, dim=1), [b, 1, h, w], align_corners=False)
    return F.grid_sample(x_BCHW, grid.to(x_BCHW.dtype), padding_mode="border", align_corners=False)
