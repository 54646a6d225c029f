"""Images on their way into a network: scaling, normalisation, and augmentation, batched on the training device.

Pixel values are 0 to 255 throughout, also in ``mean`` and ``std``; exported models take the same values
(``nas.export.Normalised``). Resizing and augmenting commute with normalising, so the order is the caller's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from nas.core.images import ChannelStats, Resolution, height_and_width, stats_of_counts

SampleMode = Literal["bilinear", "nearest"]


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed. ``strength`` multiplies the limits of ``augment``.

    ``min_crop_area``: the least share of an image that ``random_resized_crop`` leaves, 1: it is not used. ``cutout``:
    the side of the erased square as a share of the image's side, 0: nothing is erased.
    """

    strength: float = 1.0
    min_crop_area: float = 1.0
    cutout: float = 0.0

    def apply(self, x_BCHW: torch.Tensor, generator: torch.Generator, *, flip: bool) -> torch.Tensor:
        """Normalised images, cropped, moved and erased in this order; same shape."""
        x_BCHW = self._move(x_BCHW, generator, flip, "bilinear")
        return cutout(x_BCHW, generator, self.cutout) if self.cutout > 0 else x_BCHW

    def apply_to_masks(
        self, mask_BHW: torch.Tensor, generator: torch.Generator, resolution: Resolution, *, flip: bool
    ) -> torch.Tensor:
        """Masks of class numbers, cropped and moved as images of ``resolution`` by a generator of the same seed; each
        pixel has the class of the nearest. Shape (B, H, W) of that resolution, same type."""
        size = height_and_width(resolution)
        mask_B1HW = F.interpolate(mask_BHW[:, None].float(), size=size, mode="nearest-exact")
        return self._move(mask_B1HW, generator, flip, "nearest")[:, 0].to(mask_BHW.dtype)

    def _move(self, x_BCHW: torch.Tensor, generator: torch.Generator, flip: bool, mode: SampleMode) -> torch.Tensor:
        if self.min_crop_area < 1:
            x_BCHW = random_resized_crop(x_BCHW, generator, self.min_crop_area, mode=mode)
        limits = {"shift": 0.1 * self.strength, "rotate_degrees": 10.0 * self.strength, "zoom": 0.1 * self.strength}
        return augment(x_BCHW, generator, flip=flip, mode=mode, **limits)


