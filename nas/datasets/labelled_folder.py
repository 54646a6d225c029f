"""Folders of images whose labels are not names of folders: masks beside the images, a table of labels, or no labels.

Masks: ``NAME_mask.png`` beside each image ``NAME.*``, or folders ``images`` and ``masks`` with equal names in both.
Metadata: as ``nas.datasets.metadata``. Tables: ``labels.csv`` with a column ``file``, relative to its folder, an
optional column ``split``, and one column for each class (0 or 1) or value. Masks and images without labels may lie
below folders for splits, as classes do.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from nas.core.errors import InvalidData, InvalidSpec
from nas.core.ports import Split
from nas.core.tasks import LabelKind, Labels
from nas.datasets.images import ImageFormat, ImageParams, decode_all, decode_mask, format_of, is_image
from nas.datasets.intake import Intake
from nas.datasets.labels import check_labels, no_labels
from nas.datasets.metadata import read_metadata
from nas.datasets.records import EncodedRecords, FileReader, size_of
from nas.datasets.splits import SPLIT_NAMES, check_images

TABLE = "labels.csv"
_MASK_SUFFIX = "_mask.png"
_Row = tuple[Path, Path | Sequence[float] | None]  # an image, and its mask, its labels or nothing


@dataclass(frozen=True)
class LabelledFiles:
    """The images of every split with their labels, in order, and the names of classes or values."""

    kind: LabelKind
    rows: dict[str, list[_Row]]
    names: tuple[str, ...]

    def format(self, params: ImageParams) -> ImageFormat:
        """What the images become, by the first of them. Raises InvalidData where there are none."""
        return format_of(self._images("train"), params)

    def decode(self, split: str, target: ImageFormat, intake: Intake) -> Split:
        """The usable images of a split with their labels."""
        rows = self.rows[split]
        images_NCHW, usable = decode_all(self._images(split), len(rows), target, intake)
        labels = [rows[i][1] for i in usable.tolist()]
        where = f"the {split} images"
        return check_images(where, images_NCHW, self._arrays(labels, target, intake), self.kind)

    def records(self, params: ImageParams, unused: tuple[str, ...]) -> EncodedRecords:
        """The images, listed; of tables of labels and of images without labels."""
        target, intake = self.format(params), Intake()
        labels = {s: self._arrays([row[1] for row in rows], target, intake) for s, rows in self.rows.items()}
        readers = {s: FileReader(tuple(image for image, _ in rows)) for s, rows in self.rows.items()}
        size_bytes = sum(size_of(reader.paths) for reader in readers.values())
        return EncodedRecords(readers, labels, self.names, target, size_bytes, unused)

    def _images(self, split: str) -> Iterator[tuple[Path, str]]:
        return ((image, str(image)) for image, _ in self.rows[split])

    def _arrays(self, labels: Sequence[object], target: ImageFormat, intake: Intake) -> Labels:
        if self.kind == "none":
            return no_labels(len(labels))
        if self.kind == "mask":
            _, height, width = target.shape
            masks = [decode_mask(path, str(path), target, intake) for path in labels if isinstance(path, Path)]
            return np.stack(masks) if masks else np.zeros((0, height, width), dtype=np.uint8)
        values = np.array(labels, dtype=np.float64).reshape(len(labels), len(self.names))
        are_tags = self.kind == "tags" and bool((values == np.round(values)).all())
        return check_labels(TABLE, values.astype(np.int64) if are_tags else values, self.kind)


def list_files(root: Path, kind: LabelKind, class_names: tuple[str, ...] | None, intake: Intake) -> LabelledFiles:
    """The images and labels below a folder. Raises InvalidSpec where classes have no names, and InvalidData."""
    if not root.is_dir():
        raise InvalidData(f"{root}: expected a folder, got a file")
    if kind in ("tags", "values"):
        rows, names = _read_labels(root, kind, class_names, intake)
    else:
        folders = _split_folders(root)
        if kind == "mask" and class_names is None:
            raise InvalidSpec("class_names: expected the names of the classes that the numbers in masks stand for")
        listed = _masked if kind == "mask" else _unlabelled
        rows = {split: listed(folder, intake) for split, folder in folders.items()}
        names = class_names or ()
    if not rows.get("train"):
        intake.require_usable()
        raise InvalidData(f"{root}: expected images to train on, got none")
    return LabelledFiles(kind, rows, names)


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of every split; the root is that of ``train`` where none is called by the name of a split."""
    named = [f for f in sorted(root.iterdir()) if f.is_dir() and f.name.casefold() in SPLIT_NAMES]
    return {SPLIT_NAMES[f.name.casefold()]: f for f in named} or {"train": root}


