"""OpenVINO on a device by its name, such as ``CPU``, ``GPU``, ``NPU`` or ``HETERO:NPU,CPU``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core.errors import MeasurementRefused, UnknownName
from nas.core.placement import LayerTime, Placement, placement_of
from nas.core.runtimes import (
    Execution,
    LoadedModel,
    Runtime,
    RuntimeIdentity,
    RuntimeReport,
    RuntimeTarget,
    missing,
)

CPU = "CPU"
PROFILED_RUNS = 5  # after one that is not counted
_NO_WORK = {"Input", "Output", "Const", "Reorder", "Convert"}  # kinds of nodes that change type or layout alone
_INPUT_TYPES: Mapping[str, type[np.generic]] = {"f32": np.float32, "u8": np.uint8}


def identify(target: RuntimeTarget) -> RuntimeIdentity:
    """Raises UnknownName for a device that OpenVINO does not see on this machine."""
    openvino = _package()
    provider, available = target.provider or CPU, openvino.Core().available_devices
    for device in provider.partition(":")[2].split(",") if ":" in provider else [provider]:
        if device.partition(".")[0] not in {name.partition(".")[0] for name in available}:
            raise UnknownName("device of OpenVINO", device, available)
    return RuntimeIdentity(RuntimeTarget(target.runtime, provider), openvino.__version__)


def load(model: bytes, execution: Execution) -> LoadedModel:
    """Raises MeasurementRefused for a model that OpenVINO cannot compile for the device."""
    return LoadedModel(_request(_compiled(model, execution)).infer)


def report(model: bytes, execution: Execution) -> RuntimeReport:
    """Nodes and their times from OpenVINO's performance counters; the device of each operator from the compiled model,
    where several devices share it."""
    compiled = _compiled(model, execution, profiled=True)
    request = _request(compiled)
    runs = []
    for _ in range(1 + PROFILED_RUNS):
        request.infer()
        runs.append(request.profiling_info)
    first = execution.target.provider or CPU
    provider = first.partition(":")[2].split(",")[0] if ":" in first else first
    devices = _devices(compiled, provider)
    layers = layer_times(runs[1:], devices, provider)
    placement = _with_unseen(placement_of(provider, layers), devices, compiled)
    if execution.precision == "float16":
        placement = replace(placement, in_float32=_in_float32(compiled))
    return RuntimeReport(placement, layers)


def layer_times(runs: list[Any], devices: Mapping[str, str], provider: str) -> tuple[LayerTime, ...]:
    """Executed nodes in their order, with the mean of their times over runs."""
    times_ms: dict[str, list[float]] = {}
    operators: dict[str, str] = {}
    for infos in runs:
        for info in infos:
            if info.status.name != "EXECUTED":
                continue
            operators[info.node_name] = info.node_type
            times_ms.setdefault(info.node_name, []).append(info.real_time.total_seconds() * 1e3)
    return tuple(
        LayerTime(node, operators[node], devices.get(node, provider), float(np.mean(of_node)))
        for node, of_node in times_ms.items()
    )


def _with_unseen(placement: Placement, devices: Mapping[str, str], compiled: Any) -> Placement:
    """With the operators of the compiled model that lie on another device, whether or not the counters named them."""
    fallen_back = {
        operator.get_type_name()
        for operator in compiled.get_runtime_model().get_ordered_ops()
        if devices.get(operator.get_friendly_name(), placement.provider) != placement.provider
    }
    return replace(placement, fallback=tuple(sorted({*placement.fallback, *fallen_back})))


def _in_float32(compiled: Any) -> tuple[str, ...]:
    """The kinds of nodes of the compiled model that compute in float32, sorted."""
    kinds = set()
    for operator in compiled.get_runtime_model().get_ordered_ops():
        info = operator.get_rt_info()
        if "runtimePrecision" in info and info["runtimePrecision"].astype(str) == "f32":
            kinds.add(info["layerType"].astype(str) if "layerType" in info else operator.get_type_name())
    return tuple(sorted(kinds - _NO_WORK))


def _devices(compiled: Any, provider: str) -> dict[str, str]:
    """The device of each node, where the compiled model tells; one that runs on one device alone has that."""
    executed_on = [str(name) for name in compiled.get_property("EXECUTION_DEVICES")]
    only_device = executed_on[0] if len(executed_on) == 1 else None
    devices = {}
    for operator in compiled.get_runtime_model().get_ordered_ops():
        info = operator.get_rt_info()
        affinity = info["affinity"].astype(str) if "affinity" in info else only_device
        if affinity is not None:
            devices[operator.get_friendly_name()] = _same_device(affinity, provider)
    return devices


def _same_device(name: str, provider: str) -> str:
    """The provider's own name for it: ``GPU.0`` is ``GPU`` where that was asked for."""
    return provider if name.partition(".")[0] == provider.partition(".")[0] and "." not in provider else name


def _compiled(model: bytes, execution: Execution, profiled: bool = False) -> Any:
    openvino = _package()
    options = {
        "INFERENCE_NUM_THREADS": execution.threads,
        "NUM_STREAMS": "1",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f16" if execution.precision == "float16" else "f32",
        "ENABLE_CPU_PINNING": False,
        "PERF_COUNT": profiled,
    }
    core = openvino.Core()
    provider = execution.target.provider or CPU
    supported = set(core.get_property(provider, "SUPPORTED_PROPERTIES"))
    try:
        network = core.read_model(model)
        shapes = {}
        for port in network.inputs:
            shape = port.partial_shape
            if len(shape) and shape[0].is_dynamic:
                shapes[port] = openvino.PartialShape([execution.batch, *list(shape)[1:]])
        if shapes:
            network.reshape(shapes)
        return core.compile_model(network, provider, {k: v for k, v in options.items() if k in supported})
    except RuntimeError as error:
        raise MeasurementRefused(f"OpenVINO cannot run the model on {provider}: {error}") from error


def _request(compiled: Any) -> Any:
    """A request that is ready to run, on random images."""
    request = compiled.create_infer_request()
    for port, values in _inputs(compiled).items():
        request.set_tensor(port, _package().Tensor(values))
    return request


def _inputs(compiled: Any) -> dict[Any, NDArray[np.generic]]:
    values = {}
    for port in compiled.inputs:
        kind = port.element_type.get_type_name()
        if kind not in _INPUT_TYPES or not port.partial_shape.is_static:
            raise MeasurementRefused(
                f"expected inputs of {' or '.join(_INPUT_TYPES)} where only the batch size is free, "
                f"got {port.any_name!r} of {kind} and shape {port.partial_shape}"
            )
        random = np.random.default_rng(0).random(tuple(port.shape)) * 255
        values[port] = random.astype(_INPUT_TYPES[kind])
    return values


def _package() -> ModuleType:
    try:
        import openvino
    except ImportError as error:
        raise missing("openvino", "openvino") from error
    return openvino  # type: ignore[no-any-return]


OPENVINO = Runtime(
    name="openvino",
    summary="OpenVINO on processors, GPUs and NPUs of Intel; it reads ONNX.",
    requirement="openvino",
    identify=identify,
    load=load,
    report=report,
)
