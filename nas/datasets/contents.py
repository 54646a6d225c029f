"""What the images of three splits hold: copies, contradictions, images without content, and the account of it all."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.core.data_account import LISTED, DataAccount, SplitAccount
from nas.core.ports import Split
from nas.core.tasks import LabelKind, Labels
from nas.datasets.intake import Intake
from nas.datasets.labels import images_by_class

_CHUNK_BYTES = 16 * 2**20  # of images that are compared together
_Digests = Sequence[bytes]


@dataclass(frozen=True)
class SplitContents:
    """What an account counts of one split: its labels, a digest of each image, and how many show one colour only."""

    labels: Labels
    digests: _Digests
    one_colour: int

    @staticmethod
    def of(split: Split) -> SplitContents:
        """That of images in memory."""
        images_NCHW = split.array_NCHW
        digests = [hashlib.blake2b(image_CHW.tobytes(), digest_size=16).digest() for image_CHW in images_NCHW]
        return SplitContents(split.labels, digests, int(one_colour(images_NCHW).sum()))


def make_account(
    contents: Mapping[str, SplitContents],
    class_names: tuple[str, ...],
    intake: Intake,
    inputs: int,
    content_hash: str,
    kind: LabelKind = "class",
) -> DataAccount:
    """The account of a data set whose source holds ``inputs`` images."""
    training_digests = set(contents["train"].digests)
    used = sum(len(split.labels) for split in contents.values())
    return DataAccount(
        content_hash=content_hash,
        class_names=class_names if kind != "values" else (),
        labels=kind,
        inputs=inputs,
        splits={
            name: SplitAccount(
                images=len(split.labels),
                by_class=images_by_class(split.labels, kind, len(class_names)),
                copies=len(split.labels) - len(training_digests)
                if name == "train"
                else sum(digest in training_digests for digest in split.digests),
            )
            for name, split in contents.items()
        },
        conversions=intake.conversions,
        skipped=intake.skipped[:LISTED],
        skipped_count=len(intake.skipped),
        unused=tuple(intake.unused[:LISTED]),
        unused_count=len(intake.unused),
        left_out=inputs - used - len(intake.skipped),
        one_colour=sum(split.one_colour for split in contents.values()),
        contradictory=_contradictory(contents.values()),
    )


def contentless(train: SplitContents, account: DataAccount) -> Iterator[str]:
    """Why nothing can be learned from the training images, if so."""
    hint, count = "", len(train.labels)
    if any(c.change.startswith("transparency") for c in account.conversions):
        hint = "; what was transparent shows the background now: set the parameter background to the other colour"
    if account.splits["train"].copies == count - 1:
        yield f"all {count} training images are equal, so there is nothing to learn{hint}"
    elif train.one_colour == count:
        yield f"each of the {count} training images shows one colour only, so there is nothing to learn{hint}"


def one_colour(images_NCHW: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which images have equal pixels, shape (N,)."""
    flags = [np.empty(0, dtype=np.bool_)]
    step = max(1, _CHUNK_BYTES // int(np.prod(images_NCHW.shape[1:])))
    for start in range(0, len(images_NCHW), step):
        chunk = images_NCHW[start : start + step]
        flags.append((chunk == chunk[:, :, :1, :1]).all(axis=(1, 2, 3)))
    return np.concatenate(flags)


def _contradictory(contents: Iterable[SplitContents]) -> int:
    labels: dict[bytes, list[bytes]] = defaultdict(list)
    for split in contents:
        for digest, label in zip(split.digests, split.labels, strict=True):
            labels[digest].append(label.tobytes())
    return sum(len(same) for same in labels.values() if len(set(same)) > 1)
