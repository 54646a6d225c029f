"""Several checks of one spec, whose errors are told at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from nas.core.errors import HwnasError, InvalidInput, InvalidSpec

T = TypeVar("T")


class ProblemList:
    """The errors of independent checks, in their order."""

    def __init__(self) -> None:
        self._errors: list[HwnasError] = []

    def tried(self, check: Callable[[], T]) -> T | None:
        """The result of a check; None if it raises an error of ours, which is added."""
        try:
            return check()
        except HwnasError as error:
            if str(error) not in map(str, self._errors):  # two checks may stumble over the same thing
                self._errors.append(error)
            return None

    def raise_all(self) -> None:
        """Raise the only error as it is, or several as one InvalidSpec; nothing where there is none. An error that is
        not the input's fault, such as a full disk, is raised alone."""
        for error in self._errors:
            if not isinstance(error, InvalidInput):
                raise error
        if len(self._errors) == 1:
            raise self._errors[0]
        if self._errors:
            raise InvalidSpec(f"{len(self._errors)} problems: {'; '.join(map(str, self._errors))}")
