"""Whether a device still performs as its profile and its predictor say: measured over expected times.

A measurement is corrected by the drift of the canary, so there are two ratios: that of networks, measured over
predicted, and that of the canary, its time over that in the profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Literal

LIMIT = 0.10  # beyond it, a device has drifted


@dataclass(frozen=True)
class DriftReading:
    """A measurement of an architecture, or of the canary alone (``arch`` and ``ratio`` are None).

    ``ratio`` is measured over predicted latency, ``canary`` the canary's time over its time in the profile.
    """

    at: datetime
    arch: str | None
    ratio: float | None
    canary: float


@dataclass(frozen=True)
class DriftSession:
    """The measurements of one job, until ``at``: medians of both ratios over its ``networks``."""

    at: datetime
    networks: int
    ratio: float | None
    canary: float

    @property
    def deviation(self) -> float:
        """The deviation from 1 of the ratio that deviates more."""
        return max(abs(self.canary - 1.0), abs((self.ratio or 1.0) - 1.0))


@dataclass(frozen=True)
class Drift:
    """Whether a device still performs as profiled, with a ``sentence``. ``within`` is the largest deviation of any
    session, as a fraction."""

    device: str
    status: Literal["unknown", "stable", "drifting"]
    within: float | None
    sentence: str
    sessions: tuple[DriftSession, ...]
    readings: tuple[DriftReading, ...]


def drift_of(device: str, readings_by_session: Sequence[Sequence[DriftReading]]) -> Drift:
    """The drift of a device from the readings of each session, in the order of time.

    The latest session decides: a device drifts if the median network, or the canary, deviates by more than ``LIMIT``.
    """
    sessions = tuple(_session(readings) for readings in readings_by_session)
    all_readings = tuple(reading for readings in readings_by_session for reading in readings)
    if not sessions:
        return Drift(device, "unknown", None, "Nothing was measured since the device was profiled.", (), ())
    within = max(s.deviation for s in sessions)
    last = sessions[-1]
    if last.deviation <= LIMIT:
        times = "once" if len(sessions) == 1 else f"in {len(sessions)} sessions"
        before = " (lately; it was farther off before)" if within > LIMIT else ""
        deviation = last.deviation if before else within
        sentence = f"Stable within {_percent(deviation)}{before}, measured {times}."
        return Drift(device, "stable", within, sentence, sessions, all_readings)
    changes = []
    if last.ratio is not None and abs(last.ratio - 1.0) > LIMIT:
        changes.append(f"networks take {_change(last.ratio)} than predicted")
    if abs(last.canary - 1.0) > LIMIT:
        changes.append(f"the canary takes {_change(last.canary)} than when the device was profiled")
    sentence = f"Drifting: {', and '.join(changes)}. Add the device again."
    return Drift(device, "drifting", within, sentence, sessions, all_readings)


def _session(readings: Sequence[DriftReading]) -> DriftSession:
    ratios = [r.ratio for r in readings if r.ratio is not None]
    canary = median(r.canary for r in readings)
    return DriftSession(readings[-1].at, len(ratios), median(ratios) if ratios else None, canary)


def _change(ratio: float) -> str:
    return f"{_percent(abs(ratio - 1.0), 0)} {'longer' if ratio > 1 else 'less'}"


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"
