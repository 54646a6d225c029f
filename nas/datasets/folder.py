"""Image files in one sub-folder per class, optionally below train/, val/ and test/."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from nas.core.errors import InvalidData
from nas.core.plugins import DatasetType
from nas.core.ports import Dataset, ImageShape, Split
from nas.core.spec import DataSpec
from nas.datasets.images import Decode, ImageParams, decoder
from nas.datasets.splits import Source, build, check_class_count, check_images, existing_path, parse_params

_SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_Files = dict[str, list[Path]]  # by class


def describe(spec: DataSpec) -> ImageShape:
    """The shape, from the folders' names and the first image."""
    parts, names = _list(spec)
    decode, first = _decoder(spec, parts)
    channels, height, width = decode(first, str(first)).shape
    return ImageShape(channels, height, width, check_class_count(names))


def load(spec: DataSpec, seed: int) -> Dataset:
    """The folder's images. Raises InvalidData naming the file or the class that is wrong."""
    parts, names = _list(spec)
    check_class_count(names)
    decode, _ = _decoder(spec, parts)
    splits = {part: _decode(files, names, decode) for part, files in parts.items()}
    source = Source(splits["train"], names, val=splits.get("val"), test=splits.get("test"))
    return build(spec.name, source, parse_params(ImageParams, spec), seed)


def _list(spec: DataSpec) -> tuple[dict[str, _Files], tuple[str, ...]]:
    """Files by split and class, and the classes in the order of their names."""
    root = existing_path(spec)
    folders = _folders(root)
    parts: dict[str, Path] = {}
    if folders and all(f.name in _SPLITS for f in folders):
        for folder in folders:
            part = _SPLITS[folder.name]
            if part in parts:
                raise InvalidData(
                    f"{root}: expected one folder for the {part} split, got {parts[part].name} and {folder.name}"
                )
            parts[part] = folder
        if "train" not in parts:
            raise InvalidData(f"{root}: expected a folder train, got {', '.join(f.name for f in folders)}")
    else:
        parts["train"] = root
    names = tuple(sorted({f.name for part in parts.values() for f in _folders(part)}))
    if not names:
        raise InvalidData(f"{root}: expected one sub-folder per class, got none")
    extensions = frozenset(Image.registered_extensions())
    listed: dict[str, _Files] = {}
    for part, folder in parts.items():
        listed[part] = {name: _files(folder / name, extensions) for name in names}
        for name, files in listed[part].items():
            if not files:
                raise InvalidData(f"class {name!r} has no images: expected image files in {folder / name}")
    return listed, names


def _folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise InvalidData(f"{root}: expected a folder with one sub-folder per class, got a file")
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(folder: Path, extensions: frozenset[str]) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in extensions and not p.name.startswith("."))


def _decoder(spec: DataSpec, parts: dict[str, _Files]) -> tuple[Decode, Path]:
    first = next(iter(parts["train"].values()))[0]
    return decoder(first, str(first), parse_params(ImageParams, spec)), first


def _decode(files: _Files, names: tuple[str, ...], decode: Decode) -> Split:
    pairs = [(path, k) for k, name in enumerate(names) for path in files[name]]
    images = np.stack([decode(path, str(path)) for path, _ in pairs])
    return check_images("folder", images, np.array([k for _, k in pairs]))


FOLDER = DatasetType(
    "folder",
    "Image files in one sub-folder per class, optionally below train/, val/ and test/.",
    describe,
    load,
)
