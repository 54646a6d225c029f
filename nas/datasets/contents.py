"""What the images of three splits hold: copies, contradictions, images without content, and the account of it all."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from nas.core.data_account import LISTED, DataAccount, SplitAccount
from nas.core.ports import Split
from nas.core.tasks import LabelKind
from nas.datasets.intake import Intake
from nas.datasets.labels import images_by_class

_CHUNK_BYTES = 16 * 2**20  # of images that are compared together
_Digests = list[bytes]


def make_account(
    splits: Mapping[str, Split],
    class_names: tuple[str, ...],
    intake: Intake,
    inputs: int,
    content_hash: str,
    kind: LabelKind = "class",
) -> DataAccount:
    """The account of a data set whose source holds ``inputs`` images."""
    digests = {name: _digests(split) for name, split in splits.items()}
    training_digests = set(digests["train"])
    used = sum(len(split) for split in splits.values())
    return DataAccount(
        content_hash=content_hash,
        class_names=class_names if kind != "values" else (),
        labels=kind,
        inputs=inputs,
        splits={
            name: SplitAccount(
                images=len(split),
                by_class=images_by_class(split.labels, kind, len(class_names)),
                copies=len(split) - len(training_digests)
                if name == "train"
                else sum(digest in training_digests for digest in digests[name]),
            )
            for name, split in splits.items()
        },
        conversions=intake.conversions,
        skipped=intake.skipped[:LISTED],
        skipped_count=len(intake.skipped),
        unused=tuple(intake.unused[:LISTED]),
        unused_count=len(intake.unused),
        left_out=inputs - used - len(intake.skipped),
        one_colour=sum(int(one_colour(split.array_NCHW).sum()) for split in splits.values()),
        contradictory=_contradictory(splits, digests),
    )


def contentless(train: Split, account: DataAccount) -> Iterator[str]:
    """Why nothing can be learned from the training images, if so."""
    hint = ""
    if any(c.change.startswith("transparency") for c in account.conversions):
        hint = "; what was transparent shows the background now: set the parameter background to the other colour"
    if account.splits["train"].copies == len(train) - 1:
        yield f"all {len(train)} training images are equal, so there is nothing to learn{hint}"
    elif bool(one_colour(train.array_NCHW).all()):
        yield f"each of the {len(train)} training images shows one colour only, so there is nothing to learn{hint}"


def one_colour(images_NCHW: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which images have equal pixels, shape (N,)."""
    flags = [np.empty(0, dtype=np.bool_)]
    step = max(1, _CHUNK_BYTES // int(np.prod(images_NCHW.shape[1:])))
    for start in range(0, len(images_NCHW), step):
        chunk = images_NCHW[start : start + step]
        flags.append((chunk == chunk[:, :, :1, :1]).all(axis=(1, 2, 3)))
    return np.concatenate(flags)


def _digests(split: Split) -> _Digests:
    return [hashlib.blake2b(image_CHW.tobytes(), digest_size=16).digest() for image_CHW in split.array_NCHW]


def _contradictory(splits: Mapping[str, Split], digests: Mapping[str, _Digests]) -> int:
    labels: dict[bytes, list[bytes]] = defaultdict(list)
    for name, split in splits.items():
        for digest, label in zip(digests[name], split.labels, strict=True):
            labels[digest].append(label.tobytes())
    return sum(len(same) for same in labels.values() if len(set(same)) > 1)
