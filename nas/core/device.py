"""Devices, the measurement protocol, and what a measurement is. No number exists here without its protocol."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from nas.core.arch import Floats

Status = Literal["unverified", "verified", "violated"]
Source = Literal["worker", "agent", "table", "roofline"]


@dataclass(frozen=True)
class MeasurementProtocol:
    """How latency is measured. All durations in milliseconds unless named otherwise.

    One *round* times a block of consecutive inferences of each network in random order, with a block of the canary
    network between any two. A block's sample is the lower ``quantile`` of its uninterrupted inferences: what the
    network takes when nothing disturbs it. It is divided by the drift of the canary blocks around it. The value that is
    reported is the median over rounds. See docs/measurement-protocol.md.
    """

    version: int = 2
    threads: int = 1
    batch: int = 1
    precision: Literal["float32", "int8"] = "float32"
    loads: int = 3
    warmup_ms: float = 30.0
    window_ms: float = 10.0
    windows: int = 20
    agreeing: int = 4
    steady: float = 0.03
    rounds: int = 9
    block_ms: float = 12.0
    chunk_ms: float = 0.1
    chunk_ticks: int = 100
    quantile: float = 0.1
    good_variation: float = 0.03
    max_variation: float = 0.10
    max_drift: float = 0.35
    retries: int = 3

    @property
    def id(self) -> str:
        """Content id of the protocol."""
        return _content_id(asdict(self))


@dataclass(frozen=True)
class DeviceProfile:
    """What a device is, frozen: the machine, the runtime and the protocol. A change of any makes another profile.

    ``source`` says where its latencies come from: the machine of a worker, a machine with an agent, an uploaded table,
    or peak figures (``roofline``). ``driver`` is the version of what lies below the runtime, if it is known.
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
    source: Source = "worker"
    driver: str = ""

    @property
    def measurable(self) -> bool:
        """Whether networks can be measured on it: not on one that is known by a table or by peak figures only."""
        return self.source in ("worker", "agent")

    @property
    def id(self) -> str:
        """Content id over everything but the canary's own speed."""
        record = asdict(self)
        record.pop("canary_ms")
        return _content_id(record)

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready record; ``DeviceProfile.from_json`` reads it back."""
        return asdict(self)

    @staticmethod
    def from_json(record: dict[str, Any]) -> DeviceProfile:
        """Inverse of ``as_json``."""
        return DeviceProfile(
            **{
                **record,
                "protocol": MeasurementProtocol(**record["protocol"]),
                "affinity": tuple(record.get("affinity", ())),
            }
        )


@dataclass(frozen=True)
class Measurement:
    """One network, measured: medians over rounds with a 95 % confidence interval, all in ms, drift divided out.

    ``refused`` holds the reason when the device was too unsteady; the numbers are then None. ``p90_ms`` and ``p99_ms``
    are over single chunks of inferences. ``cold_load_ms`` is loading the model for the first time in a process, first
    inference included, ``warm_load_ms`` loading it again; None where that was not measured.
    ``drift`` is the canary's median time now over its time in the device profile.
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

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready record."""
        return asdict(self)

    @staticmethod
    def from_json(record: dict[str, Any]) -> Measurement:
        """Inverse of ``as_json``."""
        return Measurement(**{**record, "samples_ms": tuple(record.get("samples_ms", ()))})


@dataclass(frozen=True)
class OnDevice:
    """What is known of a network on one device of a fleet: what was predicted there, promised, and measured."""

    predicted_ms: float
    upper_ms: float
    status: Status = "unverified"
    claim_ms: float | None = None
    measurement: Measurement | None = None

    @property
    def measured_ms(self) -> float | None:
        """What was measured; None before, and where the device was too unsteady."""
        return self.measurement.median_ms if self.measurement is not None else None

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> OnDevice:
        """From the JSON form of ``dataclasses.asdict``."""
        m = record.get("measurement")
        return OnDevice(**{**record, "measurement": Measurement.from_json(m) if m else None})


def over_fleet(parts: Sequence[OnDevice]) -> OnDevice:
    """What all devices make of a network: ``verified`` only if it is so on every one, and ``violated`` if on any.

    The latencies are those of the slowest device each. Claim and measurement are those of the slowest as measured, or
    of one where it could not be measured, and None until it was measured on all.
    """
    marks = {part.status for part in parts}
    status: Status = "violated" if "violated" in marks else "verified" if marks == {"verified"} else "unverified"
    predicted_ms, upper_ms = max(p.predicted_ms for p in parts), max(p.upper_ms for p in parts)
    if any(part.measurement is None for part in parts):
        return OnDevice(predicted_ms, upper_ms, status)
    slowest = max(parts, key=lambda part: math.inf if part.measured_ms is None else part.measured_ms)
    return OnDevice(predicted_ms, upper_ms, status, slowest.claim_ms, slowest.measurement)


@dataclass(frozen=True)
class Latency:
    """Predicted latency of N networks: ``mean_ms`` and the calibrated 95 % bound ``upper_ms``, each shape (N,)."""

    mean_ms: Floats
    upper_ms: Floats


def changes(profiled: DeviceProfile, now: DeviceProfile) -> list[str]:
    """What has changed on a machine since it was profiled, such as ``runtime version: 1.22.0, now 1.23.1``; nothing if
    the profile still holds."""
    what = ("machine", "processor", "cores", "runtime", "runtime_version", "driver", "os")
    pairs = [(name.replace("_", " "), getattr(profiled, name), getattr(now, name)) for name in what]
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


def verdict(measurement: Measurement, claim_ms: float) -> Status:
    """``verified`` if the whole 95 % interval lies at or below what was claimed, ``violated`` if the median lies above.

    The claim is the bound the user set, or else the predictor's own upper bound. What is too close to call is neither,
    and a refused measurement verifies nothing: ``unverified``.
    """
    if measurement.median_ms is None or measurement.high_ms is None:
        return "unverified"
    if measurement.median_ms > claim_ms:
        return "violated"
    return "verified" if measurement.high_ms <= claim_ms else "unverified"


def _content_id(record: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:12]
