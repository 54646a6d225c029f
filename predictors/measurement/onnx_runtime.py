"""Measuring latency with onnxruntime, by ``predictors.measurement.protocol``.

Needs onnxruntime, numpy and the plain values of ``nas.core`` alone: the device agent runs this very file. The session
runs in a process of its own (``time_isolated``), so that neither torch's threads nor a worker's disturb it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from nas.core.device import DeviceProfile, LatencySource, Measurement, MeasurementProtocol
from nas.core.errors import HwnasError, MeasurementRefused
from nas.core.timing import Sitting, Timing, sitting_as_json, sitting_from_json
from nas.cpus import available_cpus
from predictors.measurement.protocol import (
    Run,
    Stopwatch,
    judge,
    machine_noise,
    needs_sitting,
    sit,
    time_loading,
)

if sys.platform != "win32":
    import fcntl
    import resource

GROUP = 16  # networks that take turns
SMALL_BYTES = 4_000_000  # of a model whose every load is kept
LOOKS = 5  # sittings from which a machine's speed and noise are learned
LOOK_VISITS = 16  # to each network in a sitting, so that disturbances are seen
LOOK_MS = 1200.0  # how long the canary runs alone in each of them

# onnxruntime's errors share no base class.
_CANNOT_LOAD = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


@dataclass(frozen=True)
class ModelSitting:
    """What one sitting says of one model: its times, and how long loading it took."""

    sitting: Sitting
    cold_load_ms: float
    warm_load_ms: float | None


def measure(
    models: Iterable[bytes],
    profile: DeviceProfile,
    watch: Stopwatch | None = None,
    seed: int = 0,
    survey_ms: float | None = None,
) -> Iterator[ModelSitting]:
    """One sitting of ONNX models in this process, whose affinity it sets, in groups that take turns. ``survey_ms`` as
    in ``protocol.sit``.

    Raises MeasurementRefused when this is not the profile's machine or a model cannot be loaded.
    """
    _require_machine(profile)
    pin(profile.affinity)
    protocol = profile.protocol
    watch = watch or machine_stopwatch(protocol.threads)
    rng = np.random.default_rng(seed)
    canary = load_session(canary_model(), protocol)
    waiting = iter(models)
    while group := list(islice(waiting, GROUP)):
        loaded = [
            time_loading(lambda m=m: load_session(m, protocol), protocol.loads, watch, len(m) <= SMALL_BYTES)  # type: ignore[misc]
            for m in group
        ]
        sittings = sit([runs for runs, _, _ in loaded], canary, profile, watch, rng, survey_ms)
        for sitting, (_, cold_ms, warm_ms) in zip(sittings, loaded, strict=True):
            yield ModelSitting(sitting, cold_ms, warm_ms)


def measure_isolated(
    models: Sequence[bytes],
    profile: DeviceProfile,
    networks: Sequence[str] = (),
    promised_ms: Sequence[float] | None = None,
) -> Iterator[Measurement]:
    """Measures ONNX models on this machine, in child processes (``nas.core.ports.Measurer``). Raises as
    ``time_isolated``."""
    for timing in time_isolated(models, profile, promised_ms):
        yield judge(timing, profile)


def time_isolated(
    models: Sequence[bytes], profile: DeviceProfile, promised_ms: Sequence[float] | None = None
) -> list[Timing]:
    """The protocol's sittings of all models, each in a child process that imports no more than it needs; then further
    sittings of those whose interval is still wide, or holds the latency that was promised.

    Raises MeasurementRefused with the last lines of a child's errors if it dies.
    """
    protocol = profile.protocol
    timed: list[list[ModelSitting]] = [[] for _ in models]
    with tempfile.TemporaryDirectory(prefix="hwnas-measure-") as folder:
        job = _write_job(Path(folder), models, profile)
        promises = [math.nan] * len(models) if promised_ms is None else promised_ms
        due = [*range(len(models))]
        for seed in range(max(protocol.most_sittings, protocol.close_sittings)):
            for i, one in zip(due, _sit_in_child(job, due, seed), strict=True):
                timed[i].append(one)
            due = [i for i in due if needs_sitting(_timing_of(timed[i]), profile, promises[i])]
            if not due:
                break
    return [_timing_of(of_one) for of_one in timed]


def _timing_of(timed: Sequence[ModelSitting]) -> Timing:
    return Timing(tuple(t.sitting for t in timed), timed[0].cold_load_ms, timed[0].warm_load_ms)


def _write_job(job: Path, models: Sequence[bytes], profile: DeviceProfile) -> Path:
    (job / "profile.json").write_text(json.dumps(profile.as_json()))
    for i, model in enumerate(models):
        (job / f"{i:06d}.onnx").write_bytes(model)
    return job


def _sit_in_child(job: Path, rows: Sequence[int], seed: int, survey_ms: float | None = None) -> list[ModelSitting]:
    """One sitting of the models of a job, in a process of its own."""
    (job / "sitting.json").write_text(json.dumps({"models": list(rows), "seed": seed, "survey_ms": survey_ms}))
    command = [sys.executable, "-m", "predictors.measurement.onnx_runtime", str(job)]
    errors = job / "stderr.txt"
    timed = []
    with (
        errors.open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True) as child,
    ):
        assert child.stdout is not None
        try:
            for line in child.stdout:
                record = json.loads(line)
                timed.append(
                    ModelSitting(sitting_from_json(record["sitting"]), record["cold_load_ms"], record["warm_load_ms"])
                )
        finally:
            if len(timed) < len(rows):
                child.kill()
    if child.returncode != 0 or len(timed) != len(rows):
        tail = errors.read_text(errors="replace").strip().splitlines()[-3:]
        raise MeasurementRefused(
            f"the measuring process ended with {child.returncode} after {len(timed)} of {len(rows)} networks: "
            + " ".join(tail)
        )
    return timed


def describe_machine(name: str, protocol: MeasurementProtocol, source: LatencySource = "worker") -> DeviceProfile:
    """This machine and runtime as a profile, its canary not yet measured. The last allowed cores are chosen: the first
    ones serve most interrupts."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    about = _cpuinfo()
    return DeviceProfile(
        name=name,
        machine=platform.machine(),
        processor=about.get("model name") or about.get("hardware") or platform.processor() or "unknown",
        cores=available_cpus(),
        runtime="onnxruntime CPUExecutionProvider",
        runtime_version=onnxruntime.__version__,
        os=f"{platform.system()} {platform.release()}",
        protocol=protocol,
        affinity=tuple(cores[-protocol.threads :]),
        source=source,
        driver=f"microcode {about['microcode']}" if "microcode" in about else "",
    )


