"""What a metric is, and how the measure of a task becomes metrics: one for each kind of evidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MetricKind = Literal["exact", "estimated", "predicted", "trained", "measured"]
Goal = Literal["min", "max"]
MeasuredOn = Literal["val", "trained", "test"]

_KINDS: dict[MeasuredOn, MetricKind] = {"val": "estimated", "trained": "trained", "test": "measured"}
_LABELS: dict[MeasuredOn, str] = {"val": "validation", "trained": "validation", "test": "test"}


@dataclass(frozen=True)
class MetricInfo:
    """What a metric is: ``unit`` as printed, ``kind`` of evidence, ``goal`` if optimised, ``label`` for people."""

    name: str
    unit: str
    kind: MetricKind
    goal: Goal
    label: str


@dataclass(frozen=True)
class Measure:
    """A measure of how good networks are at a task, such as accuracy. ``label`` with ``{}`` for the images it was taken
    on: ``{} accuracy``. What is maximised is a share in % of at most 100; what is minimised is at least 0."""

    name: str
    label: str
    unit: str = "%"
    goal: Goal = "max"

    def __post_init__(self) -> None:
        if self.goal == "max" and self.unit != "%":
            raise ValueError(f"measure {self.name}: expected a share in % where the most is best, got {self.unit!r}")

    def metric(self, evidence: MeasuredOn) -> MetricInfo:
        """The metric with weights of a supernet (``val``), of a network trained alone, or on test images."""
        label = self.label.format(_LABELS[evidence])
        label = f"{label[0].upper()}{label[1:]}{', trained alone' if evidence == 'trained' else ''}"
        return MetricInfo(f"{evidence}_{self.name}", self.unit, _KINDS[evidence], self.goal, label)

    @property
    def title(self) -> str:
        """The measure for people, whatever it was taken on: ``accuracy``."""
        return " ".join(self.label.replace("{}", "").split())
