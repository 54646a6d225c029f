"""Sources that were listed: readers of records by position, and what their images become."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from nas.core.errors import InvalidData
from nas.core.ports import Split
from nas.core.records import ImageRead, Storage
from nas.core.tasks import LabelKind, Labels
from nas.datasets.images import Encoded, ImageFormat, decode_all, image_shape
from nas.datasets.intake import Intake
from nas.datasets.splits import Source, check_images


class RecordReader(Protocol):
    """The encoded images of one split."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> Iterator[tuple[Encoded, str]]:
        """The images ``start`` to ``stop``, each with its place for messages. Raises InvalidData."""


@dataclass(frozen=True)
class FileReader:
    """Image files."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, start: int, stop: int) -> Iterator[tuple[Encoded, str]]:
        """As ``RecordReader``."""
        return ((path, str(path)) for path in self.paths[start:stop])


@dataclass(frozen=True)
class EncodedRecords:
    """Encoded images that all become of one format; as ``nas.core.records.RecordSource``."""

    readers: Mapping[str, RecordReader]
    labels: Mapping[str, Labels]
    class_names: tuple[str, ...]
    image_format: ImageFormat
    packed_bytes: int
    unused: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """As ``RecordSource``."""
        shape = image_shape(self.image_format, len(self.class_names))
        return shape.channels, shape.height, shape.width

    def read(self, split: str, start: int, stop: int, storage: Storage) -> Iterator[ImageRead]:
        """As ``RecordSource``."""
        read = self.image_format.read if storage == "decoded" else self.image_format.read_encoded
        for encoded, where in self.readers[split].read(start, stop):
            yield read(encoded, where)


def size_of(paths: Iterable[Path]) -> int:
    """The size of files, in bytes, those that have vanished left out: reading them tells."""
    return sum(path.stat().st_size for path in paths if path.exists())


def in_memory(records: EncodedRecords, intake: Intake, where: str, kind: LabelKind = "class") -> Source:
    """All images of a source in memory. Raises DataTooLarge."""
    splits: dict[str, Split] = {}
    for name, reader in records.readers.items():
        images_NCHW, usable = decode_all(reader.read(0, len(reader)), len(reader), records.image_format, intake)
        splits[name] = check_images(where, images_NCHW, records.labels[name][usable], kind)
    if "train" not in splits:
        raise InvalidData(f"{where}: expected images to train on, got none")
    return Source(splits["train"], records.class_names, splits.get("val"), splits.get("test"), intake)
