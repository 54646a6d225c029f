"""REST schemas of candidates, their exported files, and Pareto fronts."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from nas.core.cells import CellGraph
from nas.core.device import Measurement, Status
from nas.core.errors import InvalidInput
from nas.core.events import Origin
from nas.core.layers import MapShape
from nas.core.measures import Goal, MetricKind
from nas.core.metrics import COSTS
from nas.core.network import LayerSummary
from nas.core.spoken_names import spoken_name
from nas.schemas.common import Page

if TYPE_CHECKING:
    from pandas import DataFrame


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


class ConfusionSchema(BaseModel):
    """How many test images of each class (row of ``counts``) an exported network answered with each class (column)."""

    classes: list[str]
    counts: list[list[int]]

    @staticmethod
    def of(artifacts: Iterable[ArtifactSchema]) -> ConfusionSchema | None:
        """The matrix that an exported file reports; None where none does: not exported, or not classified so."""
        reports = (artifact.report.get("confusion") for artifact in artifacts)
        record = next((report for report in reports if report is not None), None)
        return None if record is None else ConfusionSchema.model_validate(record)


def fallback_sentences(candidate: CandidateSchema) -> list[str]:
    """Where a measured candidate ran elsewhere than on the device's own provider, for people; by device of a fleet."""
    parts = {name: part.measurement for name, part in candidate.devices.items()} or {"": candidate.measurement}
    return [
        f"on {name}: {measurement.placement.sentence}" if name else measurement.placement.sentence
        for name, measurement in parts.items()
        if measurement is not None and measurement.placement is not None and not measurement.placement.complete
    ]


class CandidateDetailSchema(BaseModel):
    """A candidate with its choices, layers and files. ``cells``: empty for a space without cells. ``class_recall``: the
    figures that its task has by class on test images, in %, once it was tested: for classification the share of a
    class's images that it recognises. ``confusion``: of the exported network, None before it was exported, of other
    tasks and of very many classes."""

    candidate: CandidateSchema
    choices: dict[str, int | float | str]
    input_shape: MapShape
    layers: list[LayerSummary]
    artifacts: list[ArtifactSchema]
    cells: list[CellGraph] = []
    class_recall: dict[str, float | None] = {}
    confusion: ConfusionSchema | None = None


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

    def to_pandas(self) -> DataFrame:
        """One row for each network of the front, of the baseline's and of the references, with all its metrics. Raises
        InvalidInput without pandas."""
        try:
            from pandas import DataFrame
        except ImportError as error:
            raise InvalidInput('to_pandas needs pandas: pip install "hwnas[notebook]"') from error
        return DataFrame([_row(c) for c in (*self.members, *self.baseline, *self.references)])

    def _repr_html_(self) -> str:
        """The members as a table, for notebooks."""
        heads = "".join(f"<th>{escape(o.label)} ({escape(o.unit)} {o.kind})</th>" for o in self.objectives)
        rows = "".join(
            f"<tr><td>{escape(spoken_name(c.arch))}</td><td><code>{escape(c.arch)}</code></td><td>{c.status}</td>"
            + "".join(f"<td>{c.metrics[o.metric].value:.4g}</td>" for o in self.objectives)
            + "</tr>"
            for c in self.members
        )
        state = "" if self.final else " (not final)"
        caption = f"Front of search {escape(self.search)}{state}: {len(self.members)} networks"
        return (
            f"<table><caption>{caption}</caption><tr><th>name</th><th>id</th><th>status</th>{heads}</tr>{rows}</table>"
        )


def _row(candidate: CandidateSchema) -> dict[str, str | bool | float | None]:
    return {
        "arch": candidate.arch,
        "name": candidate.name or spoken_name(candidate.arch),
        "origin": candidate.origin,
        "status": candidate.status,
        "on_front": candidate.on_front,
        "promised_ms": candidate.promised_ms,
        **{name: metric.value for name, metric in candidate.metrics.items()},
    }


class CandidatePage(Page):
    """A page of candidates; ``total`` counts those of all pages."""

    items: list[CandidateSchema]
    total: int
