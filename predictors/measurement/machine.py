"""The machine that measures: what it is, its cores, its clock, and the small networks that tell its speed.

Needs numpy and the plain values of ``nas.core`` alone, and the runtime that is asked for: the device agent runs it.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from nas.core.device import DeviceProfile, LatencySource, MeasurementProtocol
from nas.core.errors import MeasurementRefused
from nas.core.runtimes import Execution, ProgramRuntime, RuntimeIdentity, load_runtime
from nas.cpus import available_cpus
from predictors.measurement.sitting import Stopwatch

if sys.platform != "win32":
    import fcntl
    import resource


def describe_machine(
    name: str,
    protocol: MeasurementProtocol,
    source: LatencySource = "worker",
    execution: Execution | None = None,
) -> DeviceProfile:
    """This machine and runtime as a profile, its canary not yet measured; ``execution`` names another runtime than
    onnxruntime on the processor. The last allowed cores are chosen: the first ones serve most interrupts.

    Raises UnknownName for an unknown runtime or provider, and MeasurementRefused for one that is not installed.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    about = _cpuinfo()
    identity = identify(execution or Execution())
    return DeviceProfile(
        name=name,
        machine=platform.machine(),
        processor=about.get("model name") or about.get("hardware") or platform.processor() or "unknown",
        cores=available_cpus(),
        runtime=str(identity.target),
        runtime_version=identity.version,
        os=f"{platform.system()} {platform.release()}",
        protocol=protocol,
        affinity=tuple(cores[-protocol.threads :]),
        source=source,
        driver=identity.driver or (f"microcode {about['microcode']}" if "microcode" in about else ""),
    )


def identify(execution: Execution) -> RuntimeIdentity:
    """The runtime of this machine as profiles name it. Raises as ``describe_machine``."""
    runtime = load_runtime(execution.target.runtime)
    return runtime.identify(execution) if isinstance(runtime, ProgramRuntime) else runtime.identify(execution.target)


def require_machine(profile: DeviceProfile, program: Sequence[str] = ()) -> None:
    """Raises MeasurementRefused unless this is the machine, runtime and protocol of a profile."""
    execution = replace(profile.execution, program=tuple(program))
    machine_now = describe_machine(profile.name, profile.protocol, execution=execution)
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


def load_average() -> float | None:
    """The system's load average over a minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def machine_stopwatch(threads: int = 1, synchronise: Callable[[], object] | None = None) -> Stopwatch:
    """This process's stopwatch. An interruption is an involuntary context switch of any of its threads; processor time
    stands for the time of an interrupted inference if one thread does all the work.

    Of an asynchronous runtime, ``synchronise`` waits for all that was started: every reading of the clock does so.
    """
    if sys.platform == "win32":
        raise MeasurementRefused("measuring needs Linux or macOS")
    readings = np.array([time.perf_counter_ns() for _ in range(1000)])
    steps = np.diff(np.unique(readings))
    tick_ns = int(steps.min()) if len(steps) else 10**9  # a clock that has not moved since is too coarse for anything

    def synchronised_ns() -> int:
        assert synchronise is not None
        synchronise()
        return time.perf_counter_ns()

    return Stopwatch(
        time.perf_counter_ns if synchronise is None else synchronised_ns,
        lambda: resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw,
        tick_ns,
        time.thread_time_ns if threads == 1 and synchronise is None else None,
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
def exclusively() -> Iterator[None]:
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
