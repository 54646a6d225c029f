"""Tar files of samples as WebDataset keeps them: members of one name but for its extension are one sample."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.core.errors import InvalidData
from nas.core.plugins import DatasetType
from nas.core.ports import Dataset, ImageShape
from nas.core.spec import DataSpec
from nas.core.tasks import Labels
from nas.datasets.images import ImageParams, format_of
from nas.datasets.intake import Intake
from nas.datasets.labels import label_kind, no_labels
from nas.datasets.limits import SMALL_BYTES
from nas.datasets.records import EncodedRecords, in_memory
from nas.datasets.splits import (
    SPLIT_NAMES,
    build,
    check_class_count,
    existing_path,
    numbered_classes,
    parse_params,
)

_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".tif", ".tiff", ".gif")
_LABELS = (".cls", ".json")
_SPLIT = re.compile(rf"(?:^|[-._])({'|'.join(SPLIT_NAMES)})(?=[-._])", re.IGNORECASE)
_CORRUPT = (tarfile.TarError, OSError, EOFError)


class WebdatasetParams(ImageParams):
    """``class_names``: what the numbers in the members ``.cls`` stand for. ``label``: the key of the class number in
    the members ``.json``, where there are no members ``.cls``."""

    class_names: tuple[str, ...] | None = None
    label: str = "label"


@dataclass(frozen=True)
class _Member:
    """A file in a tar file: its name, and where its bytes lie."""

    name: str
    offset: int
    size: int


@dataclass(frozen=True)
class TarReader:
    """The images of tar files by where they lie, as ``nas.datasets.records.RecordReader``."""

    paths: tuple[Path, ...]
    path_N: NDArray[np.int32]
    offset_N: NDArray[np.int64]
    size_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.path_N)

    def read(self, start: int, stop: int) -> Iterator[tuple[bytes, str]]:
        """As ``RecordReader``."""
        for at in range(start, min(stop, len(self))):
            path = self.paths[self.path_N[at]]
            try:
                with path.open("rb") as file:
                    file.seek(int(self.offset_N[at]))
                    content = file.read(int(self.size_N[at]))
            except OSError as error:
                raise InvalidData(f"{path}: cannot be read: {error.strerror or error}") from error
            yield content, f"{path}, byte {self.offset_N[at]}"


def describe(spec: DataSpec) -> ImageShape:
    """The shape, from the members' names, the labels and the first image that can be decoded."""
    listed = records(spec)
    return ImageShape(*listed.shape, check_class_count(listed.class_names, label_kind(spec, "class", "none")))


def load(spec: DataSpec, seed: int) -> Dataset:
    """The files' images. Raises InvalidData with every member that is wrong."""
    params, kind = parse_params(WebdatasetParams, spec), label_kind(spec, "class", "none")
    listed, intake = records(spec), Intake(params.skip_unreadable)
    intake.unused += listed.unused
    return build(spec.name, in_memory(listed, intake, str(spec.path), kind), params, seed, spec.task)


def records(spec: DataSpec) -> EncodedRecords:
    """The files' images, listed. Raises InvalidData with every sample that lacks a label."""
    params, kind = parse_params(WebdatasetParams, spec), label_kind(spec, "class", "none")
    intake, readers, labels = Intake(), {}, {}
    for split, paths in _by_split(existing_path(spec)).items():
        readers[split], labels[split] = _list(paths, params, kind == "class", intake)
    intake.require_usable()
    if "train" not in readers or len(readers["train"]) == 0:
        raise InvalidData(f"{spec.path}: expected images to train on, got none")
    names = _class_names(params, list(labels.values())) if kind == "class" else ()
    check_class_count(names, kind)
    target = format_of(readers["train"].read(0, len(readers["train"])), params)
    size_bytes = sum(int(reader.size_N.sum()) for reader in readers.values())
    return EncodedRecords(readers, labels, names, target, size_bytes, tuple(intake.unused))


def _class_names(params: WebdatasetParams, labels: Sequence[Labels]) -> tuple[str, ...]:
    return params.class_names if params.class_names is not None else numbered_classes(labels)


