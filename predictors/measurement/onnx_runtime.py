"""Measuring latency with onnxruntime, by ``predictors.measurement.protocol``.

Needs onnxruntime, numpy and the plain values of ``nas.core`` alone: the device agent runs this very file. The session
runs in a process of its own (``time_isolated``), so that neither torch's threads nor a worker's disturb it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from nas.core.device import DeviceProfile, Measurement, MeasurementProtocol, Source
from nas.core.errors import HwnasError, MeasurementRefused
from predictors.measurement.protocol import Run, Stopwatch, Timing, judge, time_loading, time_runs

if sys.platform != "win32":
    import fcntl
    import resource

GROUP = 16  # networks that share their rounds
PROFILING = 6  # canaries that are timed side by side to learn a machine's usual speed

# onnxruntime's errors share no base class.
_CANNOT_LOAD = (
    ort_errors.Fail,
    ort_errors.InvalidArgument,
    ort_errors.InvalidGraph,
    ort_errors.InvalidProtobuf,
    ort_errors.NotImplemented,
    ort_errors.RuntimeException,
)


def measure(models: Iterable[bytes], profile: DeviceProfile, watch: Stopwatch | None = None) -> Iterator[Timing]:
    """Times ONNX models in this process, whose affinity it sets, in groups that share their rounds.

    Raises MeasurementRefused when this is not the profile's machine or a model cannot be loaded.
    """
    _require_machine(profile)
    _pin(profile.affinity)
    watch = watch or machine_stopwatch()
    rng = np.random.default_rng(0)
    canary = _session(canary_model(), profile.protocol)
    waiting = iter(models)
    while group := list(islice(waiting, GROUP)):
        loaded = [time_loading(lambda m=m: _session(m, profile.protocol), profile.protocol.loads, watch) for m in group]  # type: ignore[misc]
        timings = time_runs([run for run, _, _ in loaded], canary, profile, watch, rng)
        for timing, (_, cold_ms, warm_ms) in zip(timings, loaded, strict=True):
            yield replace(timing, cold_load_ms=cold_ms, warm_load_ms=warm_ms)


def measure_isolated(
    models: Sequence[bytes], profile: DeviceProfile, networks: Sequence[str] = ()
) -> Iterator[Measurement]:
    """Measures ONNX models on this machine, in a child process (``nas.core.ports.Measurer``). Raises as
    ``time_isolated``."""
    for timing in time_isolated(models, profile):
        yield judge(timing, profile)


def time_isolated(models: Sequence[bytes], profile: DeviceProfile) -> Iterator[Timing]:
    """``measure`` in a child process that imports no more than it needs.

    Raises MeasurementRefused with the child's last words if it dies.
    """
    with tempfile.TemporaryDirectory(prefix="hwnas-measure-") as folder:
        job = Path(folder)
        (job / "profile.json").write_text(json.dumps(profile.as_json()))
        for i, model in enumerate(models):
            (job / f"{i:06d}.onnx").write_bytes(model)
        command = [sys.executable, "-m", "predictors.measurement.onnx_runtime", folder]
        errors = job / "stderr.txt"
        with (
            errors.open("wb") as log,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True) as child,
        ):
            assert child.stdout is not None
            done = 0
            try:
                for line in child.stdout:
                    yield Timing.from_json(json.loads(line))
                    done += 1
            finally:
                if done < len(models):
                    child.kill()
        if child.returncode != 0 or done != len(models):
            tail = errors.read_text(errors="replace").strip().splitlines()[-3:]
            raise MeasurementRefused(
                f"the measuring process ended with {child.returncode} after {done} of {len(models)} networks: "
                + " ".join(tail)
            )


def describe_machine(name: str, protocol: MeasurementProtocol, source: Source = "worker") -> DeviceProfile:
    """This machine and runtime as a profile, its canary not yet measured. The last allowed cores are chosen: the first
    ones serve most interrupts."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    about = _cpuinfo()
    return DeviceProfile(
        name=name,
        machine=platform.machine(),
        processor=about.get("model name") or about.get("hardware") or platform.processor() or "unknown",
        cores=os.cpu_count() or 1,
        runtime="onnxruntime CPUExecutionProvider",
        runtime_version=onnxruntime.__version__,
        os=f"{platform.system()} {platform.release()}",
        protocol=protocol,
        affinity=tuple(cores[-protocol.threads :]),
        source=source,
        driver=f"microcode {about['microcode']}" if "microcode" in about else "",
    )


