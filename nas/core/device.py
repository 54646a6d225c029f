"""Devices, the measurement protocol, and what a measurement is. No number exists here without its protocol."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from nas.core.arch import Floats
from nas.core.errors import HwnasError
from nas.core.gpu_clocks import GpuClocks
from nas.core.json_types import JsonObject
from nas.core.placement import LayerTime, Placement
from nas.core.runtimes import Execution, Precision, RuntimeTarget

Status = Literal["unverified", "verified", "violated", "fallback"]
LatencySource = Literal["worker", "agent", "table", "roofline"]


@dataclass(frozen=True)
class MeasurementProtocol:
    """How latency is measured. Durations are in milliseconds.

    A network is timed in ``sittings``, each a process of its own, since the memory a process happens to get changes a
    small network's time. In a sitting, *visits* of ``visit_ms`` alternate chunks of the network with chunks of the
    canary, a small fixed network. A chunk counts if the canary before and after it lies within ``gate`` of the
    undisturbed level, the ``level_quantile`` of its chunks within ``level_window_ms``. A sitting ends for a network
    once the relative standard error of its median is at most ``target``, or ``budget_ms`` per network are spent.
    Networks whose interval is wider than ``settled`` get further sittings, up to ``most_sittings``, and those whose
    interval holds the latency that was promised for them up to ``close_sittings``. ``session_error`` is the relative
    standard deviation between measurements minutes apart that their own sittings do not show. The reported value is
    what the network takes when nothing disturbs it, with a 95 % interval. See docs/measurement-protocol.md.
    """

    version: int = 3
    threads: int = 1
    batch: int = 1
    precision: Precision = "float32"
    loads: int = 3
    sittings: int = 3
    most_sittings: int = 5
    survey_ms: float = 100.0
    patience_ms: float = 3000.0
    warmup_ms: float = 30.0
    warmup_windows: int = 20
    chunk_ms: float = 0.1
    chunk_ticks: int = 100
    visit_ms: float = 10.0
    fewest_visits: int = 4
    fewest_chunks: int = 20
    gate: float = 0.05
    quantile: float = 0.25
    level_quantile: float = 0.05
    level_window_ms: float = 5000.0
    target: float = 0.003
    budget_ms: float = 600.0
    settled: float = 0.03
    close_sittings: int = 8
    session_error: float = 0.004

    @property
    def shortest_ms(self) -> float:
        """The least time that a network takes, over all of its sittings, loading aside."""
        return self.sittings * (self.warmup_ms + self.fewest_visits * self.visit_ms)

    @property
    def longest_ms(self) -> float:
        """The time after which a network is not measured any further."""
        return self.close_sittings * (self.warmup_windows * self.visit_ms + self.budget_ms)

    @property
    def id(self) -> str:
        """Content id of the protocol."""
        return _content_id(asdict(self))


@dataclass(frozen=True)
class MachineNoise:
    """How steady a machine was when it was profiled.

    ``floor`` is the relative standard deviation between sittings of one network when nothing disturbs it. ``levels``
    are the times of the canary relative to its undisturbed level: 1, and the median of the disturbed chunks if there
    are more than a few; ``undisturbed`` is the share of its chunks at the undisturbed level. ``slope`` is how much
    more a disturbance slows networks than the canary, as mean and standard deviation of d log(network) / d
    log(canary); None if no disturbance was seen. ``load`` is the system's load average over a minute, None where there
    is none.
    """

    floor: float
    levels: tuple[float, ...]
    undisturbed: float
    slope: tuple[float, float] | None = None
    load: float | None = None

    @staticmethod
    def from_json(record: JsonObject) -> MachineNoise:
        """Inverse of ``dataclasses.asdict``, through JSON."""
        slope = record.get("slope")
        return MachineNoise(
            **{
                **record,
                "levels": tuple(record["levels"]),
                "slope": (float(slope[0]), float(slope[1])) if slope is not None else None,
            }
        )


@dataclass(frozen=True)
class DeviceProfile:
    """What a device is, frozen: the machine, the runtime and the protocol. A change of any makes another profile.

    ``source`` says where its latencies come from: the machine of a worker, a machine with an agent, an uploaded table,
    or peak figures (``roofline``). ``driver`` is the version of what lies below the runtime, if it is known.
    ``canary_ms`` is the undisturbed level of the canary, and ``noise`` how steady the machine was; both are None until
    they are measured.
    """

    name: str
    machine: str
    processor: str
    cores: int
    runtime: str
    runtime_version: str
    os: str
    protocol: MeasurementProtocol = field(default_factory=MeasurementProtocol)
    affinity: tuple[int, ...] = ()
    canary_ms: float | None = None
    source: LatencySource = "worker"
    driver: str = ""
    noise: MachineNoise | None = None

    @property
    def target(self) -> RuntimeTarget:
        """The runtime and its provider as ``runtime`` names them."""
        return RuntimeTarget.parse(self.runtime)

    @property
    def execution(self) -> Execution:
        """How models are run on it."""
        protocol = self.protocol
        return Execution(self.target, protocol.threads, protocol.batch, precision=protocol.precision)

    @property
    def measurable(self) -> bool:
        """Whether networks can be measured on it: not on one that is known by a table or by peak figures only."""
        return self.source in ("worker", "agent")

    @property
    def id(self) -> str:
        """Content id over everything but the canary's speed and the noise at the time."""
        record = asdict(self)
        for measured in ("canary_ms", "noise"):
            record.pop(measured)
        return _content_id(record)

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready record; ``DeviceProfile.from_json`` reads it back."""
        return asdict(self)

    @staticmethod
    def from_json(record: JsonObject) -> DeviceProfile:
        """Inverse of ``as_json``."""
        return DeviceProfile(
            **{
                **record,
                "protocol": _protocol_from_json(record["protocol"]),
                "affinity": tuple(record.get("affinity", ())),
                "noise": MachineNoise.from_json(record["noise"]) if record.get("noise") is not None else None,
            }
        )


class NotMeasuredYet(HwnasError):
    """Networks have to be measured elsewhere before the job can go on. ``networks`` gives the blob of each by its id,
    ``profile`` the device; ``further_devices``: what further devices have to measure meanwhile."""

    code = "not_measured_yet"

    def __init__(
        self, profile: DeviceProfile, networks: Mapping[str, str], further_devices: tuple[NotMeasuredYet, ...] = ()
    ) -> None:
        super().__init__(f"device {profile.name!r} has to measure {len(networks)} networks first")
        self.profile = profile
        self.networks = networks
        self.further_devices = further_devices

    @classmethod
    def on_all(cls, devices: list[NotMeasuredYet]) -> NotMeasuredYet:
        """All of them at once, so that no device waits for another."""
        first, *further_devices = devices
        return cls(first.profile, first.networks, tuple(further_devices))


@dataclass(frozen=True)
class Measurement:
    """The measured latency of one network: what it takes when nothing disturbs it, with a 95 % confidence interval.

    All times are in ms. ``refused`` holds the reason if the times say nothing; the numbers are then None.
    ``samples_ms`` is one value per sitting, corrected for the machine's speed; ``sample_error`` is their relative
    standard error within sittings; ``drift_error`` bounds the relative error that the correction for a disturbed or
    changed machine may have made, which more samples do not reduce. ``variation`` is the relative standard deviation
    between sittings, ``drift`` the canary's undisturbed level over that of the profile, ``undisturbed`` the share of
    chunks in which nothing disturbed the network. ``p90_ms`` and ``p99_ms`` are percentiles over all chunks as they
    were timed, disturbed ones included. ``cold_load_ms`` is the first load of the model in a process with one
    inference, ``warm_load_ms`` a later load; None where they were not timed. ``placement`` says which providers ran the
    network, ``peak_bytes`` by how much the process grew when it loaded and ran it, ``energy_mj`` what an inference took
    as a meter shows; None where the runtime, the system or the machine does not tell. ``layers`` are the times of the
    network's nodes under the runtime's profiler, which are no part of the value. ``gpu`` are the clocks of the GPU that
    ran it, None where there is none that tells.
    """

    protocol: str
    profile: str
    median_ms: float | None
    low_ms: float | None
    high_ms: float | None
    runs: int
    variation: float
    drift: float
    refused: str | None = None
    samples_ms: tuple[float, ...] = ()
    p90_ms: float | None = None
    p99_ms: float | None = None
    cold_load_ms: float | None = None
    warm_load_ms: float | None = None
    sample_error: float = 0.0
    drift_error: float = 0.0
    undisturbed: float = 1.0
    placement: Placement | None = None
    peak_bytes: int | None = None
    energy_mj: float | None = None
    layers: tuple[LayerTime, ...] = ()
    gpu: GpuClocks | None = None

    @property
    def half_width(self) -> float | None:
        """Half of the width of the interval over the value; None if the measurement was refused."""
        if self.median_ms is None or self.low_ms is None or self.high_ms is None:
            return None
        return (self.high_ms - self.low_ms) / (2 * self.median_ms)

    @property
    def standard_error(self) -> float | None:
        """Relative standard error of the value, half of the relative half-width; None if it was refused."""
        return None if self.half_width is None else self.half_width / 2

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return asdict(self)

    @staticmethod
    def from_json(record: JsonObject) -> Measurement:
        """Inverse of ``as_json``."""
        placement = record.get("placement")
        return Measurement(
            **{
                **record,
                "samples_ms": tuple(record.get("samples_ms", ())),
                "placement": Placement.from_json(placement) if placement is not None else None,
                "layers": tuple(LayerTime.from_json(layer) for layer in record.get("layers", ())),
                "gpu": GpuClocks.from_json(record["gpu"]) if record.get("gpu") is not None else None,
            }
        )


@dataclass(frozen=True)
class OnDevice:
    """What is known of a network on one device of a fleet: what was predicted there, promised, and measured."""

    predicted_ms: float
    upper_ms: float
    status: Status = "unverified"
    promised_ms: float | None = None
    measurement: Measurement | None = None

    @property
    def measured_ms(self) -> float | None:
        """What was measured; None before, and if the measurement was refused."""
        return self.measurement.median_ms if self.measurement is not None else None

    @staticmethod
    def from_json(record: JsonObject) -> OnDevice:
        """From the JSON form of ``dataclasses.asdict``."""
        m = record.get("measurement")
        return OnDevice(**{**record, "measurement": Measurement.from_json(m) if m else None})


def over_fleet(parts: Sequence[OnDevice]) -> OnDevice:
    """What all devices make of a network: ``verified`` only if it is so on every one, ``violated`` if on any, else
    ``fallback`` if on any.

    The latencies are those of the slowest device each. Claim and measurement are those of the slowest as measured, or
    of one where it could not be measured, and None until it was measured on all.
    """
    marks = {part.status for part in parts}
    signs: tuple[Status, ...] = ("violated", "fallback", "unverified")
    status: Status = next((sign for sign in signs if sign in marks), "verified")
    predicted_ms, upper_ms = max(p.predicted_ms for p in parts), max(p.upper_ms for p in parts)
    if any(part.measurement is None for part in parts):
        return OnDevice(predicted_ms, upper_ms, status)
    slowest = max(parts, key=lambda part: math.inf if part.measured_ms is None else part.measured_ms)
    return OnDevice(predicted_ms, upper_ms, status, slowest.promised_ms, slowest.measurement)


@dataclass(frozen=True)
class Latency:
    """Predicted latency of N networks: ``mean_ms`` and the calibrated 95 % bound ``upper_ms``, each shape (N,)."""

    mean_ms: Floats
    upper_ms: Floats


def changes(profiled: DeviceProfile, now: DeviceProfile) -> list[str]:
    """What has changed on a machine since it was profiled, such as ``runtime version: 1.22.0, now 1.23.1``; nothing if
    the profile still holds."""
    fields_compared = ("machine", "processor", "cores", "runtime", "runtime_version", "driver", "os")
    pairs = [(name.replace("_", " "), getattr(profiled, name), getattr(now, name)) for name in fields_compared]
    for name in ("version", "threads"):
        pairs.append((f"protocol {name}", getattr(profiled.protocol, name), getattr(now.protocol, name)))
    return [
        f"{name}: {before or 'unknown'}, now {after or 'unknown'}" for name, before, after in pairs if before != after
    ]


def comparable(measurement: Measurement, profile: DeviceProfile) -> bool:
    """Whether a predictor of the device may learn from it: it was not refused, and was taken on the very device of the
    profile by the very protocol, so that all that is fitted to together was measured alike."""
    alike = (measurement.protocol, measurement.profile) == (profile.protocol.id, profile.id)
    return alike and measurement.refused is None and measurement.median_ms is not None


def verification_status(measurement: Measurement, promised_ms: float | None) -> Status:
    """``verified`` if the whole 95 % interval lies at or below what was promised, ``violated`` if it lies above.

    The promise is the bound the user set, or else the predictor's own upper bound. An interval that holds the promise
    is too close to call, and a refused measurement verifies nothing: both are ``unverified``. A network of which
    another provider ran a node is ``fallback`` unless it is ``violated``: what was measured is not what the device
    promises to run. Where nothing was promised (None), a network is ``verified`` once it is measured.
    """
    if measurement.median_ms is None or measurement.low_ms is None or measurement.high_ms is None:
        return "unverified"
    if promised_ms is not None and measurement.low_ms > promised_ms:
        return "violated"
    if measurement.placement is not None and not measurement.placement.complete:
        return "fallback"
    return "verified" if promised_ms is None or measurement.high_ms <= promised_ms else "unverified"


def _protocol_from_json(record: JsonObject) -> MeasurementProtocol:
    """The protocol of a stored profile. A profile of an earlier version keeps its version, so that it is recognised as
    outdated; the fields that this version does not have are dropped."""
    field_names = {f.name for f in fields(MeasurementProtocol)}
    return MeasurementProtocol(**{k: v for k, v in record.items() if k in field_names})


def _content_id(record: JsonObject) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]
