"""Images on their way into a network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.training.augment import augment, channel_stats, resize, to_float


def images(n: int = 16, channels: int = 3, side: int = 12) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (n, channels, side, side), dtype=np.uint8))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_channel_stats_normalise() -> None:
    pixels = images(n=64)
    mean, std = channel_stats(pixels.numpy())
    assert mean == pytest.approx(pixels.double().mean((0, 2, 3)).tolist())
    assert std == pytest.approx(pixels.double().std((0, 2, 3), correction=0).tolist())
    x = to_float(pixels, mean, std)
    assert x.dtype == torch.float32
    assert x.mean((0, 2, 3)).abs().max() < 1e-5
    assert (x.std((0, 2, 3)) - 1).abs().max() < 1e-3


def test_a_constant_channel_stays_finite() -> None:
    blank = np.full((4, 1, 8, 8), 7, np.uint8)
    mean, std = channel_stats(blank)
    assert torch.equal(to_float(torch.from_numpy(blank), mean, std), torch.zeros(4, 1, 8, 8))


@settings(max_examples=30, deadline=None)
@given(side=st.integers(4, 24), resolution=st.integers(4, 24))
def test_resizing_commutes_with_normalising(side: int, resolution: int) -> None:
    pixels = images(n=2, side=side)
    mean, std = channel_stats(pixels.numpy())
    x = to_float(pixels, mean, std, resolution)
    other = (resize(pixels.float(), resolution) - torch.tensor(mean).view(1, -1, 1, 1)) / torch.tensor(std).view(
        1, -1, 1, 1
    )
    assert x.shape == (2, 3, resolution, resolution)
    assert torch.allclose(x, other, atol=1e-4)


def test_shrinking_averages_fine_patterns() -> None:
    checkers = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 255
    small = resize(checkers.float()[None, None], 8)
    assert (small - 127.5).abs().max() < 10  # picking single pixels would give black or white


def test_the_generator_decides_everything() -> None:
    x = images().float()
    assert torch.equal(augment(x, generator(1), flip=True), augment(x, generator(1), flip=True))
    assert not torch.equal(augment(x, generator(1), flip=True), augment(x, generator(2), flip=True))
    state = torch.get_rng_state()
    augment(x, generator(1), flip=True)
    assert torch.equal(state, torch.get_rng_state())


def test_nothing_asked_nothing_done() -> None:
    x = images().float()
    same = augment(x, generator(), flip=False, shift=0, rotate_degrees=0, zoom=0)
    assert torch.allclose(same, x, atol=1e-2)


def test_flip_mirrors_about_half() -> None:
    x = images(n=400).float()
    y = augment(x, generator(), flip=True, shift=0, rotate_degrees=0, zoom=0)
    is_unchanged = (y - x).abs().amax((1, 2, 3)) < 1e-2
    mirrored = (y - x.flip(3)).abs().amax((1, 2, 3)) < 1e-2
    assert torch.all(is_unchanged ^ mirrored)
    assert 140 < int(mirrored.sum()) < 260


def test_shift_moves_whole_pixels_and_continues_the_border() -> None:
    x = images(n=200).float()
    y = augment(x, generator(), flip=False, shift=0.2, rotate_degrees=0, zoom=0)  # up to 2 of 12 pixels
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
    shifted = torch.stack([padded[:, :, i : i + 12, j : j + 12] for i in range(5) for j in range(5)])
    distance_SB = (shifted - y).abs().amax((2, 3, 4))
    assert distance_SB.amin(0).max() < 1e-2
    assert len(set(distance_SB.argmin(0).tolist())) == 25


def test_rotation_and_zoom_stay_within_their_limits() -> None:
    """The mean position of a bright spot off centre moves by no more than the angle and the scale allow."""
    x = torch.zeros(300, 1, 33, 33)
    x[:, :, 15:18, 27:30] = 1.0  # 12 pixels to the right of the centre
    y = augment(x, generator(), flip=False, shift=0, rotate_degrees=20, zoom=0.1)
    at = torch.arange(33.0) - 16
    mass = y.sum((1, 2, 3))
    right = (y.sum((1, 2)) * at).sum(1) / mass
    down = (y.sum((1, 3)) * at).sum(1) / mass
    angle = torch.rad2deg(torch.atan2(down, right))
    radius = torch.hypot(right, down)
    assert angle.abs().max() < 21
    assert angle.std() > 8
    assert 12 / 1.1 - 0.5 < radius.min() < 11.6
    assert 12.4 < radius.max() < 12 / 0.9 + 0.5
