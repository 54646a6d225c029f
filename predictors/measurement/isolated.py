"""Measuring on this machine, by ``predictors.measurement.sitting``, with the runtime that a profile names.

Needs numpy, the plain values of ``nas.core`` and that runtime alone: the device agent runs this very file. Models run
in processes of their own (``time_isolated``), so that neither torch's threads nor a worker's disturb them.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np

from nas.core.device import DeviceProfile, LatencySource, Measurement, MeasurementProtocol
from nas.core.errors import HwnasError, MeasurementRefused
from nas.core.json_types import JsonObject
from nas.core.runtimes import Execution, ProgramRuntime, Runtime, load_runtime
from nas.core.timing import Sitting, Timing, sitting_as_json, sitting_from_json
from predictors.measurement.inspection import Inspection, inspect_in_fork
from predictors.measurement.judging import judge, machine_noise, needs_sitting
from predictors.measurement.machine import (
    canary_model,
    describe_machine,
    exclusively,
    load_average,
    machine_stopwatch,
    pin,
    prioritise,
    reference_models,
    require_cores,
    require_machine,
)
from predictors.measurement.programs import profile_by_program, time_by_program
from predictors.measurement.sitting import Stopwatch, sit, time_loading

GROUP = 16  # networks that take turns
SMALL_BYTES = 4_000_000  # of a model whose every load is kept
LOOKS = 5  # sittings from which a machine's speed and noise are learned
LOOK_VISITS = 16  # to each network in a sitting, so that disturbances are seen
LOOK_MS = 1200.0  # how long the canary runs alone in each of them


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
    require_machine(profile)
    pin(profile.affinity)
    protocol, execution = profile.protocol, profile.execution
    runtime = _timed_runtime(execution)
    watch = watch or _stopwatch(runtime, protocol)
    rng = np.random.default_rng(seed)
    of_canary = replace(execution, batch=1, precision="float32")
    canary = runtime.load(runtime.prepare(canary_model(), of_canary), of_canary)
    waiting = iter(models)
    while group := list(islice(waiting, GROUP)):
        prepared = [runtime.prepare(model, execution) for model in group]
        loaded = [
            time_loading(
                lambda m=m: runtime.load(m, execution).run,  # type: ignore[misc]
                protocol.loads,
                watch,
                len(m) <= SMALL_BYTES,
            )
            for m in prepared
        ]
        sittings = sit([runs for runs, _, _ in loaded], canary.run, profile, watch, rng, survey_ms)
        for sitting, (_, cold_ms, warm_ms) in zip(sittings, loaded, strict=True):
            yield ModelSitting(sitting, cold_ms, warm_ms)


def _timed_runtime(execution: Execution) -> Runtime:
    runtime = load_runtime(execution.target.runtime)
    if isinstance(runtime, ProgramRuntime):
        raise MeasurementRefused(f"{execution.target} times itself: it has no sittings of ours")
    return runtime


def _stopwatch(runtime: Runtime, protocol: MeasurementProtocol) -> Stopwatch:
    return machine_stopwatch(protocol.threads, runtime.synchronise if runtime.asynchronous else None)


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
    models: Sequence[bytes],
    profile: DeviceProfile,
    promised_ms: Sequence[float] | None = None,
    execution: Execution | None = None,
) -> list[Timing]:
    """The protocol's sittings of all models, each in a child process that imports no more than it needs; then further
    sittings of those whose interval is still wide, or holds the latency that was promised; and an inspection of each
    in a further process. ``execution``: with the command line of a runtime that is a program.

    Raises MeasurementRefused with the last lines of a child's errors if it dies.
    """
    protocol = profile.protocol
    execution = execution or profile.execution
    runtime = load_runtime(execution.target.runtime)
    if isinstance(runtime, ProgramRuntime):
        require_machine(profile, execution.program)
        with exclusively():
            return [time_by_program(runtime, model, profile, execution) for model in models]
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
        inspections = _inspect_in_child(job, len(models))
    return [
        replace(
            _timing_of(of_one),
            placement=inspection.placement,
            peak_bytes=inspection.peak_bytes,
            energy_mj=inspection.energy_mj,
            gpu=inspection.gpu,
            layers=inspection.layers,
        )
        for of_one, inspection in zip(timed, inspections, strict=True)
    ]


def _timing_of(timed: Sequence[ModelSitting]) -> Timing:
    return Timing(tuple(t.sitting for t in timed), timed[0].cold_load_ms, timed[0].warm_load_ms)


def _write_job(job: Path, models: Sequence[bytes], profile: DeviceProfile) -> Path:
    (job / "profile.json").write_text(json.dumps(profile.as_json()))
    for i, model in enumerate(models):
        (job / f"{i:06d}.onnx").write_bytes(model)
    return job


def _sit_in_child(job: Path, rows: Sequence[int], seed: int, survey_ms: float | None = None) -> list[ModelSitting]:
    """One sitting of the models of a job, in a process of its own."""
    task = {"kind": "sit", "models": list(rows), "seed": seed, "survey_ms": survey_ms}
    return [
        ModelSitting(sitting_from_json(record["sitting"]), record["cold_load_ms"], record["warm_load_ms"])
        for record in _in_child(job, task)
    ]


def _inspect_in_child(job: Path, models: int) -> list[Inspection]:
    """What the runtime and the system say of each model of a job, in a process of its own."""
    task = {"kind": "inspect", "models": list(range(models))}
    return [Inspection.from_json(record) for record in _in_child(job, task)]


def _in_child(job: Path, task: JsonObject) -> list[JsonObject]:
    """What a child prints for each model of a task. Raises MeasurementRefused if it dies."""
    (job / "task.json").write_text(json.dumps(task))
    command = [sys.executable, "-m", "predictors.measurement.isolated", str(job)]
    errors, expected = job / "stderr.txt", len(task["models"])
    records: list[JsonObject] = []
    with (
        errors.open("wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True) as child,
    ):
        assert child.stdout is not None
        try:
            records.extend(json.loads(line) for line in child.stdout)
        finally:
            if len(records) < expected:
                child.kill()
    if child.returncode != 0 or len(records) != expected:
        tail = errors.read_text(errors="replace").strip().splitlines()[-3:]
        raise MeasurementRefused(
            f"the measuring process ended with {child.returncode} after {len(records)} of {expected} networks: "
            + " ".join(tail)
        )
    return records


def profile_machine(
    name: str,
    protocol: MeasurementProtocol | None = None,
    source: LatencySource = "worker",
    execution: Execution | None = None,
) -> DeviceProfile:
    """The profile of this machine with its canary's undisturbed time and its noise, from about ten seconds of sittings
    of reference networks, each in a process of its own.

    Raises MeasurementRefused when the machine has fewer cores than threads, or its clock cannot be used.
    """
    profile = describe_machine(name, protocol or MeasurementProtocol(), source, execution)
    require_cores(profile)
    runtime = load_runtime(profile.target.runtime)
    if isinstance(runtime, ProgramRuntime):
        assert execution is not None
        with exclusively():
            return profile_by_program(runtime, profile, execution)
    models = [canary_model(), *reference_models()]
    single_image = replace(profile, protocol=replace(profile.protocol, batch=1, fewest_visits=LOOK_VISITS))
    with tempfile.TemporaryDirectory(prefix="hwnas-profile-") as folder:
        job = _write_job(Path(folder), models, single_image)
        timed = [_sit_in_child(job, range(len(models)), seed, LOOK_MS) for seed in range(LOOKS)]
    by_network = [[of_one[i].sitting for of_one in timed] for i in range(len(models))]
    levels_ms = np.array([v.level_ms for s in by_network[0] for v in s.visits])
    # Sittings that met no undisturbed moment say nothing of the undisturbed level.
    near = levels_ms[levels_ms <= (1 + profile.protocol.gate) * levels_ms.min()]
    profile = replace(profile, canary_ms=float(near.mean()))
    return replace(profile, noise=machine_noise(by_network, profile, load_average()))


def main(folder: str) -> None:
    """The child's half of ``time_isolated``: what ``task.json`` in ``folder`` asks for. Prints one JSON line for each
    model."""
    job = Path(folder)
    profile = DeviceProfile.from_json(json.loads((job / "profile.json").read_text()))
    task = json.loads((job / "task.json").read_text())
    prioritise()
    models = ((job / f"{i:06d}.onnx").read_bytes() for i in task["models"])
    with exclusively():
        records = _inspected(models, profile) if task["kind"] == "inspect" else _sat(models, profile, task)
        for record in records:
            sys.stdout.write(json.dumps(record) + "\n")
            sys.stdout.flush()


def _sat(models: Iterable[bytes], profile: DeviceProfile, task: JsonObject) -> Iterator[JsonObject]:
    for one in measure(models, profile, None, task["seed"], task["survey_ms"]):
        yield {
            "sitting": sitting_as_json(one.sitting),
            "cold_load_ms": one.cold_load_ms,
            "warm_load_ms": one.warm_load_ms,
        }


def _inspected(models: Iterable[bytes], profile: DeviceProfile) -> Iterator[JsonObject]:
    require_machine(profile)  # which loads the runtime, so that no fork has to
    pin(profile.affinity)
    execution = profile.execution
    runtime = _timed_runtime(execution)
    for model in models:
        yield asdict(inspect_in_fork(runtime, model, execution))


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except HwnasError as error:
        sys.exit(str(error))
