"""Measuring latency with onnxruntime, by the protocol of ``docs/measurement-protocol.md``.

Needs onnxruntime, onnx, numpy and ``nas.core`` alone. Two halves: *timing*, which knows no runtime and is tested on a
synthetic device, and the onnxruntime session, which runs in a process of its own (``measure_isolated``), so that
neither torch's threads nor a worker's disturb it.
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from nas.core.arch import Floats
from nas.core.device import DeviceProfile, Measurement, MeasurementProtocol
from nas.core.errors import HwnasError, MeasurementRefused

if sys.platform != "win32":
    import fcntl
    import resource

GROUP = 16  # networks that share their rounds
PROFILING = 6  # canaries that are timed side by side to learn a machine's usual speed
Run = Callable[[], object]

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
class Stopwatch:
    """``now_ns`` is monotonic; ``interruptions`` counts how often the process has lost its core to another."""

    now_ns: Callable[[], int]
    interruptions: Callable[[], int]


@dataclass(frozen=True)
class Timing:
    """One network's sample and the canary's drift in every round, shape (R,) each, NaN where every inference was
    interrupted; ``runs`` inferences were timed."""

    samples_ms: Floats
    drift: Floats
    runs: int


def measure_runs(
    runs: Sequence[Run], canary: Run, profile: DeviceProfile, watch: Stopwatch, rng: np.random.Generator
) -> list[Measurement]:
    """Measures networks, each given as a function that runs it once. What was unsteady is measured again, all of it
    anew, and the steadiest attempt counts."""
    protocol = profile.protocol
    best: dict[int, Measurement] = {}
    for _ in range(protocol.retries + 1):
        todo = [i for i in range(len(runs)) if i not in best or not _settled(best[i], protocol)]
        if not todo:
            break
        timings = time_group([runs[i] for i in todo], canary, profile.canary_ms, protocol, watch, rng)
        for i, timing in zip(todo, timings, strict=True):
            again = judge(timing, profile)
            if i not in best or _unsteadiness(again) < _unsteadiness(best[i]):
                best[i] = again
    return [best[i] for i in range(len(runs))]


def _settled(measurement: Measurement, protocol: MeasurementProtocol) -> bool:
    return measurement.refused is None and measurement.variation <= protocol.good_variation


def _unsteadiness(measurement: Measurement) -> tuple[bool, float]:
    return measurement.refused is not None, measurement.variation


def time_group(
    runs: Sequence[Run],
    canary: Run,
    canary_ms: float | None,
    protocol: MeasurementProtocol,
    watch: Stopwatch,
    rng: np.random.Generator,
) -> list[Timing]:
    """Times a group of networks in rounds, in a fresh random order each, with the canary before, between and after.

    The drift of a sample is the median of the four canary blocks nearest to it over ``canary_ms`` (over the group's own
    median when the profile has none yet): one disturbed canary block does not spoil the networks beside it.
    """
    chunks = [_warm(run, protocol, watch) for run in runs]
    canary_chunk = _warm(canary, protocol, watch)
    samples = np.zeros((len(runs), protocol.rounds))
    place = np.zeros((len(runs), protocol.rounds), dtype=np.int64)  # how many canary blocks came before each sample
    counts = np.zeros(len(runs), dtype=np.int64)
    canaries: list[float] = []
    for r in range(protocol.rounds):
        for i in rng.permutation(len(runs)):
            canaries.append(_block(canary, canary_chunk, protocol.block_ms / 2, protocol, watch)[0])
            place[i, r] = len(canaries)
            samples[i, r], count = _block(runs[i], chunks[i], protocol.block_ms, protocol, watch)
            counts[i] += count
    canaries.append(_block(canary, canary_chunk, protocol.block_ms / 2, protocol, watch)[0])
    around = np.array([_median(canaries[max(0, k - 2) : k + 2]) for k in range(len(canaries))])
    base = canary_ms if canary_ms is not None else _median(canaries)
    return [Timing(samples[i], around[place[i]] / base, int(counts[i])) for i in range(len(runs))]


def judge(timing: Timing, profile: DeviceProfile) -> Measurement:
    """A measurement from raw timings: drift divided out, median and its 95 % confidence interval, or a refusal.

    Variation is the interquartile range of the corrected samples over their median, a spread that single spikes do not
    move; 1 when there are too few samples to tell.
    """
    protocol = profile.protocol
    valid = np.isfinite(timing.samples_ms) & np.isfinite(timing.drift)
    corrected = timing.samples_ms[valid] / timing.drift[valid]
    drift = _median(timing.drift[valid])
    median = low = high = None
    variation, refused = 1.0, None
    if len(corrected) < 2 / 3 * protocol.rounds:
        refused = (
            f"another program took the processor during {protocol.rounds - len(corrected)} of {protocol.rounds} rounds"
        )
    else:
        median = _median(corrected)
        low, high = median_interval(corrected)
        variation = float(np.subtract(*np.quantile(corrected, [0.75, 0.25])) / median)
        if variation > protocol.max_variation:
            refused = f"samples vary by {variation:.0%}, expected at most {protocol.max_variation:.0%}"
        elif not 1 / (1 + protocol.max_drift) <= drift <= 1 + protocol.max_drift:
            refused = (
                f"the canary network takes {drift:.2f} times its usual time, expected within {protocol.max_drift:.0%}"
            )
    kept = refused is None
    return Measurement(
        protocol=protocol.id,
        profile=profile.id,
        median_ms=median if kept else None,
        low_ms=low if kept else None,
        high_ms=high if kept else None,
        runs=timing.runs,
        variation=variation,
        drift=drift if math.isfinite(drift) else 1.0,
        refused=refused,
        samples_ms=tuple(round(float(s), 7) for s in timing.samples_ms[valid]),
    )


def _median(values: Sequence[float] | Floats) -> float:
    finite = np.asarray(values)[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan


def median_interval(samples: Floats) -> tuple[float, float]:
    """Distribution-free confidence interval of the median by order statistics, at least 95 % from six samples on;
    with fewer, the range."""
    ordered = np.sort(samples)
    n = len(ordered)
    # Largest k with P(Binomial(n, 1/2) < k) <= 2.5 %: the interval is from the k-th smallest to the k-th largest.
    tail, k, term = 0.0, 0, 0.5**n
    while tail + term <= 0.025:
        tail += term
        term *= (n - k) / (k + 1)
        k += 1
    k = max(k, 1)
    return float(ordered[k - 1]), float(ordered[n - k])


def measure(models: Iterable[bytes], profile: DeviceProfile, watch: Stopwatch | None = None) -> Iterator[Measurement]:
    """Measures ONNX models in this process, whose affinity it sets, in groups that share their rounds.

    Raises MeasurementRefused when this is not the profile's machine or a model cannot be loaded.
    """
    _require_machine(profile)
    _pin(profile.affinity)
    rng = np.random.default_rng(0)
    canary = _session(canary_model(), profile.protocol)
    waiting = iter(models)
    while group := list(islice(waiting, GROUP)):
        yield from measure_runs(
            [_session(m, profile.protocol) for m in group], canary, profile, watch or machine_stopwatch(), rng
        )


def measure_isolated(models: Sequence[bytes], profile: DeviceProfile) -> Iterator[Measurement]:
    """``measure`` in a child process that imports no more than it needs (``nas.core.ports.Measurer``).

    Raises MeasurementRefused with the child's last words if it dies.
    """
    with tempfile.TemporaryDirectory(prefix="hwnas-measure-") as folder:
        job = Path(folder)
        (job / "profile.json").write_text(json.dumps(profile.as_json()))
        for i, model in enumerate(models):
            (job / f"{i:06d}.onnx").write_bytes(model)
        command = [sys.executable, "-m", "predictors.measure", folder]
        errors = job / "stderr.txt"
        with (
            errors.open("wb") as log,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True) as child,
        ):
            assert child.stdout is not None
            done = 0
            try:
                for line in child.stdout:
                    yield Measurement.from_json(json.loads(line))
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


def describe_machine(name: str, protocol: MeasurementProtocol) -> DeviceProfile:
    """This machine and runtime as a profile, its canary not yet measured. The last allowed cores are chosen: the first
    ones serve most interrupts."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return DeviceProfile(
        name=name,
        machine=platform.machine(),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        runtime="onnxruntime CPUExecutionProvider",
        runtime_version=onnxruntime.__version__,
        os=f"{platform.system()} {platform.release()}",
        protocol=protocol,
        affinity=tuple(cores[-protocol.threads :]),
    )


