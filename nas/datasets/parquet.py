"""Images in Parquet files as Hugging Face's datasets keep them: encoded bytes and class numbers in columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from nas.core.errors import InvalidData
from nas.core.plugins import DatasetType
from nas.core.ports import Dataset, ImageShape, Split
from nas.core.spec import DataSpec
from nas.datasets.images import Decode, ImageParams, decoder
from nas.datasets.splits import (
    Source,
    build,
    check_class_count,
    check_images,
    check_labels,
    existing_path,
    numbered_classes,
    parse_params,
)

_SPLITS = {"train": "train", "test": "test", "val": "val", "valid": "val", "validation": "val"}
_SHARD = re.compile(rf"({'|'.join(_SPLITS)})([-._].*)?\.parquet")
_UNREADABLE = (pa.ArrowException, OSError)


class Params(ImageParams):
    """``image`` and ``label`` name the columns; None: ``image`` or ``img``, ``label`` or ``labels``."""

    image: str | None = None
    label: str | None = None
    class_names: tuple[str, ...] | None = None


def describe(spec: DataSpec) -> ImageShape:
    """The shape, from the metadata, the labels and the first image."""
    params, parts = parse_params(Params, spec), _shards(spec)
    names = _class_names(params, parts)
    encoded, where = next(_encoded(parts["train"], params))
    channels, height, width = decoder(encoded, where, params)(encoded, where).shape
    return ImageShape(channels, height, width, check_class_count(names))


def load(spec: DataSpec, seed: int) -> Dataset:
    """The files' images. Raises InvalidData naming the file and row, column or class that is wrong."""
    params, parts = parse_params(Params, spec), _shards(spec)
    names = _class_names(params, parts)
    check_class_count(names)
    decode = decoder(*next(_encoded(parts["train"], params)), params)
    splits = {part: _decode(paths, params, decode) for part, paths in parts.items()}
    return build(spec.name, Source(splits["train"], names, splits.get("val"), splits.get("test")), params, seed)


def _shards(spec: DataSpec) -> dict[str, list[Path]]:
    """Files by split. One file, or files without a split in their names, are undivided images."""
    root = existing_path(spec)
    paths = [root] if root.is_file() else sorted(root.rglob("*.parquet"))
    if not paths:
        raise InvalidData(f"{root}: expected Parquet files (*.parquet), got none")
    matches = [_SHARD.fullmatch(p.name) for p in paths]
    if len(paths) == 1 or not any(matches):
        return {"train": paths}
    parts: dict[str, list[Path]] = {}
    for path, match in zip(paths, matches, strict=True):
        if match is None:
            raise InvalidData(f"{path}: expected a name such as train-00000.parquet, as the other files have")
        parts.setdefault(_SPLITS[match[1]], []).append(path)
    if "train" not in parts:
        raise InvalidData(f"{root}: expected files train-*.parquet, got {', '.join(p.name for p in paths)}")
    return parts


def _schema(path: Path) -> pa.Schema:
    try:
        return pq.read_schema(path)
    except _UNREADABLE as error:
        raise InvalidData(f"{path}: expected a Parquet file, got a corrupt one or none: {error}") from error


def _column(path: Path, chosen: str | None, usual: Sequence[str]) -> str:
    names = _schema(path).names
    for name in [chosen] if chosen else usual:
        if name in names:
            return name
    raise InvalidData(f"{path}: expected a column {' or '.join([chosen] if chosen else usual)}, got {', '.join(names)}")


def _image_column(path: Path, params: Params) -> str:
    name = _column(path, params.image, ("image", "img"))
    kind = _schema(path).field(name).type
    held = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(held) or pa.types.is_large_binary(held)):
        raise InvalidData(
            f"{path}: column {name!r}: expected encoded images (binary, or a struct of bytes), got {kind}"
        )
    return name


def _label_column(path: Path, params: Params) -> str:
    name = _column(path, params.label, ("label", "labels"))
    kind = _schema(path).field(name).type
    if not pa.types.is_integer(kind):
        raise InvalidData(f"{path}: column {name!r}: expected class numbers (integers), got {kind}")
    return name


def _encoded(paths: Sequence[Path], params: Params) -> Iterator[tuple[bytes, str]]:
    """Every image's bytes, and where they lie."""
    found = False
    for path in paths:
        column = _image_column(path, params)
        row = 0
        try:
            for batch in pq.ParquetFile(path).iter_batches(batch_size=256, columns=[column]):
                for held in batch.column(0).to_pylist():
                    where = f"{path}, row {row}"
                    data = held.get("bytes") if isinstance(held, dict) else held
                    if data is None:
                        raise InvalidData(f"{where}: expected the image's bytes in column {column!r}, got none")
                    found = True
                    yield data, where
                    row += 1
        except _UNREADABLE as error:
            raise InvalidData(f"{path}: corrupt or truncated: {error}") from error
    if not found:
        raise InvalidData(f"{paths[0]}: expected images, got no rows")


def _labels(paths: Sequence[Path], params: Params) -> NDArray[np.int64]:
    labels = []
    for path in paths:
        column = _label_column(path, params)
        try:
            held = pq.read_table(path, columns=[column]).column(0)
        except _UNREADABLE as error:
            raise InvalidData(f"{path}: corrupt or truncated: {error}") from error
        if held.null_count:
            raise InvalidData(
                f"{path}: column {column!r}: expected a class number in every row, got {held.null_count} nulls"
            )
        labels.append(held.to_numpy())
        check_labels(f"{path}: {column}", labels[-1])
    return np.concatenate(labels).astype(np.int64)


def _class_names(params: Params, parts: dict[str, list[Path]]) -> tuple[str, ...]:
    """Names from the parameters, else from the metadata that Hugging Face's datasets write, else numbers."""
    if params.class_names is not None:
        return params.class_names
    path = parts["train"][0]
    column = _label_column(path, params)
    metadata = (_schema(path).metadata or {}).get(b"huggingface")
    if metadata is not None:
        try:
            record: Any = json.loads(metadata)
            names = record["info"]["features"][column].get("names")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InvalidData(
                f"{path}: the metadata 'huggingface' does not describe column {column!r}: {error!r}"
            ) from error
        if names is not None:
            return tuple(str(n) for n in names)
    return numbered_classes([_labels(paths, params) for paths in parts.values()])


def _decode(paths: Sequence[Path], params: Params, decode: Decode) -> Split:
    images = np.stack([decode(data, where) for data, where in _encoded(paths, params)])
    return check_images(f"{paths[0].parent}", images, _labels(paths, params))


PARQUET = DatasetType(
    "parquet",
    "Images in Parquet files as Hugging Face's datasets keep them: encoded bytes and class numbers in columns.",
    describe,
    load,
)
