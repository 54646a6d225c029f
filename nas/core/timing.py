"""What a device's agent receives and sends: a network to measure, and the raw times of its inferences.

Needs neither numpy nor pydantic, since an agent runs without the service's packages.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from nas.core.device import DeviceProfile
from nas.core.errors import InvalidInput
from nas.core.gpu_clocks import GpuClocks
from nas.core.json_types import JsonObject
from nas.core.placement import LayerTime, Placement

_DIGITS = 6  # significant digits of a time that is sent


@dataclass(frozen=True)
class MeasurementTask:
    """A leased task: measure ``network``, whose ONNX model has the ``sha256``, on the device and by the protocol of
    ``profile``. The lease has to be renewed within ``lease_seconds``."""

    id: str
    lease: str
    network: str
    sha256: str
    profile: DeviceProfile
    lease_seconds: float

    @staticmethod
    def from_json(record: JsonObject) -> MeasurementTask:
        """Read the JSON form."""
        return MeasurementTask(**{**record, "profile": DeviceProfile.from_json(record["profile"])})


@dataclass(frozen=True)
class Visit:
    """One visit to a network: ``network_ms`` per inference of each uninterrupted chunk, and ``canary_ms``, the slower
    of the canary chunks before and after it. ``interrupted_ms`` is the processor time per inference of chunks during
    which the process lost its core. ``level_ms`` is the undisturbed level of the canary at the time."""

    network_ms: tuple[float, ...]
    canary_ms: tuple[float, ...]
    interrupted_ms: tuple[float, ...]
    level_ms: float


@dataclass(frozen=True)
class Sitting:
    """The times of one network in one process. ``runs`` inferences were timed; ``steps_back`` counts how often the
    clock went backwards, ``steady`` whether the warm-up ended in a steady state. ``slope`` is how much more the
    disturbances of this sitting slowed its networks than the canary, as ``MachineNoise.slope``; ``canary_quantiles_ms``
    describes all canary chunks at ``QUANTILES``."""

    visits: tuple[Visit, ...]
    runs: int
    steady: bool = True
    steps_back: int = 0
    slope: tuple[float, float] | None = None
    canary_quantiles_ms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Timing:
    """The raw times of one network, by sitting, how long loading its model took in ms, and what ``Measurement`` says of
    placement, memory, energy, layers and the clocks of a GPU."""

    sittings: tuple[Sitting, ...]
    cold_load_ms: float | None = None
    warm_load_ms: float | None = None
    placement: Placement | None = None
    peak_bytes: int | None = None
    energy_mj: float | None = None
    layers: tuple[LayerTime, ...] = ()
    gpu: GpuClocks | None = None

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready record; ``Timing.from_json`` reads it back."""
        return {
            "sittings": [sitting_as_json(s) for s in self.sittings],
            "cold_load_ms": self.cold_load_ms,
            "warm_load_ms": self.warm_load_ms,
            "placement": None if self.placement is None else asdict(self.placement),
            "peak_bytes": self.peak_bytes,
            "energy_mj": self.energy_mj,
            "layers": [asdict(layer) for layer in self.layers],
            "gpu": None if self.gpu is None else asdict(self.gpu),
        }

    @staticmethod
    def from_json(record: JsonObject) -> Timing:
        """Inverse of ``as_json``. Raises InvalidInput for times that no clock gives."""
        placement = record.get("placement")
        return Timing(
            tuple(sitting_from_json(s) for s in record["sittings"]),
            record["cold_load_ms"],
            record["warm_load_ms"],
            None if placement is None else Placement.from_json(placement),
            record.get("peak_bytes"),
            record.get("energy_mj"),
            tuple(LayerTime.from_json(layer) for layer in record.get("layers", ())),
            None if record.get("gpu") is None else GpuClocks.from_json(record["gpu"]),
        )


def check_visit(visit: Visit) -> None:
    """Raises InvalidInput for times that no clock gives, and for a chunk without its canary."""
    if len(visit.network_ms) != len(visit.canary_ms):
        raise InvalidInput(
            f"expected a canary time for each of {len(visit.network_ms)} chunks, got {len(visit.canary_ms)}"
        )
    times = [*visit.network_ms, *visit.canary_ms, *visit.interrupted_ms, visit.level_ms]
    if not all(0 < t < math.inf for t in times):
        raise InvalidInput("expected times that a clock gives: positive and finite")


def sitting_as_json(sitting: Sitting) -> dict[str, Any]:
    """A JSON-ready record, its times rounded to six significant digits."""
    record = asdict(sitting)
    for visit in record["visits"]:
        for name in ("network_ms", "canary_ms", "interrupted_ms"):
            visit[name] = [_rounded(ms) for ms in visit[name]]
    record["canary_quantiles_ms"] = [_rounded(ms) for ms in sitting.canary_quantiles_ms]
    return record


def sitting_from_json(record: JsonObject) -> Sitting:
    """Inverse of ``sitting_as_json``. Raises InvalidInput for times that no clock gives, and for a chunk without its
    canary."""
    visits = tuple(
        Visit(tuple(v["network_ms"]), tuple(v["canary_ms"]), tuple(v["interrupted_ms"]), float(v["level_ms"]))
        for v in record["visits"]
    )
    for visit in visits:
        check_visit(visit)
    slope = record["slope"]
    return Sitting(
        visits,
        int(record["runs"]),
        bool(record["steady"]),
        int(record["steps_back"]),
        (float(slope[0]), float(slope[1])) if slope is not None else None,
        tuple(record["canary_quantiles_ms"]),
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
