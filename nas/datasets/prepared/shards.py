"""Shards: files of consecutive images of one split, written by one process and memory-mapped by many.

A shard holds the images (pixels, or encoded), where images stay encoded their offsets, int64, and then of each image a
digest of 16 bytes and a byte that says whether it shows one colour. Beside it, as JSON, lies its ``Shard``.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from nas.core.data_account import Conversion, SkippedInput
from nas.core.errors import InvalidData, StorageError
from nas.core.records import ImageRead, RecordSource, Storage
from nas.datasets.splits import centre

DIGEST_BYTES = 16
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class ShardJob:
    """A shard to write: the records ``start`` to ``stop`` of a split of the source."""

    split: str
    start: int
    stop: int
    storage: Storage

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.split}-{self.start:08}-{self.stop:08}.{self.storage}"


@dataclass(frozen=True)
class Shard:
    """A shard that was written. ``images`` of its records are usable; the records at ``skipped_at``, counted from the
    shard's first, are not. ``content_bytes`` of the file's ``size_bytes`` are images."""

    job: ShardJob
    images: int
    content_bytes: int
    size_bytes: int
    sha256: str
    skipped_at: tuple[int, ...] = ()
    skipped: tuple[SkippedInput, ...] = ()
    conversions: tuple[Conversion, ...] = ()


SHARD = TypeAdapter(Shard)


def write_shard(source: RecordSource, job: ShardJob, folder: Path) -> Shard:
    """Read the records of a shard and write it; a file has its final name only when all of it is on the disk.

    Raises InvalidData for a damaged source, StorageError where the shard cannot be written, as on a full disk.
    """
    with _storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f".{job.name}.{secrets.token_hex(4)}.part"
        try:
            shard = _write(source, job, part)
            part.replace(folder / job.name)
        finally:
            part.unlink(missing_ok=True)
        write_durably(folder / f"{job.name}.json", SHARD.dump_json(shard))
    return shard


def written_shard(job: ShardJob, folder: Path) -> Shard | None:
    """The shard if it lies there with the size that was written; None where it has to be written."""
    path, record = folder / job.name, folder / f"{job.name}.json"
    try:
        shard = SHARD.validate_json(record.read_bytes())
        return shard if shard.job == job and path.stat().st_size == shard.size_bytes else None
    except (FileNotFoundError, ValidationError):
        return None


def write_durably(path: Path, content: bytes) -> None:
    """Write a small file so that it is whole or not there. Raises StorageError."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    with _storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


def _write(source: RecordSource, job: ShardJob, path: Path) -> Shard:
    digests, flags, offsets = [], bytearray(), [0]
    skipped_at, skipped, conversions = [], [], Counter[str]()
    digest = hashlib.sha256()
    with path.open("xb") as file:
        for at, image in enumerate(source.read(job.split, job.start, job.stop, job.storage)):
            content, one_colour, changes = _content(image, source.shape)
            conversions.update(changes)
            if content is None:
                skipped_at.append(at)
                skipped.append(SkippedInput(image.where, image.problem))
                continue
            file.write(content)
            digest.update(content)
            digests.append(hashlib.blake2b(content, digest_size=DIGEST_BYTES).digest())
            flags.append(one_colour)
            offsets.append(offsets[-1] + len(content))
        tables = [np.array(offsets, dtype="<i8").tobytes()] if job.storage == "encoded" else []
        for table in (*tables, b"".join(digests), bytes(flags)):
            file.write(table)
            digest.update(table)
        file.flush()
        os.fsync(file.fileno())
        size_bytes = file.tell()
    return Shard(
        job=job,
        images=len(digests),
        content_bytes=offsets[-1],
        size_bytes=size_bytes,
        sha256=digest.hexdigest(),
        skipped_at=tuple(skipped_at),
        skipped=tuple(skipped),
        conversions=tuple(Conversion(change, images) for change, images in conversions.items()),
    )


def _content(image: ImageRead, shape_CHW: tuple[int, int, int]) -> tuple[bytes | None, bool, tuple[str, ...]]:
    """The bytes to store, whether they show one colour, and the changes; pixels are cropped to the centre."""
    pixels_CHW = image.content
    if not isinstance(pixels_CHW, np.ndarray):
        return pixels_CHW, image.one_colour, image.changes
    _, height, width = pixels_CHW.shape
    changes = image.changes
    if (height, width) != shape_CHW[1:]:
        pixels_CHW = pixels_CHW[:, centre(height, shape_CHW[1]), centre(width, shape_CHW[2])]
        changes = (*changes, f"cropped from {width}x{height} pixels to the centred square")
    one_colour = bool((pixels_CHW == pixels_CHW[:, :1, :1]).all())
    return np.ascontiguousarray(pixels_CHW).tobytes(), one_colour, changes


class MappedShard:
    """A shard in memory by its pages; those that were read leave memory with it. Raises InvalidData for a shard that
    has vanished or has another size than was written."""

    def __init__(self, folder: Path, shard: Shard) -> None:
        path = folder / shard.job.name
        try:
            with path.open("rb") as file:
                size_bytes = os.fstat(file.fileno()).st_size
                if size_bytes == shard.size_bytes:
                    self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise InvalidData(
                f"{path}: a shard of the prepared data set cannot be read ({error.strerror}): begin the search again "
                "and it is prepared anew, as long as its source is there"
            ) from error
        if size_bytes != shard.size_bytes:
            raise InvalidData(
                f"{path}: expected a shard of {shard.size_bytes:,} bytes, got {size_bytes:,}: delete it, and it is "
                "prepared anew"
            )
        self._bytes = np.frombuffer(self._map, dtype=np.uint8)
        self._shard = shard

    def pixels(self, shape_CHW: tuple[int, int, int]) -> NDArray[np.uint8]:
        """Decoded images, (N, C, H, W)."""
        return self._bytes[: self._shard.content_bytes].reshape(self._shard.images, *shape_CHW)

    def encoded(self, at: int) -> bytes:
        """The bytes of an encoded image."""
        begin = self._shard.content_bytes
        offsets = self._bytes[begin : begin + 8 * (self._shard.images + 1)].view("<i8")
        return self._bytes[int(offsets[at]) : int(offsets[at + 1])].tobytes()

    def digests(self) -> NDArray[np.uint8]:
        """A digest of each image, shape (N, 16)."""
        begin = self._shard.size_bytes - (DIGEST_BYTES + 1) * self._shard.images
        end = begin + DIGEST_BYTES * self._shard.images
        return self._bytes[begin:end].reshape(self._shard.images, DIGEST_BYTES).copy()

    def one_colour(self) -> NDArray[np.bool_]:
        """Which images show one colour, shape (N,)."""
        return self._bytes[self._shard.size_bytes - self._shard.images :].astype(np.bool_)


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = "the disk is full" if error.errno in _NO_SPACE else str(error.strerror or error)
        raise StorageError(
            f"{folder}: the prepared data set cannot be written: {reason}. The shards that are whole are kept: make "
            "room, or set HWNAS_DATA_CACHE to a folder on a larger disk, and begin again"
        ) from error
