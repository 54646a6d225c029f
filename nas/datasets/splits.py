"""From what a source holds to three disjoint, validated splits: every data set ends here and keeps its promises."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from nas.core.errors import InvalidData, InvalidSpec, UnknownName
from nas.core.images import ImageRows
from nas.core.ports import Dataset, ImageShape, Split
from nas.core.spec import DataSpec, parse_spec
from nas.core.tasks import DEFAULT_TASK, LabelKind, Labels, load_task
from nas.datasets.cache import is_url, local_copy
from nas.datasets.contents import SplitContents, contentless, make_account
from nas.datasets.intake import Intake
from nas.datasets.labels import check_labels, counts_by_class, label_problem

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""The names of folders and files, in lower case, that stand for a split."""
_HASHED_IMAGES = 512  # at a time
_SPLIT_WORDS = {"train": "training", "val": "validation", "test": "test"}


class SplitParams(BaseModel):
    """Parameters every data set takes.

    Fractions are shares of the images that the source itself has not put into a split. ``max_*`` keep a stratified
    sample of a split; ``flip`` allows horizontal flips in augmentation. ``class_weights`` ``balanced``: in the loss,
    every class counts alike, however many training images it has (or pixels, in masks).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    val_fraction: float = Field(default=0.2, gt=0, lt=1)
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    max_train: int | None = Field(default=None, ge=2)
    max_val: int | None = Field(default=None, ge=2)
    max_test: int | None = Field(default=None, ge=2)
    flip: bool = True
    class_weights: Literal["balanced"] | None = None

    @model_validator(mode="after")
    def _something_is_left(self) -> SplitParams:
        if self.val_fraction + self.test_fraction >= 1:
            raise ValueError("expected val_fraction + test_fraction below 1, so that training images are left")
        return self

    @property
    def keeps_shape(self) -> bool:
        """Whether images stay as they are read; else those that are not square are cropped to the centred square."""
        return False


@dataclass(frozen=True)
class Source:
    """What a source holds: its undivided images, the splits it defines itself, the names of its classes or values, and
    what happened to its inputs on reading."""

    images: Split
    class_names: tuple[str, ...]
    val: Split | None = None
    test: Split | None = None
    intake: Intake = field(default_factory=Intake)


P = TypeVar("P", bound=SplitParams)


def parse_params(model: type[P], spec: DataSpec) -> P:
    """The data set's parameters. Raises UnknownName for an unknown one and InvalidSpec for a wrong value."""
    for key in spec.params:
        if key not in model.model_fields:
            raise UnknownName(f"parameter of data set {spec.name!r}", key, model.model_fields)
    return parse_spec(model, spec.params)


def existing_path(spec: DataSpec) -> Path:
    """The path of the spec; of a URL, that of a local copy, which is brought up to date. Raises InvalidSpec if there is
    none and InvalidData if nothing lies there."""
    if spec.path is None:
        raise InvalidSpec(f"data set {spec.name!r} needs a path on the machine that runs the search, got none")
    if is_url(spec.path):
        return local_copy(spec.path)
    try:
        path = Path(spec.path).expanduser()
        if not path.exists():
            raise InvalidData(f"{path} does not exist (the path is read on the machine that runs the search)")
        if not (path.is_file() or path.is_dir()):
            raise InvalidData(f"{path}: expected a file or a folder, got a device, a pipe or a socket")
    except (OSError, RuntimeError) as error:  # a name too long, a folder that may not be read, a home that nobody has
        raise InvalidData(f"{spec.path} cannot be read: {error}") from error
    return path