def _image_files(folder: Path, recursive: bool = False) -> list[Path]:
    paths = folder.rglob("*") if recursive else folder.iterdir()
    visible = (p for p in sorted(paths) if p.is_file() and not p.name.startswith("."))
    return [p for p in visible if p.suffix.lower() in Image.registered_extensions() or is_image(p)]


def _unlabelled(folder: Path, intake: Intake) -> list[_Row]:
    return [(path, None) for path in _image_files(folder, recursive=True)]


def _masked(folder: Path, intake: Intake) -> list[_Row]:
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        images = _image_files(folder / "images")
        mask_of = {image: folder / "masks" / f"{image.stem}.png" for image in images}
        masks = set(_image_files(folder / "masks"))
    else:
        files = _image_files(folder)
        masks = {path for path in files if path.name.endswith(_MASK_SUFFIX)}
        mask_of = {image: image.with_name(f"{image.stem}{_MASK_SUFFIX}") for image in files if image not in masks}
    for image, mask in mask_of.items():
        if mask not in masks:
            intake.problem(f"{image} has no mask: expected {mask}")
    for mask in sorted(masks - set(mask_of.values())):
        intake.problem(f"{mask} is the mask of no image")
    return [(image, mask) for image, mask in mask_of.items() if mask in masks]


def _read_labels(
    root: Path, kind: LabelKind, class_names: tuple[str, ...] | None, intake: Intake
) -> tuple[dict[str, list[_Row]], tuple[str, ...]]:
    """From metadata, or from a table where there is none."""
    metadata = read_metadata(root) if not (root / TABLE).exists() else None
    if metadata is None:
        return _read_table(root, intake)
    if kind == "values":
        values, names = metadata.values(intake)
        return {split: [*rows] for split, rows in values.items()}, names
    classes = metadata.classes(class_names, intake)
    return {
        split: [
            (image.path, [float(k in positions) for k in range(len(classes.names))])
            for image, positions in zip(images, classes.positions[split], strict=True)
        ]
        for split, images in metadata.images.items()
    }, classes.names


def _read_table(root: Path, intake: Intake) -> tuple[dict[str, list[_Row]], tuple[str, ...]]:
    path = root / TABLE
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            columns = list(reader.fieldnames or ())
            lines = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidData(
            f"{path}: expected a table with the columns file, optionally split, and one for each class or value: "
            f"{error}"
        ) from error
    names = tuple(column for column in columns if column not in ("file", "split"))
    if "file" not in columns or not names:
        raise InvalidData(
            f"{path}: expected the columns file and one for each class or value, got {', '.join(columns) or 'none'}"
        )
    rows: dict[str, list[_Row]] = {}
    for number, line in enumerate(lines, start=2):
        split = SPLIT_NAMES.get((line.get("split") or "train").casefold())
        image = root / (line["file"] or "")
        try:
            values = [float(line[name]) for name in names]
        except (TypeError, ValueError):
            intake.problem(f"{path}, line {number}: expected {len(names)} numbers, got {[line[n] for n in names]}")
            continue
        if split is None:
            intake.problem(f"{path}, line {number}: expected a split ({', '.join(SPLIT_NAMES)}), got {line['split']!r}")
        elif not image.is_file() or not image.resolve().is_relative_to(root.resolve()):
            intake.problem(f"{path}, line {number}: expected an image below {root}, got {line['file']!r}")
        else:
            rows.setdefault(split, []).append((image, values))
    return rows, names
