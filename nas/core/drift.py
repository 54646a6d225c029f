"""Whether a device still is what its profile and its predictor say: what was measured over what was expected.

Two ratios, since a measurement has the canary's drift divided out: that of networks, measured over predicted, and that
of the canary, its time over that in the profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from statistics import median
from typing import Literal

LIMIT = 0.10  # beyond it, a device has drifted


@dataclass(frozen=True)
class Reading:
    """One measurement ``at`` a time, in seconds since 1970, for the job ``job_id``; ``ratio`` is measured over
    predicted, None for the canary alone."""

    at: float
    job_id: str
    canary: float
    ratio: float | None


@dataclass(frozen=True)
class Session:
    """What one job has measured, until ``at``: medians over its ``networks``, none where it was the canary alone."""

    at: float
    networks: int
    canary: float
    ratio: float | None

    @property
    def deviation(self) -> float:
        """How far the farther of the two ratios is from 1."""
        return max(abs(self.canary - 1.0), abs((self.ratio or 1.0) - 1.0))


@dataclass(frozen=True)
class Drift:
    """``status``, and what it means in a sentence; ``within`` is the largest deviation of any session."""

    status: Literal["unknown", "stable", "drifting"]
    within: float | None
    sentence: str
    sessions: tuple[Session, ...]


def drift_of(readings: Sequence[Reading]) -> Drift:
    """What readings, in the order of time, say. The latest session decides: a device drifts when the median network, or
    the canary, is more than ``LIMIT`` off what was expected."""
    sessions = tuple(_session(list(group)) for _, group in groupby(readings, key=lambda r: r.job_id))
    if not sessions:
        return Drift("unknown", None, "Nothing was measured since the device was profiled.", ())
    within = max(s.deviation for s in sessions)
    last = sessions[-1]
    if last.deviation <= LIMIT:
        times = "once" if len(sessions) == 1 else f"in {len(sessions)} sessions"
        before = " (lately; it was farther off before)" if within > LIMIT else ""
        deviation = last.deviation if before else within
        return Drift("stable", within, f"Stable within {_percent(deviation)}{before}, measured {times}.", sessions)
    parts = []
    if last.ratio is not None and abs(last.ratio - 1.0) > LIMIT:
        parts.append(f"networks take {_change(last.ratio)} than predicted")
    if abs(last.canary - 1.0) > LIMIT:
        parts.append(f"the canary takes {_change(last.canary)} than when the device was profiled")
    return Drift("drifting", within, f"Drifting: {', and '.join(parts)}. Add the device again.", sessions)


def _session(readings: Sequence[Reading]) -> Session:
    ratios = [r.ratio for r in readings if r.ratio is not None]
    canary = median(r.canary for r in readings)
    return Session(readings[-1].at, len(ratios), canary, median(ratios) if ratios else None)


def _change(ratio: float) -> str:
    return f"{_percent(abs(ratio - 1.0), 0)} {'longer' if ratio > 1 else 'less'}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"
