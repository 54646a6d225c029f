"""The images of one split of a prepared data set, read from memory-mapped shards by rows."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.core.errors import InvalidData
from nas.core.images import ChannelStats, ImageRows
from nas.core.rng import Stream, rng
from nas.datasets.cache_entries import CacheUse
from nas.datasets.images import Box, ImageFormat
from nas.datasets.prepared.shards import MappedShard, Shard

MAPPED = 8  # shards at a time: what a reader keeps in memory does not grow with the data
WINDOW = 64  # shards whose images are mixed in the order of an epoch
_MAX_RATIO = 4 / 3  # of the sides of a crop
_ATTEMPTS = 10  # at a crop that fits into the image, as in torchvision
_CHUNK = 256  # images that are read at a time where all are


@dataclass(frozen=True)
class Crops:
    """What is read of encoded images. ``least_area``: the share of an image that a training crop has at least;
    ``eval_side``: the sides of the evaluated part as a share of the largest one of its shape."""

    image_format: ImageFormat
    least_area: float
    eval_side: float

    @property
    def shape_ratio(self) -> float:
        """Width over height of what is read."""
        height, width = self.image_format.size
        return width / height


class _Shards:
    """The shards of a folder, a few of them mapped at a time; shared by threads, and opened anew by each process. The
    folder is not deleted while there is one."""

    def __init__(self, folder: Path, shards: tuple[Shard, ...]) -> None:
        self.folder, self.shards = folder, shards
        self._begin()

    def _begin(self) -> None:
        self._use = CacheUse(self.folder)
        self._mapped: OrderedDict[int, MappedShard] = OrderedDict()
        self._lock = threading.Lock()

    def mapped(self, number: int) -> MappedShard:
        """A shard; the one that was used longest ago is let go."""
        with self._lock:
            shard = self._mapped.pop(number, None) or MappedShard(self.folder, self.shards[number])
            self._mapped[number] = shard
            if len(self._mapped) > MAPPED:
                self._mapped.popitem(last=False)
            return shard

    def __getstate__(self) -> tuple[Path, tuple[Shard, ...]]:
        return self.folder, self.shards

    def __setstate__(self, state: tuple[Path, tuple[Shard, ...]]) -> None:
        self.folder, self.shards = state
        self._begin()


@dataclass(frozen=True, eq=False)
class PreparedImages:
    """As ``nas.core.images.StoredImages``. ``row_N``: the rows of the split among the images of ``shards``, counted
    through all of them; ``crops`` where images are encoded; ``threads`` decode at a time."""

    shape_CHW: tuple[int, int, int]
    shards: _Shards
    row_N: ImageRows
    stats: ChannelStats
    encoded: Crops | None = None
    threads: int = 1
    _first: ImageRows = field(init=False, repr=False)

    def __post_init__(self) -> None:
        counts = [shard.images for shard in self.shards.shards]
        object.__setattr__(self, "_first", np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """As ``StoredImages``."""
        return (len(self.row_N), *self.shape_CHW)

    @property
    def cropped(self) -> bool:
        """As ``StoredImages``."""
        return self.encoded is not None

    def __len__(self) -> int:
        return len(self.row_N)

    def __getitem__(self, rows: ImageRows | slice) -> NDArray[np.uint8]:
        """As ``StoredImages``."""
        at = np.arange(len(self))[rows] if isinstance(rows, slice) else rows
        crops = self.encoded
        if crops is None:
            return self._pixels(at)
        side, ratio = crops.eval_side, crops.shape_ratio
        return self._decoded(at, crops, lambda _: lambda width, height: centred_box(width, height, side, ratio))

    def crops(self, row_B: ImageRows, seed: int) -> NDArray[np.uint8]:
        """As ``StoredImages``."""
        crops = self.encoded
        if crops is None:
            return self._pixels(row_B)
        area, ratio = crops.least_area, crops.shape_ratio

        def box_of(position: int) -> Callable[[int, int], Box]:
            generator = rng(seed, Stream.IMAGE_BOX, position)
            return lambda width, height: random_box(width, height, area, generator, ratio)

        return self._decoded(row_B, crops, box_of)

    def epoch_order(self, generator: np.random.Generator) -> ImageRows:
        """As ``StoredImages``: any order where all shards fit into one window, as of an array; else shards are shuffled
        and divided into windows, and the images of each window are."""
        if len(self.shards.shards) <= WINDOW:
            return generator.permutation(len(self))
        shard_N = self._shard_of(self.row_N)
        position_of_shard = generator.permutation(len(self.shards.shards))
        window_N = position_of_shard[shard_N] // WINDOW
        order = generator.permutation(len(self))
        return order[np.argsort(window_N[order], kind="stable")]

    def chunks(self) -> Iterator[NDArray[np.uint8]]:
        """All images in order, some at a time."""
        for start in range(0, len(self), _CHUNK):
            yield self[start : start + _CHUNK]

    def digests(self) -> NDArray[np.uint8]:
        """A digest of each image, shape (N, 16), of its pixels or its encoded bytes."""
        return np.concatenate([shard.digests() for shard in self._all_mapped()])[self.row_N]

    def one_colour(self) -> NDArray[np.bool_]:
        """Which images show one colour, shape (N,)."""
        return np.concatenate([shard.one_colour() for shard in self._all_mapped()])[self.row_N]

    def _all_mapped(self) -> Iterator[MappedShard]:
        return (MappedShard(self.shards.folder, shard) for shard in self.shards.shards)

    def _shard_of(self, stored_N: ImageRows) -> ImageRows:
        return np.searchsorted(self._first, stored_N, side="right") - 1

    def _places(self, at: ImageRows) -> Iterator[tuple[int, ImageRows, ImageRows]]:
        """By shard: its number, the positions in ``at``, and the images' positions in the shard."""
        stored = self.row_N[at]
        shard_B = self._shard_of(stored)
        for number in np.unique(shard_B).tolist():
            positions = np.flatnonzero(shard_B == number)
            yield number, positions, stored[positions] - self._first[number]

    def _pixels(self, at: ImageRows) -> NDArray[np.uint8]:
        images_BCHW = np.empty((len(at), *self.shape_CHW), dtype=np.uint8)
        for number, positions, images in self._places(at):
            images_BCHW[positions] = self.shards.mapped(number).pixels(self.shape_CHW)[images]
        return images_BCHW

    def _decoded(
        self, at: ImageRows, crops: Crops, box_of: Callable[[int], Callable[[int, int], Box]]
    ) -> NDArray[np.uint8]:
        images_BCHW = np.empty((len(at), *self.shape_CHW), dtype=np.uint8)

        def decode(part: list[tuple[int, int, int]]) -> None:
            for number, position, image in part:
                encoded = self.shards.mapped(number).encoded(image)
                try:
                    images_BCHW[position] = crops.image_format.part(encoded, box_of(position))
                except InvalidData as error:
                    name = self.shards.shards[number].job.name
                    raise InvalidData(f"{self.shards.folder / name}, image {image}: {error}") from error

        places = [
            (number, position, image)
            for number, positions, images in self._places(at)
            for position, image in zip(positions.tolist(), images.tolist(), strict=True)
        ]
        parts = [places[k :: self.threads] for k in range(self.threads)]  # handing over single images takes longer
        with ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as pool:
            list(pool.map(decode, parts))
        return images_BCHW


