"""A search is an iterator of events, and its state is a fold over them. Resuming is folding what was kept.

Events are frozen values; ``encode`` and ``decode`` carry them as JSON through the database and to every screen.
All events are here, beside the state that they are folded into, so that a reader finds what each of them changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from typing import ClassVar, Literal

from pydantic import TypeAdapter, ValidationError

from nas.core.arch import Arch
from nas.core.conclusion import Conclusion
from nas.core.data_account import DataAccount
from nas.core.device import DeviceProfile, Measurement, OnDevice, Status, over_fleet, verification_status
from nas.core.errors import InvalidInput
from nas.core.json_types import JsonObject
from nas.core.lifecycle import JobStatus
from nas.core.metrics import SHARES

Origin = Literal["search", "baseline", "reference"]
StageResults = Mapping[str, JsonObject]  # results as JSON, by stage
EncodedEvent = JsonObject  # one event as JSON, see ``encode``


@dataclass(frozen=True)
class Candidate:
    """One evaluated network. ``metrics`` maps names of ``nas.core.metrics.METRICS`` to values.

    ``measured_ms`` enters only through a ``Measured`` event, together with its protocol. In a search over a fleet,
    ``devices`` says what is known on each; latencies, status and measurement are then those of ``over_fleet``.
    ``extrapolated``: whether it lies outside the applicability domain of the latency predictor (over a fleet, of any),
    so that its latency is to be measured rather than believed; None where the predictor has no domain.
    """

    arch: Arch
    origin: Origin
    metrics: Mapping[str, float] = field(default_factory=dict)
    status: Status = "unverified"
    promised_ms: float | None = None
    measurement: Measurement | None = None
    devices: Mapping[str, OnDevice] = field(default_factory=dict)
    extrapolated: bool | None = None

    def on(self, device: str) -> Candidate:
        """The network as one device of the fleet has it."""
        part = self.devices[device]
        metrics = {k: v for k, v in self.metrics.items() if k not in SHARES and k not in SHARES.values()}
        metrics |= {"predicted_ms": part.predicted_ms, "upper_ms": part.upper_ms}
        if part.measured_ms is not None:
            metrics["measured_ms"] = part.measured_ms
        return replace(
            self, metrics=metrics, status=part.status, promised_ms=part.promised_ms, measurement=part.measurement
        )

    @property
    def key(self) -> tuple[str, str]:
        """Identity inside a search: where it came from and which network it is."""
        return (self.origin, self.arch.id)


@dataclass(frozen=True)
class DataRead:
    """The data set was read by a worker, for the first time in this search; later attempts must read the same."""

    kind: ClassVar[str] = "data_read"
    account: DataAccount


@dataclass(frozen=True)
class StageStarted:
    """A stage begins. ``position`` counts from 0 of ``total``."""

    kind: ClassVar[str] = "stage_started"
    stage: str
    position: int
    total: int


@dataclass(frozen=True)
class Progress:
    """``done`` of ``total`` units of a stage; ``values`` are live readings such as a loss, by name."""

    kind: ClassVar[str] = "progress"
    stage: str
    done: int
    total: int
    unit: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    message: str = ""


@dataclass(frozen=True)
class Traced:
    """A reading of a stage at ``step`` that is kept for its chart, such as once an epoch: ``values`` by name, and
    ``table``, rows of numbers between 0 and 1 under ``rows`` and ``columns``."""

    kind: ClassVar[str] = "traced"
    stage: str
    step: int
    values: Mapping[str, float] = field(default_factory=dict)
    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    table: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Evaluated:
    """New or updated candidates. Metrics of an earlier event are kept unless they are overwritten."""

    kind: ClassVar[str] = "evaluated"
    candidates: tuple[Candidate, ...]

    def __post_init__(self) -> None:
        for p in self.candidates:
            measured = p.measurement is not None or any(d.measurement is not None for d in p.devices.values())
            if measured or "measured_ms" in p.metrics or "measured_share" in p.metrics:
                raise InvalidInput("a measured latency needs its protocol: yield Measured, not Evaluated")


@dataclass(frozen=True)
class Measured:
    """A network was measured on the device, or on that ``device`` of a fleet; ``promised_ms`` is what the search had
    promised for it there, None where nothing could predict it: for references of other spaces."""

    kind: ClassVar[str] = "measured"
    arch: Arch
    origin: Origin
    measurement: Measurement
    promised_ms: float | None
    device: str | None = None


@dataclass(frozen=True)
class ClassRecall:
    """A network was tested with the weights that are exported: the share of each class's test images that it
    recognises, in %, in the order of the class names; None for a class without images."""

    kind: ClassVar[str] = "class_recall"
    arch: Arch
    recall_by_class: tuple[float | None, ...]


@dataclass(frozen=True)
class Concluded:
    """All stages are done, and the results are not what a reader expects."""

    kind: ClassVar[str] = "concluded"
    conclusions: tuple[Conclusion, ...]


@dataclass(frozen=True)
class InputRefused:
    """The job's input cannot be used, however often it is tried; the job fails with the same ``reason``."""

    kind: ClassVar[str] = "input_refused"
    reason: str