def profile_machine(name: str, threads: int = 1, source: LatencySource = "worker") -> DeviceProfile:
    """The profile of this machine with its canary's undisturbed time and its noise, from about ten seconds of sittings
    of reference networks, each in a process of its own.

    Raises MeasurementRefused when the machine has fewer cores than ``threads``, or its clock cannot be used.
    """
    profile = describe_machine(name, MeasurementProtocol(threads=threads), source)
    require_cores(profile)
    models = [canary_model(), *reference_models()]
    with tempfile.TemporaryDirectory(prefix="hwnas-profile-") as folder:
        long_visits = replace(profile, protocol=replace(profile.protocol, fewest_visits=LOOK_VISITS))
        job = _write_job(Path(folder), models, long_visits)
        timed = [_sit_in_child(job, range(len(models)), seed, LOOK_MS) for seed in range(LOOKS)]
    by_network = [[of_one[i].sitting for of_one in timed] for i in range(len(models))]
    levels_ms = np.array([v.level_ms for s in by_network[0] for v in s.visits])
    # Sittings that met no undisturbed moment say nothing of the undisturbed level.
    near = levels_ms[levels_ms <= (1 + profile.protocol.gate) * levels_ms.min()]
    profile = replace(profile, canary_ms=float(near.mean()))
    return replace(profile, noise=machine_noise(by_network, profile, _load()))


def require_cores(profile: DeviceProfile) -> None:
    """Raises MeasurementRefused for more threads than this machine has cores for."""
    cores, threads = len(profile.affinity), profile.protocol.threads
    if profile.affinity and cores < threads:
        raise MeasurementRefused(f"expected at most {cores} threads, one for each core, got {threads}")


def canary_model() -> bytes:
    """A small fixed network with the kinds of layers that searches use; its time measures the machine's present
    speed."""
    return files("predictors.measurement").joinpath("canary.onnx").read_bytes()


def reference_models() -> list[bytes]:
    """Small fixed networks of different sizes, from which the noise of a machine is learned."""
    folder = files("predictors.measurement")
    return [folder.joinpath(f"reference_{size}.onnx").read_bytes() for size in ("small", "medium", "large")]


