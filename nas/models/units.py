"""Channel units: sets of channels that are removed together or not at all, as a union-find structure.

Every element of a value carries the number of its unit, or 0 if it always stays. An array of units has the rank of its
value, and size 1 along each dimension in which units do not change.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UnitArray = NDArray[np.int64]


@dataclass(frozen=True)
class Reason:
    """Why something stays as it is, and because of which part of the model."""

    module: str
    text: str


class UnitSets:
    """The units of a graph under construction. Number 0 is the unit that always stays."""

    def __init__(self) -> None:
        self._parents: list[int] = [0]
        self._reasons: dict[int, Reason] = {}

    def create(self, count: int) -> UnitArray:
        """The numbers of ``count`` new units."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return np.arange(first, first + count)

    def root(self, unit: int) -> int:
        """The number that stands for all units joined with ``unit``."""
        while (parent := self._parents[unit]) != unit:
            self._parents[unit] = self._parents[parent]
            unit = self._parents[unit]
        return unit

    def resolve(self, units: UnitArray) -> UnitArray:
        """Roots of removable units, and 0 for those that stay."""
        numbers, inverse = np.unique(units, return_inverse=True)
        roots = np.array([self._removable_root(int(number)) for number in numbers], dtype=np.int64)
        return compress(roots[inverse].reshape(units.shape))

    def reason(self, unit: int) -> Reason | None:
        """Why a unit stays; None if it can be removed."""
        return self._reasons.get(self.root(unit))

    def join(self, units: Iterable[int], cause: Reason) -> None:
        """Remove ``units`` together only. If one stays, so do all: for its own reason, or ``cause`` for number 0."""
        roots = sorted({self.root(unit) for unit in units})
        if len(roots) < 2:
            return
        reasons = [self._reasons[root] for root in roots if root in self._reasons]
        if roots[0] == 0:
            reasons.append(cause)
        removable = [root for root in roots if root != 0]
        for root in removable[1:]:
            self._parents[root] = removable[0]
        if reasons:
            self._reasons.setdefault(removable[0], reasons[0])

    def join_along(self, units: UnitArray, dims: tuple[int, ...], cause: Reason) -> UnitArray:
        """Join all units that differ in their position along ``dims`` only; what results does not change along them."""
        moved = np.moveaxis(units, dims, range(len(dims)))
        columns = moved.reshape(-1, *moved.shape[len(dims) :])
        for place in np.ndindex(columns.shape[1:]):
            self.join((int(unit) for unit in columns[(slice(None), *place)]), cause)
        return self.resolve(units)

    def join_pairs(self, first: UnitArray, second: UnitArray, cause: Reason) -> None:
        """Join the units at equal positions, after broadcasting."""
        left, right = np.broadcast_arrays(first, second)
        for pair in {(int(a), int(b)) for a, b in zip(left.flat, right.flat, strict=True)}:
            self.join(pair, cause)

    def fix(self, units: UnitArray, cause: Reason) -> None:
        """Let ``units`` stay, with ``cause`` as the reason of those that have none yet."""
        for unit in np.unique(units):
            root = self.root(int(unit))
            if root:
                self._reasons.setdefault(root, cause)

    def _removable_root(self, unit: int) -> int:
        root = self.root(unit)
        return 0 if root in self._reasons else root


def varying(units: UnitArray) -> tuple[int, ...]:
    """The dimensions along which units change."""
    return tuple(i for i, size in enumerate(units.shape) if size > 1)


def compress(units: UnitArray) -> UnitArray:
    """The same array with size 1 along each dimension in which units do not change."""
    for dim in range(units.ndim):
        first = units.take([0], axis=dim)
        if units.shape[dim] > 1 and bool(np.all(units == first)):
            units = first
    return units


def spread(units: UnitArray, shape: tuple[int, ...]) -> UnitArray:
    """The array of all elements of a value of ``shape``."""
    return np.broadcast_to(units, shape)