@dataclass(frozen=True)
class MixedImages:
    """Images of which each is ``share`` parts of one image and 1 - ``share`` of another: ``x_BCHW``, with the labels
    ``y_B`` and ``other_y_B``. Images that are not mixed have a ``share`` of 1. ``origin``: all of how the images came
    about, so that equal ones have equal origins; None: it is not known."""

    x_BCHW: torch.Tensor
    y_B: torch.Tensor
    other_y_B: torch.Tensor
    share: float
    origin: Hashable | None = None

    def loss(self, of_labels: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The mixture of the losses by both labels."""
        if self.share == 1:
            return of_labels(self.y_B)
        return self.share * of_labels(self.y_B) + (1 - self.share) * of_labels(self.other_y_B)


def channel_stats(images_NCHW: NDArray[np.uint8]) -> ChannelStats:
    """Mean and standard deviation of every channel, in pixel values; a constant channel's deviation counts as 1.

    Exact and the same on every machine: counted over the 256 values.
    """
    channels = range(images_NCHW.shape[1])
    return stats_of_counts(np.array([np.bincount(images_NCHW[:, c].ravel(), minlength=256) for c in channels]))


def to_float(
    images_NCHW: torch.Tensor, mean: Sequence[float], std: Sequence[float], resolution: Resolution | None = None
) -> torch.Tensor:
    """uint8 images as normalised floats of a resolution; None keeps their size."""
    shape = (1, -1, 1, 1)
    mean_1C11 = torch.tensor(mean, dtype=torch.float32, device=images_NCHW.device).view(shape)
    std_1C11 = torch.tensor(std, dtype=torch.float32, device=images_NCHW.device).view(shape)
    x_BCHW = (images_NCHW.float() - mean_1C11) / std_1C11
    return x_BCHW if resolution is None else resize(x_BCHW, resolution)


def resize(x_BCHW: torch.Tensor, resolution: Resolution) -> torch.Tensor:
    """Images of a resolution, bilinear; shrinking averages what it drops (antialias)."""
    size = height_and_width(resolution)
    if x_BCHW.shape[-2:] == size:
        return x_BCHW
    return F.interpolate(x_BCHW, size=size, mode="bilinear", antialias=True)


def augment(
    x_BCHW: torch.Tensor,
    generator: torch.Generator,
    *,
    flip: bool,
    shift: float = 0.1,
    rotate_degrees: float = 10.0,
    zoom: float = 0.1,
    mode: SampleMode = "bilinear",
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
    return F.grid_sample(x_BCHW, grid.to(x_BCHW.dtype), mode=mode, padding_mode="border", align_corners=False)


def random_resized_crop(
    x_BCHW: torch.Tensor,
    generator: torch.Generator,
    min_area: float,
    max_ratio: float = 4 / 3,
    mode: SampleMode = "bilinear",
) -> torch.Tensor:
    """A random part of every image, scaled to the image's size; same shape (Szegedy et al., CVPR 2015)."""
    b, _, h, w = x_BCHW.shape
    left_B, top_B, width_B, height_B = crop_boxes(b, generator, min_area, max_ratio).to(x_BCHW.device).unbind(1)
    zero = torch.zeros_like(left_B)
    across_B3 = torch.stack([width_B, zero, 2 * left_B + width_B - 1], dim=1)  # the grid spans -1 to 1
    down_B3 = torch.stack([zero, height_B, 2 * top_B + height_B - 1], dim=1)
    grid = F.affine_grid(torch.stack([across_B3, down_B3], dim=1), [b, 1, h, w], align_corners=False)
    return F.grid_sample(x_BCHW, grid.to(x_BCHW.dtype), mode=mode, padding_mode="border", align_corners=False)


def crop_boxes(n: int, generator: torch.Generator, min_area: float, max_ratio: float = 4 / 3) -> torch.Tensor:
    """Boxes (left, top, width, height) in shares of the image's sides, shape (n, 4).

    Areas are uniform between ``min_area`` and 1. The logarithm of width / height is uniform up to that of
    ``max_ratio``, or of the most elongated box of that area that fits; positions are uniform.
    """
    area, ratio, x, y = torch.rand(4, n, generator=generator, device=generator.device).unbind(0)
    area = min_area + (1 - min_area) * area
    limit = torch.clamp(-torch.log(area), max=math.log(max_ratio))
    elongation = torch.exp((2 * ratio - 1) * limit / 2)
    width, height = torch.sqrt(area) * elongation, torch.sqrt(area) / elongation
    return torch.stack([x * (1 - width), y * (1 - height), width, height], dim=1)


def cutout(x_BCHW: torch.Tensor, generator: torch.Generator, side: float) -> torch.Tensor:
    """Every image with a square of ``side`` (share of its own side, at least a pixel) set to 0 around a random pixel.

    Parts of the square may lie outside of the image (DeVries and Taylor, arXiv:1708.04552). Of normalised images, 0 is
    the mean.
    """
    b, _, h, w = x_BCHW.shape
    erased = []
    for size in (h, w):
        length = max(1, round(side * size))
        draws_B = torch.randint(size, (b,), generator=generator, device=generator.device).to(x_BCHW.device)
        distance_BS = torch.arange(size, device=x_BCHW.device) - (draws_B - length // 2)[:, None]
        erased.append((distance_BS >= 0) & (distance_BS < length))
    erased_BHW = erased[0][:, :, None] & erased[1][:, None, :]
    return x_BCHW.masked_fill(erased_BHW[:, None], 0.0)


def mixup(x_BCHW: torch.Tensor, y_B: torch.Tensor, alpha: float, seed: int) -> MixedImages:
    """Every image mixed with another of the batch; one share, of Beta(``alpha``, ``alpha``), for the whole batch
    (Zhang et al., ICLR 2018). Not mixed where ``alpha`` is 0."""
    if alpha == 0:
        return MixedImages(x_BCHW, y_B, y_B, 1.0)
    generator = np.random.default_rng(seed)
    share = float(generator.beta(alpha, alpha))
    partners_B = torch.from_numpy(generator.permutation(len(y_B))).to(x_BCHW.device)
    mixed_BCHW = torch.lerp(x_BCHW[partners_B], x_BCHW, share)
    return MixedImages(mixed_BCHW, y_B, y_B[partners_B], share)