def _load() -> float | None:
    """The system's load average over a minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def load_session(model: bytes, protocol: MeasurementProtocol) -> Run:
    """A function that runs the model once, with input and output bound beforehand. Raises MeasurementRefused for a
    model that cannot be loaded or has inputs of other types."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = protocol.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except _CANNOT_LOAD as error:
        raise MeasurementRefused(f"onnxruntime cannot load the model: {error}") from error
    binding = session.io_binding()
    for entry in session.get_inputs():
        binding.bind_cpu_input(entry.name, _input(entry, protocol.batch))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def _input(entry: onnxruntime.NodeArg, batch: int) -> np.ndarray:
    types = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}
    first, *fixed_shape = entry.shape
    if entry.type not in types or not all(isinstance(d, int) for d in fixed_shape):
        raise MeasurementRefused(
            f"expected inputs of {' or '.join(types)} where only the batch size is free, "
            f"got {entry.name!r} of {entry.type} and shape {entry.shape}"
        )
    shape = (first if isinstance(first, int) else batch, *fixed_shape)
    return (np.random.default_rng(0).random(shape) * 255).astype(types[entry.type])


def machine_stopwatch(threads: int = 1) -> Stopwatch:
    """This process's stopwatch. An interruption is an involuntary context switch of any of its threads; processor time
    stands for the time of an interrupted inference if one thread does all the work."""
    if sys.platform == "win32":
        raise MeasurementRefused("measuring needs Linux or macOS")
    readings = np.array([time.perf_counter_ns() for _ in range(1000)])
    steps = np.diff(np.unique(readings))
    tick_ns = int(steps.min()) if len(steps) else 10**9  # a clock that has not moved since is too coarse for anything
    return Stopwatch(
        time.perf_counter_ns,
        lambda: resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw,
        tick_ns,
        time.thread_time_ns if threads == 1 else None,
    )


def _require_machine(profile: DeviceProfile) -> None:
    machine_now = describe_machine(profile.name, profile.protocol)
    if profile.protocol.version != MeasurementProtocol.version:
        raise MeasurementRefused(
            f"the device {profile.name!r} was profiled by version {profile.protocol.version} of the measuring "
            f"protocol, expected {MeasurementProtocol.version}. Add the device again"
        )
    for field in ("machine", "processor", "runtime", "runtime_version"):
        expected, current = getattr(profile, field), getattr(machine_now, field)
        if expected != current:
            raise MeasurementRefused(
                f"this is not the device {profile.name!r} as it was profiled: expected {field} {expected!r}, "
                f"got {current!r}. Add the device again"
            )


def prioritise() -> None:
    """Raise the scheduling priority where the system allows it; elsewhere, interruptions are detected and left out."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    # With autogroups, Linux shares cores among sessions first, and the line above counts within this session only.
    autogroup = Path("/proc/self/autogroup")
    if autogroup.exists() and os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            autogroup.write_text("-20")


@contextlib.contextmanager
def _exclusively() -> Iterator[None]:
    """Waits until no other measuring process of this user runs on the machine; two would spoil both."""
    path = Path(tempfile.gettempdir()) / f"hwnas-measure-{os.getuid()}.lock"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def pin(affinity: Sequence[int]) -> None:
    """Bind this process to cores. Raises MeasurementRefused for cores that it may not use."""
    if affinity and hasattr(os, "sched_setaffinity"):
        try:
            os.sched_setaffinity(0, affinity)
        except OSError as error:
            allowed = sorted(os.sched_getaffinity(0))
            raise MeasurementRefused(
                f"expected to run on cores {list(affinity)}, allowed are {allowed}. Add the device again"
            ) from error


def _cpuinfo() -> dict[str, str]:
    """What Linux says of the first processor, by lower-case name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    pairs = [line.partition(":") for line in lines if ":" in line]
    return {key.strip().lower(): value.strip() for key, _, value in reversed(pairs)}


def main(folder: str) -> None:
    """One sitting of the models that ``sitting.json`` in ``folder`` names: the child's half of ``time_isolated``.
    Prints one JSON line for each."""
    job = Path(folder)
    profile = DeviceProfile.from_json(json.loads((job / "profile.json").read_text()))
    job_record = json.loads((job / "sitting.json").read_text())
    watch = machine_stopwatch(profile.protocol.threads)
    prioritise()
    models = ((job / f"{i:06d}.onnx").read_bytes() for i in job_record["models"])
    with _exclusively():
        for one in measure(models, profile, watch, job_record["seed"], job_record["survey_ms"]):
            record = {
                "sitting": sitting_as_json(one.sitting),
                "cold_load_ms": one.cold_load_ms,
                "warm_load_ms": one.warm_load_ms,
            }
            sys.stdout.write(json.dumps(record) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except HwnasError as error:
        sys.exit(str(error))
