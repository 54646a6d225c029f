"""Measuring latency with onnxruntime, by the protocol of ``docs/measurement-protocol.md``.

Needs onnxruntime, onnx, numpy and ``nas.core`` alone. Two halves: *timing*, which knows no runtime and is tested on a
synthetic device, and the onnxruntime session, which runs in a process of its own (``measure_isolated``), so that
neither torch's threads nor a worker's disturb it.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from nas.core.arch import Floats
from nas.core.device import DeviceProfile, Measurement, MeasurementProtocol
from nas.core.errors import MeasurementRefused

GROUP = 16
Run = Callable[[], object]
Clock = Callable[[], int]


@dataclass(frozen=True)
class Timing:
    """Per-round samples of one network in ms, the canary's drift per round, and how many inferences were timed."""

    samples_ms: Floats
    drift: Floats
    runs: int


def time_group(
    runs: Sequence[Run], canary: Run, canary_ms: float | None, protocol: MeasurementProtocol, clock: Clock
) -> list[Timing]:
    """Times a group of networks in rounds, the canary before and after each network. ``clock`` counts nanoseconds.

    A sample is the median of one block's inferences. The drift of a sample is the mean of the two canary samples around
    it over ``canary_ms`` (over the group's own median canary when the profile has none yet).
    """
    repeats = [_warm(run, protocol, clock) for run in runs]
    canary_repeats = _warm(canary, protocol, clock)
    samples = np.zeros((len(runs), protocol.rounds))
    around = np.zeros((len(runs), protocol.rounds))
    rng = np.random.default_rng(0)
    for r in range(protocol.rounds):
        before = _block(canary, canary_repeats, clock)
        for i in rng.permutation(len(runs)):
            samples[i, r] = _block(runs[i], repeats[i], clock)
            after = _block(canary, canary_repeats, clock)
            around[i, r] = (before + after) / 2
            before = after
    base = canary_ms if canary_ms is not None else float(np.median(around))
    return [Timing(samples[i], around[i] / base, repeats[i] * protocol.rounds) for i in range(len(runs))]


def judge(timing: Timing, profile: DeviceProfile) -> Measurement:
    """A measurement from raw timings: drift divided out, median and its 95 % confidence interval, or a refusal.

    Variation is the interquartile range of the corrected samples over their median, a spread that single spikes do not
    move.
    """
    protocol = profile.protocol
    corrected = timing.samples_ms / timing.drift
    median = float(np.median(corrected))
    low_q, high_q = np.quantile(corrected, [0.25, 0.75])
    variation = float((high_q - low_q) / median)
    drift = float(np.median(timing.drift))
    low, high = median_interval(corrected)
    refused = None
    if variation > protocol.max_variation:
        refused = f"samples vary by {variation:.0%}, expected at most {protocol.max_variation:.0%}"
    elif not 1 / (1 + protocol.max_drift) <= drift <= 1 + protocol.max_drift:
        refused = f"the canary network takes {drift:.2f} times its usual time, expected within {protocol.max_drift:.0%}"
    kept = refused is None
    return Measurement(
        protocol=protocol.id,
        profile=profile.id,
        median_ms=median if kept else None,
        low_ms=low if kept else None,
        high_ms=high if kept else None,
        runs=timing.runs,
        variation=variation,
        drift=drift,
        refused=refused,
        samples_ms=tuple(round(float(s), 7) for s in timing.samples_ms),
    )


def median_interval(samples: Floats) -> tuple[float, float]:
    """Distribution-free confidence interval of the median by order statistics, at least 95 % where enough samples."""
    ordered = np.sort(samples)
    n = len(ordered)
    # Largest k with P(Binomial(n, 1/2) < k) <= 2.5 %: the interval is from the k-th smallest to the k-th largest.
    tail, k, term = 0.0, 0, 0.5**n
    while tail + term <= 0.025 and k < (n - 1) // 2:
        tail += term
        term *= (n - k) / (k + 1)
        k += 1
    k = max(k, 1)
    return float(ordered[k - 1]), float(ordered[n - k])