def profile_machine(name: str, threads: int = 1, source: Source = "worker") -> DeviceProfile:
    """The profile of this machine with its canary's time, measured in a process of its own.

    Raises MeasurementRefused when the machine is too unsteady to learn its usual speed, or has fewer cores than
    ``threads``.
    """
    profile = describe_machine(name, MeasurementProtocol(threads=threads), source)
    require_cores(profile)
    canaries = list(measure_isolated([canary_model()] * PROFILING, profile))
    steady = [c for c in canaries if c.refused is None]
    if len(steady) < PROFILING // 2:
        refused = next(c.refused for c in canaries if c.refused is not None)
        raise MeasurementRefused(f"{name} is too unsteady to be profiled: {refused}. Stop other work and try again")
    # Raw samples: while the profile has no canary_ms, drift is relative to the session itself.
    return replace(profile, canary_ms=float(np.median([c.samples_ms for c in steady])))


def require_cores(profile: DeviceProfile) -> None:
    """Raises MeasurementRefused for more threads than this machine has cores for."""
    cores, threads = len(profile.affinity), profile.protocol.threads
    if profile.affinity and cores < threads:
        raise MeasurementRefused(f"expected at most {cores} threads, one for each core, got {threads}")


def canary_model() -> bytes:
    """A small fixed network with the kinds of layers that searches use; its time tells the machine's mood."""
    return files("predictors.measurement").joinpath("canary.onnx").read_bytes()


def _session(model: bytes, protocol: MeasurementProtocol) -> Run:
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
    first, *rest = entry.shape
    if entry.type not in types or not all(isinstance(d, int) for d in rest):
        raise MeasurementRefused(
            f"expected inputs of {' or '.join(types)} where only the batch size is free, "
            f"got {entry.name!r} of {entry.type} and shape {entry.shape}"
        )
    shape = (first if isinstance(first, int) else batch, *rest)
    return (np.random.default_rng(0).random(shape) * 255).astype(types[entry.type])


def machine_stopwatch() -> Stopwatch:
    """This process's stopwatch. An interruption is an involuntary context switch of any of its threads."""
    if sys.platform == "win32":
        raise MeasurementRefused("measuring needs Linux or macOS")
    readings = np.array([time.perf_counter_ns() for _ in range(1000)])
    steps = np.diff(np.unique(readings))
    tick_ns = int(steps.min()) if len(steps) else 10**9  # a clock that has not moved since is too coarse for anything
    return Stopwatch(time.perf_counter_ns, lambda: resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw, tick_ns)


def _require_machine(profile: DeviceProfile) -> None:
    here = describe_machine(profile.name, profile.protocol)
    if profile.protocol.version != MeasurementProtocol.version:
        raise MeasurementRefused(
            f"the device {profile.name!r} was profiled by version {profile.protocol.version} of the measuring "
            f"protocol, expected {MeasurementProtocol.version}. Add the device again"
        )
    for what in ("machine", "processor", "runtime", "runtime_version"):
        expected, got = getattr(profile, what), getattr(here, what)
        if expected != got:
            raise MeasurementRefused(
                f"this is not the device {profile.name!r} as it was profiled: expected {what} {expected!r}, "
                f"got {got!r}. Add the device again"
            )


def _prioritise() -> None:
    """Ahead of other programs, where the system allows that; where it does not, interruptions tell."""
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    # With autogroups, Linux shares cores among sessions first, and the line above counts within this session only.
    autogroup = Path("/proc/self/autogroup")
    if autogroup.exists() and os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            autogroup.write_text("-20")


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Waits until no other measuring process of this user runs on the machine; two would spoil both."""
    path = Path(tempfile.gettempdir()) / f"hwnas-measure-{os.getuid()}.lock"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _pin(affinity: Sequence[int]) -> None:
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
    """Measures every model in ``folder`` and prints one JSON line each; the child's half of ``measure_isolated``."""
    job = Path(folder)
    profile = DeviceProfile.from_json(json.loads((job / "profile.json").read_text()))
    watch = machine_stopwatch()
    _prioritise()
    with _alone():
        for timing in measure((p.read_bytes() for p in sorted(job.glob("*.onnx"))), profile, watch):
            sys.stdout.write(json.dumps(timing.as_json()) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except HwnasError as error:
        sys.exit(str(error))
