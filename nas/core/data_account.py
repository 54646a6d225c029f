"""What became of every input of a data set when it was read: a value that travels with events, results and reports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import TypeAdapter, ValidationError

from nas.core.errors import InvalidInput
from nas.core.tasks import LabelKind

SPLITS = ("train", "val", "test")
LISTED = 100  # an account travels with the state of its search
_EXAMPLES = 3


@dataclass(frozen=True)
class Conversion:
    """A ``change`` that reading made to ``images`` images, such as a crop; what is not listed is as it was stored."""

    change: str
    images: int


@dataclass(frozen=True)
class SkippedInput:
    """An input that was left out, as the parameter ``skip_unreadable`` allows: where it lies and why."""

    where: str
    reason: str


@dataclass(frozen=True)
class SplitAccount:
    """One split. ``by_class``: images of each class, or that show it, in the order of the class names. ``copies``:
    images that are equal, pixel by pixel, to a training image; for the training split, to an earlier training image."""

    images: int
    by_class: tuple[int, ...]
    copies: int = 0


@dataclass(frozen=True)
class DataAccount:
    """The account of a data set.

    ``content_hash`` names the three splits with their images, labels and class names. ``labels``: their kind.
    ``inputs`` is the number of images that the source holds: those of all ``splits``, the ``skipped`` and the
    ``left_out``, which limits such as ``max_train`` exclude. ``unused`` lists what else lies there, such as files that
    are no images. Of long lists the first ``LISTED`` are here, all are counted. ``one_colour`` images have equal
    pixels; ``contradictory`` images have a copy with another label.
    """

    content_hash: str = ""
    class_names: tuple[str, ...] = ()
    inputs: int = 0
    splits: Mapping[str, SplitAccount] = field(default_factory=dict)
    conversions: tuple[Conversion, ...] = ()
    skipped: tuple[SkippedInput, ...] = ()
    skipped_count: int = 0
    unused: tuple[str, ...] = ()
    unused_count: int = 0
    left_out: int = 0
    one_colour: int = 0
    contradictory: int = 0
    labels: LabelKind = "class"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the results must know, one sentence each."""
        return tuple(self._copies_warnings() + self._content_warnings())

    def _copies_warnings(self) -> list[str]:
        warnings = []
        for name, word in (("test", "test"), ("val", "validation")):
            split = self.splits.get(name)
            if split is not None and split.copies:
                warnings.append(
                    f"data: {split.copies} of {split.images} {word} images are exact copies of training images, which "
                    f"makes {word} {'accuracy' if self.labels == 'class' else 'quality'} too high"
                )
        return warnings

    def _content_warnings(self) -> list[str]:
        warnings = []
        if self.contradictory:
            warnings.append(f"data: {self.contradictory} images have an exact copy with another label")
        if self.one_colour:
            warnings.append(f"data: {self.one_colour} images show one colour only")
        if self.skipped_count:
            examples = "; ".join(f"{s.where}: {s.reason}" for s in self.skipped[:_EXAMPLES])
            warnings.append(f"data: {self.skipped_count} images were skipped: {examples}{_more(self.skipped_count)}")
        if self.unused_count:
            examples = ", ".join(self.unused[:_EXAMPLES])
            warnings.append(f"data: not used, since they are no images: {examples}{_more(self.unused_count)}")
        return warnings


_ADAPTER = TypeAdapter(DataAccount)


def data_account_from_json(record: object) -> DataAccount:
    """The account from the JSON form of ``dataclasses.asdict``. Raises InvalidInput for another record."""
    try:
        return _ADAPTER.validate_python(record)
    except ValidationError as error:
        raise InvalidInput(f"not the account of a data set: {error.errors()[0]['msg']}") from error


def account_sentences(account: DataAccount) -> list[str]:
    """The account as sentences for people, the numbers of images first."""
    counts = ", ".join(f"{split.images} {name}" for name, split in account.splits.items())
    kinds = f" in {len(account.class_names)} classes" if account.class_names else ""
    sentences = [f"{account.inputs} images{kinds} were read: {counts}."]
    if account.left_out:
        sentences.append(f"{account.left_out} images were left out by the limits max_train, max_val and max_test.")
    sentences += [f"{c.images} images: {c.change}." for c in account.conversions]
    return sentences


def _more(count: int) -> str:
    return f" and {count - _EXAMPLES} more" if count > _EXAMPLES else ""
