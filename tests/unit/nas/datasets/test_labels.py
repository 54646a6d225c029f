"""Labels that are no classes, in every format that can hold them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nas.core import registry
from nas.core.data_account import account_sentences
from nas.core.errors import InvalidData, InvalidInput
from nas.core.ports import Dataset
from nas.core.spec import DataSpec
from nas.core.tasks import IGNORED, load_task
from tests.support.image_files import encoded, problems_of, random_images, read_data

COUNT, SIDE = 20, 8
IMAGES = random_images(COUNT, SIDE)
TAGS = np.random.default_rng(1).integers(0, 2, (COUNT, 3))
VALUES = np.random.default_rng(2).normal(5.0, 2.0, (COUNT, 2)).astype(np.float32)
MASKS = np.random.default_rng(3).choice([0, 1, IGNORED], (COUNT, SIDE, SIDE)).astype(np.uint8)
LABELS = {"multi_label": TAGS, "regression": VALUES, "segmentation": MASKS, "output_error": np.zeros((COUNT, 0))}
NAMES = {"multi_label": ("a", "b", "c"), "regression": ("x", "y"), "segmentation": ("bg", "fg"), "output_error": ()}


def as_npz(root: Path, task: str) -> DataSpec:
    names = {"class_names": [*NAMES[task]]} if NAMES[task] else {}
    np.savez(root / "d.npz", images=IMAGES, labels=LABELS[task])
    return DataSpec(name="npz", path=str(root / "d.npz"), task=task, params=names)


def as_parquet(root: Path, task: str) -> DataSpec:
    columns: dict[str, list[object]] = {"image": [encoded(Image.fromarray(image)) for image in IMAGES]}
    if task == "segmentation":
        columns["mask"] = [encoded(Image.fromarray(mask)) for mask in MASKS]
    elif task == "multi_label":
        columns["labels"] = [np.flatnonzero(row).tolist() for row in TAGS]
    elif task == "regression":
        columns["label"] = VALUES.tolist()
    pq.write_table(pa.table(columns), root / "d.parquet")
    names = {"class_names": [*NAMES[task]]} if NAMES[task] else {}
    return DataSpec(name="parquet", path=str(root / "d.parquet"), task=task, params=names)


def as_folder(root: Path, task: str) -> DataSpec:
    params: dict[str, object] = {}
    for i, image in enumerate(IMAGES):
        Image.fromarray(image).save(root / f"{i:02}.png")
        if task == "segmentation":
            Image.fromarray(MASKS[i]).save(root / f"{i:02}_mask.png")
            params = {"class_names": [*NAMES[task]]}
    if task in ("multi_label", "regression"):
        rows = [f"{i:02}.png,{','.join(map(str, row))}" for i, row in enumerate(LABELS[task].tolist())]
        (root / "labels.csv").write_text("\n".join([f"file,{','.join(NAMES[task])}", *rows]))
    return DataSpec(name="folder", path=str(root), task=task, params=params)


def pairs(data: Dataset) -> dict[bytes, bytes]:
    """The label of every image."""
    splits = (data.train, data.val, data.test)
    return {
        np.ascontiguousarray(image.transpose(1, 2, 0)).tobytes(): label.tobytes()
        for split in splits
        for image, label in zip(split.images_NCHW, split.labels, strict=True)
    }


@pytest.mark.parametrize("write", [as_npz, as_parquet, as_folder])
@pytest.mark.parametrize("task", sorted(LABELS))
def test_every_image_keeps_its_label(write, task: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    spec = write(tmp_path, task)
    data = read_data(spec)
    stored = LABELS[task].astype({"regression": np.float32, "output_error": np.float32}.get(task, np.uint8))
    assert pairs(data) == {image.tobytes(): label.tobytes() for image, label in zip(IMAGES, stored, strict=True)}
    assert (data.task, data.class_names, data.shape.classes) == (task, NAMES[task], len(NAMES[task]))
    assert data.shape == registry.load_dataset(spec.name).describe(spec)
    assert (len(data.train), len(data.val), len(data.test)) == (12, 4, 4)
    assert data.account.labels == load_task(task).labels
    with_classes = task in ("multi_label", "segmentation")
    assert account_sentences(data.account)[0].startswith(f"20 images{' in' if with_classes else ' were'}")
    assert len(data.account.splits["train"].by_class) == (len(NAMES[task]) if with_classes else 0)


def test_masks_are_cropped_and_scaled_with_their_images(tmp_path: Path) -> None:
    for i in range(6):
        mask = np.zeros((8, 12), dtype=np.uint8)
        mask[:, 2:6] = 1
        image = np.random.default_rng(i).integers(0, 256, (8, 12, 3)).astype(np.uint8)
        for folder, array in (("images", image), ("masks", mask)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / f"{i}.png")
    params = {"class_names": ["bg", "fg"], "image_size": 4}
    data = read_data(DataSpec(name="folder", path=str(tmp_path), task="segmentation", params=params))
    assert data.train.labels.shape[1:] == (4, 4)
    assert data.train.labels[0].tolist() == [[1, 1, 0, 0]] * 4


def test_problems_of_labels_are_all_named(tmp_path: Path) -> None:
    spec = as_folder(tmp_path, "segmentation")
    (tmp_path / "00_mask.png").unlink()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "01_mask.png")
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "02_mask.png")
    Image.fromarray(IMAGES[0]).save(tmp_path / "03_mask.png")
    Image.fromarray(MASKS[0]).save(tmp_path / "lonely_mask.png")
    problems = "\n".join(problems_of(spec))
    assert "00.png has no mask: expected" in problems
    assert "lonely_mask.png is the mask of no image" in problems
    assert "01_mask.png: the mask cannot be used: expected 8x8 pixels as its image has, got 4x4" in problems
    assert "03_mask.png: the mask cannot be used: expected a grey or palette image" in problems
    assert "expected 0 to 1 for 2 classes, or 255 for pixels that do not count, got 7" in problems


def test_problems_of_a_table_are_named_with_their_lines(tmp_path: Path) -> None:
    spec = as_folder(tmp_path, "regression")
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    lines[1:4] = ["00.png,1.0", "nowhere.png,1,2", "02.png,a,b"]
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    problems = "\n".join(problems_of(spec))
    assert "line 2: expected 2 numbers" in problems
    assert "line 3: expected an image below" in problems
    assert "line 4: expected 2 numbers, got ['a', 'b']" in problems


def test_labels_of_another_task_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", images=IMAGES, labels=VALUES)
    spec = DataSpec(name="npz", path=str(tmp_path / "d.npz"), task="segmentation")
    with pytest.raises(InvalidData, match=r"expected masks of class numbers of shape \(N, H, W\), got float32"):
        read_data(spec)
    with pytest.raises(InvalidInput, match="data set 'digits' has labels of the kind class or none"):
        read_data(DataSpec(name="digits", task="regression"))


def test_class_weights_are_inverse_to_frequency(tmp_path: Path) -> None:
    labels = np.arange(COUNT) % 5 > 0
    np.savez(tmp_path / "d.npz", images=IMAGES, labels=labels.astype(int))
    spec = DataSpec(name="npz", path=str(tmp_path / "d.npz"), params={"class_weights": "balanced"})
    data = read_data(spec)
    counts = np.bincount(data.train.labels)
    assert data.class_weights == pytest.approx(tuple(counts.sum() / (2 * counts)))
    assert read_data(spec.model_copy(update={"params": {}})).content_hash == data.content_hash
