"""Columns whose values are stored as JSON, each with the type that it has in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter
from sqlalchemy import JSON, Dialect
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator, TypeEngine

from nas.core.conclusion import Conclusion
from nas.core.data_account import DataAccount, data_account_from_json
from nas.core.device import DeviceProfile, Measurement, OnDevice
from nas.core.events import Checkpoint, Refitted, SearchState, decode
from nas.core.jobs import MeasurementFailure
from nas.core.ports import ImageShape
from nas.core.scheduling import NodeResources
from nas.core.spec import ResourceSpec
from nas.core.timing import Timing
from nas.models.stored import ModelSummary

T = TypeVar("T")

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")


class JsonOf(TypeDecorator[T]):
    """A value that is stored as JSON by its own conversion; None is stored as NULL."""

    impl = JSON
    cache_ok = True

    def __init__(self, to_json: Callable[[T], Any], from_json: Callable[[Any], T]) -> None:
        super().__init__(none_as_null=True)
        self.to_json = to_json
        self.from_json = from_json

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """The type of the database."""
        return Json.dialect_impl(dialect)

    def process_bind_param(self, value: T | None, dialect: Dialect) -> Any:
        """The value as JSON."""
        return None if value is None else self.to_json(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> T | None:
        """The value of stored JSON."""
        return None if value is None else self.from_json(value)


@dataclass(frozen=True)
class StageBar:
    """The progress of a stage. ``anchor`` is [time, done] of the first progress of this attempt, ``latest`` the time of
    the last; ``progress_seqs`` are the numbers of its progress events in the log. ``price_s``: what the stage was known
    to take when the job was submitted."""

    name: str
    status: str = "waiting"
    done: int = 0
    total: int = 0
    unit: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    message: str = ""
    begun_at: Annotated[float | None, Field(alias="begun")] = None
    anchor: tuple[float, int] | None = None
    latest: float | None = None
    progress_seqs: Annotated[tuple[int, ...], Field(alias="kept")] = ()
    price_s: float | None = None


def state_to_json(state: SearchState) -> dict[str, object]:
    """A search state without candidates, hypervolumes and exports, which have tables of their own."""
    return {
        "stage": state.stage,
        "finished": {stage: dict(result) for stage, result in state.finished.items()},
        "seconds": dict(state.seconds),
        "checkpoints": {stage: asdict(checkpoint) for stage, checkpoint in state.checkpoints.items()},
        "warnings": list(state.warnings),
        "refits": [asdict(refit) for refit in state.refits],
        "data": asdict(state.data) if state.data is not None else None,
        "class_recall": {arch: list(recall) for arch, recall in state.class_recall.items()},
        "conclusions": [asdict(conclusion) for conclusion in state.conclusions],
        "refused": state.refused,
    }


def state_from_json(record: Any) -> SearchState:
    """Inverse of ``state_to_json``; an empty record is the empty state."""
    if not record:
        return SearchState()
    return SearchState(
        stage=record["stage"],
        finished=record["finished"],
        seconds=record["seconds"],
        checkpoints={stage: Checkpoint(**checkpoint) for stage, checkpoint in record["checkpoints"].items()},
        warnings=tuple(record["warnings"]),
        refits=tuple(_refit(refit) for refit in record.get("refits", ())),
        data=data_account_from_json(data) if (data := record.get("data")) else None,
        class_recall={arch: tuple(recall) for arch, recall in record.get("class_recall", {}).items()},
        conclusions=tuple(Conclusion(**conclusion) for conclusion in record.get("conclusions", ())),
        refused=record.get("refused", False),
    )


def _refit(record: Any) -> Refitted:
    event = decode({"kind": Refitted.kind, **record})
    assert isinstance(event, Refitted)
    return event


def _devices_to_json(devices: Mapping[str, OnDevice]) -> dict[str, object]:
    return {name: asdict(part) for name, part in devices.items()}


def _devices_from_json(record: Any) -> dict[str, OnDevice]:
    return {name: OnDevice.from_json(part) for name, part in record.items()}


def _nodes_to_json(nodes: Sequence[NodeResources]) -> list[object]:
    return [asdict(node) for node in nodes]


def _nodes_from_json(records: Any) -> tuple[NodeResources, ...]:
    return tuple(NodeResources(**record) for record in records)


def _result_to_json(result: Measurement | MeasurementFailure) -> object:
    return {"error": result.error} if isinstance(result, MeasurementFailure) else result.as_json()


def _result_from_json(record: Any) -> Measurement | MeasurementFailure:
    return MeasurementFailure(record["error"]) if "error" in record else Measurement.from_json(record)


def _summary_to_json(summary: ModelSummary) -> object:
    return _SUMMARY.dump_python(summary, mode="json")


def _resources_to_json(resources: ResourceSpec) -> object:
    return resources.model_dump(mode="json")


_SUMMARY = TypeAdapter(ModelSummary)
_BARS = TypeAdapter(tuple[StageBar, ...])


def _bars_to_json(bars: Sequence[StageBar]) -> object:
    return _BARS.dump_python(tuple(bars), mode="json", by_alias=True)


_SHAPE = TypeAdapter(ImageShape)


def _shape_to_json(shape: ImageShape) -> object:
    return asdict(shape)


def _account_to_json(account: DataAccount) -> object:
    return asdict(account)


ProfileColumn = JsonOf(DeviceProfile.as_json, DeviceProfile.from_json)
MeasurementColumn = JsonOf(Measurement.as_json, Measurement.from_json)
OnDevicesColumn = JsonOf(_devices_to_json, _devices_from_json)
ResultColumn = JsonOf(_result_to_json, _result_from_json)
TimingColumn = JsonOf(Timing.as_json, Timing.from_json)
NodesColumn = JsonOf(_nodes_to_json, _nodes_from_json)
ResourcesColumn = JsonOf(_resources_to_json, ResourceSpec.model_validate)
BarsColumn = JsonOf(_bars_to_json, _BARS.validate_python)
SummaryColumn = JsonOf(_summary_to_json, _SUMMARY.validate_python)
ShapeColumn = JsonOf(_shape_to_json, _SHAPE.validate_python)
AccountColumn = JsonOf(_account_to_json, data_account_from_json)
StateColumn = JsonOf(state_to_json, state_from_json)