def profile_machine(name: str, threads: int = 1) -> DeviceProfile:
    """The profile of this machine with its canary's time, measured in a process of its own.

    Raises MeasurementRefused when the machine is too unsteady to learn its usual speed.
    """
    profile = describe_machine(name, MeasurementProtocol(threads=threads))
    canaries = list(measure_isolated([canary_model()] * PROFILING, profile))
    steady = [c for c in canaries if c.refused is None]
    if len(steady) < PROFILING // 2:
        refused = next(c.refused for c in canaries if c.refused is not None)
        raise MeasurementRefused(f"{name} is too unsteady to be profiled: {refused}. Stop other work and try again")
    # Raw samples: while the profile has no canary_ms, drift is relative to the session itself.
    return replace(profile, canary_ms=float(np.median([c.samples_ms for c in steady])))


def canary_model() -> bytes:
    """A small fixed network with the kinds of layers that searches use; its time tells the machine's mood."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights, nodes, last, channels = [], [], "image", 3
    for i, (width, kernel, group) in enumerate([(32, 3, 1), (32, 3, 32), (64, 1, 1), (64, 3, 64), (64, 1, 1)]):
        shape = (width, channels // group, kernel, kernel)
        weights.append(numpy_helper.from_array((rng.standard_normal(shape) * 0.1).astype(np.float32), f"w{i}"))
        nodes.append(
            helper.make_node(
                "Conv", [last, f"w{i}"], [f"c{i}"], kernel_shape=[kernel] * 2, pads=[kernel // 2] * 4, group=group
            )
        )
        nodes.append(helper.make_node("Relu", [f"c{i}"], [f"r{i}"]))
        last, channels = f"r{i}", width
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["logits"]))
    graph = helper.make_graph(
        nodes,
        "canary",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, channels, 1, 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    data: bytes = model.SerializeToString()
    return data


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


def _warm(run: Run, protocol: MeasurementProtocol, watch: Stopwatch) -> int:
    """Runs for at least ``warmup_ms``; returns how many inferences make a chunk of at least ``chunk_ms``."""
    begun, count = watch.now_ns(), 1
    while True:
        at = watch.now_ns()
        for _ in range(count):
            run()
        now = watch.now_ns()
        if now - begun >= protocol.warmup_ms * 1e6 and now > at:
            return max(1, round(protocol.chunk_ms * 1e6 * count / (now - at)))
        if now - at < protocol.warmup_ms * 1e6 / 4:
            count *= 2


def _block(
    run: Run, chunk: int, lasting_ms: float, protocol: MeasurementProtocol, watch: Stopwatch
) -> tuple[float, int]:
    """Time per inference in ms and the number of inferences of a block that lasts about ``lasting_ms``.

    Inferences are timed in chunks, long against the clock's tick; those during which the process lost its core do not
    count. The block goes on until three chunks do, up to four times its length; NaN if none does.
    """
    times: list[int] = []
    begun = now = watch.now_ns()
    tries = 0
    while len(times) < 3 or now - begun < lasting_ms * 1e6:
        if tries >= 6 and now - begun > 4 * lasting_ms * 1e6:
            break
        tries += 1
        before, at = watch.interruptions(), watch.now_ns()
        for _ in range(chunk):
            run()
        now = watch.now_ns()
        if watch.interruptions() == before:
            times.append(now - at)
    if not times:
        return math.nan, 0
    typical = float(np.quantile(times, protocol.quantile, method="lower"))
    if typical == 0:
        raise MeasurementRefused(f"the clock of this machine is too coarse: it did not move during {chunk} inferences")
    return typical / chunk / 1e6, chunk * len(times)


def machine_stopwatch() -> Stopwatch:
    """This process's stopwatch. An interruption is an involuntary context switch of any of its threads."""
    if sys.platform == "win32":
        raise MeasurementRefused("measuring needs Linux or macOS")
    return Stopwatch(time.perf_counter_ns, lambda: resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)


def _require_machine(profile: DeviceProfile) -> None:
    here = describe_machine(profile.name, profile.protocol)
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


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


def main(folder: str) -> None:
    """Measures every model in ``folder`` and prints one JSON line each; the child's half of ``measure_isolated``."""
    job = Path(folder)
    profile = DeviceProfile.from_json(json.loads((job / "profile.json").read_text()))
    watch = machine_stopwatch()
    _prioritise()
    with _alone():
        for measurement in measure((p.read_bytes() for p in sorted(job.glob("*.onnx"))), profile, watch):
            sys.stdout.write(json.dumps(measurement.as_json()) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except HwnasError as error:
        sys.exit(str(error))
