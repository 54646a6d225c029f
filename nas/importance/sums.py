"""Sums over all places of a unit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.models.channels import ChannelAnalysis
from nas.models.units import UnitArray

UnitScores: TypeAlias = dict[str, Floats]
"""By the name of a channel group, a number for each of its units; larger is more important."""


class UnitSums:
    """Sums by the number of a unit, and how many values were added."""

    def __init__(self, analysis: ChannelAnalysis) -> None:
        self._analysis = analysis
        size = 1 + max((int(units.max()) for units in analysis.axes.values()), default=0)
        self.sum_U, self.count_U = np.zeros(size), np.zeros(size, dtype=np.int64)

    def add(self, units: UnitArray, values: NDArray[np.floating]) -> None:
        """Add the ``values`` of some places to their ``units``, arrays of one shape."""
        np.add.at(self.sum_U, units.ravel(), values.ravel())
        np.add.at(self.count_U, units.ravel(), 1)

    def by_group(self, values_U: Floats, groups: Iterable[str] | None = None) -> UnitScores:
        """One number by unit, as those of groups: of all, or of some."""
        names = self._analysis.numbers if groups is None else groups
        return {name: values_U[self._analysis.numbers[name]] for name in names}

    def groups_with_values(self) -> list[str]:
        """The groups of which every unit has a value."""
        return [name for name, numbers in self._analysis.numbers.items() if (self.count_U[numbers] > 0).all()]
