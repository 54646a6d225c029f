"""What a source of images holds: listed at once, read record by record by the processes that prepare it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from nas.core.tasks import Labels

Storage = Literal["decoded", "encoded"]


@dataclass(frozen=True)
class ImageRead:
    """One record after reading. ``content``: pixels in CHW, or the encoded bytes where they stay so; None for an image
    that cannot be used because of ``problem``. ``changes``: what reading changed. ``one_colour``: all pixels are equal.
    """

    where: str
    content: NDArray[np.uint8] | bytes | None
    changes: tuple[str, ...] = ()
    problem: str = ""
    one_colour: bool = False


class RecordSource(Protocol):
    """A source that was listed. It is pickled, without images, to the processes that read parts of it."""

    @property
    def labels(self) -> Mapping[str, Labels]:
        """The label of each record, by split; ``train`` holds what the source has not put into a split."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images as they are used: what is read larger is cropped to its centre."""

    @property
    def unused(self) -> tuple[str, ...]:
        """What lies in the source that is no image."""

    @property
    def packed_bytes(self) -> int:
        """About how many bytes the encoded images take; 0 where they are not encoded."""

    def read(self, split: str, start: int, stop: int, storage: Storage) -> Iterator[ImageRead]:
        """The records ``start`` to ``stop`` of a split, in order. Raises InvalidData where the source is damaged."""