def _by_split(root: Path) -> Mapping[str, list[Path]]:
    """Tar files by the split that their names or folders say; files of which none says one are undivided images."""
    paths = [root] if root.is_file() else sorted(root.rglob("*.tar"))
    if not paths:
        raise InvalidData(f"{root}: expected tar files (*.tar), got none")
    names = [_split_of(path, root) for path in paths]
    if not any(names):
        return {"train": paths}
    parts: dict[str, list[Path]] = {}
    for path, name in zip(paths, names, strict=True):
        if name is None:
            raise InvalidData(f"{path}: expected the name of a split in its name, as the other files have")
        parts.setdefault(name, []).append(path)
    return parts


def _split_of(path: Path, root: Path) -> str | None:
    folders = path.relative_to(root).parts[:-1] if path != root else ()
    for folder in folders:
        if folder.casefold() in SPLIT_NAMES:
            return SPLIT_NAMES[folder.casefold()]
    match = _SPLIT.search(path.name)
    return SPLIT_NAMES[match[1].casefold()] if match else None


def _list(paths: Sequence[Path], params: WebdatasetParams, labelled: bool, intake: Intake) -> tuple[TarReader, Labels]:
    path_N, offset_N, size_N, labels = [], [], [], []
    for number, path in enumerate(paths):
        for image, label in _samples(path, params, labelled, intake):
            path_N.append(number)
            offset_N.append(image.offset)
            size_N.append(image.size)
            labels.append(label)
    reader = TarReader(
        tuple(paths), np.array(path_N, np.int32), np.array(offset_N, np.int64), np.array(size_N, np.int64)
    )
    return reader, np.array(labels, dtype=np.int64) if labelled else no_labels(len(labels))


def _samples(path: Path, params: WebdatasetParams, labelled: bool, intake: Intake) -> Iterator[tuple[_Member, int]]:
    """The images of a file with their class numbers; -1 where there are no labels."""
    try:
        with tarfile.open(path, "r:") as tar:
            images: dict[str, _Member] = {}
            labels: dict[str, int] = {}
            for member in tar:
                if not member.isfile():
                    continue
                key, extension = _key(member.name)
                if extension in _IMAGES:
                    images[key] = _Member(member.name, member.offset_data, member.size)
                elif extension in _LABELS and labelled:
                    _note_label(tar, member, key, extension, params, labels, f"{path}: {member.name}", intake)
                elif extension not in _LABELS:
                    intake.unused.append(f"{path}: {member.name}")
    except _CORRUPT as error:
        raise InvalidData(f"{path}: expected a tar file, got a corrupt one or none: {error}") from error
    for key, image in images.items():
        if labelled and key not in labels:
            intake.problem(f"{path}: {image.name} has no label: expected {key}.cls, or {key}.json with {params.label}")
        else:
            yield image, labels.get(key, -1)


def _key(name: str) -> tuple[str, str]:
    """The sample's key and the extension, which begins at the first dot of the file's name."""
    folder, _, file = name.rpartition("/")
    stem, dot, extension = file.partition(".")
    last = extension.rpartition(".")[2].casefold()
    return f"{folder}/{stem}".lstrip("/"), f"{dot}{last}"


def _note_label(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    key: str,
    extension: str,
    params: WebdatasetParams,
    labels: dict[str, int],
    where: str,
    intake: Intake,
) -> None:
    file = tar.extractfile(member)
    if file is None or member.size > SMALL_BYTES:
        intake.problem(f"{where}: expected a small file with a class number, got {member.size:,} bytes")
        return
    content = file.read()
    try:
        value = json.loads(content) if extension == ".json" else content.decode().strip()
        number = value.get(params.label) if isinstance(value, dict) else value
        if extension == ".json" and (number is None or key in labels):
            return  # a description beside the member .cls
        labels[key] = int(str(number))
    except (ValueError, TypeError) as error:
        intake.problem(f"{where}: expected a class number, got {content[:40]!r} ({error})")


WEBDATASET = DatasetType(
    "webdataset",
    "Tar files of samples as WebDataset keeps them: an image and its class number, of one name.",
    describe,
    load,
    WebdatasetParams,
    records,
)
