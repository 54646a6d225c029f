"""Copies across splits, contradictory labels, and images without content."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.core.errors import InvalidData
from nas.core.spec import DataSpec
from tests.support.image_files import colour_folder, problems_of, random_images, read_data, write_images


def archive(path: Path, images: np.ndarray, labels: np.ndarray) -> DataSpec:
    np.savez(path / "data.npz", images=images, labels=labels)
    return DataSpec(name="npz", path=str(path / "data.npz"))


def test_a_test_folder_that_copies_the_training_folder_is_counted(tmp_path: Path) -> None:
    colour_folder(tmp_path / "train")
    colour_folder(tmp_path / "test")
    data = read_data(DataSpec(name="folder", path=str(tmp_path)))
    copies = {name: split.copies for name, split in data.account.splits.items()}
    trained = {i.tobytes() for i in data.train.images_NCHW}
    assert copies["test"] == sum(i.tobytes() in trained for i in data.test.images_NCHW) == 20
    assert copies["val"] == 0
    assert data.account.warnings == (
        "data: 20 of 24 test images are exact copies of training images, which makes test accuracy too high",
    )


def test_contradictory_labels_are_counted(tmp_path: Path) -> None:
    images = random_images()
    images[1] = images[0]  # of the other class
    images[4] = images[2]  # of the same class
    assert read_data(archive(tmp_path, images, np.arange(24) % 2)).account.contradictory == 2


@pytest.mark.parametrize(("value", "word"), [(0, "equal"), (200, "equal"), (None, "shows one colour only")])
def test_images_without_content_are_refused(value: int | None, word: str, tmp_path: Path) -> None:
    greys = np.arange(24) * 5 if value is None else np.full(24, value)
    images = np.broadcast_to(greys.astype(np.uint8)[:, None, None, None], (24, 8, 8, 3))
    [problem] = problems_of(archive(tmp_path, images, np.arange(24) % 2))
    assert word in problem
    assert "nothing to learn" in problem


def test_a_few_black_images_are_counted(tmp_path: Path) -> None:
    spec = write_images(tmp_path, [Image.fromarray(i) for i in random_images(22)] + [Image.new("RGB", (8, 8))] * 2)
    account = read_data(spec).account
    assert account.one_colour == 2
    assert "data: 2 images show one colour only" in account.warnings


def test_limits_are_part_of_the_account(tmp_path: Path) -> None:
    spec = colour_folder(tmp_path).model_copy(update={"params": {"max_train": 6}})
    account = read_data(spec).account
    assert account.splits["train"].by_class == (3, 3)
    assert account.left_out == 10


def test_archives_that_unpack_to_far_more_are_refused_by_their_headers(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, images=np.zeros((400_000, 8, 8), np.uint8), labels=np.zeros(400_000, np.int64))
    assert path.stat().st_size < 100_000
    with pytest.raises(InvalidData, match=r"expected at most 500 times its packed size"):
        read_data(DataSpec(name="npz", path=str(path)))


def test_long_lists_are_counted_and_cut(tmp_path: Path) -> None:
    spec = colour_folder(tmp_path)
    for at in range(150):
        (tmp_path / "cat" / f"{at}.txt").write_text("a note")
    account = read_data(spec).account
    assert (len(account.unused), account.unused_count) == (100, 150)
    assert "and 147 more" in account.warnings[0]


def test_a_picture_that_claims_too_many_pixels_is_refused_by_its_header(tmp_path: Path) -> None:
    spec = colour_folder(tmp_path)
    path = tmp_path / "dog" / "001.png"
    png = bytearray(path.read_bytes())
    png[16:24] = struct.pack(">II", 9_400, 9_500)  # below the limit of Pillow
    png[29:33] = struct.pack(">I", zlib.crc32(png[12:29]))
    path.write_bytes(png)
    [problem] = problems_of(spec)
    assert "expected at most 89,000,000 pixels, got 9400x9500" in problem