@dataclass(frozen=True)
class MeasurementsWanted:
    """The job waits until the agent of a device has measured networks: ``networks`` gives the model of each (sha256) by
    its id, ``profile`` the device with the protocol to measure by. The last word of an attempt."""

    kind: ClassVar[str] = "measurements_wanted"
    stage: str
    profile: DeviceProfile
    networks: Mapping[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """The stage can go on from ``blob`` (sha256). Only the latest of a stage counts."""

    kind: ClassVar[str] = "checkpoint"
    stage: str
    step: int
    blob: str


@dataclass(frozen=True)
class Exported:
    """An artifact of a network lies in the blob store under ``blob`` (sha256)."""

    kind: ClassVar[str] = "exported"
    arch: Arch
    name: str
    blob: str
    size_bytes: int
    media_type: str
    report: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class HypervolumeAt:
    """Hypervolume of search and baseline after ``evaluations`` subnets each, of *estimated* candidates; 0 to 1.
    ``device``: whose front it is, where each device of a fleet has one."""

    kind: ClassVar[str] = "hypervolume"
    evaluations: int
    search: float
    baseline: float
    device: str | None = None


@dataclass(frozen=True)
class Refitted:
    """The device's latency predictor was fitted anew, for the ``number``-th time in this search (from 1), with what the
    search has measured. By then it had ``evaluated`` so many networks and tried to measure those with the keys
    ``measured``; ``broken`` of them, since the time before, had broken their bound. ``record`` is what is kept of the
    predictor, as ``nas.core.ports.Refit``."""

    kind: ClassVar[str] = "refitted"
    stage: str
    number: int
    measured: tuple[tuple[str, str], ...]
    evaluated: int
    broken: int
    record: JsonObject


@dataclass(frozen=True)
class Warned:
    """Something the user should know; the search goes on."""

    kind: ClassVar[str] = "warned"
    stage: str
    message: str


@dataclass(frozen=True)
class StageFinished:
    """A stage ended after ``seconds`` of this attempt; ``result`` is small JSON that later stages and screens read."""

    kind: ClassVar[str] = "stage_finished"
    stage: str
    seconds: float
    result: JsonObject = field(default_factory=dict)


@dataclass(frozen=True)
class StatusChanged:
    """The job went from ``before`` to ``after``. Written by the store alone, in the transaction that changed it.

    ``by`` names who asked for it, empty where the service itself decided; ``reason`` is for people.
    """

    kind: ClassVar[str] = "status"
    before: JobStatus | None
    after: JobStatus
    reason: str = ""
    by: str = ""


Event = (
    StageStarted
    | Progress
    | Traced
    | Evaluated
    | Measured
    | MeasurementsWanted
    | Checkpoint
    | Exported
    | HypervolumeAt
    | Refitted
    | Warned
    | StageFinished
    | StatusChanged
    | DataRead
    | ClassRecall
    | Concluded
    | InputRefused
)

_TYPES: Mapping[str, type[Event]] = {
    t.kind: t
    for t in (
        StageStarted,
        Progress,
        Traced,
        Evaluated,
        Measured,
        MeasurementsWanted,
        Checkpoint,
        Exported,
        HypervolumeAt,
        Refitted,
        Warned,
        StageFinished,
        StatusChanged,
        DataRead,
        ClassRecall,
        Concluded,
        InputRefused,
    )
}


def encode(event: Event) -> EncodedEvent:
    """The event as a JSON-ready record with its ``kind``."""
    return {"kind": event.kind, **asdict(event)}


def decode(record: EncodedEvent) -> Event:
    """Inverse of ``encode``; keys that this version does not know are ignored. Raises InvalidInput for an unknown kind
    and for values of the wrong type."""
    kind = record.get("kind")
    if kind not in _TYPES:
        raise InvalidInput(f"unknown event kind {kind!r}: expected one of {', '.join(_TYPES)}")
    if "points" in record:  # as the logs of version 0.1 call them
        record = {**record, "candidates": record["points"]}
    try:
        return _adapter(kind).validate_python(record)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InvalidInput(f"a malformed {kind} event: {wrong}") from error


@cache
def _adapter(kind: str) -> TypeAdapter[Event]:
    return TypeAdapter(_TYPES[kind])


@dataclass(frozen=True)
class SearchState:
    """The fold of a search's events. Treat as a value: ``fold`` returns the next one. ``data`` is None
    before the data were read, and in searches of versions that kept no account of them. ``class_recall``: what
    ``ClassRecall`` events say, by architecture id; ``refused``: whether its input cannot be used."""

    stage: str | None = None
    finished: StageResults = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict)
    candidates: Mapping[tuple[str, str], Candidate] = field(default_factory=dict)
    exports: tuple[Exported, ...] = ()
    hypervolume: tuple[HypervolumeAt, ...] = ()
    warnings: tuple[str, ...] = ()
    refits: tuple[Refitted, ...] = ()
    data: DataAccount | None = None
    class_recall: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    conclusions: tuple[Conclusion, ...] = ()
    refused: bool = False

    def of(self, origin: Origin) -> list[Candidate]:
        """The candidates of one origin, in the order they were first evaluated."""
        return [p for p in self.candidates.values() if p.origin == origin]


