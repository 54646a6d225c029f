"""What an intake stores of a model: its graph, weights and report as blobs, and what lists show of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import safetensors.numpy
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from nas.core.errors import InvalidInput
from nas.core.events import StageResults
from nas.core.jobs import ParentBlobs
from nas.core.json_types import JsonObject
from nas.core.model_spec import ModelSpec
from nas.core.parent import ParentModel, Preprocessing
from nas.core.ports import BlobStore
from nas.models.graph import TensorShape
from nas.models.intake import IntakeReport

READ_STAGE = "read"  # of an intake; its result is a ``StoredModel``
EVALUATE_STAGE, MEASURE_STAGE = "evaluate", "measure"  # a ``ParentQuality`` and a ``ParentLatency``; empty without one


def intake_stages(spec: ModelSpec) -> tuple[str, ...]:
    """The stages of an intake, in order."""
    further = ((EVALUATE_STAGE, spec.data), (MEASURE_STAGE, spec.device))
    return (READ_STAGE, *(stage for stage, named in further if named is not None))


@dataclass(frozen=True)
class ModelSummary:
    """A model in a few figures. ``input_shape`` and ``output_shapes`` are without the number of images;
    ``input_shape`` is None for a model with several inputs. ``groups`` and ``blocks`` count what can be narrowed and
    skipped; ``scalable``: whether the resolution may change."""

    input_shape: TensorShape | None
    output_shapes: tuple[TensorShape, ...]
    parameters: int
    groups: int
    blocks: int
    scalable: bool

    @staticmethod
    def of(report: IntakeReport) -> ModelSummary:
        """The summary of a report."""
        return ModelSummary(
            input_shape=report.inputs[0][1][1:] if len(report.inputs) == 1 else None,
            output_shapes=tuple(shape[1:] for shape in report.outputs),
            parameters=report.parameters,
            groups=len(report.groups),
            blocks=len(report.blocks),
            scalable=report.resolution.scalable,
        )


@dataclass(frozen=True)
class StoredModel:
    """A model that was read: the sha256 of its graph (JSON), its weights (safetensors) and its intake report (JSON).
    ``preprocessing``: what its source says of its images, None if it says nothing."""

    graph: str
    weights: str
    report: str
    summary: ModelSummary
    preprocessing: Preprocessing | None = None

    def as_json(self) -> JsonObject:
        """The value as the result of a stage."""
        return asdict(self)

    @staticmethod
    def parse(result: Mapping[str, object]) -> StoredModel:
        """The value of ``as_json``. Raises InvalidInput for anything else."""
        try:
            return _ADAPTER.validate_python(result)
        except ValidationError as error:
            raise InvalidInput(f"expected the result of reading a model, got: {error}") from error


@dataclass(frozen=True)
class ParentQuality:
    """A metric of the model as it came, over so many test ``images``. ``interval``: its 95 % interval (Wilson's), None
    for metrics that are no share of images."""

    metric: str
    value: float
    images: int
    interval: tuple[float, float] | None = None

    def as_json(self) -> JsonObject:
        """The value as the result of a stage."""
        return asdict(self)


@dataclass(frozen=True)
class ParentLatency:
    """The measured latency of the model as it came on a device of that profile, with its 95 % interval."""

    device: str
    profile: str
    median_ms: float
    low_ms: float
    high_ms: float

    def as_json(self) -> JsonObject:
        """The value as the result of a stage."""
        return asdict(self)


def quality_of(finished: StageResults) -> ParentQuality | None:
    """The quality that an intake has reported, if any."""
    result = finished.get(EVALUATE_STAGE)
    return TypeAdapter(ParentQuality).validate_python(result) if result else None


def latency_of(finished: StageResults) -> ParentLatency | None:
    """The latency that an intake has reported, if any."""
    result = finished.get(MEASURE_STAGE)
    return TypeAdapter(ParentLatency).validate_python(result) if result else None


def load_parent(parent: ParentBlobs, blobs: BlobStore) -> ParentModel:
    """A stored model, whose weights are read when they are needed. Raises NotFound or StorageError for lost blobs."""

    def load_weights() -> Mapping[str, NDArray[Any]]:
        weights: Mapping[str, NDArray[Any]] = safetensors.numpy.load(blobs.get(parent.weights))
        return weights

    return ParentModel(parent.name, blobs.get(parent.graph), load_weights, parent.preprocessing)


_ADAPTER = TypeAdapter(StoredModel)
