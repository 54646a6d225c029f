"""What else there is to know of a network on a device: where its nodes ran, how much memory and energy it took.

Each model is loaded in a fork of a process that has imported the runtime and loaded nothing, so that the growth of the
resident set is its own. Nothing here is timed.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from nas.core.errors import HwnasError, MeasurementRefused
from nas.core.gpu_clocks import GpuClocks
from nas.core.json_types import JsonObject
from nas.core.placement import LayerTime, Placement
from nas.core.runtimes import Execution, LoadedModel, Runtime
from predictors.measurement.energy import EnergyMeter, clock_reader, find_meter

MEMORY_RUNS = 3  # before memory is read: onnxruntime plans its memory in the first run, and takes it in the second
METERED_MS = 400.0  # for which a network runs while its energy is metered; meters tick every few milliseconds
_STATUS = Path("/proc/self/status")
_RESET_PEAK = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class Inspection:
    """Placement and layer times as the runtime reports them, the bytes by which the process grew while the model was
    loaded and ran, the energy of an inference in mJ, and the clocks of a GPU after some inferences; None where the
    system has no such figure."""

    placement: Placement
    layers: tuple[LayerTime, ...] = ()
    peak_bytes: int | None = None
    energy_mj: float | None = None
    gpu: GpuClocks | None = None

    @staticmethod
    def from_json(record: JsonObject) -> Inspection:
        """From the JSON form of ``dataclasses.asdict``."""
        return Inspection(
            Placement.from_json(record["placement"]),
            tuple(LayerTime.from_json(layer) for layer in record["layers"]),
            record["peak_bytes"],
            record["energy_mj"],
            None if record.get("gpu") is None else GpuClocks.from_json(record["gpu"]),
        )


def inspect(runtime: Runtime, model: bytes, execution: Execution) -> Inspection:
    """Load and run a model, in this process, and ask for its placement. Raises MeasurementRefused."""
    prepared = runtime.prepare(model, execution)
    gc.collect()
    before = _resident_bytes()
    if before is not None:
        _RESET_PEAK.write_text("5")  # the high-water mark of the resident set, see proc(5)
    loaded = runtime.load(prepared, execution)
    for _ in range(MEMORY_RUNS):
        loaded.run()
    loaded.synchronise()
    peak = _resident_bytes("VmHWM")
    meter = find_meter(execution.target)
    energy_mj = None if meter is None else metered_mj(loaded, meter, time.perf_counter)
    read_clocks = clock_reader(execution.target)
    gpu = None if read_clocks is None else clocks_under_load(loaded, read_clocks, time.perf_counter)
    report = runtime.report(prepared, execution)
    grown = None if before is None or peak is None else max(0, peak - before)
    return Inspection(report.placement, report.layers, grown, energy_mj, gpu)


def clocks_under_load(
    loaded: LoadedModel, read_clocks: Callable[[], GpuClocks], clock_s: Callable[[], float]
) -> GpuClocks:
    """The clocks of the GPU once the network has run for ``METERED_MS``, while inferences are still to end."""
    end_s = clock_s() + METERED_MS / 1e3
    while clock_s() < end_s:
        loaded.run()
    loaded.run()
    clocks = read_clocks()
    loaded.synchronise()
    return clocks


def metered_mj(loaded: LoadedModel, meter: EnergyMeter, clock_s: Callable[[], float]) -> float | None:
    """Energy of an inference in mJ, over as many as fit into ``METERED_MS``; None if the meter did not move."""
    loaded.run()
    loaded.synchronise()
    start_mj, end_s, runs = meter(), clock_s() + METERED_MS / 1e3, 0
    while clock_s() < end_s or runs == 0:
        loaded.run()
        runs += 1
    loaded.synchronise()
    used_mj = meter() - start_mj
    return used_mj / runs if used_mj > 0 else None


def inspect_in_fork(runtime: Runtime, model: bytes, execution: Execution) -> Inspection:
    """``inspect`` in a copy of this process, where the system can make one. Raises MeasurementRefused with the reason
    if it fails or dies."""
    if not sys.platform.startswith("linux"):
        return inspect(runtime, model, execution)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        os._exit(_answer(write_end, runtime, model, execution))
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        text = answer.read()
    _, status = os.waitpid(child, 0)
    record = json.loads(text) if text else {"error": f"the process that inspected the model ended with {status}"}
    if "error" in record:
        raise MeasurementRefused(record["error"])
    return Inspection.from_json(record)


def _answer(write_end: int, runtime: Runtime, model: bytes, execution: Execution) -> int:
    """The child's half: write the inspection, or the reason why there is none, and return the exit status."""
    try:
        record: JsonObject = asdict(inspect(runtime, model, execution))
    except HwnasError as error:
        record = {"error": str(error)}
    except Exception as error:  # noqa: BLE001  # the parent raises it: a runtime's errors share no base
        traceback.print_exc()
        record = {"error": f"{runtime.name} cannot report where the model ran: {error}"}
    with os.fdopen(write_end, "wb") as answer:
        answer.write(json.dumps(record).encode())
    return 0


def _resident_bytes(entry: str = "VmRSS") -> int | None:
    """The resident set of this process, or its high-water mark; None where the system does not tell."""
    if not _STATUS.exists():
        return None
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(entry))
    return int(line.split()[1]) * 1024