def check_images(
    where: str, images: NDArray[np.generic], labels: NDArray[np.generic], kind: LabelKind = "class"
) -> Split:
    """A split of ``images`` in NCHW and their labels. Raises InvalidData for a wrong type, shape or length."""
    if images.dtype != np.uint8:
        raise InvalidData(f"{where}: expected images of type uint8 (0 to 255), got {images.dtype}")
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise InvalidData(f"{where}: expected images of shape (N, C, H, W) without empty axes, got {images.shape}")
    labels = check_labels(where, labels, kind)
    if len(images) != len(labels):
        raise InvalidData(f"{where}: expected as many labels as images, got {len(images)} images, {len(labels)} labels")
    if kind == "mask" and labels.shape[1:] != images.shape[2:]:
        raise InvalidData(f"{where}: expected masks of the images' size {images.shape[2:]}, got {labels.shape[1:]}")
    return Split(images.astype(np.uint8, copy=False), labels)


def numbered_classes(labels: Sequence[NDArray[np.generic]]) -> tuple[str, ...]:
    """Names ``0`` to ``K-1`` for unnamed labels. Raises InvalidData naming the first class without images."""
    present = np.unique(np.concatenate([np.asarray(x, dtype=np.int64) for x in labels]))
    gaps = np.flatnonzero(present != np.arange(len(present)))
    if gaps.size:
        raise InvalidData(f"class {gaps[0]} has no images: expected labels 0 to {present[-1]} without gaps")
    return tuple(str(k) for k in present)


def check_class_count(class_names: Sequence[str], kind: LabelKind = "class") -> int:
    """The number of classes, or of values. Raises InvalidData if there are too few or two share a name."""
    if kind == "none":
        return 0
    if kind in ("tags", "values") and not class_names:
        raise InvalidData(f"expected at least 1 {'class' if kind == 'tags' else 'value'}, got none")
    if len(class_names) < 2 and kind in ("class", "mask"):
        raise InvalidData(f"expected at least 2 classes, got {len(class_names)} ({', '.join(class_names) or 'none'})")
    if len(set(class_names)) != len(class_names):
        twice = next(n for n in class_names if list(class_names).count(n) > 1)
        raise InvalidData(f"expected distinct class names, got {twice!r} more than once")
    return len(class_names)


def build(name: str, source: Source, params: SplitParams, seed: int, task: str = DEFAULT_TASK) -> Dataset:
    """The data set for a task. Missing splits are drawn from the undivided images, stratified, shuffled by ``seed``.

    Images that are not square are cropped to the centred square unless ``params`` say otherwise. The content hash
    covers the three splits as used: equal hashes mean equal splits, so weights trained on one are never validated on
    images they have seen. Raises InvalidData with all problems: classes that are empty in a split, shapes that differ,
    images without content.
    """
    kind, intake = load_task(task).labels, source.intake
    classes = check_class_count(source.class_names, kind)
    own = {"train": source.images, "val": source.val, "test": source.test}
    own_splits = {name: split for name, split in own.items() if split is not None}
    labels = {name: split.labels for name, split in own_splits.items()}
    small = small_classes(labels, source.class_names, params) if kind == "class" else ()
    intake.require_usable([*_part_problems(own_splits, source, kind), *small])
    inputs = sum(len(split) for split in own_splits.values()) + len(intake.skipped)
    _, *read_size = source.images.images_NCHW.shape[1:]
    size = final_size(read_size[0], read_size[1], params)
    cropped = {name: cropped_to(split, size, intake) for name, split in own_splits.items()}
    rows = split_rows(labels, source.class_names, kind, params, seed)
    splits = {name: _take(cropped[own], at) for name, (own, at) in rows.items()}
    if kind == "class":
        names = source.class_names
        intake.require_usable(p for part, s in splits.items() for p in missing_classes(part, s.labels, names))
    content_hash = content_hash_of([*splits.values()], source.class_names, kind)
    contents = {name: SplitContents.of(split) for name, split in splits.items()}
    account = make_account(contents, source.class_names, intake, inputs, content_hash, kind)
    intake.require_usable(contentless(contents["train"], account))
    _, channels, height, width = splits["train"].images_NCHW.shape
    return Dataset(
        name=name,
        shape=ImageShape(channels, height, width, classes),
        train=splits["train"],
        val=splits["val"],
        test=splits["test"],
        class_names=source.class_names,
        content_hash=content_hash,
        flip=params.flip,
        account=account,
        task=task,
        class_weights=class_weights(params, splits["train"].labels, kind, classes),
    )


