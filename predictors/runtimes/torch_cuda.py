"""torch on a CUDA device, for GPUs that have no other runtime: the network as one CUDA graph, replayed.

The graph is captured after warming up, so that a run is what the GPU does and not what Python does.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from nas.core.errors import MeasurementRefused
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

DEFAULT = "cuda:0"
WARM_RUNS = 3  # before a graph is captured
_MAX_BYTES = 1 << 31


def identify(target: RuntimeTarget) -> RuntimeIdentity:
    """Raises MeasurementRefused without a CUDA device of that name."""
    torch = _package()
    provider = target.provider or DEFAULT
    if not provider.startswith("cuda") or not torch.cuda.is_available():
        raise MeasurementRefused(f"expected a CUDA device for the runtime torch, got {provider!r} and none is there")
    name = torch.cuda.get_device_name(provider)
    return RuntimeIdentity(
        RuntimeTarget(target.runtime, provider), torch.__version__, f"{name}, CUDA {torch.version.cuda}"
    )


def load(model: bytes, execution: Execution) -> LoadedModel:
    """Raises MeasurementRefused for a model with operators that ``nas.models`` does not know."""
    torch = _package()
    device = execution.target.provider or DEFAULT
    module, inputs = _on_device(model, execution, device)
    with torch.inference_mode():
        stream = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            for _ in range(WARM_RUNS):
                module(*inputs)
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            module(*inputs)
    return LoadedModel(graph.replay, lambda: torch.cuda.synchronize(device))


def report(model: bytes, execution: Execution) -> RuntimeReport:
    """The kernels of one run and their times on the GPU, by torch's profiler."""
    torch = _package()
    device = execution.target.provider or DEFAULT
    module, inputs = _on_device(model, execution, device)
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.inference_mode():
        module(*inputs)
        torch.cuda.synchronize(device)
        with torch.profiler.profile(activities=activities) as profiler:
            module(*inputs)
            torch.cuda.synchronize(device)
    kernels = [event for event in profiler.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    layers = tuple(LayerTime(event.name, event.name, device, event.device_time_total / 1e3) for event in kernels)
    return RuntimeReport(placement_of(device, layers), layers)


def _on_device(model: bytes, execution: Execution, device: str) -> tuple[Any, tuple[Any, ...]]:
    """The network on the GPU, and random images for it, shape (batch, ...)."""
    torch = _package()
    from nas.models.execution import build
    from nas.models.graph import InvalidModel
    from nas.models.reading.onnx_model import read_onnx

    with tempfile.TemporaryDirectory(prefix="hwnas-torch-") as folder:
        source = Path(folder) / "model.onnx"
        source.write_bytes(model)
        try:
            read = read_onnx(source, _MAX_BYTES)
        except InvalidModel as error:
            raise MeasurementRefused(f"torch cannot run the model: {error}") from error
    generator = torch.Generator().manual_seed(0)
    inputs = tuple(
        (torch.rand(execution.batch, *value.shape[1:], generator=generator) * 255).to(device)
        for value in read.graph.inputs
    )
    return build(read.graph, read.weights).to(device), inputs


def _synchronise() -> None:
    _package().cuda.synchronize()


def _package() -> Any:
    try:
        import torch
    except ImportError as error:
        raise missing("torch", "torch") from error
    return torch


TORCH = Runtime(
    name="torch",
    summary="torch on a CUDA device, the network as one CUDA graph, for GPUs without another runtime.",
    requirement="torch",
    identify=identify,
    load=load,
    report=report,
    synchronise=_synchronise,
    asynchronous=True,
)
