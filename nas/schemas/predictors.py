"""REST schemas of latency tables and latency predictors."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from nas.core.device import LatencySource
from nas.core.predictor_card import CardNoise, EnergyAccuracy, TransferChoice
from nas.core.unsupported import ExcludedChoice
from nas.schemas.common import Range


class LatencyTableSchema(BaseModel):
    """An uploaded latency table. ``blob`` names it in a ``DeviceSpec``; ``devices`` is empty for a single column."""

    blob: str
    rows: int
    devices: list[str]


class PredictorCardSchema(BaseModel):
    """A predictor's card. It is fitted to ``n`` networks; all figures are over ``held_out`` networks, as predicted by a
    fit that did not know them; ``kendall_interval`` is a 95 % bootstrap interval over them.

    ``source``: where the latencies come from. ``kind`` is ``estimated`` if they were computed from peak figures:
    nothing was measured then, and all figures are null. ``energy``: the accuracy of its energy predictor, if the
    device's table contains energies. ``measured_error``: relative standard errors of ``measured_ms``, empty if unknown.
    ``excluded``: choices that no search for the device takes, since it does not run them. ``choice``: of a device that
    was learned from few measurements, what it was learned by, with the leave-one-out error of each option.
    ``as_written``: the networks were measured with their inactive parts.
    """

    id: str
    device: str
    profile: str
    space: str
    space_name: str
    family: str
    protocol: dict[str, Any]
    n: int
    calibration: int
    held_out: int
    mape: float | None
    spearman: float | None
    kendall: float | None
    kendall_interval: Range | None = None
    coverage: float | None
    range_ms: Range
    measured_ms: list[float] = []
    predicted_ms: list[float] = []
    upper_ms: list[float] = []
    measured_error: list[float] = []
    noise: CardNoise | None = None
    kind: Literal["predicted", "estimated"] = "predicted"
    source: LatencySource = "worker"
    energy: EnergyAccuracy | None = None
    excluded: list[ExcludedChoice] = []
    choice: TransferChoice | None = None
    as_written: bool = False
    number: int = 1
    created_at: datetime


class PredictorVersionSchema(BaseModel):
    """A version of a device's predictor for one space; its card has the same ``id`` and figures.

    It was fitted to ``networks`` networks. ``before`` is the previous version if it was refitted with measurements of
    ``search``; both are None after an onboarding. ``better``: whether searches may use it, and ``why``; ``in_use``:
    whether a new search uses it. ``searches`` are those of the caller that used it.
    """

    id: str
    device: str
    number: int
    profile: str
    space: str
    space_name: str
    family: str
    networks: int
    n: int
    held_out: int
    mape: float | None
    spearman: float | None
    coverage: float | None
    before: str | None
    search: str | None
    better: bool
    why: str
    in_use: bool
    searches: list[str]
    created_at: datetime
