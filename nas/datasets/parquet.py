"""Images in Parquet or Arrow files as Hugging Face's datasets keep them: encoded bytes and labels in columns."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from nas.core.errors import InvalidData, InvalidSpec
from nas.core.plugins import DatasetType
from nas.core.ports import Dataset, ImageShape, Split
from nas.core.spec import DataSpec
from nas.core.tasks import LabelKind, Labels
from nas.datasets.images import ImageFormat, ImageParams, decode_all, decode_mask, format_of, image_shape
from nas.datasets.intake import Intake
from nas.datasets.labels import check_labels, label_kind, no_labels
from nas.datasets.limits import check_memory
from nas.datasets.records import EncodedRecords, size_of
from nas.datasets.splits import (
    SPLIT_NAMES,
    Source,
    build,
    check_class_count,
    check_images,
    existing_path,
    numbered_classes,
    parse_params,
)
from nas.datasets.tables import TableFile, TableReader, table_files

_SHARD = re.compile(rf"({'|'.join(SPLIT_NAMES)})([-._].*)?\.(parquet|arrow)", re.IGNORECASE)


@dataclass(frozen=True)
class _Feature:
    """A column as Hugging Face's metadata describes it: ``names`` of its classes, if it has such."""

    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _DatasetInfo:
    features: Mapping[str, _Feature]


@dataclass(frozen=True)
class _HuggingFace:
    info: _DatasetInfo


_HUGGINGFACE = TypeAdapter(_HuggingFace)


class ParquetParams(ImageParams):
    """``image`` and ``label`` name the columns; None: ``image`` or ``img``, ``label`` or ``labels``, and ``mask``.

    Labels by their kind: class numbers; lists of the class numbers of an image; encoded images of masks, whose classes
    ``class_names`` names; numbers or lists of them.
    """

    image: str | None = None
    label: str | None = None
    class_names: tuple[str, ...] | None = None


def describe(spec: DataSpec) -> ImageShape:
    """The shape, from the metadata, the labels and the first image that can be decoded."""
    params, parts = parse_params(ParquetParams, spec), _shards(spec)
    kind = label_kind(spec)
    classes = check_class_count(_class_names(params, parts, kind), kind)
    return image_shape(format_of(_present(parts["train"], params), params), classes)


def load(spec: DataSpec, seed: int) -> Dataset:
    """The files' images. Raises InvalidData with every file and row, column or class that is wrong."""
    params, parts = parse_params(ParquetParams, spec), _shards(spec)
    kind = label_kind(spec)
    names = _class_names(params, parts, kind)
    check_class_count(names, kind)
    intake = Intake(params.skip_unreadable)
    target = format_of(_present(parts["train"], params), params)
    splits = {part: _decode(paths, params, target, intake, kind, len(names)) for part, paths in parts.items()}
    source = Source(splits["train"], names, splits.get("val"), splits.get("test"), intake)
    return build(spec.name, source, params, seed, spec.task)


def records(spec: DataSpec) -> EncodedRecords:
    """The files' images, listed. Raises InvalidData with every file and row, column or class that is wrong."""
    params, parts = parse_params(ParquetParams, spec), _shards(spec)
    kind = label_kind(spec)
    names = _class_names(params, parts, kind)
    check_class_count(names, kind)
    target = format_of(_present(parts["train"], params), params)
    intake = Intake()
    labels = {
        part: _labels(paths, params)
        if kind == "class"
        else _other_labels(paths, params, target, intake, kind, len(names))
        for part, paths in parts.items()
    }
    readers = {part: _reader(paths, params) for part, paths in parts.items()}
    return EncodedRecords(readers, labels, names, target, size_of(p for paths in parts.values() for p in paths))


def _shards(spec: DataSpec) -> dict[str, list[Path]]:
    """Files by split. One file, or files without a split in their names, are undivided images."""
    root = existing_path(spec)
    paths = table_files(root)
    if not paths:
        raise InvalidData(f"{root}: expected Parquet or Arrow files (*.parquet, *.arrow), got none")
    names = [_split_name(path, root) for path in paths]
    if len(paths) == 1 or not any(names):
        return {"train": list(paths)}
    parts: dict[str, list[Path]] = {}
    for path, name in zip(paths, names, strict=True):
        if name is None:
            raise InvalidData(f"{path}: expected a name such as train-00000.parquet, as the other files have")
        parts.setdefault(name, []).append(path)
    if "train" not in parts:
        raise InvalidData(f"{root}: expected files train-*.parquet, got {', '.join(p.name for p in paths)}")
    return parts