def images_of(
    folder: Path,
    shards: tuple[Shard, ...],
    shape_CHW: tuple[int, int, int],
    row_N: ImageRows,
    stats: ChannelStats = ((), ()),
    encoded: Crops | None = None,
    threads: int = 1,
) -> PreparedImages:
    """The images at some rows of the shards of a folder."""
    return PreparedImages(shape_CHW, _Shards(folder, shards), row_N, stats, encoded, threads)


def centred_box(width: int, height: int, share: float, shape_ratio: float = 1.0) -> Box:
    """The centre of an image with ``share`` of the sides of the largest part of a shape, its width over its height."""
    part_height = share * min(height, width / shape_ratio)
    part_width = part_height * shape_ratio
    left, top = (width - part_width) / 2, (height - part_height) / 2
    return left, top, left + part_width, top + part_height


def random_box(
    width: int, height: int, least_area: float, generator: np.random.Generator, shape_ratio: float = 1.0
) -> Box:
    """A part of an image of at least the share ``least_area``, with sides of a ratio of 3:4 to 4:3 times
    ``shape_ratio`` (Szegedy et al., CVPR 2015); the centre of that shape where no attempt fits into the image."""
    for _ in range(_ATTEMPTS):
        area = width * height * generator.uniform(least_area, 1.0)
        ratio = shape_ratio * np.exp(generator.uniform(-np.log(_MAX_RATIO), np.log(_MAX_RATIO)))
        part_width, part_height = float(np.sqrt(area * ratio)), float(np.sqrt(area / ratio))
        if part_width <= width and part_height <= height:
            left, top = generator.uniform(0, width - part_width), generator.uniform(0, height - part_height)
            return left, top, left + part_width, top + part_height
    return centred_box(width, height, 1.0, shape_ratio)