def class_weights(params: SplitParams, labels: Labels, kind: LabelKind, classes: int) -> tuple[float, ...] | None:
    """Inverse to how often a class is in the training labels, with a mean of 1 over these labels; where an image has
    any number of classes, how many lack a class for each that has it. Raises InvalidSpec without classes."""
    if params.class_weights is None:
        return None
    if kind not in ("class", "mask", "tags"):
        raise InvalidSpec(f"class_weights: expected a task with classes, got one with labels of the kind {kind!r}")
    count_K = np.maximum(counts_by_class(labels, kind, classes), 1)
    if kind == "tags":
        return tuple(((len(labels) - count_K).clip(1) / count_K).tolist())
    return tuple((count_K.sum() / (classes * count_K)).tolist())


def final_size(height: int, width: int, params: SplitParams) -> tuple[int, int]:
    """Height and width of images of a size after ``build``."""
    side = min(height, width)
    return (height, width) if params.keeps_shape else (side, side)


def cropped_to(split: Split, size: tuple[int, int], intake: Intake) -> Split:
    """The centres of images, of the height and width of ``size``."""
    height, width = split.images_NCHW.shape[2:]
    if (height, width) == size:
        return split
    intake.converted(f"cropped from {width}x{height} pixels to the centred square", len(split))
    rows, columns = centre(height, size[0]), centre(width, size[1])
    labels = split.labels[:, rows, columns] if split.labels.ndim == 3 else split.labels  # masks
    return Split(split.array_NCHW[:, :, rows, columns], labels)


def centre(length: int, kept: int) -> slice:
    """The middle ``kept`` of ``length`` pixels."""
    start = (length - kept) // 2
    return slice(start, start + kept)


def split_rows(
    labels: Mapping[str, Labels], class_names: Sequence[str], kind: LabelKind, params: SplitParams, seed: int
) -> dict[str, tuple[str, ImageRows]]:
    """Of train, val and test: which of the source's splits it is taken from, and the rows there. What the source does
    not divide itself is drawn from its training images, stratified, shuffled by ``seed``."""
    rng = np.random.default_rng(seed)
    names = class_names if kind == "class" else ("images",)
    train_at, val_at, test_at = stratified(_strata(labels["train"]), _fractions(labels, params), names, rng)

    def part(name: str, drawn_at: ImageRows, limit: int | None) -> tuple[str, ImageRows]:
        own = name if name in labels else "train"
        at = rng.permutation(len(labels[own])) if name in labels and name != "train" else drawn_at
        return own, _limited(_strata(labels[own]), at, limit, rng)

    return {
        "train": part("train", train_at, params.max_train),
        "val": part("val", val_at, params.max_val),
        "test": part("test", test_at, params.max_test),
    }


def _fractions(labels: Mapping[str, Labels], params: SplitParams) -> tuple[float, float]:
    """Which shares of the training images become validation and test images."""
    return (0.0 if "val" in labels else params.val_fraction, 0.0 if "test" in labels else params.test_fraction)


def small_classes(labels: Mapping[str, Labels], class_names: Sequence[str], params: SplitParams) -> Iterator[str]:
    """Classes with too few images to be in every split that is drawn."""
    needed = _images_needed(_fractions(labels, params))
    counts = np.bincount(labels["train"], minlength=len(class_names))
    for name, count in zip(class_names, counts.tolist(), strict=False):  # labels beyond are a problem apart
        if count < needed:
            yield _too_few(name, needed, count)


