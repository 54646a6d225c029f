"""From a prepared data set to its three splits: the same ones as of images in memory, with the same account."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from nas.core.data_account import DataAccount
from nas.core.images import ChannelStats, stats_of_counts
from nas.core.ports import Dataset, ImageShape, Split
from nas.core.spec import DataSpec
from nas.core.tasks import LabelKind, load_task
from nas.datasets.contents import SplitContents, contentless, make_account
from nas.datasets.images import ImageFormat, ImageParams, SizeParams
from nas.datasets.intake import Intake
from nas.datasets.prepared.images import Crops, PreparedImages, images_of
from nas.datasets.prepared.prepare import PreparedManifest, read_labels
from nas.datasets.prepared.shards import write_durably
from nas.datasets.splits import (
    check_class_count,
    class_weights,
    content_hash_of,
    missing_classes,
    small_classes,
    split_rows,
)

_SAMPLED = 2048  # training images that the statistics of encoded images are taken from


@dataclass(frozen=True)
class _Survey:
    """What takes a look at every image: computed once for each division into splits."""

    account: DataAccount
    stats: ChannelStats


_SURVEY = TypeAdapter(_Survey)


def prepared_dataset(
    folder: Path, manifest: PreparedManifest, spec: DataSpec, params: SizeParams, seed: int, threads: int = 1
) -> Dataset:
    """The splits of a prepared data set. Raises InvalidData with all problems, as ``nas.datasets.splits.build``."""
    kind = load_task(spec.task).labels
    names, classes = manifest.class_names, check_class_count(manifest.class_names, kind)
    intake = _intake(manifest, params)
    labels = {name: read_labels(folder, name) for name in manifest.shards}
    intake.require_usable(small_classes(labels, names, params) if kind == "class" else ())
    crops = _crops(manifest, params)
    splits, stored = {}, {}
    for name, (own, at) in split_rows(labels, names, kind, params, seed).items():
        images = images_of(folder, manifest.shards[own], manifest.shape_CHW, at, encoded=crops, threads=threads)
        splits[name], stored[name] = Split(images, labels[own][at]), images
    if kind == "class":
        intake.require_usable(p for name, split in splits.items() for p in missing_classes(name, split.labels, names))
    path = folder / f"survey-{_question(params, seed, kind)}.json"
    survey = _read_survey(path)
    if survey is None:
        inputs = sum(map(len, labels.values())) + len(intake.skipped)
        survey = _make_survey(manifest, stored, splits, intake, inputs, kind, path.stem)
        write_durably(path, _SURVEY.dump_json(survey))
    train = Split(replace(stored["train"], stats=survey.stats), splits["train"].labels)
    channels, height, width = manifest.shape_CHW
    return Dataset(
        name=spec.name,
        shape=ImageShape(channels, height, width, classes),
        train=train,
        val=splits["val"],
        test=splits["test"],
        class_names=names,
        content_hash=survey.account.content_hash,
        flip=params.flip,
        account=survey.account,
        task=spec.task,
        class_weights=class_weights(params, train.labels, kind, classes),
    )


def _intake(manifest: PreparedManifest, params: SizeParams) -> Intake:
    intake = Intake(params.skip_unreadable if isinstance(params, ImageParams) else 0, list(manifest.unused))
    for conversion in manifest.conversions:
        intake.converted(conversion.change, conversion.images)
    for skipped in manifest.skipped:
        intake.unreadable(skipped.where, skipped.reason)
    return intake


def _crops(manifest: PreparedManifest, params: SizeParams) -> Crops | None:
    if manifest.storage == "decoded" or not isinstance(params, ImageParams):
        return None
    channels, height, width = manifest.shape_CHW
    image_format = ImageFormat(channels == 1, True, (height, width), True, params.background)
    return Crops(image_format, params.crop_area, params.eval_crop)


def _contents(images: PreparedImages, split: Split) -> SplitContents:
    digests = [digest_16.tobytes() for digest_16 in images.digests()]
    return SplitContents(split.labels, digests, int(images.one_colour().sum()))


def _question(params: SizeParams, seed: int, kind: LabelKind) -> str:
    text = json.dumps([params.model_dump(mode="json"), seed, kind], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_survey(path: Path) -> _Survey | None:
    try:
        return _SURVEY.validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _make_survey(
    manifest: PreparedManifest,
    stored: Mapping[str, PreparedImages],
    splits: Mapping[str, Split],
    intake: Intake,
    inputs: int,
    kind: LabelKind,
    question: str,
) -> _Survey:
    """Raises InvalidData where nothing can be learned from the training images."""
    contents = {name: _contents(images, splits[name]) for name, images in stored.items()}
    if manifest.storage == "decoded":
        content_hash = content_hash_of([*splits.values()], manifest.class_names, kind)
    else:
        content_hash = _encoded_hash(contents, manifest, question)
    account = make_account(contents, manifest.class_names, intake, inputs, content_hash, kind)
    intake.require_usable(contentless(contents["train"], account))
    return _Survey(account, _stats(splits["train"], manifest))


def _encoded_hash(contents: Mapping[str, SplitContents], manifest: PreparedManifest, question: str) -> str:
    """A hash of the encoded images of each split, of how they are cropped, and of their labels."""
    digest = hashlib.sha256("\0".join((question, *manifest.class_names)).encode())
    for split in contents.values():
        digest.update(b"".join(split.digests))
        digest.update(split.labels.astype(split.labels.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()


def _stats(train: Split, manifest: PreparedManifest) -> ChannelStats:
    """Mean and deviation of each channel; of encoded images, those of a sample that is always the same."""
    images = train.images_NCHW
    last = len(train) if manifest.storage == "decoded" else min(len(train), _SAMPLED)
    counts_CV = np.zeros((manifest.shape_CHW[0], 256), dtype=np.int64)
    for start in range(0, last, 256):
        part: NDArray[np.uint8] = images[start : min(start + 256, last)]
        counts_CV += [np.bincount(part[:, c].ravel(), minlength=256) for c in range(len(counts_CV))]
    return stats_of_counts(counts_CV)
