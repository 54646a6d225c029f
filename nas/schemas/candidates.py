"""REST schemas of candidates, their exported files, and Pareto fronts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel

from nas.core.cells import CellGraph
from nas.core.device import Measurement, Status
from nas.core.events import Origin
from nas.core.layers import MapShape
from nas.core.measures import Goal, MetricKind
from nas.core.metrics import COSTS
from nas.core.network import LayerSummary
from nas.schemas.common import Page


class MetricSchema(BaseModel):
    """A value with its unit and its kind of evidence."""

    value: float
    unit: str
    kind: MetricKind


class ArtifactSchema(BaseModel):
    """An exported file of a candidate. ``url`` is relative to the server."""

    arch: str
    name: str
    size_bytes: int
    sha256: str
    media_type: str
    url: str
    report: dict[str, Any] = {}


class CandidateOnDeviceSchema(BaseModel):
    """A candidate on one device of a fleet: ``predicted_ms``, ``upper_ms`` and, once measured, ``measured_ms``.

    ``status``: whether the measurement on this device verified the promised latency, ``promised_ms``.
    """

    metrics: dict[str, MetricSchema]
    status: Status
    promised_ms: float | None = None
    measurement: Measurement | None = None


class CandidateSchema(BaseModel):
    """A candidate of a search. ``promised_ms`` is the latency that the search promised before measuring.

    Over a fleet, latencies are those of the slowest device unless the request names one, ``devices`` has those of all,
    and ``verified`` means verified on every device. ``extrapolated``: whether it lies outside the domain of the latency
    predictor, where predictions do not hold (over a fleet, of any); null where the predictor has no domain. ``name``:
    of a reference, such as ``parent``.
    """

    arch: str
    origin: Origin
    name: str | None = None
    genes: list[int]
    metrics: dict[str, MetricSchema]
    status: Status
    promised_ms: float | None = None
    measurement: Measurement | None = None
    devices: dict[str, CandidateOnDeviceSchema] = {}
    extrapolated: bool | None = None
    on_front: bool = False


class CandidateDetailSchema(BaseModel):
    """A candidate with its choices, layers and files. ``cells``: empty for a space without cells. ``class_recall``: the
    figures that its task has by class on test images, in %, once it was tested: for classification the share of a
    class's images that it recognises."""

    candidate: CandidateSchema
    choices: dict[str, int | float | str]
    input_shape: MapShape
    layers: list[LayerSummary]
    artifacts: list[ArtifactSchema]
    cells: list[CellGraph] = []
    class_recall: dict[str, float | None] = {}


class ObjectiveSchema(BaseModel):
    """An axis of a front. ``decided_by``: the metric that decides which candidates are on the front, where it is not
    the ``metric`` of the axis: test data choose no network."""

    objective: str
    metric: str
    label: str
    unit: str
    kind: MetricKind
    goal: Goal
    bound: float | None = None
    decided_by: str | None = None

    def best(self, values: Iterable[float]) -> float:
        """The best of some values of its metric."""
        return max(values) if self.goal == "max" else min(values)


class FrontSchema(BaseModel):
    """Fronts of the search and of its random baseline over the same axes.

    ``final`` is False while the search has not verified its front: the axes are then estimated and predicted metrics.
    ``references``: networks that the front is compared with, such as the user's model; never members.
    Hypervolumes are normalised to 0..1 by ``reference`` (one value per axis) and comparable inside one answer only.
    ``device``: the device whose latency is an axis; None for the slowest device of a fleet.
    """

    search: str
    device: str | None = None
    final: bool
    objectives: list[ObjectiveSchema]
    members: list[CandidateSchema]
    baseline: list[CandidateSchema]
    references: list[CandidateSchema] = []
    hypervolume: float | None
    baseline_hypervolume: float | None
    reference: list[float]

    @property
    def quality(self) -> ObjectiveSchema:
        """The axis of the task's quality, such as accuracy; of a front over costs alone, the first axis."""
        return next((o for o in self.objectives if o.objective not in COSTS), self.objectives[0])

    @property
    def costs(self) -> list[ObjectiveSchema]:
        """The other axes."""
        return [o for o in self.objectives if o is not self.quality]


class CandidatePage(Page):
    """A page of candidates; ``total`` counts those of all pages."""

    items: list[CandidateSchema]
    total: int
