"""What of a search space a device does not run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ExcludedChoice:
    """The ``choice`` (its index) of a ``decision`` (its name) that is left out of searches for a device, and why."""

    decision: str
    choice: int
    reason: str
