"""Hypervolumes of several searches against one common reference, so that they can be compared. No drawing here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nas.core.pareto import hypervolume
from nas.schemas.candidates import FrontSchema
from nas.schemas.searches import SearchSchema


@dataclass(frozen=True)
class SearchCost:
    """A search with its front, the share of the common box that the front dominates (None: not comparable), and what
    the search took."""

    search: SearchSchema
    front: FrontSchema
    volume: float | None

    @property
    def hours(self) -> float:
        """Time on workers."""
        return self.search.busy_seconds / 3600.0

    @property
    def volume_per_hour(self) -> float | None:
        """Hypervolume per hour on workers."""
        return None if self.volume is None or self.hours == 0 else self.volume / self.hours


def common_metrics(fronts: Sequence[FrontSchema]) -> tuple[str, ...] | None:
    """The metrics that are axes of all fronts, in the order of the first; None for fewer than two, or without the
    quality of the first. The device is another matter."""
    axes = [[o.metric for o in front.objectives] for front in fronts if front.members]
    if not axes:
        return None
    shared = tuple(metric for metric in axes[0] if all(metric in metrics for metrics in axes))
    quality = next(front.quality.metric for front in fronts if front.members)
    return shared if len(shared) >= 2 and quality in shared else None


def search_costs(searches: Sequence[SearchSchema], fronts: Sequence[FrontSchema]) -> list[SearchCost]:
    """The searches with hypervolumes against the worst values of any member of any front, which scale them to 0..1."""
    metrics = common_metrics(fronts)
    if metrics is None:
        return [SearchCost(search, front, None) for search, front in zip(searches, fronts, strict=True)]
    goals = {o.metric: o.goal for front in fronts for o in front.objectives}
    sign_M = np.array([1.0 if goals[m] == "min" else -1.0 for m in metrics])
    losses = [
        np.array([[c.metrics[m].value for m in metrics] for c in f.members]) * sign_M for f in fronts if f.members
    ]
    together = np.concatenate(losses)
    low, high = together.min(axis=0), together.max(axis=0)
    width = np.where(high > low, 1.1 * (high - low), 1.0)  # the worst member counts a little, too
    volumes = iter([hypervolume((part - low) / width, np.ones(len(metrics))) for part in losses])
    return [
        SearchCost(search, front, next(volumes) if front.members else 0.0)
        for search, front in zip(searches, fronts, strict=True)
    ]
