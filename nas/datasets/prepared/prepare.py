"""Preparing a source: shard by shard, in any order and by any process; what was written before stays."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from nas.core.data_account import Conversion, SkippedInput
from nas.core.errors import DataChanged, InvalidData, StorageError
from nas.core.records import RecordSource, Storage
from nas.core.tasks import Labels
from nas.datasets.prepared.shards import Shard, ShardJob, write_durably, write_shard, written_shard

VERSION = 1  # of the layout on the disk
SHARD_BYTES = 8 * 2**20
MANIFEST = "manifest.json"
_SLACK_BYTES = 64 * 2**20  # of a disk that stay free


@dataclass(frozen=True)
class PreparingProgress:
    """So many records of the source were read, of so many; ``images`` of them are usable."""

    records: int
    total: int
    images: int


@dataclass(frozen=True)
class PreparedManifest:
    """A prepared data set as a whole; the labels of each split lie beside it. ``shards`` by split, in the order of the
    source's records."""

    version: int
    storage: Storage
    shape_CHW: tuple[int, int, int]
    class_names: tuple[str, ...]
    shards: Mapping[str, tuple[Shard, ...]]
    unused: tuple[str, ...] = ()
    skipped: tuple[SkippedInput, ...] = ()

    @property
    def size_bytes(self) -> int:
        """What the shards take on the disk."""
        return sum(shard.size_bytes for shards in self.shards.values() for shard in shards)

    @property
    def conversions(self) -> tuple[Conversion, ...]:
        """What reading changed, and how often."""
        counts: Counter[str] = Counter()
        for shards in self.shards.values():
            for shard in shards:
                counts.update({c.change: c.images for c in shard.conversions})
        return tuple(Conversion(change, images) for change, images in counts.most_common())


_MANIFEST = TypeAdapter(PreparedManifest)
WriteShards = Callable[[RecordSource, Sequence[ShardJob], Path], Iterator[Shard]]
"""Writes shards and yields each as it is written; in this process, or in many."""


def write_here(source: RecordSource, jobs: Sequence[ShardJob], folder: Path) -> Iterator[Shard]:
    """Write shards one after the other."""
    return (write_shard(source, job, folder) for job in jobs)


def folder_name(fingerprint: str, storage: Storage, params: object) -> str:
    """The name of the folder of a data set: a hash of its source's files, of how it is read, and of the layout."""
    text = json.dumps([VERSION, fingerprint, storage, params], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def shard_jobs(source: RecordSource, storage: Storage) -> list[ShardJob]:
    """The shards of a source, of about ``SHARD_BYTES`` each."""
    records = sum(map(len, source.labels.values()))
    channels, height, width = source.shape
    image_bytes = channels * height * width if storage == "decoded" else source.packed_bytes / max(1, records)
    step = max(1, int(SHARD_BYTES / max(1.0, image_bytes)))
    return [
        ShardJob(split, start, min(start + step, len(labels)), storage)
        for split, labels in source.labels.items()
        for start in range(0, len(labels), step)
    ]


def needed_bytes(source: RecordSource, storage: Storage) -> int:
    """About what a source takes when it is prepared."""
    channels, height, width = source.shape
    records = sum(map(len, source.labels.values()))
    return records * channels * height * width if storage == "decoded" else source.packed_bytes


def prepare(
    source: RecordSource,
    storage: Storage,
    folder: Path,
    write: WriteShards = write_here,
    still_the_same: Callable[[], bool] = lambda: True,
) -> Iterator[PreparingProgress]:
    """Write what is missing of a data set, and at last its manifest. Begun again after any interruption, it goes on.

    Raises StorageError before anything is written where the disk has too little room, and as ``write_shard`` does;
    DataChanged if the source is not ``still_the_same`` at the end.
    """
    jobs = shard_jobs(source, storage)
    total = sum(job.stop - job.start for job in jobs)
    written = {job: shard for job in jobs if (shard := written_shard(job, folder)) is not None}
    _require_room(source, storage, folder, sum(shard.size_bytes for shard in written.values()))
    yield _progress(written, total)
    for shard in write(source, [job for job in jobs if job not in written], folder):
        written[shard.job] = shard
        yield _progress(written, total)
    if not still_the_same():
        raise DataChanged("the source has changed while it was prepared: begin again when it is complete")
    shards = {
        split: tuple(written[job] for job in jobs if job.split == split and written[job].images)
        for split in source.labels
    }
    all_shards = {split: [written[job] for job in jobs if job.split == split] for split in source.labels}
    for split, labels in source.labels.items():
        _write_labels(folder / f"{split}.labels.npy", usable_labels(labels, all_shards[split]))
    skipped = tuple(s for shards_of in all_shards.values() for shard in shards_of for s in shard.skipped)
    manifest = PreparedManifest(VERSION, storage, source.shape, source.class_names, shards, source.unused, skipped)
    write_durably(folder / MANIFEST, _MANIFEST.dump_json(manifest))


def read_manifest(folder: Path) -> PreparedManifest | None:
    """The manifest of a data set that is whole: all of its shards lie there with their sizes. None for another."""
    try:
        manifest = _MANIFEST.validate_json((folder / MANIFEST).read_bytes())
        shards = [shard for shards in manifest.shards.values() for shard in shards]
        is_complete = all((folder / shard.job.name).stat().st_size == shard.size_bytes for shard in shards)
    except (FileNotFoundError, ValidationError):
        return None
    return manifest if is_complete and manifest.version == VERSION else None


def read_labels(folder: Path, split: str) -> Labels:
    """The labels of the usable images of a split. Raises InvalidData."""
    path = folder / f"{split}.labels.npy"
    try:
        labels: Labels = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InvalidData(f"{path}: the labels of the prepared data set cannot be read: {error}") from error
    return labels


def usable_labels(labels: Labels, shards: Sequence[Shard]) -> Labels:
    """The labels of a split without those of records that were skipped."""
    at = [shard.job.start + position for shard in shards for position in shard.skipped_at]
    return np.delete(labels, at, axis=0)


def _progress(written: dict[ShardJob, Shard], total: int) -> PreparingProgress:
    records = sum(job.stop - job.start for job in written)
    return PreparingProgress(records, total, sum(shard.images for shard in written.values()))


def _write_labels(path: Path, labels: Labels) -> None:
    buffer = io.BytesIO()
    np.save(buffer, labels, allow_pickle=False)
    write_durably(path, buffer.getvalue())


def _require_room(source: RecordSource, storage: Storage, folder: Path, written_bytes: int) -> None:
    """Raises StorageError where the rest of a data set does not fit on the disk."""
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = needed_bytes(source, storage) - written_bytes, shutil.disk_usage(folder).free
    if needed + _SLACK_BYTES > free:
        raise StorageError(
            f"{folder}: preparing the data set takes {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free: make "
            "room, set HWNAS_DATA_CACHE to a folder on a larger disk, or scale the images down by image_size"
        )
