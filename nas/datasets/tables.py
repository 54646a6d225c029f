"""Tables of Hugging Face's datasets in files: Parquet, and Arrow streams as ``save_to_disk`` writes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nas.core.errors import InvalidData

SUFFIXES = (".parquet", ".arrow")
_UNREADABLE = (pa.ArrowException, OSError)
_BATCH = 64  # rows that are read at a time


@dataclass(frozen=True)
class TableFile:
    """One file of a table. Everything raises InvalidData for a corrupt file."""

    path: Path

    @property
    def schema(self) -> pa.Schema:
        """Columns with their types, and the metadata."""
        try:
            if self._is_arrow:
                with pa.memory_map(str(self.path)) as file:
                    return _open_arrow(file).schema
            return pq.read_metadata(self.path).schema.to_arrow_schema()
        except _UNREADABLE as error:
            kind = "an Arrow stream" if self._is_arrow else "a Parquet file"
            raise InvalidData(f"{self.path}: expected {kind}, got a corrupt one or none: {error}") from error

    @property
    def rows(self) -> int:
        """The number of rows."""
        try:
            if self._is_arrow:
                with pa.memory_map(str(self.path)) as file:
                    return sum(batch.num_rows for batch in _open_arrow(file))
            return int(pq.read_metadata(self.path).num_rows)
        except _UNREADABLE as error:
            raise self._corrupt(error) from error

    def column(self, name: str) -> pa.ChunkedArray:
        """A column, whole."""
        try:
            if self._is_arrow:
                return _open_arrow(pa.memory_map(str(self.path))).read_all().column(name)
            return pq.read_table(self.path, columns=[name]).column(0)
        except _UNREADABLE as error:
            raise self._corrupt(error) from error

    def values(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[object]:
        """The values of a column from one row to another; only what holds these rows is read."""
        end = self.rows if stop is None else stop
        first = 0
        try:
            for batch in self._batches(name, start, end):
                first, last = batch.first, batch.first + batch.records.num_rows
                column = batch.records.column(name)
                yield from column[max(0, start - first) : max(0, min(end, last) - first)].to_pylist()
        except _UNREADABLE as error:
            raise self._corrupt(error) from error

    def _batches(self, name: str, start: int, stop: int) -> Iterator[_PlacedBatch]:
        if self._is_arrow:
            yield from _placed(iter(_open_arrow(pa.memory_map(str(self.path)))), 0, start, stop)
            return
        file = pq.ParquetFile(self.path)
        first = 0
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if first < stop and first + count > start:
                batches = file.iter_batches(batch_size=_BATCH, row_groups=[group], columns=[name])
                yield from _placed(batches, first, start, stop)
            first += count

    @property
    def _is_arrow(self) -> bool:
        return self.path.suffix == ".arrow"

    def _corrupt(self, error: BaseException) -> InvalidData:
        return InvalidData(f"{self.path}: corrupt or truncated: {error}")


@dataclass(frozen=True)
class _PlacedBatch:
    first: int  # its row in the file
    records: pa.RecordBatch


def _placed(batches: Iterator[pa.RecordBatch], first: int, start: int, stop: int) -> Iterator[_PlacedBatch]:
    for batch in batches:
        if first >= stop:
            return
        if first + batch.num_rows > start:
            yield _PlacedBatch(first, batch)
        first += batch.num_rows


def _open_arrow(file: pa.NativeFile) -> pa.RecordBatchReader:
    """A stream, or a file of batches, which begins with other bytes."""
    if file.read(6) == b"ARROW1":
        file.seek(0)
        table = pa.ipc.open_file(file).read_all()
        return pa.RecordBatchReader.from_batches(table.schema, table.to_batches())
    file.seek(0)
    return pa.ipc.open_stream(file)


@dataclass(frozen=True)
class TableReader:
    """The encoded images of a column of several files, as ``nas.datasets.records.RecordReader``."""

    files: tuple[TableFile, ...]
    columns: tuple[str, ...]
    rows: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.rows)

    def read(self, start: int, stop: int) -> Iterator[tuple[bytes, str]]:
        """Every row's bytes, empty where it has none, and where they lie."""
        first = 0
        for file, column, count in zip(self.files, self.columns, self.rows, strict=True):
            begin, end = max(0, start - first), min(count, stop - first)
            if begin < end:
                for row, stored in enumerate(file.values(column, begin, end), start=begin):
                    encoded = stored.get("bytes") if isinstance(stored, dict) else stored
                    yield encoded if isinstance(encoded, bytes) else b"", f"{file.path}, row {row}"
            first += count


def table_files(root: Path) -> Sequence[Path]:
    """The files of tables below a folder, or the file itself; without those in which ``datasets`` keeps what it has
    computed before."""
    if root.is_file():
        return [root]
    return sorted(p for p in root.rglob("*") if p.suffix in SUFFIXES and not p.name.startswith("cache-"))