def measure(
    models: Sequence[bytes], profile: DeviceProfile, clock: Clock = time.perf_counter_ns
) -> Iterator[Measurement]:
    """Measures ONNX models in this process, whose affinity it sets, in groups; refused ones are tried again.

    Raises MeasurementRefused when onnxruntime cannot load a model.
    """
    if profile.affinity and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, profile.affinity)
    canary = _session(canary_model(), profile.protocol)
    for i in range(0, len(models), GROUP):
        runs = [_session(m, profile.protocol) for m in models[i : i + GROUP]]
        results: list[Measurement | None] = [None] * len(runs)
        for _ in range(profile.protocol.retries + 1):
            todo = [j for j, m in enumerate(results) if m is None or m.refused is not None]
            if not todo:
                break
            timings = time_group([runs[j] for j in todo], canary, profile.canary_ms, profile.protocol, clock)
            for j, timing in zip(todo, timings, strict=True):
                results[j] = judge(timing, profile)
        for result in results:
            assert result is not None
            yield result


def profile_machine(name: str, threads: int = 1) -> DeviceProfile:
    """The profile of this machine, its canary measured in a process of its own."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    profile = DeviceProfile(
        name=name,
        machine=platform.machine(),
        processor=_processor(),
        cores=os.cpu_count() or 1,
        runtime="onnxruntime CPUExecutionProvider",
        runtime_version=onnxruntime.__version__,
        os=f"{platform.system()} {platform.release()}",
        protocol=MeasurementProtocol(threads=threads),
        affinity=tuple(cores[-threads:]),
    )
    [canary] = measure_isolated([canary_model()], profile)
    if canary.median_ms is None:
        raise MeasurementRefused(
            f"{name} is too unsteady to be profiled: {canary.refused}; stop other work and try again"
        )
    # The canary's own samples are not corrected by itself: without canary_ms its drift is relative to the session.
    return replace(profile, canary_ms=float(np.median(canary.samples_ms)))


def measure_isolated(models: Sequence[bytes], profile: DeviceProfile) -> Iterator[Measurement]:
    """``measure`` in a child process that imports no more than it needs. Raises MeasurementRefused if it dies."""
    with tempfile.TemporaryDirectory(prefix="hwnas-measure-") as folder:
        job = Path(folder)
        (job / "profile.json").write_text(json.dumps(profile.as_json()))
        for i, model in enumerate(models):
            (job / f"{i:06d}.onnx").write_bytes(model)
        command = [sys.executable, "-m", "predictors.measure", folder]
        errors = job / "stderr.txt"
        with (
            errors.open("wb") as log,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as child,
        ):
            assert child.stdout is not None
            done = 0
            try:
                for line in child.stdout:
                    yield Measurement.from_json(json.loads(line))
                    done += 1
            finally:
                if child.poll() is None and done < len(models):
                    child.kill()
        if child.returncode != 0 or done != len(models):
            tail = errors.read_text(errors="replace").strip().splitlines()[-3:]
            raise MeasurementRefused(
                f"the measuring process ended with {child.returncode} after {done} of {len(models)} networks: "
                + " ".join(tail)
            )


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
    except Exception as error:
        raise MeasurementRefused(f"onnxruntime cannot load the model: {error}") from error
    entry = session.get_inputs()[0]
    shape = [protocol.batch if not isinstance(d, int) else d for d in entry.shape]
    dtype = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}[entry.type]
    image = (np.random.default_rng(0).random(shape) * (255 if dtype == np.uint8 else 1)).astype(dtype)
    binding = session.io_binding()
    binding.bind_cpu_input(entry.name, image)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return lambda: session.run_with_iobinding(binding)


def _warm(run: Run, protocol: MeasurementProtocol, clock: Clock) -> int:
    """Runs until ``warmup_ms`` have passed; returns how many inferences fill a block of ``block_ms``."""
    begun, count, fastest = clock(), 0, float("inf")
    while count < 3 or clock() - begun < protocol.warmup_ms * 1e6:
        at = clock()
        run()
        fastest = min(fastest, clock() - at)
        count += 1
    return max(3, round(protocol.block_ms * 1e6 / max(fastest, 1.0)))


def _block(run: Run, repeats: int, clock: Clock) -> float:
    """Median time of ``repeats`` consecutive inferences, in ms."""
    marks: NDArray[np.int64] = np.empty(repeats + 1, dtype=np.int64)
    marks[0] = clock()
    for i in range(repeats):
        run()
        marks[i + 1] = clock()
    return float(np.median(np.diff(marks))) / 1e6


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
    models = [p.read_bytes() for p in sorted(job.glob("*.onnx"))]
    for measurement in measure(models, profile):
        sys.stdout.write(json.dumps(asdict(measurement)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
