"""What every data set must fulfil."""

from __future__ import annotations

import numpy as np

from nas.core import registry
from nas.core.errors import UnknownName
from nas.core.ports import Dataset, Split
from nas.core.spec import DataSpec
from nas.testing.errors import assert_raises


def check_dataset(spec: DataSpec) -> None:
    """Check types, shapes, class balance, disjoint splits, seeds and errors of the data set that a spec names.

    Use a small example in which every class has as many images, and no image occurs twice.
    """
    kind = registry.load_dataset(spec.name)
    assert kind.name == spec.name
    assert kind.summary.strip()
    data = load_dataset(spec, seed=1)
    assert kind.describe(spec) == data.shape
    assert len(data.class_names) == data.shape.classes
    for split in (data.train, data.val, data.test):
        check_split(split, data)
    prints = [fingerprints(split) for split in (data.train, data.val, data.test)]
    assert sum(len(p) for p in prints) == len(prints[0] | prints[1] | prints[2]), "splits must be disjoint"
    check_seed(spec)
    misspelt = spec.model_copy(update={"params": {"val_fractoin": 0.1}})
    assert_raises(UnknownName, lambda: load_dataset(misspelt, seed=1), "val_fraction")


def load_dataset(spec: DataSpec, seed: int) -> Dataset:
    """The data set that a spec names."""
    return registry.load_dataset(spec.name).load(spec, seed)


def fingerprints(split: Split) -> set[bytes]:
    """The bytes of each image."""
    return {image.tobytes() for image in split.array_NCHW}


def check_split(split: Split, data: Dataset) -> None:
    """Images are uint8 in NCHW, labels int64, classes are balanced and shuffled."""
    assert split.array_NCHW.dtype == np.uint8
    assert split.labels.dtype == np.int64
    assert split.images_NCHW.shape[1:] == (data.shape.channels, data.shape.height, data.shape.width)
    shares = np.bincount(split.labels, minlength=data.shape.classes) / len(split)
    assert np.abs(shares - 1 / data.shape.classes).max() <= 0.03
    assert len(np.unique(split.labels[: 4 * data.shape.classes])) > 1, "labels must not be in order of class"


def check_seed(spec: DataSpec) -> None:
    """The seed determines the splits and the content hash."""
    first, again, other = (load_dataset(spec, seed) for seed in (1, 1, 2))
    assert first.content_hash == again.content_hash
    assert np.array_equal(first.train.array_NCHW, again.train.array_NCHW)
    assert first.content_hash != other.content_hash
    assert fingerprints(first.test) != fingerprints(other.test)
