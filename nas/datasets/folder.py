"""Image files in one sub-folder per class, optionally below train/, val/ and test/; with other labels than classes,
``nas.datasets.labelled_folder`` says how they lie."""

from __future__ import annotations

import mimetypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from nas.core.errors import InvalidData
from nas.core.plugins import DatasetType
from nas.core.ports import Dataset, ImageShape, Split
from nas.core.spec import DataSpec
from nas.datasets.images import ImageFormat, ImageParams, decode_all, format_of, image_shape, is_image
from nas.datasets.intake import Intake
from nas.datasets.labelled_folder import list_files
from nas.datasets.labels import label_kind
from nas.datasets.metadata import Metadata, read_metadata
from nas.datasets.records import EncodedRecords, FileReader, size_of
from nas.datasets.splits import (
    SPLIT_NAMES,
    Source,
    build,
    check_class_count,
    check_images,
    existing_path,
    parse_params,
)

_PHOTO_SUFFIXES = frozenset({".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raf", ".orf"})
_Files = Mapping[str, Sequence[Path]]  # by class


class FolderParams(ImageParams):
    """``recursive``: images in folders below a class's folder belong to the class; else there may be none.
    ``class_names``: what the numbers in masks, and in metadata, stand for."""

    recursive: bool = False
    class_names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Listing:
    """The image files of every split by class, and the classes in the order of their names."""

    files: Mapping[str, _Files]
    class_names: tuple[str, ...]

    def images(self, split: str) -> Iterator[tuple[Path, str]]:
        """The files of a split, class by class, each with its name for messages."""
        return ((path, str(path)) for files in self.files[split].values() for path in files)


def describe(spec: DataSpec) -> ImageShape:
    """The shape, from the folders' names and the first image that can be decoded."""
    params, intake = parse_params(FolderParams, spec), Intake()
    if (kind := label_kind(spec)) != "class":
        files = list_files(existing_path(spec), kind, params.class_names, intake)
        return image_shape(files.format(params), check_class_count(files.names, kind))
    listing = _list(existing_path(spec), params, intake)
    classes = check_class_count(listing.class_names)
    intake.require_usable()
    return image_shape(format_of(listing.images("train"), params), classes)


def load(spec: DataSpec, seed: int) -> Dataset:
    """The folder's images. Raises InvalidData with every file and class that is wrong."""
    params = parse_params(FolderParams, spec)
    intake = Intake(params.skip_unreadable)
    if (kind := label_kind(spec)) != "class":
        files = list_files(existing_path(spec), kind, params.class_names, intake)
        target = files.format(params)
        parts = {name: files.decode(name, target, intake) for name in files.rows}
        source = Source(parts["train"], files.names, parts.get("val"), parts.get("test"), intake)
        return build(spec.name, source, params, seed, spec.task)
    listing = _list(existing_path(spec), params, intake)
    check_class_count(listing.class_names)
    if not any(listing.files["train"].values()):
        intake.require_usable()
    target = format_of(listing.images("train"), params)
    splits = {name: _decode(listing, name, target, intake) for name in listing.files}
    source = Source(splits["train"], listing.class_names, splits.get("val"), splits.get("test"), intake)
    return build(spec.name, source, params, seed, spec.task)


def records(spec: DataSpec) -> EncodedRecords:
    """The folder's images, listed. Raises InvalidData with every file and class that is wrong."""
    params, intake = parse_params(FolderParams, spec), Intake()
    if (kind := label_kind(spec)) != "class":
        files = list_files(existing_path(spec), kind, params.class_names, intake)
        intake.require_usable()
        return files.records(params, tuple(intake.unused))
    listing = _list(existing_path(spec), params, intake)
    check_class_count(listing.class_names)
    intake.require_usable()
    readers = {s: FileReader(tuple(path for path, _ in listing.images(s))) for s in listing.files}
    labels = {s: _labels(listing, s) for s in listing.files}
    size_bytes = sum(size_of(reader.paths) for reader in readers.values())
    target = format_of(listing.images("train"), params)
    return EncodedRecords(readers, labels, listing.class_names, target, size_bytes, tuple(intake.unused))


def _labels(listing: Listing, split: str) -> NDArray[np.int64]:
    return np.array([k for k, files in enumerate(listing.files[split].values()) for _ in files], dtype=np.int64)


def _list(root: Path, params: FolderParams, intake: Intake) -> Listing:
    metadata = read_metadata(root)
    if metadata is not None and metadata.has_labels:
        return _list_by_metadata(metadata, params, intake)
    split_folders = _split_folders(root)
    for folder in dict.fromkeys((root, *split_folders.values())):
        _note_loose_files(folder, intake)
    names = tuple(sorted({f.name for split in split_folders.values() for f in _folders(split)}))
    if not names:
        intake.require_usable()
        raise InvalidData(f"{root}: expected one sub-folder per class, got none")
    files = {
        split: {name: _class_files(folder / name, params, intake) for name in names}
        for split, folder in split_folders.items()
    }
    for split, by_class in files.items():
        for name, paths in by_class.items():
            if not paths:
                folder = split_folders[split] / name
                intake.problem(f"class {name!r} has no images: expected image files in {folder}")
    return Listing(files, names)