def missing_classes(split: str, labels: Labels, class_names: Sequence[str]) -> Iterator[str]:
    """Classes without an image in a split."""
    counts = np.bincount(labels, minlength=len(class_names))
    for at in np.flatnonzero(counts == 0).tolist():
        yield f"class {class_names[at]!r} has no images in the {_SPLIT_WORDS[split]} split of {len(labels)} images"


def _images_needed(fractions: Sequence[float]) -> int:
    return 1 + sum(fraction > 0 for fraction in fractions)


def _too_few(name: str, needed: int, count: int) -> str:
    return f"class {name!r} has too few images to split: expected at least {needed}, got {count}"


def stratified(
    labels_N: NDArray[np.int64], fractions: Sequence[float], class_names: Sequence[str], rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Shuffled indices of the rest and of one part per fraction; disjoint, together everything.

    Every class gets its share of every part, at least one image where the fraction is above 0. Raises InvalidData
    naming a class with too few images.
    """
    parts: list[list[NDArray[np.int64]]] = [[] for _ in range(len(fractions) + 1)]
    for k, name in enumerate(class_names):
        members = rng.permutation(np.flatnonzero(labels_N == k))
        needed = _images_needed(fractions)
        if len(members) < needed:
            raise InvalidData(_too_few(name, needed, len(members)))
        sizes = [max(1, round(f * len(members))) if f > 0 else 0 for f in fractions]
        while sum(sizes) >= len(members):  # rounding up left nothing for the rest
            sizes[sizes.index(max(sizes))] -= 1
        cuts = np.cumsum(sizes)
        for part, chunk in zip(parts, [members[cuts[-1] :], *np.split(members[: cuts[-1]], cuts[:-1])], strict=True):
            part.append(chunk)
    return [rng.permutation(np.concatenate(part)) for part in parts]


def _limited(strata_N: NDArray[np.int64], at: ImageRows, limit: int | None, rng: np.random.Generator) -> ImageRows:
    """The rows at ``at``; a stratified sample of ``limit`` of them (to within rounding, one per class at least)."""
    if limit is None or limit >= len(at):
        return at
    labels = strata_N[at]
    kept_rows = []
    for k in np.unique(labels):
        members = np.flatnonzero(labels == k)
        kept_rows.append(members[: max(1, round(limit * len(members) / len(at)))])
    sampled: ImageRows = at[rng.permutation(np.concatenate(kept_rows))]
    return sampled


def _take(split: Split, at: ImageRows) -> Split:
    return Split(np.ascontiguousarray(split.array_NCHW[at]), split.labels[at])


def _strata(labels: Labels) -> NDArray[np.int64]:
    """The class of each image where it has one; else all images are alike."""
    return labels if labels.ndim == 1 else np.zeros(len(labels), dtype=np.int64)


def _part_problems(own: Mapping[str, Split], source: Source, kind: LabelKind) -> Iterator[str]:
    expected = source.images.images_NCHW.shape[1:]
    for name, split in own.items():
        where, part_shape = _SPLIT_WORDS[name], split.images_NCHW.shape[1:]
        if part_shape != expected:
            yield f"{where} images: expected the shape of the training images {expected}, got {part_shape}"
        if problem := label_problem(split.labels, kind, len(source.class_names)):
            yield f"{where} labels: {problem}"


def content_hash_of(splits: Sequence[Split], class_names: Sequence[str], kind: LabelKind) -> str:
    """A hash of the splits as they are used; images on disk are read once, some at a time."""
    digest = hashlib.sha256("\0".join(class_names).encode())
    for split in splits:
        digest.update(f"{split.images_NCHW.shape}".encode())
        for start in range(0, len(split), _HASHED_IMAGES):
            digest.update(np.ascontiguousarray(split.images_NCHW[start : start + _HASHED_IMAGES]).data)
        if kind == "class":
            digest.update(split.labels.astype("<i8").data)
        else:
            digest.update(f"{kind}{split.labels.shape}".encode())
            digest.update(split.labels.astype(split.labels.dtype.newbyteorder("<")).tobytes())
    return digest.hexdigest()
