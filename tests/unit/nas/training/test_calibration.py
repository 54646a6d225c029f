"""Batch-norm recalibration and batches of equal size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nas.core.parent import Preprocessing
from nas.core.ports import Dataset, ImageShape, Split
from nas.training.calibration import recalibrate
from nas.training.pipeline import Pipeline


def test_statistics_are_weighted_by_batch_size() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 3.0 * torch.randn(257, 4, 1, 1, generator=generator) + 5.0
    norm = nn.BatchNorm2d(4)
    batches = [x[:200], x[200:]]
    recalibrate(norm, batches)
    means = torch.stack([b.double().mean(dim=(0, 2, 3)) for b in batches])
    variances = torch.stack([b.double().var(dim=(0, 2, 3), correction=0) for b in batches])
    share = torch.tensor([200.0, 57.0]).double()[:, None] / 257
    assert norm.running_mean is not None
    assert norm.running_var is not None
    torch.testing.assert_close(norm.running_mean.double(), (share * means).sum(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(norm.running_var.double(), (share * variances).sum(0), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(norm.running_mean.double(), x.double().mean(dim=(0, 2, 3)), rtol=1e-6, atol=1e-6)


def test_equal_batches_give_the_plain_mean_of_batch_statistics() -> None:
    x = torch.randn(6, 2, 3, 3, generator=torch.Generator().manual_seed(1))
    norm = nn.BatchNorm2d(2)
    norm.running_mean = torch.full((2,), 1e6)  # earlier statistics have no influence
    recalibrate(norm, [x[:3], x[3:]])
    assert norm.running_var is not None
    variances = torch.stack([b.var(dim=(0, 2, 3), correction=0) for b in (x[:3], x[3:])])
    torch.testing.assert_close(norm.running_var, variances.mean(0))
    torch.testing.assert_close(norm.running_mean, x.mean(dim=(0, 2, 3)))


def test_a_batch_of_one_image_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 images"):
        recalibrate(nn.BatchNorm2d(3), [torch.randn(4, 3, 2, 2), torch.randn(1, 3, 2, 2)])


def dataset(n: int) -> Dataset:
    images = np.random.default_rng(n).integers(0, 256, (n, 1, 4, 4)).astype(np.uint8)
    split = Split(images, np.arange(n, dtype=np.int64) % 2)
    return Dataset("x", ImageShape(1, 4, 4, 2), split, split, split, ("a", "b"), "hash")


@pytest.mark.parametrize("n", [2, 255, 256, 257, 258, 300, 512, 513, 769])
def test_batches_have_nearly_equal_sizes_and_every_image_once(n: int) -> None:
    data = dataset(n)
    pipeline = Pipeline(data, "cpu")
    batches = list(pipeline.plain(data.train, 4, batch=256))
    sizes = [len(y) for _, y in batches]
    assert sum(sizes) == n
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= 256
    assert len(sizes) == -(-n // 256)
    (only_batch,) = pipeline.plain(data.train, 4, batch=n)
    assert torch.equal(torch.cat([x for x, _ in batches]), only_batch[0])
    rows = np.arange(n)[::-1].astype(np.int64)
    assert torch.equal(torch.cat([y for _, y in pipeline.rows(data.train, rows, 4, 256)]), only_batch[1].flip(0))


@pytest.mark.parametrize("n", [257, 258, 300])
def test_recalibration_of_a_network_ignores_how_images_are_batched(n: int) -> None:
    """Of one image above a full batch, statistics were those of that image by half, or torch raised."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 4), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
    data = dataset(n)
    pipeline = Pipeline(data, "cpu")
    results = []
    for batch in (256, n):
        recalibrate(net, (x for x, _ in pipeline.plain(data.train, 4, batch)))
        results.append([b.clone() for b in net.buffers() if b.dtype.is_floating_point])
    for two, one in zip(*results, strict=True):
        torch.testing.assert_close(two, one, rtol=0.05, atol=0.02)


def test_each_split_keeps_its_own_tensors() -> None:
    """A split that is garbage collected gives its id to another; its tensors must not be served for that one."""
    data = dataset(8)
    pipeline = Pipeline(data, "cpu")

    def first_pixel(value: int) -> Any:
        split = Split(np.full((2, 1, 4, 4), value, dtype=np.uint8), np.zeros(2, dtype=np.int64))
        ((x, _),) = pipeline.plain(split, 4)
        return float(x[0, 0, 0, 0])

    pixels = [first_pixel(value) for value in range(50)]
    assert len(set(pixels)) == 50


def test_images_are_normalised_as_a_model_expects() -> None:
    data = dataset(4)
    ((x, _),) = Pipeline(data, "cpu", Preprocessing((100.0,), (50.0,))).plain(data.train, 4)
    expected = (torch.from_numpy(data.train.images_NCHW).float() - 100.0) / 50.0
    torch.testing.assert_close(x, expected)


def test_large_images_are_evaluated_in_small_batches() -> None:
    data = dataset(100)
    pipeline = Pipeline(data, "cpu")
    assert [len(x) for x, _ in pipeline.plain(data.train, 8)] == [100]
    assert [len(x) for x, _ in pipeline.plain(data.train, 96)] == [25, 25, 25, 25]


@pytest.mark.parametrize(("side", "is_channels_last"), [(4, False), (64, True)])
def test_large_images_have_their_channels_last_in_memory(side: int, is_channels_last: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 3, side, side)).astype(np.uint8)
    split = Split(images, np.zeros(4, dtype=np.int64))
    data = Dataset("x", ImageShape(3, side, side, 2), split, split, split, ("a", "b"), "hash")
    pipeline = Pipeline(data, "cpu", Preprocessing((0.0,) * 3, (1.0,) * 3))
    rows = np.arange(4)
    batches = [
        *pipeline.plain(split, side),
        *pipeline.rows(split, rows, side),
        pipeline.augmented(split, rows, side, 0),
    ]
    assert [x.is_contiguous(memory_format=torch.channels_last) for x, _ in batches] == [is_channels_last] * 3
    torch.testing.assert_close(batches[0][0], torch.from_numpy(images).float(), check_stride=False)
