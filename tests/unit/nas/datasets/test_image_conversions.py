"""What reading does to images is right, and is counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.core import registry
from nas.core.errors import InvalidSpec
from nas.core.ports import Dataset, ImageShape
from nas.core.spec import DataSpec
from tests.support.image_files import (
    colour_folder,
    conversions_of,
    encoded,
    problems_of,
    random_images,
    read_data,
    with_params,
    write_images,
)


def drawings_in_alpha(count: int = 24) -> list[Image.Image]:
    """Black pictures whose content is in their opacity alone."""
    images = []
    for opacity in random_images(count, channels=1)[..., 0]:
        rgba = np.zeros((8, 8, 4), np.uint8)
        rgba[..., 3] = opacity
        images.append(Image.fromarray(rgba))
    return images


def all_images(data: Dataset) -> np.ndarray:
    return np.concatenate([s.images_NCHW for s in (data.train, data.val, data.test)])


def test_images_as_stored_need_no_conversion(tmp_path: Path) -> None:
    data = read_data(colour_folder(tmp_path))
    assert conversions_of(data) == {}
    assert data.account.inputs == 24
    assert {name: s.images for name, s in data.account.splits.items()} == {"train": 16, "val": 4, "test": 4}
    assert data.account.warnings == ()


def test_content_in_alpha_is_kept(tmp_path: Path) -> None:
    spec = write_images(tmp_path, drawings_in_alpha())
    data = read_data(spec)
    expected = {(255 - np.asarray(i.getchannel("A"))).astype(np.uint8).tobytes() for i in drawings_in_alpha()}
    assert {image[0].tobytes() for image in all_images(data)} == expected  # black over white
    assert conversions_of(data) == {"transparency over white": 24}
    [problem] = problems_of(with_params(spec, background="black"))
    assert "all 16 training images are equal" in problem
    assert "set the parameter background" in problem


@pytest.mark.parametrize("mode", ["LA", "P"])
def test_other_kinds_of_transparency(mode: str, tmp_path: Path) -> None:
    spec = colour_folder(tmp_path)
    if mode == "LA":
        Image.merge("LA", [Image.new("L", (8, 8), 0), Image.new("L", (8, 8), 0)]).save(tmp_path / "dog" / "001.png")
    else:
        Image.new("P", (8, 8), 0).save(tmp_path / "cat" / "000.png", transparency=0)
    data = read_data(spec)
    assert conversions_of(data)["transparency over white"] == 1
    assert sum(bool((image == 255).all()) for image in all_images(data)) == 1


def test_an_opaque_alpha_channel_changes_nothing(tmp_path: Path) -> None:
    images = random_images()
    opaque = [Image.fromarray(np.dstack([image, np.full((8, 8), 255, np.uint8)])) for image in images]
    data = read_data(write_images(tmp_path, opaque))
    assert conversions_of(data) == {}
    assert {i.tobytes() for i in all_images(data)} == {i.transpose(2, 0, 1).tobytes() for i in images}


def test_colour_among_grey_images_is_not_dropped_in_silence(tmp_path: Path) -> None:
    spec = write_images(tmp_path, [Image.fromarray(i[..., 0]) for i in random_images(channels=1)])
    Image.fromarray(random_images(1)[0]).save(tmp_path / "dog" / "colour.png")
    [problem] = problems_of(spec)
    assert problem.startswith(f"{tmp_path}/dog/colour.png: expected a grey image as the first one is, got colour")
    assert conversions_of(read_data(with_params(spec, channels=1))) == {"colour to grey": 1}
    assert conversions_of(read_data(with_params(spec, channels=3))) == {"grey to three equal channels": 24}


def test_animations_and_turned_photographs_are_counted(tmp_path: Path) -> None:
    spec = colour_folder(tmp_path)
    frames = [Image.fromarray(i) for i in random_images(2, seed=5)]
    (tmp_path / "cat" / "film.gif").write_bytes(encoded(frames[0], "gif", save_all=True, append_images=frames[1:]))
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "dog" / "photo.jpg").write_bytes(
        encoded(Image.fromarray(random_images(1, seed=6)[0]), "jpeg", exif=exif)
    )
    counts = conversions_of(read_data(spec))
    assert counts == {"the first of several frames": 1, "turned upright as its EXIF orientation says": 1}


def test_what_is_not_square_is_cropped_alike_in_folders_and_archives(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(0, 256, size=(24, 8, 12, 3), dtype=np.uint8)
    folder = write_images(tmp_path / "folder", [Image.fromarray(i) for i in wide])
    np.savez(tmp_path / "wide.npz", images=wide, labels=np.arange(24) % 2)
    archive = folder.model_copy(update={"name": "npz", "path": str(tmp_path / "wide.npz")})
    expected = {i.transpose(2, 0, 1).tobytes() for i in wide[:, :, 2:10]}
    for spec in (folder, archive):
        data = read_data(spec)
        assert data.shape.height == data.shape.width == 8
        assert {i.tobytes() for i in all_images(data)} == expected
        assert conversions_of(data) == {"cropped from 12x8 pixels to the centred square": 24}
        scaled = read_data(with_params(spec, image_size=6))
        assert conversions_of(scaled) == {"cropped to the centred square": 24, "scaled to 6x6 pixels": 24}
    for size in (6, [4, 6]):
        sized = [all_images(read_data(with_params(spec, image_size=size))) for spec in (folder, archive)]
        assert {i.tobytes() for i in sized[0]} == {i.tobytes() for i in sized[1]}


def test_images_keep_a_shape_that_is_asked_for(tmp_path: Path) -> None:
    wide = np.random.default_rng(0).integers(0, 256, size=(24, 8, 16, 3), dtype=np.uint8)
    folder = write_images(tmp_path / "folder", [Image.fromarray(i) for i in wide])
    np.savez(tmp_path / "wide.npz", images=wide, labels=np.arange(24) % 2)
    archive = folder.model_copy(update={"name": "npz", "path": str(tmp_path / "wide.npz")})
    for spec in (folder, archive):
        as_they_are = read_data(with_params(spec, image_size=[8, 16]))
        assert (as_they_are.shape.height, as_they_are.shape.width) == (8, 16)
        assert {i.tobytes() for i in all_images(as_they_are)} == {i.transpose(2, 0, 1).tobytes() for i in wide}
        assert conversions_of(as_they_are) == {}
        cropped = read_data(with_params(spec, image_size=[8, 12]))
        assert {i.tobytes() for i in all_images(cropped)} == {i.transpose(2, 0, 1).tobytes() for i in wide[:, :, 2:14]}
        assert conversions_of(cropped) == {"cropped to the centred part with the shape of 12x8": 24}
        scaled = with_params(spec, image_size=[4, 6])
        assert registry.load_dataset(spec.name).describe(scaled) == read_data(scaled).shape == ImageShape(3, 4, 6, 2)
        assert conversions_of(read_data(scaled)) == {
            "cropped to the centred part with the shape of 6x4": 24,
            "scaled to 6x4 pixels": 24,
        }


def test_masks_are_scaled_as_their_images(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, size=(12, 8, 16, 3), dtype=np.uint8)
    masks = (images[..., 0] > 127).astype(np.uint8)
    np.savez(tmp_path / "masks.npz", images=images, labels=masks)
    spec = DataSpec(name="npz", path=str(tmp_path / "masks.npz"), task="segmentation", params={"image_size": [8, 12]})
    data = read_data(spec)
    assert data.train.labels.shape[1:] == (8, 12)
    assert np.array_equal(data.train.labels, (data.train.array_NCHW[:, 0] > 127).astype(np.uint8))


def test_sizes_that_are_none_are_refused(tmp_path: Path) -> None:
    for size in (3, [8], [8, 12, 3], [8, 5000]):
        with pytest.raises(InvalidSpec, match="image_size"):
            read_data(with_params(colour_folder(tmp_path), image_size=size))
