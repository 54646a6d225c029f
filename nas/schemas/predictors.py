"""REST schemas of latency tables and latency predictors."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from nas.schemas.common import Range


class LatencyTableSchema(BaseModel):
    """An uploaded table of latencies. ``blob`` names it in a ``DeviceSpec``; one without device names has one."""

    blob: str
    rows: int
    devices: list[str]


class EnergyAccuracySchema(BaseModel):
    """How well energy is predicted: figures over ``held_out`` networks, as those of a card; ``n`` were fitted to."""

    n: int
    held_out: int
    mape: float
    spearman: float
    coverage: float


class NoiseSchema(BaseModel):
    """How steady the device was when it was profiled: ``floor`` is the relative standard deviation between repeated
    measurements of one network, below which no error of a predictor can be read; ``levels`` are the speeds it was seen
    at, as times relative to the undisturbed level; ``undisturbed`` is the share of time at that level. ``refused``
    networks could not be measured."""

    floor: float
    levels: list[float]
    undisturbed: float
    refused: int


class PredictorCardSchema(BaseModel):
    """A predictor's card: every figure is over ``held_out`` subnets that took no part in fitting or calibration.

    ``kind``: what its values are, ``estimated`` where nobody has measured what it was fitted to. ``energy``: where the
    device's table tells energies, how well those are predicted beside the latencies. ``measured_error``: relative
    standard errors of ``measured_ms``, empty where they are not known.
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
    mape: float
    spearman: float
    kendall: float
    coverage: float
    range_ms: Range
    measured_ms: list[float] = []
    predicted_ms: list[float] = []
    upper_ms: list[float] = []
    measured_error: list[float] = []
    noise: NoiseSchema | None = None
    kind: Literal["predicted", "estimated"] = "predicted"
    energy: EnergyAccuracySchema | None = None
    number: int = 1
    created_at: datetime


class PredictorVersionSchema(BaseModel):
    """A version of a device's predictor for one space, short of its card, whose ``id`` it has. It knows ``networks``
    networks; ``before`` is the version that it grew from when ``search`` fed back what it had measured, both None after
    an onboarding. ``better``: searches may use it, ``why`` or why not; ``in_use``: a search that begins now would.
    ``searches`` are those that have used it, as far as whoever asks may see them. The figures are those of its card."""

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
    mape: float
    spearman: float
    coverage: float
    before: str | None
    search: str | None
    better: bool
    why: str
    in_use: bool
    searches: list[str]
    created_at: datetime