def _split_name(path: Path, root: Path) -> str | None:
    """The split that the name of a file says, or that of a folder between it and ``root``."""
    if match := _SHARD.fullmatch(path.name):
        return SPLIT_NAMES[match[1].casefold()]
    folders = path.relative_to(root).parts[:-1] if path != root else ()
    return next((SPLIT_NAMES[f.casefold()] for f in folders if f.casefold() in SPLIT_NAMES), None)


def _schema(path: Path) -> pa.Schema:
    return TableFile(path).schema


def _column(path: Path, parameter: str | None, usual: Sequence[str]) -> str:
    names = _schema(path).names
    for name in [parameter] if parameter else usual:
        if name in names:
            return name
    raise InvalidData(
        f"{path}: expected a column {' or '.join([parameter] if parameter else usual)}, got {', '.join(names)}"
    )


def _image_column(path: Path, params: ParquetParams) -> str:
    name = _column(path, params.image, ("image", "img"))
    kind = _schema(path).field(name).type
    stored_type = kind.field("bytes").type if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(stored_type) or pa.types.is_large_binary(stored_type)):
        raise InvalidData(
            f"{path}: column {name!r}: expected encoded images (binary, or a struct of bytes), got {kind}"
        )
    return name


def _label_column(path: Path, params: ParquetParams) -> str:
    name = _column(path, params.label, ("label", "labels"))
    kind = _schema(path).field(name).type
    if not pa.types.is_integer(kind):
        raise InvalidData(f"{path}: column {name!r}: expected class numbers (integers), got {kind}")
    return name


def _present(paths: Sequence[Path], params: ParquetParams) -> Iterator[tuple[bytes, str]]:
    """Every image's bytes that are there, and where they lie. Raises InvalidData if there are none."""
    empty = True
    for encoded, where in _encoded(paths, params):
        if encoded:
            empty = False
            yield encoded, where
    if empty:
        raise InvalidData(f"{paths[0]}: expected images, got no rows with any")


def _encoded(paths: Sequence[Path], params: ParquetParams) -> Iterator[tuple[bytes, str]]:
    """Every row's bytes, empty where it has none, and where they lie."""
    for path in paths:
        reader = _reader([path], params)
        yield from reader.read(0, len(reader))


def _reader(paths: Sequence[Path], params: ParquetParams) -> TableReader:
    files = tuple(map(TableFile, paths))
    return TableReader(files, tuple(_image_column(p, params) for p in paths), tuple(f.rows for f in files))


def _labels(paths: Sequence[Path], params: ParquetParams) -> NDArray[np.int64]:
    labels = []
    for path in paths:
        column = _label_column(path, params)
        check_memory(f"{path}: column {column!r}", 16 * _rows(path))
        label_column = TableFile(path).column(column)
        if label_column.null_count:
            raise InvalidData(
                f"{path}: column {column!r}: expected a class number in every row, got {label_column.null_count} nulls"
            )
        labels.append(label_column.to_numpy())
        check_labels(f"{path}: {column}", labels[-1])
    return np.concatenate(labels).astype(np.int64)


def _class_names(params: ParquetParams, parts: dict[str, list[Path]], kind: LabelKind) -> tuple[str, ...]:
    """Names from the parameters, else from the metadata that Hugging Face's datasets write, else numbers."""
    if params.class_names is not None:
        return params.class_names
    if kind != "class":
        return _other_names(params, parts, kind)
    path = parts["train"][0]
    column = _label_column(path, params)
    metadata = (_schema(path).metadata or {}).get(b"huggingface")
    if metadata is not None:
        try:
            features = _HUGGINGFACE.validate_json(metadata).info.features
        except ValidationError as error:
            raise InvalidData(
                f"{path}: the metadata 'huggingface': expected JSON with info.features, got {metadata[:60]!r}"
            ) from error
        if column not in features:
            raise InvalidData(
                f"{path}: the metadata 'huggingface' describes the columns {', '.join(features) or '(none)'}: expected "
                f"{column!r} among them; name the classes by the parameter class_names"
            )
        if (names := features[column].names) is not None:
            return tuple(names)
    return numbered_classes([_labels(paths, params) for paths in parts.values()])


