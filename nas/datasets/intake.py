"""The account of a data set while it is read: conversions, skipped inputs, and every problem, reported at once."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from nas.core.data_account import Conversion, SkippedInput
from nas.core.errors import InvalidData
from nas.core.records import ImageRead

_MANY = 5  # unreadable images of one reason are reported together


@dataclass
class Intake:
    """Collects what happens to the inputs of one data set. At most ``skip_limit`` unreadable images are left out; one
    more, and all of them are problems."""

    skip_limit: int = 0
    unused: list[str] = field(default_factory=list)
    _conversions: Counter[str] = field(default_factory=Counter)
    _unreadable: list[SkippedInput] = field(default_factory=list)
    _problems: list[str] = field(default_factory=list)

    def converted(self, change: str, images: int = 1) -> None:
        """Count images that reading has changed."""
        if images:
            self._conversions[change] += images

    def unreadable(self, where: str, reason: str) -> None:
        """Note an image that cannot be used."""
        self._unreadable.append(SkippedInput(where, reason))

    def note(self, read: ImageRead) -> None:
        """Note what reading one image did, or why it cannot be used."""
        if read.content is None:
            self.unreadable(read.where, read.problem)
        for change in read.changes:
            self.converted(change)

    def problem(self, text: str) -> None:
        """Note a reason to refuse the data set that no skipping cures."""
        self._problems.append(text)

    @property
    def conversions(self) -> tuple[Conversion, ...]:
        """All conversions, the most frequent first."""
        return tuple(Conversion(change, images) for change, images in self._conversions.most_common())

    @property
    def skipped(self) -> tuple[SkippedInput, ...]:
        """The images that were left out."""
        return tuple(self._unreadable)

    def require_usable(self, problems: Iterable[str] = ()) -> None:
        """Raise InvalidData with every problem, these included, if there is one."""
        problems = [*self._problems, *problems]
        if len(self._unreadable) > self.skip_limit:
            problems = [*self._unreadable_problems(), *problems]
            if self.skip_limit:
                count = len(self._unreadable)
                problems.append(f"expected at most skip_unreadable={self.skip_limit} unusable images, got {count}")
        if problems:
            raise InvalidData(*problems)

    def _unreadable_problems(self) -> Iterator[str]:
        """One problem for each image, or for each reason that many share."""
        places: dict[str, list[str]] = defaultdict(list)
        for skipped in self._unreadable:
            places[skipped.reason].append(skipped.where)
        for reason, (first, *further) in places.items():
            if len(further) < _MANY:
                yield from (f"{where}: {reason}" for where in (first, *further))
            else:
                yield f"{first}: {reason}; the same for {len(further)} other images, such as {', '.join(further[:3])}"
