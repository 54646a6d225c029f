"""Image folders of Hugging Face's datasets: labels in metadata.jsonl or metadata.csv."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nas.core import registry
from nas.core.spec import DataSpec
from tests.support.image_files import colour_folder, problems_of, random_images, read_data, with_params

Line = Mapping[str, object]


def write(root: Path, lines: Sequence[Line], folder: str = "images", seed: int = 0) -> DataSpec:
    """Images below ``folder``, and the metadata that names them."""
    (root / folder).mkdir(parents=True)
    for image, line in zip(random_images(len(lines), seed=seed), lines, strict=True):
        Image.fromarray(image).save(root / str(line["file_name"]))
    (root / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return DataSpec(name="folder", path=str(root))


def lines_of(labels: Sequence[object], key: str = "label", folder: str = "images") -> list[Line]:
    return [{"file_name": f"{folder}/{at:02}.png", key: label} for at, label in enumerate(labels)]


def labels_by_image(spec: DataSpec) -> dict[bytes, object]:
    data = read_data(spec)
    return {
        image.tobytes(): label.tolist()
        for split in (data.train, data.val, data.test)
        for image, label in zip(split.array_NCHW, split.labels, strict=True)
    }


def expected(labels: Sequence[object], seed: int = 0) -> dict[bytes, object]:
    images = random_images(len(labels), seed=seed).transpose(0, 3, 1, 2)
    return {image.tobytes(): label for image, label in zip(images, labels, strict=True)}


def test_names_of_classes(tmp_path: Path) -> None:
    spec = write(tmp_path, lines_of(["dog", "cat"] * 12))
    assert read_data(spec).class_names == ("cat", "dog")
    assert labels_by_image(spec) == expected([1, 0] * 12)
    assert registry.load_dataset("folder").describe(spec) == read_data(spec).shape


def test_numbers_of_classes_and_their_names(tmp_path: Path) -> None:
    spec = write(tmp_path, lines_of([2, 0, 1] * 8))
    assert read_data(spec).class_names == ("0", "1", "2")
    assert labels_by_image(spec) == expected([2, 0, 1] * 8)
    assert read_data(with_params(spec, class_names=["a", "b", "c"])).class_names == ("a", "b", "c")
    [problem] = problems_of(with_params(spec, class_names=["a", "b"]))
    assert problem == "labels: expected numbers from 0 to 1, got 0 to 2"


def test_a_table_in_place_of_lines(tmp_path: Path) -> None:
    lines = lines_of([1, 0] * 12)
    spec = write(tmp_path, lines)
    (tmp_path / "metadata.jsonl").unlink()
    with (tmp_path / "metadata.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file_name", "label"])
        writer.writeheader()
        writer.writerows(lines)
    assert labels_by_image(spec) == expected([1, 0] * 12)


def test_splits_with_metadata_of_their_own_or_of_the_root(tmp_path: Path) -> None:
    own = tmp_path / "own"
    for seed, split in enumerate(("train", "test")):
        write(own / split, lines_of(["a", "b"] * 6, folder="."), ".", seed=seed)
    data = read_data(DataSpec(name="folder", path=str(own)))
    assert (len(data.test), len(data.train) + len(data.val)) == (12, 12)
    in_root = tmp_path / "root"
    lines = [*lines_of(["a", "b"] * 6, folder="train"), *lines_of(["a", "b"] * 4, folder="validation")]
    (in_root / "validation").mkdir(parents=True)
    data = read_data(write(in_root, lines, "train"))
    assert len(data.val) == 8
    assert len(data.train) + len(data.test) == 12


def test_several_classes_and_values(tmp_path: Path) -> None:
    tags = write(tmp_path / "tags", lines_of([["a"], ["a", "b"], []] * 8, key="labels"))
    tags = tags.model_copy(update={"task": "multi_label"})
    assert labels_by_image(tags) == expected([[1, 0], [1, 1], [0, 0]] * 8)
    lines = [{**line, "y": 0.5} for line in lines_of(np.linspace(0, 1, 24).tolist(), key="x")]
    values = write(tmp_path / "values", lines).model_copy(update={"task": "regression"})
    assert read_data(values).class_names == ("x", "y")
    assert {tuple(row)[1] for row in labels_by_image(values).values()} == {0.5}  # type: ignore[arg-type]


def test_metadata_without_labels_leaves_the_classes_to_the_folders(tmp_path: Path) -> None:
    spec = colour_folder(tmp_path)
    lines = [{"file_name": f"cat/{path.name}", "text": "?"} for path in sorted((tmp_path / "cat").iterdir())]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = read_data(spec)
    assert data.class_names == ("cat", "dog")
    assert [unused.rsplit("/", 1)[-1] for unused in data.account.unused] == ["metadata.jsonl"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"label": None}, "line 1: expected a label that is a name or a number, or a list of them, got None"),
        ({"label": ["a", "b"]}, "line 1: expected one class, got 2; for several: multi_label"),
        ({"file_name": "none.png"}, "line 1: expected file_name with an image below"),
        ({"file_name": "../secret.png"}, "line 1: expected file_name with an image below"),
        ({"label": 3}, "labels: expected names or numbers, got both"),
    ],
)
def test_wrong_lines_are_told(tmp_path: Path, change: Line, problem: str) -> None:
    (tmp_path / "secret.png").write_bytes(b"")
    lines = lines_of(["a", "b"] * 12)
    spec = write(tmp_path / "data", lines)
    changed = [{**lines[0], **change}, *lines[1:]]
    (tmp_path / "data" / "metadata.jsonl").write_text("\n".join(map(json.dumps, changed)))
    assert any(problem in told for told in problems_of(spec)), problems_of(spec)


def test_images_that_no_line_names_are_told(tmp_path: Path) -> None:
    spec = write(tmp_path, lines_of(["a", "b"] * 12))
    Image.fromarray(random_images(1, seed=9)[0]).save(tmp_path / "images" / "more.png")
    [problem] = problems_of(spec)
    assert problem.endswith("1 images are not named in its metadata, such as more.png")


def test_what_is_no_metadata_is_refused(tmp_path: Path) -> None:
    spec = write(tmp_path, lines_of(["a", "b"] * 12))
    (tmp_path / "metadata.jsonl").write_text("{")
    [problem] = problems_of(spec)
    assert "metadata.jsonl: expected a line of JSON, or a row, for each image" in problem