def _other_names(params: ParquetParams, parts: dict[str, list[Path]], kind: LabelKind) -> tuple[str, ...]:
    """Numbers, as many as the labels tell; none where there are no labels. Raises InvalidSpec for masks."""
    if kind == "none":
        return ()
    if kind == "mask":
        raise InvalidSpec("class_names: expected the names of the classes that the numbers in masks stand for")
    rows = [row for paths in parts.values() for row in _label_lists(paths, params)]
    count = max((len(row) if kind == "values" else int(max(row, default=-1)) + 1 for row in rows), default=0)
    return tuple(map(str, range(count)))


def _label_lists(paths: Sequence[Path], params: ParquetParams) -> list[list[float]]:
    """The numbers that each row has as its label, one or several. Raises InvalidData for others and for nulls."""
    rows: list[list[float]] = []
    for path in paths:
        column = _column(path, params.label, ("label", "labels"))
        kind = _schema(path).field(column).type
        item = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
        if not (pa.types.is_integer(item) or pa.types.is_floating(item)):
            raise InvalidData(f"{path}: column {column!r}: expected numbers or lists of them, got {kind}")
        check_memory(f"{path}: column {column!r}", 64 * _rows(path))
        stored = TableFile(path).column(column).to_pylist()
        lists = [value if isinstance(value, list) else [value] for value in stored]
        if nulls := sum(None in row for row in lists):
            raise InvalidData(f"{path}: column {column!r}: expected numbers in every row, got {nulls} nulls")
        rows += lists
    return rows


def _other_labels(
    paths: Sequence[Path], params: ParquetParams, target: ImageFormat, intake: Intake, kind: LabelKind, classes: int
) -> Labels:
    """Labels of every row that are no class numbers."""
    where = f"{paths[0].parent}"
    if kind == "none":
        return no_labels(sum(map(_rows, paths)))
    if kind == "mask":
        named = _reading_masks(params)
        masks = [decode_mask(encoded, f"{at}, mask", target, intake) for encoded, at in _encoded(paths, named)]
        return np.stack(masks)
    rows = _label_lists(paths, params)
    if kind == "values":
        if len({len(row) for row in rows}) > 1:
            raise InvalidData(f"{where}: expected equally many values in every row, got {sorted({*map(len, rows)})}")
        return check_labels(where, np.array(rows, dtype=np.float64).reshape(len(rows), -1), kind)
    tag_NK = np.zeros((len(rows), classes), dtype=np.uint8)
    for n, row in enumerate(rows):
        if any(value != int(value) or not 0 <= value < classes for value in row):
            raise InvalidData(f"{where}: expected lists of class numbers from 0 to {classes - 1}, got {row}")
        tag_NK[n, [int(value) for value in row]] = 1
    return tag_NK


def _reading_masks(params: ParquetParams) -> ParquetParams:
    """The parameters with the masks' column for that of the images."""
    return params.model_copy(update={"image": params.label or "mask"})


def _rows(path: Path) -> int:
    return TableFile(path).rows


def _decode(
    paths: Sequence[Path], params: ParquetParams, target: ImageFormat, intake: Intake, kind: LabelKind, classes: int
) -> Split:
    if kind == "class":
        labels: Labels = _labels(paths, params)
    else:
        labels = _other_labels(paths, params, target, intake, kind, classes)
    images_NCHW, usable = decode_all(_encoded(paths, params), len(labels), target, intake)
    return check_images(f"{paths[0].parent}", images_NCHW, labels[usable], kind)


PARQUET = DatasetType(
    "parquet",
    "Images in Parquet or Arrow files as Hugging Face's datasets keep them: encoded bytes and labels in columns.",
    describe,
    load,
    ParquetParams,
    records,
)
