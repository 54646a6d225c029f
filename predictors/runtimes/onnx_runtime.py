"""onnxruntime with any of its execution providers, by name, such as ``CUDAExecutionProvider``.

The provider that a device names comes first, the CPU provider second, as in every deployment: what the first refuses,
the second runs, and ``report`` names it. Input and output are bound beforehand, in the memory of the processor.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core.errors import MeasurementRefused, UnknownName
from nas.core.json_types import JsonObject
from nas.core.placement import LayerTime, placement_of
from nas.core.runtimes import (
    Execution,
    LoadedModel,
    Runtime,
    RuntimeIdentity,
    RuntimeReport,
    RuntimeTarget,
    missing,
)

CPU = "CPUExecutionProvider"
PROFILED_RUNS = 5  # after one that is not counted
_NO_WORK = ("Cast", "Reorder")
_INPUT_TYPES: Mapping[str, type[np.generic]] = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}


def identify(target: RuntimeTarget) -> RuntimeIdentity:
    """Raises UnknownName for a provider that the installed onnxruntime does not have."""
    onnxruntime = _package()
    provider, available = target.provider or CPU, onnxruntime.get_available_providers()
    if provider not in available:
        raise UnknownName("execution provider of the installed onnxruntime", provider, available)
    return RuntimeIdentity(RuntimeTarget(target.runtime, provider), onnxruntime.__version__)


def load(model: bytes, execution: Execution) -> LoadedModel:
    """Raises MeasurementRefused for a model that cannot be loaded or has inputs of other types."""
    session = open_session(model, execution)
    binding = session.io_binding()
    for entry in session.get_inputs():
        binding.bind_cpu_input(entry.name, _input(entry, execution.batch))
    for output in session.get_outputs():
        binding.bind_output(output.name)
    return LoadedModel(lambda: session.run_with_iobinding(binding))


def report(model: bytes, execution: Execution) -> RuntimeReport:
    """Nodes, their provider and their mean time, from onnxruntime's profiler."""
    with tempfile.TemporaryDirectory(prefix="hwnas-profiler-") as folder:
        session = open_session(model, execution, str(Path(folder) / "profile"))
        inputs = {entry.name: _input(entry, execution.batch) for entry in session.get_inputs()}
        for _ in range(1 + PROFILED_RUNS):
            session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    layers = layer_times(events)
    placement = placement_of(execution.target.provider or CPU, layers)
    if execution.precision == "float16":
        placement = replace(placement, in_float32=operators_in_float32(events))
    return RuntimeReport(placement, layers)


def operators_in_float32(events: list[JsonObject]) -> tuple[str, ...]:
    """The operators of a profile that read float32, sorted, but for those that change type or layout alone. A provider
    without float16 kernels has its operators computed in float32, between casts that onnxruntime inserts."""
    kernels = [e for e in events if e.get("cat") == "Node" and str(e.get("name", "")).endswith("_kernel_time")]
    types = [(str(e["args"]["op_name"]), e["args"].get("input_type_shape") or [{}]) for e in kernels]
    return tuple(sorted({name for name, inputs in types if "float" in inputs[0] and not name.startswith(_NO_WORK)}))


def layer_times(events: list[JsonObject]) -> tuple[LayerTime, ...]:
    """The nodes of a profile in the order in which they run, with the mean of their times, the first run left out."""
    times_us: dict[str, list[float]] = {}
    operators: dict[str, tuple[str, str]] = {}
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") != "Node" or not name.endswith("_kernel_time"):
            continue
        node = name.removesuffix("_kernel_time")
        arguments = event["args"]
        operators[node] = (str(arguments["op_name"]), str(arguments["provider"]))
        times_us.setdefault(node, []).append(float(event["dur"]))
    return tuple(
        LayerTime(node, *operators[node], float(np.mean(of_node[1:] or of_node)) / 1e3)
        for node, of_node in times_us.items()
    )


def open_session(model: bytes, execution: Execution, profile: str | None = None) -> Any:
    """A session with the target's provider before the CPU's; ``profile`` is the beginning of a profile's path. Raises
    MeasurementRefused for a model that cannot be loaded."""
    onnxruntime = _package()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = execution.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile
    provider = execution.target.provider or CPU
    providers = [provider] if provider == CPU else [provider, CPU]
    try:
        return onnxruntime.InferenceSession(model, options, providers=providers)
    except _load_errors() as error:
        raise MeasurementRefused(f"onnxruntime cannot load the model: {error}") from error


def _input(entry: Any, batch: int) -> NDArray[np.generic]:
    first, *fixed_shape = entry.shape or [None]
    if entry.type not in _INPUT_TYPES or not all(isinstance(d, int) for d in fixed_shape):
        raise MeasurementRefused(
            f"expected inputs of {' or '.join(_INPUT_TYPES)} where only the batch size is free, "
            f"got {entry.name!r} of {entry.type} and shape {entry.shape}"
        )
    if isinstance(first, int) and batch not in (1, first):
        raise MeasurementRefused(f"expected a model whose batch size is free or {batch}, got one of {first}")
    shape = (first if isinstance(first, int) else batch, *fixed_shape)
    return (np.random.default_rng(0).random(shape) * 255).astype(_INPUT_TYPES[entry.type])


def _package() -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise missing("onnxruntime", "onnxruntime") from error
    return onnxruntime  # type: ignore[no-any-return]


def _load_errors() -> tuple[type[Exception], ...]:
    """onnxruntime's errors share no base class."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NotImplemented", "RuntimeException")
    return tuple(getattr(errors, name) for name in names)


ONNXRUNTIME = Runtime(
    name="onnxruntime",
    summary="onnxruntime with any execution provider: CPU, CUDA, TensorRT, OpenVINO, DirectML, CoreML, QNN, XNNPACK.",
    requirement="onnxruntime",
    identify=identify,
    load=load,
    report=report,
)
