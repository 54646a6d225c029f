"""Labels of image folders as Hugging Face's datasets keep them: ``metadata.jsonl`` or ``metadata.csv``.

A line for each image: ``file_name``, relative to the folder of the metadata, and ``label`` or ``labels``: a name or a
number for one class, a list of them for several; for values, every other column is one. A folder for each split has
metadata of its own, or one for all whose names begin with those of the splits.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from nas.core.errors import InvalidData
from nas.datasets.intake import Intake
from nas.datasets.splits import SPLIT_NAMES

METADATA = ("metadata.jsonl", "metadata.csv")
_FILE, _LABEL_COLUMNS = "file_name", ("label", "labels")
_Line = Mapping[str, object]
Label = str | int


@dataclass(frozen=True)
class LabelledImage:
    """An image file and what its line of metadata says; ``where``: the line, for messages."""

    path: Path
    line: _Line
    where: str


@dataclass(frozen=True)
class LabelPositions:
    """The positions of the classes of each image among their ``names``, by split."""

    positions: Mapping[str, Sequence[Sequence[int]]]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Metadata:
    """The images of every split, and what is wrong: it counts where the metadata are used."""

    images: Mapping[str, Sequence[LabelledImage]]
    problems: tuple[str, ...] = ()

    @property
    def has_labels(self) -> bool:
        """Whether lines have labels of classes."""
        return any(name in image.line for images in self.images.values() for image in images for name in _LABEL_COLUMNS)

    def classes(self, numbered: Sequence[str] | None, intake: Intake) -> LabelPositions:
        """The classes of each image; ``numbered`` names those that are given as numbers. Raises InvalidData."""
        self._report(intake)
        labels = {split: [_labels_of(image, intake) for image in images] for split, images in self.images.items()}
        distinct = {label for rows in labels.values() for row in rows for label in row}
        numbers = [label for label in distinct if isinstance(label, int)]
        if numbers and len(numbers) < len(distinct):
            raise InvalidData(f"labels: expected names or numbers, got both: {sorted(map(str, distinct))[:4]}")
        names = _names_of_numbers(numbers, numbered) if numbers else tuple(sorted(map(str, distinct)))
        position_of: dict[Label, int] = {name: k for k, name in enumerate(names)}
        if numbers:
            position_of = {number: number for number in numbers}
        return LabelPositions({s: [[position_of[label] for label in row] for row in labels[s]] for s in labels}, names)

    def values(self, intake: Intake) -> tuple[dict[str, list[tuple[Path, Sequence[float]]]], tuple[str, ...]]:
        """The numbers of each image by split, and their names: all columns of the first line but the file."""
        self._report(intake)
        first = next(image for images in self.images.values() for image in images)
        names = tuple(name for name in first.line if name != _FILE)
        rows: dict[str, list[tuple[Path, Sequence[float]]]] = {split: [] for split in self.images}
        for split, images in self.images.items():
            for image in images:
                try:
                    rows[split].append((image.path, [float(str(image.line[name])) for name in names]))
                except (KeyError, ValueError):
                    intake.problem(f"{image.where}: expected numbers for {', '.join(names)}, got {dict(image.line)}")
        return rows, names

    def _report(self, intake: Intake) -> None:
        for problem in self.problems:
            intake.problem(problem)


def _names_of_numbers(numbers: Sequence[int], names: Sequence[str] | None) -> tuple[str, ...]:
    """Raises InvalidData for a number without a name."""
    every_name = tuple(names) if names is not None else tuple(map(str, range(max(numbers) + 1)))
    if not 0 <= min(numbers) <= max(numbers) < len(every_name):
        raise InvalidData(
            f"labels: expected numbers from 0 to {len(every_name) - 1}, got {min(numbers)} to {max(numbers)}"
        )
    return every_name


def read_metadata(root: Path) -> Metadata | None:
    """The metadata of a folder; None for a folder without any. Raises InvalidData for a file that is none."""
    if not root.is_dir():
        return None
    places = {folder: file for folder in (root, *_split_folders(root)) if (file := _metadata_file(folder)) is not None}
    if not places:
        return None
    images: dict[str, list[LabelledImage]] = {}
    problems: list[str] = []
    for folder, file in places.items():
        for image in _images(folder, file, problems):
            images.setdefault(_split_of(image.path, root), []).append(image)
    named = {image.path for rows in images.values() for image in rows}
    suffixes = Image.registered_extensions()
    for folder in places:
        unnamed = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in suffixes and p not in named]
        if unnamed:
            problems.append(f"{folder}: {len(unnamed)} images are not named in its metadata, such as {unnamed[0].name}")
    return Metadata(images, tuple(problems)) if images else None


def _images(folder: Path, file: Path, problems: list[str]) -> Iterator[LabelledImage]:
    for number, line in enumerate(_lines(file), start=1):
        where = f"{file}, line {number}"
        name = line.get(_FILE)
        path = folder / name if isinstance(name, str) else folder
        if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
            problems.append(f"{where}: expected {_FILE} with an image below {folder}, got {name!r}")
        else:
            yield LabelledImage(path, line, where)


def _lines(file: Path) -> list[_Line]:
    """Raises InvalidData for what is no table."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            if file.suffix == ".csv":
                rows = csv.DictReader(stream, strict=True)
                return [{name: _number_or_text(text) for name, text in row.items()} for row in rows]
            lines = [json.loads(line) for line in stream if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise InvalidData(f"{file}: expected a line of JSON, or a row, for each image: {error}") from error
    if not all(isinstance(line, dict) for line in lines):
        raise InvalidData(f"{file}: expected an object in each line")
    return lines


def _number_or_text(text: str | None) -> Label | None:
    """What a cell of a table holds."""
    return int(text) if text is not None and text.isdecimal() else text


def _labels_of(image: LabelledImage, intake: Intake) -> list[Label]:
    """The labels of one image; empty after noting what is wrong with them."""
    content = next((image.line[name] for name in _LABEL_COLUMNS if name in image.line), None)
    contents: list[object] = content if isinstance(content, list) else [content]
    labels = [
        label for label in contents if isinstance(label, str | int) and not isinstance(label, bool) and label != ""
    ]
    if len(labels) == len(contents):
        return labels
    intake.problem(f"{image.where}: expected a label that is a name or a number, or a list of them, got {content!r}")
    return []


def _metadata_file(folder: Path) -> Path | None:
    return next((folder / name for name in METADATA if (folder / name).is_file()), None)


def _split_folders(root: Path) -> list[Path]:
    return [folder for folder in sorted(root.iterdir()) if folder.is_dir() and folder.name.casefold() in SPLIT_NAMES]


def _split_of(path: Path, root: Path) -> str:
    """By the first folder below the root; what lies elsewhere is for training and division."""
    return SPLIT_NAMES.get(path.relative_to(root).parts[0].casefold(), "train")
