"""Every input is read, skipped because that was asked for, or refused; all problems are told at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nas.core.errors import InvalidData
from nas.core.spec import DataSpec
from nas.datasets.check import check_data
from tests.support.image_files import colour_folder, encoded, problems_of, random_images, read_data, with_params


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(Image.fromarray(image)))


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    spec = colour_folder(tmp_path)
    (tmp_path / "cat" / "000.png").write_bytes(b"no image")
    save(tmp_path / "dog" / "001.png", random_images(1, side=5)[0])
    save(tmp_path / "owl" / "x.png", random_images(1)[0])
    problems = problems_of(spec)
    assert len(problems) == 3
    assert any("cat/000.png: cannot be decoded" in p for p in problems)
    assert any("dog/001.png: expected 8x8 pixels as in the first image, got 5x5" in p for p in problems)
    assert any("class 'owl' has too few images to split: expected at least 3, got 1" in p for p in problems)
    with pytest.raises(InvalidData, match=r"^3 problems with the data: .*; .*; "):
        read_data(spec)


def test_a_check_tells_problems_of_folders_and_of_images_together(tmp_path: Path) -> None:
    spec = colour_folder(tmp_path)
    (tmp_path / "cat" / "000.png").write_bytes(b"no image")
    save(tmp_path / "dog" / "below" / "x.png", random_images(1)[0])
    headers, everything = check_data(spec)
    assert [p.split(":")[0] for p in headers.problems] == [str(tmp_path / "dog")]
    assert {p.split(":")[0] for p in everything.problems} == {str(tmp_path / "dog"), str(tmp_path / "cat" / "000.png")}
    [alone] = check_data(spec, headers_only=True)
    assert alone == headers


def test_unreadable_images_are_skipped_up_to_a_number(tmp_path: Path) -> None:
    spec = colour_folder(tmp_path)
    for at in ("000", "002"):
        (tmp_path / "cat" / f"{at}.png").write_bytes(b"no image")
    data = read_data(with_params(spec, skip_unreadable=2))
    assert [Path(s.where).name for s in data.account.skipped] == ["000.png", "002.png"]
    assert "unknown" in data.account.skipped[0].reason
    assert data.account.inputs == 24
    assert sum(s.images for s in data.account.splits.values()) == 22
    assert "2 images were skipped" in data.account.warnings[0]
    problems = problems_of(with_params(spec, skip_unreadable=1))
    assert problems[-1] == "expected at most skip_unreadable=1 unusable images, got 2"
    assert len(problems) == 3


def test_many_images_of_one_reason_are_one_problem(tmp_path: Path) -> None:
    spec = colour_folder(tmp_path)
    for at in range(1, 21):
        save(tmp_path / ("cat", "dog")[at % 2] / f"{at:03}.png", random_images(1, side=5)[0])
    problems = problems_of(spec)
    assert "the same for 19 other images, such as" in problems[0]
    assert len(problems) == 3  # the classes that are left with too few images are the others


def test_images_in_deeper_folders_are_refused_or_read(tmp_path: Path) -> None:
    spec = colour_folder(tmp_path, count=30)
    for at, image in enumerate(random_images(30, seed=1)):
        save(tmp_path / ("cat", "dog")[at % 2] / "more" / f"{at}.png", image)
    problems = problems_of(spec)
    assert len(problems) == 2
    assert "15 images lie in folders below, such as more/0.png" in problems[0]
    assert read_data(with_params(spec, recursive=True)).account.inputs == 60


def test_loose_images_and_other_files(tmp_path: Path) -> None:
    spec = colour_folder(tmp_path)
    (tmp_path / "cat" / "notes.txt").write_text("a note")
    (tmp_path / "cat" / ".DS_Store").write_text("litter")
    assert [Path(u).name for u in read_data(spec).account.unused] == ["notes.txt"]
    (tmp_path / "cat" / "nosuffix").write_bytes(encoded(Image.fromarray(random_images(1, seed=3)[0])))
    assert read_data(spec).account.inputs == 25  # an image is an image by its content
    (tmp_path / "dog" / "photo.heic").write_bytes(b"....ftypheic")
    [problem] = problems_of(spec)
    assert "photo.heic: cannot be decoded" in problem
    (tmp_path / "dog" / "photo.heic").unlink()
    save(tmp_path / "lost.png", random_images(1, seed=4)[0])
    [problem] = problems_of(spec)
    assert "1 images lie beside the folders of the classes, such as lost.png" in problem


def test_names_of_splits_in_any_case(tmp_path: Path) -> None:
    colour_folder(tmp_path / "train")
    colour_folder(tmp_path / "Test", count=12)
    spec = DataSpec(name="folder", path=str(tmp_path))
    data = read_data(spec)
    assert data.class_names == ("cat", "dog")
    assert len(data.test) == 12
    colour_folder(tmp_path / "extra")
    with pytest.raises(InvalidData, match=r"expected folders for splits only .* beside Test, train, got extra"):
        read_data(spec)


def test_a_class_may_be_named_train(tmp_path: Path) -> None:
    data = read_data(colour_folder(tmp_path, classes=("bus", "train")))
    assert data.class_names == ("bus", "train")


def test_validation_images_of_an_archive_are_used(tmp_path: Path) -> None:
    images, labels = random_images(60), np.arange(60) % 2
    arrays = {"train_images": images[:30], "val_images": images[30:45], "test_images": images[45:]}
    arrays |= {"train_labels": labels[:30], "val_labels": labels[30:45], "test_labels": labels[45:]}
    np.savez(tmp_path / "med.npz", **arrays, weights=np.ones(3))
    data = read_data(DataSpec(name="npz", path=str(tmp_path / "med.npz")))
    assert [len(s) for s in (data.train, data.val, data.test)] == [30, 15, 15]
    assert data.account.unused == ("array 'weights'",)


def parquet_file(path: Path, rows: list[bytes | None], features: dict[str, object] | None = None) -> DataSpec:
    table = pa.table({"image": rows, "label": [k % 2 for k in range(len(rows))]})
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)
    return DataSpec(name="parquet", path=str(path))


def test_rows_without_usable_images_are_told_at_once_or_skipped(tmp_path: Path) -> None:
    rows: list[bytes | None] = [encoded(Image.fromarray(i)) for i in random_images()]
    rows[3], rows[7] = None, b"no image"
    spec = parquet_file(tmp_path / "data.parquet", rows)
    problems = problems_of(spec)
    assert [p.split(":")[0] for p in problems] == [f"{spec.path}, row 3", f"{spec.path}, row 7"]
    assert not any("BytesIO" in p for p in problems)
    data = read_data(with_params(spec, skip_unreadable=2))
    assert data.account.inputs == 24
    assert sum(s.images for s in data.account.splits.values()) == 22


def test_metadata_that_do_not_describe_the_labels(tmp_path: Path) -> None:
    rows: list[bytes | None] = [encoded(Image.fromarray(i)) for i in random_images()]
    spec = parquet_file(tmp_path / "data.parquet", rows, {"fine_label": {"names": ["a", "b"]}})
    with pytest.raises(InvalidData, match=r"describes the columns fine_label: expected 'label' among them"):
        read_data(spec)
