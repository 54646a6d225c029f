"""Prepared data sets: the same as in memory, resumable, and clear about what is wrong."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.core import registry
from nas.core.errors import DataChanged, InvalidData, InvalidSpec, StorageError
from nas.core.ports import Dataset
from nas.core.records import RecordSource
from nas.core.spec import DataSpec
from nas.datasets import storage
from nas.datasets.prepared import images as prepared_images
from nas.datasets.prepared import prepare as preparing
from nas.datasets.prepared import shards as shard_files
from nas.datasets.prepared.images import PreparedImages, images_of
from nas.datasets.prepared.prepare import write_here
from nas.datasets.prepared.shards import Shard, ShardJob, write_shard
from nas.datasets.storage import Preparation, load_data, loading
from nas.training.loader import BatchLoader, Position
from nas.training.pipeline import Pipeline
from tests.support.image_files import colour_folder, encoded, read_data
from tests.support.prepared import FORMATS, write_data


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "SHARD_BYTES", 5 * 8 * 8 * 3)  # five images


def stored(spec: DataSpec, storage: str = "decoded", **params: object) -> DataSpec:
    return spec.model_copy(update={"params": {**spec.params, "storage": storage, **params}})


def prepared(spec: DataSpec, cache: Path, threads: int = 1) -> Dataset:
    return load_data(spec, Preparation(cache, threads=threads))


def images_on_disk(data: Dataset) -> PreparedImages:
    assert isinstance(data.train.images_NCHW, PreparedImages)
    return data.train.images_NCHW


def shard_paths(cache: Path) -> list[Path]:
    return sorted(p for p in cache.rglob("*") if p.suffix in (".decoded", ".encoded"))


@pytest.mark.parametrize("kind", FORMATS)
def test_prepared_pixels_are_the_data_set_in_memory(kind: str, tmp_path: Path) -> None:
    spec = write_data(kind, tmp_path / "source")
    in_memory, on_disk = read_data(spec), prepared(stored(spec), tmp_path / "cache")
    for one, other in ((in_memory.train, on_disk.train), (in_memory.val, on_disk.val), (in_memory.test, on_disk.test)):
        assert np.array_equal(one.array_NCHW, other.array_NCHW)
        assert np.array_equal(one.labels, other.labels)
    assert on_disk.account == in_memory.account
    assert on_disk.content_hash == in_memory.content_hash
    assert on_disk.shape == in_memory.shape
    assert len(shard_paths(tmp_path / "cache")) == 5
    assert Pipeline(on_disk, "cpu").preprocessing == Pipeline(in_memory, "cpu").preprocessing


def test_training_batches_from_disk_are_those_from_memory(tmp_path: Path) -> None:
    spec = write_data("folder", tmp_path / "source")
    batches = []
    for data in (read_data(spec), prepared(stored(spec), tmp_path / "cache")):
        loader = BatchLoader(Pipeline(data, "cpu"), data.train, 4, seed=5)
        batches.append([loader.batch(Position(1, step)).images_BCHW for step in range(3)])
    assert all((one == other).all() for one, other in zip(*batches, strict=True))


def test_images_that_are_not_square_are_cropped_as_in_memory(tmp_path: Path) -> None:
    for at in range(12):
        image = Image.fromarray(np.random.default_rng(at).integers(0, 256, (8, 12, 3), dtype=np.uint8))
        (tmp_path / "images" / "ab"[at % 2]).mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / "images" / "ab"[at % 2] / f"{at:02}.png")
    spec = DataSpec(name="folder", path=str(tmp_path / "images"))
    on_disk = prepared(stored(spec), tmp_path / "cache")
    assert on_disk.account == read_data(spec).account
    assert on_disk.shape.width == 8
    of_shape = spec.model_copy(update={"params": {"image_size": [4, 6]}})
    for storage_choice in ("decoded", "encoded"):
        on_disk, in_memory = prepared(stored(of_shape, storage_choice), tmp_path / "cache"), read_data(of_shape)
        assert on_disk.shape == in_memory.shape
        assert images_on_disk(on_disk).crops(np.arange(3), seed=1).shape == (3, 3, 4, 6)
        if storage_choice == "decoded":
            assert np.array_equal(on_disk.train.array_NCHW, in_memory.train.array_NCHW)
            assert on_disk.account == in_memory.account


def test_parts_of_encoded_images_have_the_shape_of_the_input() -> None:
    # Of 30x20 pixels, the largest part with the shape 3:1 is 30x10; 0.8 of its sides.
    assert prepared_images.centred_box(30, 20, 0.8, 3.0) == pytest.approx((3.0, 6.0, 27.0, 14.0))
    assert prepared_images.centred_box(30, 20, 0.5, 0.5) == pytest.approx((12.5, 5.0, 17.5, 15.0))
    generator = np.random.default_rng(0)
    boxes = [prepared_images.random_box(400, 300, 0.1, generator, 2.0) for _ in range(200)]
    ratios = [(right - left) / (bottom - top) for left, top, right, bottom in boxes]
    assert min(ratios) >= 2.0 * 3 / 4 - 1e-9
    assert max(ratios) <= 2.0 * 4 / 3 + 1e-9
    assert np.median(ratios) == pytest.approx(2.0, rel=0.1)


def test_small_data_are_read_into_memory_and_large_ones_are_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = colour_folder(tmp_path / "images")
    assert isinstance(prepared(spec, tmp_path / "cache").train.images_NCHW, np.ndarray)
    monkeypatch.setattr(storage, "MEMORY_BYTES", 1000)
    assert isinstance(prepared(spec, tmp_path / "cache").train.images_NCHW, PreparedImages)
    monkeypatch.setattr(storage, "DECODED_BYTES", 2000)
    scaled = spec.model_copy(update={"params": {"image_size": 8}})
    assert images_on_disk(prepared(scaled, tmp_path / "cache")).cropped


def test_preparing_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    spec, cache = stored(write_data("folder", tmp_path / "source")), tmp_path / "cache"

    def write_two(source: RecordSource, jobs: Sequence[ShardJob], folder: Path) -> Iterator[Shard]:
        for job in jobs[:2]:
            yield write_shard(source, job, folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_data(spec, Preparation(cache, write_two))
    before = {path: path.stat().st_ino for path in shard_paths(cache)}
    assert len(before) == 2
    steps = list(loading(spec, Preparation(cache)))
    assert (steps[0].records, steps[-1].records, steps[-1].total) == (10, 24, 24)
    assert {path: path.stat().st_ino for path in before} == before
    assert prepared(spec, cache).content_hash == read_data(write_data("folder", tmp_path / "again")).content_hash


def test_a_second_start_lists_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, cache = stored(write_data("folder", tmp_path / "source")), tmp_path / "cache"
    first = prepared(spec, cache)

    def refuse(_: DataSpec) -> RecordSource:
        raise AssertionError("the source was listed again")

    dataset_type = replace(registry.load_dataset("folder"), records=refuse)
    monkeypatch.setattr(registry, "load_dataset", lambda _: dataset_type)
    assert prepared(spec, cache).account == first.account


def test_a_pickle_holds_no_images(tmp_path: Path) -> None:
    data = prepared(stored(write_data("folder", tmp_path / "source", count=60)), tmp_path / "cache")
    images_on_disk(data)[:]  # maps shards
    content = pickle.dumps(data)
    assert data.train.array_NCHW[0].tobytes() not in content
    again = pickle.loads(content)
    assert np.array_equal(again.train.images_NCHW[:], data.train.array_NCHW)


def test_few_shards_are_mapped_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_images, "MAPPED", 2)
    images = images_on_disk(prepared(stored(write_data("folder", tmp_path / "source")), tmp_path / "cache"))
    images[:]
    assert len(images.shards.shards) == 5
    assert len(images.shards._mapped) == 2


def test_a_vanished_shard_is_named_and_prepared_again(tmp_path: Path) -> None:
    spec, cache = stored(write_data("folder", tmp_path / "source")), tmp_path / "cache"
    data = prepared(spec, cache)
    expected, lost = data.train.array_NCHW, shard_paths(cache)[1]
    lost.unlink()
    with pytest.raises(InvalidData, match=f"{lost.name}: a shard of the prepared data set cannot be read"):
        pickle.loads(pickle.dumps(data)).train.images_NCHW[:]
    assert np.array_equal(prepared(spec, cache).train.array_NCHW, expected)
    assert lost.exists()


def test_a_truncated_shard_is_refused_and_prepared_again(tmp_path: Path) -> None:
    spec, cache = stored(write_data("folder", tmp_path / "source")), tmp_path / "cache"
    data = prepared(spec, cache)
    torn = shard_paths(cache)[0]
    torn.write_bytes(torn.read_bytes()[:-1])
    with pytest.raises(InvalidData, match="expected a shard of"):
        pickle.loads(pickle.dumps(data)).train.images_NCHW[:]
    assert np.array_equal(prepared(spec, cache).train.array_NCHW, data.train.array_NCHW)


@pytest.mark.parametrize("place", ["decoded", "encoded"])
def test_a_corrupt_image_is_refused_or_counted_as_asked(place: str, tmp_path: Path) -> None:
    spec = colour_folder(tmp_path / "images")
    damaged = tmp_path / "images" / "cat" / "010.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    asked = stored(spec, place, image_size=8)
    with pytest.raises(InvalidData, match=r"010\.png: cannot be decoded"):
        prepared(asked, tmp_path / "cache")
    data = prepared(stored(spec, place, image_size=8, skip_unreadable=1), tmp_path / "cache")
    assert data.account.skipped_count == 1
    assert data.account.skipped[0].where == str(damaged)
    assert len(data.train) + len(data.val) + len(data.test) == 23
    if place == "decoded":
        in_memory = spec.model_copy(update={"params": {"image_size": 8, "skip_unreadable": 1}})
        assert data.account == read_data(in_memory).account


def test_other_files_are_another_data_set(tmp_path: Path) -> None:
    spec, cache = stored(write_data("folder", tmp_path / "source")), tmp_path / "cache"
    first = prepared(spec, cache)
    changed = tmp_path / "source" / "images" / "cat" / "000.png"
    changed.write_bytes(encoded(Image.new("RGB", (8, 8), "red")))
    assert prepared(spec, cache).content_hash != first.content_hash
    assert first.train.array_NCHW.shape[0] == len(first.train)  # what was prepared before stays readable


def test_a_source_that_changes_while_it_is_prepared_is_refused(tmp_path: Path) -> None:
    spec = stored(write_data("folder", tmp_path / "source"))

    def write_and_change(source: RecordSource, jobs: Sequence[ShardJob], folder: Path) -> Iterator[Shard]:
        yield from write_here(source, jobs, folder)
        shutil.copy(tmp_path / "source/images/cat/000.png", tmp_path / "source/images/cat/999.png")

    with pytest.raises(DataChanged, match="has changed while it was prepared"):
        load_data(spec, Preparation(tmp_path / "cache", write_and_change))
    assert len(prepared(spec, tmp_path / "cache").train) == 15


def test_a_disk_with_too_little_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = stored(write_data("folder", tmp_path / "source"))
    monkeypatch.setattr(preparing.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))  # type: ignore[attr-defined]
    with pytest.raises(StorageError, match="make room, set HWNAS_DATA_CACHE"):
        prepared(spec, tmp_path / "cache")
    assert shard_paths(tmp_path / "cache") == []


def test_a_disk_that_fills_up_loses_no_shard_and_leaves_no_half_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, cache = stored(write_data("folder", tmp_path / "source")), tmp_path / "cache"
    written = []

    def fill(descriptor: int) -> None:
        written.append(descriptor)
        if len(written) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(shard_files.os, "fsync", fill)
    with pytest.raises(StorageError, match=r"the disk is full\. The shards that are whole are kept"):
        prepared(spec, cache)
    assert len(shard_paths(cache)) == 2
    assert not [p for p in cache.rglob("*") if p.suffix == ".part"]
    monkeypatch.undo()
    monkeypatch.setattr(preparing, "SHARD_BYTES", 5 * 8 * 8 * 3)
    steps = list(loading(spec, Preparation(cache)))
    assert (steps[0].records, steps[-1].records) == (10, 24)


def test_a_source_that_has_vanished_is_named(tmp_path: Path) -> None:
    spec = stored(write_data("folder", tmp_path / "source"))
    prepared(spec, tmp_path / "cache")
    shutil.rmtree(tmp_path / "source")
    with pytest.raises(InvalidData, match="does not exist"):
        prepared(spec, tmp_path / "cache")


def large_folder(root: Path) -> DataSpec:
    """Photographs of 40x32 pixels whose left half is dark."""
    for at in range(20):
        pixels = np.random.default_rng(at).integers(128, 256, (32, 40, 3), dtype=np.uint8)
        pixels[:, :20] //= 4
        folder = root / ("a", "b")[at % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{at:02}.png").write_bytes(encoded(Image.fromarray(pixels)))
    return stored(DataSpec(name="folder", path=str(root)), "encoded", image_size=16, crop_area=0.3)


def test_encoded_images_are_cropped_at_random_to_train_and_at_the_centre_to_evaluate(tmp_path: Path) -> None:
    data = prepared(large_folder(tmp_path / "images"), tmp_path / "cache")
    images, rows = images_on_disk(data), np.arange(4)
    assert images.shape == (len(data.train), 3, 16, 16)
    evaluated = images[rows]
    assert np.array_equal(evaluated, images[:4])
    assert evaluated[:, :, :, :6].mean() < 60 < evaluated[:, :, :, -6:].mean()  # the centre has both halves
    first, again, other = images.crops(rows, 1), images.crops(rows, 1), images.crops(rows, 2)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first, evaluated)


def test_threads_decode_the_same_crops(tmp_path: Path) -> None:
    spec = large_folder(tmp_path / "images")
    one, two = (images_on_disk(prepared(spec, tmp_path / "cache", threads)) for threads in (1, 2))
    rows = np.arange(len(one))
    assert np.array_equal(one.crops(rows, 3), two.crops(rows, 3))


def test_encoded_images_take_what_they_took(tmp_path: Path) -> None:
    spec = large_folder(tmp_path / "images")
    prepared(spec, tmp_path / "cache")
    source = {path.read_bytes() for path in (tmp_path / "images").rglob("*.png")}
    content = b"".join(path.read_bytes() for path in shard_paths(tmp_path / "cache"))
    assert all(encoded_image in content for encoded_image in source)


def test_encoded_images_need_a_size_and_archives_have_none(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="expected image_size, got none"):
        prepared(stored(colour_folder(tmp_path / "images"), "encoded"), tmp_path / "cache")
    with pytest.raises(InvalidSpec, match="images of an archive are not encoded"):
        prepared(stored(write_data("npz", tmp_path / "source"), "encoded", image_size=8), tmp_path / "cache")


def test_an_epoch_reads_windows_of_shards_and_every_image_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared_images, "WINDOW", 2)
    data = prepared(stored(write_data("folder", tmp_path / "source", count=60)), tmp_path / "cache")
    whole = images_on_disk(data)
    images = images_of(whole.shards.folder, whole.shards.shards, whole.shape_CHW, np.arange(60))
    order = images.epoch_order(np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(60))
    shards = [set((order[start : start + 10] // 5).tolist()) for start in range(0, 60, 10)]
    assert all(len(window) == 2 for window in shards)
    assert not np.array_equal(order, images.epoch_order(np.random.default_rng(1)))


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_a_source_at_a_url_is_copied_and_brought_up_to_date(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWNAS_DATA_CACHE", str(tmp_path / "cache"))
    local = write_data(kind, tmp_path / "source")
    spec = stored(local).model_copy(update={"path": f"file://{local.path}"})
    assert prepared(spec, tmp_path / "cache").content_hash == read_data(local).content_hash
    changed = write_data(kind, tmp_path / "other", seed=1)
    shutil.rmtree(tmp_path / "source")
    shutil.move(tmp_path / "other", tmp_path / "source")
    assert changed.path is not None
    assert prepared(spec, tmp_path / "cache").content_hash == read_data(local).content_hash
    assert registry.load_dataset(kind).describe(spec) == registry.load_dataset(kind).describe(local)


def test_a_url_with_nothing_there_and_an_unknown_protocol_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWNAS_DATA_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InvalidData, match="got nothing there"):
        read_data(DataSpec(name="folder", path=f"file://{tmp_path}/nothing"))
    with pytest.raises(InvalidData, match="cannot be read"):
        read_data(DataSpec(name="folder", path="gopher3://photos"))
