"""Which units of shared weights a network of some size uses (Scala, Zhang et al., 2024, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class UnitSlices:
    """Units of one dimension of shared weights, such as channels, of which networks use ``smallest`` to ``largest``:
    the first, or, where they are ``isolated``, the last in all networks between both ends."""

    smallest: int
    largest: int
    isolated: bool = False

    def of(self, units: int) -> slice:
        """The slice that networks with so many units use."""
        if self.isolated and self.smallest < units < self.largest:
            return slice(self.largest - units, self.largest)
        return slice(0, units)
