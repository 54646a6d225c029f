"""Training batches by position, with images in memory and on disk."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from nas.core.errors import InvalidData
from nas.core.images import ChannelStats, ImageRows
from nas.core.ports import Dataset, ImageShape, Split
from nas.core.rng import Stream, rng
from nas.training.augment import Augmentation
from nas.training.loader import BatchLoader, Position
from nas.training.pipeline import Pipeline

LABELS = np.arange(22, dtype=np.int64) % 2
IMAGES = np.random.default_rng(0).integers(0, 256, (22, 1, 4, 4), dtype=np.uint8)


@dataclass(frozen=True)
class ImagesElsewhere:
    """Stored images whose crops add a number that the seed decides; the image ``damaged`` cannot be read."""

    damaged: int = -1
    cropped: bool = True
    stats: ChannelStats = ((128.0,), (64.0,))
    shape: tuple[int, int, int, int] = IMAGES.shape

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, rows: ImageRows | slice) -> NDArray[np.uint8]:
        return IMAGES[rows]

    def crops(self, row_B: ImageRows, seed: int) -> NDArray[np.uint8]:
        if self.damaged in row_B:
            raise InvalidData("image 7 is damaged")
        return (IMAGES[row_B].astype(np.int64) + seed).astype(np.uint8)

    def epoch_order(self, generator: np.random.Generator) -> ImageRows:
        return generator.permutation(len(IMAGES))[::-1].copy()


@contextmanager
def loader_of(images: NDArray[np.uint8] | ImagesElsewhere) -> Iterator[BatchLoader]:
    split = Split(images, LABELS)
    pipeline = Pipeline(Dataset("x", ImageShape(1, 4, 4, 2), split, split, split, ("a", "b"), "hash"), "cpu")
    yield BatchLoader(pipeline, split, 5, seed=3, phase=1)
    pipeline.close()


def test_batches_of_an_array_follow_the_order_of_their_epoch() -> None:
    with loader_of(IMAGES) as loader:
        order = rng(3, Stream.BATCH_ORDER, 1, 2).permutation(22)
        assert np.array_equal(loader.rows(Position(2, 1)), order[5:10])
        batch = loader.batch(Position(2, 1))
    assert np.array_equal(batch.images_BCHW.numpy(), IMAGES[order[5:10]])
    assert not batch.cropped


@pytest.mark.parametrize("images", [IMAGES, ImagesElsewhere()], ids=["memory", "disk"])
def test_training_resumes_with_the_same_batches_at_any_position(images: NDArray[np.uint8] | ImagesElsewhere) -> None:
    with loader_of(images) as loader:
        run = list(islice(loader.batches(), 11))
    assert [at for at, _ in run[3:6]] == [Position(0, 3), Position(1, 0), Position(1, 1)]
    for begin in (1, 3, 7):
        with loader_of(images) as loader:
            resumed = list(islice(loader.batches(run[begin][0]), 11 - begin))
        for (at, batch), (expected_at, expected) in zip(resumed, run[begin:], strict=True):
            assert at == expected_at
            assert torch.equal(batch.images_BCHW, expected.images_BCHW)
            assert torch.equal(batch.labels, expected.labels)


def test_batches_that_were_read_ahead_are_not_taken_for_those_of_another_position() -> None:
    with loader_of(ImagesElsewhere()) as loader:
        first = loader.batch(Position(0, 0))
        loader.batch(Position(5, 2))
        again = loader.batch(Position(0, 0))
    assert torch.equal(first.images_BCHW, again.images_BCHW)


def test_every_epoch_has_each_image_at_most_once_and_an_order_of_its_own() -> None:
    with loader_of(ImagesElsewhere()) as loader:
        epochs = [np.concatenate([loader.rows(Position(e, s)) for s in range(loader.per_epoch)]) for e in (0, 1)]
    assert all(len(set(rows.tolist())) == 20 for rows in epochs)
    assert not np.array_equal(*epochs)


def test_a_damaged_image_is_reported_at_its_step() -> None:
    with loader_of(ImagesElsewhere(damaged=7)) as loader:
        step = next(s for s in range(4) if 7 in loader.rows(Position(0, s)))
        for earlier in range(step):
            loader.batch(Position(0, earlier))
        with pytest.raises(InvalidData, match="image 7"):
            loader.batch(Position(0, step))


def test_parts_of_larger_images_are_not_cropped_again() -> None:
    with loader_of(ImagesElsewhere()) as loader:
        batch = loader.batch(Position())
        still = Augmentation(strength=0.0, min_crop_area=0.1)
        x, _ = loader._pipeline.augment(batch, 4, seed=1, augmentation=still)
    expected = (batch.images_BCHW.float() - 128.0) / 64.0
    torch.testing.assert_close(x, expected)
