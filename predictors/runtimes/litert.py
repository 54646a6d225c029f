"""LiteRT, once TensorFlow Lite, on a processor or through a delegate's library, such as ``libedgetpu.so.1``.

Its own form is a flatbuffer. ONNX is converted through torch by ``litert-torch``, which is a package of its own: a
device that gets its models converted elsewhere does without.
"""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.core.errors import MeasurementRefused
from nas.core.placement import Placement
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
_MAX_BYTES = 1 << 31
_DELEGATE = "DELEGATE"  # the operator that stands for all that a delegate runs


def identify(target: RuntimeTarget) -> RuntimeIdentity:
    """Raises MeasurementRefused for the library of a delegate that cannot be loaded."""
    from importlib.metadata import version

    provider = target.provider or CPU
    _delegates(provider)
    return RuntimeIdentity(RuntimeTarget(target.runtime, provider), version("ai-edge-litert"))


def is_flatbuffer(model: bytes) -> bool:
    """Whether a model is in LiteRT's own form."""
    return model[4:8] == b"TFL3"


def prepare(model: bytes, execution: Execution) -> bytes:
    """The model as a flatbuffer for so many images at once. Raises MeasurementRefused where ``litert-torch`` is not
    installed, and for operators that it cannot convert."""
    if is_flatbuffer(model):
        return model
    if execution.precision == "float16":
        raise MeasurementRefused("LiteRT runs no float16 models that were converted from ONNX: expected float32")
    try:
        import litert_torch
    except ImportError as error:
        raise MeasurementRefused(
            "LiteRT reads flatbuffers, and this machine cannot convert ONNX to one: pip install litert-torch"
        ) from error
    import torch

    from nas.models.execution import build
    from nas.models.reading.onnx_model import read_onnx

    with tempfile.TemporaryDirectory(prefix="hwnas-litert-") as folder:
        source, flatbuffer = Path(folder) / "model.onnx", Path(folder) / "model.tflite"
        source.write_bytes(model)
        read = read_onnx(source, _MAX_BYTES)
        examples = tuple(torch.rand(execution.batch, *value.shape[1:]) for value in read.graph.inputs)
        litert_torch.convert(build(read.graph, read.weights), examples).export(str(flatbuffer))
        return flatbuffer.read_bytes()


def load(model: bytes, execution: Execution) -> LoadedModel:
    """Raises MeasurementRefused for a flatbuffer that cannot be loaded."""
    interpreter = _interpreter(model, execution)
    for entry in interpreter.get_input_details():
        interpreter.set_tensor(entry["index"], _input(entry))
    return LoadedModel(interpreter.invoke)


def report(model: bytes, execution: Execution) -> RuntimeReport:
    """Nodes by delegate. LiteRT's Python interface has no profiler, so there are no times."""
    interpreter = _interpreter(model, execution)
    interpreter.invoke()
    operators = [str(entry["op_name"]) for entry in interpreter._get_ops_details()]
    return RuntimeReport(placement(operators, execution.target.provider or CPU))


def placement(operators: Sequence[str], provider: str) -> Placement:
    """Where the nodes of an execution plan run. What a delegate has taken over stays in the list before the node that
    stands for all of it; on the processor, XNNPACK and the interpreter's own kernels both count as the processor."""
    if provider == CPU:
        own = [name for name in operators if name != _DELEGATE]
        return Placement(provider, {provider: len(own)})
    delegated = operators.count(_DELEGATE)
    on_processor = [] if delegated and operators[-1] == _DELEGATE else [name for name in operators if name != _DELEGATE]
    nodes = {provider: delegated, **({CPU: len(on_processor)} if on_processor else {})}
    return Placement(provider, nodes, fallback=tuple(sorted(set(on_processor))))


def _interpreter(model: bytes, execution: Execution) -> Any:
    if not is_flatbuffer(model):
        raise MeasurementRefused("expected a LiteRT flatbuffer, got another file")
    provider = execution.target.provider or CPU
    interpreter_module = _package()
    try:
        interpreter = interpreter_module.Interpreter(
            model_content=model, num_threads=execution.threads, experimental_delegates=_delegates(provider)
        )
        for entry in interpreter.get_input_details():
            signature = entry["shape_signature"]
            if len(signature) and signature[0] == -1:
                interpreter.resize_tensor_input(entry["index"], [execution.batch, *entry["shape"][1:]])
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise MeasurementRefused(f"LiteRT cannot load the model on {provider}: {error}") from error
    return interpreter


def _input(entry: Any) -> NDArray[np.generic]:
    values = np.random.default_rng(0).random(tuple(entry["shape"])) * 255
    return values.astype(entry["dtype"])


def _delegates(provider: str) -> list[Any] | None:
    if provider == CPU:
        return None
    try:
        ctypes.CDLL(provider)  # a delegate whose library is missing breaks when it is collected
        return [_package().load_delegate(provider)]
    except (ValueError, OSError) as error:
        raise MeasurementRefused(f"LiteRT cannot load the delegate {provider!r}: {error}") from error


def _package() -> ModuleType:
    try:
        from ai_edge_litert import interpreter
    except ImportError as error:
        raise missing("litert", "ai-edge-litert") from error
    return interpreter  # type: ignore[no-any-return]


LITERT = Runtime(
    name="litert",
    summary="LiteRT (TensorFlow Lite) on a processor or through a delegate's library.",
    requirement="ai-edge-litert",
    identify=identify,
    load=load,
    report=report,
    prepare=prepare,
)