def fold(state: SearchState, event: Event) -> SearchState:
    """The state after one more event."""
    match event:
        case DataRead():
            return replace(state, data=event.account)
        case ClassRecall():
            return replace(state, class_recall={**state.class_recall, event.arch.id: event.recall_by_class})
        case Concluded():
            return replace(state, conclusions=event.conclusions)
        case InputRefused():
            return replace(state, refused=True)
        case StageStarted():
            return replace(state, stage=event.stage)
        case Evaluated() | Measured():
            candidates = dict(state.candidates)
            _place(candidates, event)
            return replace(state, candidates=candidates)
        case Checkpoint():
            return replace(state, checkpoints={**state.checkpoints, event.stage: event})
        case Exported():
            other_exports = tuple(e for e in state.exports if (e.arch.id, e.name) != (event.arch.id, event.name))
            return replace(state, exports=(*other_exports, event))
        case HypervolumeAt():
            earlier_volumes = tuple(
                h for h in state.hypervolume if h.device != event.device or h.evaluations < event.evaluations
            )
            return replace(state, hypervolume=(*earlier_volumes, event))
        case Refitted():
            earlier_refits = tuple(r for r in state.refits if r.number < event.number)
            return replace(state, refits=(*earlier_refits, event))
        case Warned():
            return replace(state, warnings=(*state.warnings, event.message))
        case StageFinished():
            before = state.seconds.get(event.stage, 0.0)
            return replace(
                state,
                finished={**state.finished, event.stage: event.result},
                seconds={**state.seconds, event.stage: before + event.seconds},
            )
        case Progress() | Traced() | StatusChanged() | MeasurementsWanted():
            return state


def fold_all(events: Iterable[Event], state: SearchState | None = None) -> SearchState:
    """The state after many events. Points are copied once, not once for every event."""
    state = state or SearchState()
    candidates = dict(state.candidates)
    state = replace(state, candidates=candidates)
    for event in events:
        if isinstance(event, Evaluated | Measured):
            _place(candidates, event)
        else:
            state = fold(state, event)
    return state


def _place(candidates: dict[tuple[str, str], Candidate], event: Evaluated | Measured) -> None:
    """Add the candidates of an event, or change those that exist."""
    if isinstance(event, Evaluated):
        for p in event.candidates:
            key = p.key
            old = candidates.get(key)
            candidates[key] = _merged(old, p) if old is not None else p
        return
    key = (event.origin, event.arch.id)
    old = candidates.get(key, Candidate(event.arch, event.origin))
    status = verification_status(event.measurement, event.promised_ms)
    metrics = {k: v for k, v in old.metrics.items() if k not in ("measured_ms", "measured_share")}
    devices = dict(old.devices)
    overall = OnDevice(0.0, 0.0, status, event.promised_ms, event.measurement)
    if event.device is not None:
        if event.device not in devices:
            raise InvalidInput(
                f"network {event.arch.id} was measured on {event.device!r}, for which nothing predicted it"
            )
        part = replace(
            devices[event.device], status=status, promised_ms=event.promised_ms, measurement=event.measurement
        )
        devices[event.device] = part
        overall = over_fleet([*devices.values()])
    if overall.measured_ms is not None:
        metrics["measured_ms"] = overall.measured_ms
        shares = [100.0 * d.measured_ms / d.promised_ms for d in devices.values() if d.measured_ms and d.promised_ms]
        if shares and "predicted_share" in metrics:  # what is claimed of a device with a bound is the bound
            metrics["measured_share"] = max(shares)
    candidates[key] = replace(
        old,
        metrics=metrics,
        status=overall.status,
        promised_ms=overall.promised_ms,
        measurement=overall.measurement,
        devices=devices,
    )


def _merged(old: Candidate, new: Candidate) -> Candidate:
    """The old candidate with the metrics of the new one. Measurements on devices stay, predictions are replaced; an
    event without predictions does not change ``extrapolated``."""
    devices = dict(old.devices)
    for name, part in new.devices.items():
        before = devices.get(name, part)
        devices[name] = replace(before, predicted_ms=part.predicted_ms, upper_ms=part.upper_ms)
    extrapolated = old.extrapolated if new.extrapolated is None else new.extrapolated
    return replace(old, metrics={**old.metrics, **new.metrics}, devices=devices, extrapolated=extrapolated)