def _list_by_metadata(metadata: Metadata, params: FolderParams, intake: Intake) -> Listing:
    """Of every image one class, as its line says; of a class without images in a split, no files."""
    classes = metadata.classes(params.class_names, intake)
    files: dict[str, dict[str, list[Path]]] = {}
    for split, images in metadata.images.items():
        files[split] = {name: [] for name in classes.names}
        for image, positions in zip(images, classes.positions[split], strict=True):
            if len(positions) == 1:
                files[split][classes.names[positions[0]]].append(image.path)
            elif positions:
                intake.problem(f"{image.where}: expected one class, got {len(positions)}; for several: multi_label")
    for split, by_class in files.items():
        for name, paths in by_class.items():
            if not paths:
                intake.problem(f"class {name!r} has no images in the {split} split")
    return Listing(files, classes.names)


def _split_folders(root: Path) -> dict[str, Path]:
    """The folder of every split; the root is that of ``train`` where it has no folders for splits."""
    folders = _folders(root)
    split_of = {f: SPLIT_NAMES[f.name.casefold()] for f in folders if f.name.casefold() in SPLIT_NAMES}
    other_names = [f.name for f in folders if f not in split_of]
    if other_names and any(_folders(f) for f in split_of):  # folders of classes below: the names mean splits
        raise InvalidData(
            f"{root}: expected folders for splits only ({', '.join(SPLIT_NAMES)}) beside "
            f"{', '.join(f.name for f in split_of)}, got {', '.join(other_names)}"
        )
    if other_names or not folders:
        return {"train": root}
    by_split: dict[str, Path] = {}
    for folder, split in split_of.items():
        if split in by_split:
            raise InvalidData(
                f"{root}: expected one folder for the {split} split, got {by_split[split].name} and {folder.name}"
            )
        by_split[split] = folder
    if "train" not in by_split:
        raise InvalidData(f"{root}: expected a folder train, got {', '.join(f.name for f in folders)}")
    return by_split


def _note_loose_files(folder: Path, intake: Intake) -> None:
    """Images beside the folders of the classes have no class."""
    loose = []
    for path in _files(folder):
        if _is_image(path):
            loose.append(path.name)
        else:
            intake.unused.append(str(path))
    if loose:
        intake.problem(
            f"{folder}: {len(loose)} images lie beside the folders of the classes, such as {loose[0]}: expected every "
            "image in the folder of its class"
        )


def _class_files(folder: Path, params: FolderParams, intake: Intake) -> list[Path]:
    if not folder.is_dir():
        return []
    images = _images(_files(folder), intake)
    deeper = _images((path for below in _folders(folder) for path in _files_below(below)), intake)
    if deeper and not params.recursive:
        intake.problem(
            f"{folder}: {len(deeper)} images lie in folders below, such as {deeper[0].relative_to(folder)}: expected "
            "them in the class's folder itself; set the parameter recursive to read them as images of this class"
        )
    return [*images, *deeper]


def _images(paths: Iterator[Path], intake: Intake) -> list[Path]:
    images = []
    for path in paths:
        if _is_image(path):
            images.append(path)
        else:
            intake.unused.append(str(path))
    return images


def _is_image(path: Path) -> bool:
    """By its suffix, whether or not it can be read here; a file with another suffix by its content."""
    suffix = path.suffix.lower()
    if suffix in Image.registered_extensions() or suffix in _PHOTO_SUFFIXES:
        return True
    kind, _ = mimetypes.guess_type(path.name, strict=False)
    return (kind or "").startswith("image/") or is_image(path)


def _files_below(folder: Path) -> Iterator[Path]:
    """All files in a folder and the folders below it, but for links to folders, which may lead in circles."""
    yield from _files(folder)
    for below in _folders(folder):
        if not below.is_symlink():
            yield from _files_below(below)


def _files(folder: Path) -> Iterator[Path]:
    """Everything that is no folder, without hidden files, which systems leave behind."""
    return iter(sorted(p for p in folder.iterdir() if not p.is_dir() and not p.name.startswith(".")))


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise InvalidData(f"{root}: expected a folder with one sub-folder per class, got a file")
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _decode(listing: Listing, split: str, target: ImageFormat, intake: Intake) -> Split:
    labels_N = _labels(listing, split)
    images_NCHW, usable = decode_all(listing.images(split), len(labels_N), target, intake)
    return check_images("folder", images_NCHW, labels_N[usable])


FOLDER = DatasetType(
    "folder",
    "Image files in one sub-folder per class, optionally below train/, val/ and test/.",
    describe,
    load,
    FolderParams,
    records,
)
