"""From a trained torch network to files that run without this project, checked against the network on the way.

The exported graph takes pixel values: ``image`` is float32 of shape (batch, C, H, W) with values 0 to 255, at the
network's own resolution; normalisation is the graph's first step, since wrong preprocessing is the most common reason
why a model disappoints elsewhere. Latency is measured on this very graph: measure ``to_onnx(Normalised(...), ...)``.
"""

from __future__ import annotations

import copy
import io
import math
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from nas.core.errors import ExportMismatch, InvalidInput
from nas.core.runtimes import Precision
from nas.spaces.activation_memory import peak

OPSET = 17
_WEIGHTED = ("Conv", "Gemm", "MatMul")  # that are quantised with their weights
TOLERANCE = 1e-4
Images = NDArray[np.float32]
Logits = NDArray[np.float32]

_UNFOLDED = "Constant folding - Only steps=1 can be constant folded"  # of the sizes of padding; runtimes fold them

# torch's exporter of this kind is deprecated; the newer one needs a further package and takes several times as long.
_DEPRECATED = ("You are using the legacy TorchScript-based ONNX export", "The feature will be removed")


class Normalised(nn.Module):
    """A network behind its normalisation: takes pixel values 0 to 255. ``mean`` and ``std`` are pixel values too."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.mean: torch.Tensor
        self.scale: torch.Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("scale", 1.0 / torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))
        self.train(network.training)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        """What the network gives, such as logits of shape (B, classes)."""
        outputs: torch.Tensor | tuple[torch.Tensor, ...] = self.network((x_BCHW - self.mean) * self.scale)
        return outputs


class InUnits(nn.Module):
    """A network of standardised values before their mean and standard deviation: gives them in their own units."""

    def __init__(self, network: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.network = network
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))
        self.train(network.training)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Values (B, T)."""
        values: torch.Tensor = self.network(x_BCHW) * self.std + self.mean
        return values


def to_onnx(module: nn.Module, input_shape: tuple[int, int, int]) -> bytes:
    """The module as an ONNX model: float32, evaluation mode, batch norm folded into convolutions, any batch size.

    ``input_shape`` is (C, H, W). Input ``image``, output ``logits``; several outputs are ``output_0`` and so on. Equal
    modules give equal bytes. Raises ExportMismatch if a batch norm that alone follows a convolution was not folded.
    """
    frozen, buffer, example = frozen_copy(module), io.BytesIO(), torch.zeros(1, *input_shape)
    with torch.inference_mode():
        outputs = frozen(example)
    names = ["logits"] if isinstance(outputs, torch.Tensor) else [f"output_{i}" for i in range(len(outputs))]
    with warnings.catch_warnings():
        for message in _DEPRECATED:
            warnings.filterwarnings("ignore", message=message, category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=_UNFOLDED, category=UserWarning)
        torch.onnx.export(
            frozen,
            (example,),
            buffer,  # type: ignore[arg-type]  # files in memory are taken, but not declared
            input_names=["image"],
            output_names=names,
            dynamic_axes={name: {0: "batch"} for name in ("image", *names)},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    _inline_shared_weights(model.graph)
    read = Counter(name for node in model.graph.node for name in node.input)
    # A convolution that something else reads too keeps its own output.
    convolved = {node.output[0] for node in model.graph.node if node.op_type == "Conv" and read[node.output[0]] == 1}
    for node in model.graph.node:
        if node.op_type == "BatchNormalization" and node.input[0] in convolved:
            raise ExportMismatch(f"expected batch norm {node.name!r} to be folded into its convolution, got it apart")
    return bytes(model.SerializeToString(deterministic=True))


def to_onnx_for_timing(network: nn.Module, input_shape: tuple[int, int, int]) -> bytes:
    """As ``to_onnx``, behind a normalisation of no data set: latency depends on the graph, not on its numbers. A scale
    of 1 would be optimised away."""
    channels = input_shape[0]
    return to_onnx(Normalised(network, [127.5] * channels, [63.0] * channels), input_shape)


@dataclass(frozen=True)
class Footprint:
    """Memory of a model: ``peak_bytes`` of activations at once (see ``nas.spaces.activation_memory``), and
    ``model_bytes`` of weights, which are all float32 values that the file holds."""

    peak_bytes: int
    model_bytes: int


def footprint(onnx_bytes: bytes) -> Footprint:
    """Exactly, from the graph; what its tensors measure is seen by running it on one image."""
    model = onnx.load_model_from_string(onnx_bytes)
    graph = model.graph
    constants = [(w.dims, w.data_type) for w in graph.initializer]
    constants += [(a.t.dims, a.t.data_type) for n in graph.node for a in n.attribute if n.op_type == "Constant"]
    weights = [math.prod(dims) for dims, kind in constants if kind == onnx.TensorProto.FLOAT]
    image = graph.input[0]
    last = {image.name: 0}
    for node in graph.node:
        if read := [name for name in node.input if name in last]:  # others are made of weights alone
            outputs = [name for name in node.output if name]
            last.update(dict.fromkeys([*read, *outputs], len(last) + len(outputs) - 1))
    del graph.output[:]
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in last if name != image.name)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x_1CHW = np.zeros([1, *(d.dim_value for d in image.type.tensor_type.shape.dim[1:])], dtype=np.float32)
    sizes = [x_1CHW.nbytes, *(output.nbytes for output in session.run(None, {image.name: x_1CHW}))]
    peaks = peak(np.array([sizes], dtype=np.float64), np.array([[*last.values()]]))
    return Footprint(int(peaks[0]), 4 * sum(weights))


def onnx_predict(onnx_bytes: bytes, x_NCHW: Images, batch: int = 256) -> Logits:
    """The first output, such as logits of shape (N, classes), by onnxruntime on one thread."""
    return run_session(open_session(onnx_bytes), x_NCHW, batch)[0]


def quantise_int8(onnx_bytes: bytes, calibration_images: Images, int8: Sequence[bool] | None = None) -> bytes:
    """The model in int8: weights per output channel, activations by the range they have on ``calibration_images``.

    The images are training images as the model takes them, shape (N, C, H, W). Input and output stay float32.
    Weights use 7 bits: with 8, processors without int8 dot products add up 16-bit sums that saturate, and the same
    model would give other answers there. ``int8``: which convolutions and dense layers are quantised, in the order in
    which they run, with what follows each up to the next; None: all. Raises InvalidInput for another number of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        shaped, quantised = Path(folder) / "shaped.onnx", Path(folder) / "quantised.onnx"
        model = onnx.load_model_from_string(onnx_bytes)
        excluded = [] if int8 is None else _in_float32(model.graph, int8)
        if int8 is not None and not any(int8):
            return onnx_bytes
        quant_pre_process(model, str(shaped), skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            str(shaped),
            str(quantised),
            _Calibration(calibration_images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=excluded,
        )
        return quantised.read_bytes()


def _in_float32(graph: onnx.GraphProto, int8: Sequence[bool]) -> list[str]:
    """The nodes that are not quantised: convolutions and dense layers that are not int8, what follows each up to the
    next, and with the first what is before it."""
    weights = {w.name for w in graph.initializer}
    weighted = [i for i, node in enumerate(graph.node) if node.op_type in _WEIGHTED and node.input[1] in weights]
    if len(weighted) != len(int8):
        raise InvalidInput(f"expected a precision for each of {len(weighted)} layers, got {len(int8)}")
    ends = [*weighted[1:], len(graph.node)]
    starts = [0, *weighted[1:]]
    parts = zip(starts, ends, int8, strict=True)
    return [node.name for start, end, is_int8 in parts if not is_int8 for node in graph.node[start:end]]


def to_float16(onnx_bytes: bytes) -> bytes:
    """The model in float16: weights and activations. Input and output stay float32."""
    from onnxruntime.transformers.float16 import convert_float_to_float16  # takes a while to import

    model = convert_float_to_float16(onnx.load_model_from_string(onnx_bytes), keep_io_types=True)
    return bytes(model.SerializeToString(deterministic=True))


def converted(
    onnx_bytes: bytes, precision: Precision, calibration_images: Images, int8: Sequence[bool] | None = None
) -> bytes:
    """The model in a precision; ``calibration_images`` and ``int8`` as ``quantise_int8`` has them."""
    if precision == "float32":
        return onnx_bytes
    return to_float16(onnx_bytes) if precision == "float16" else quantise_int8(onnx_bytes, calibration_images, int8)


def converted_for_timing(
    onnx_bytes: bytes, precision: Precision, input_shape: tuple[int, int, int], int8: Sequence[bool] | None = None
) -> bytes:
    """The model in a precision, calibrated on random images: latency depends on the graph, not on its numbers."""
    images = np.random.default_rng(0).uniform(0.0, 255.0, (8, *input_shape)).astype(np.float32)
    return converted(onnx_bytes, precision, images, int8)


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Images) -> None:
        self._batches: Iterator[Images] = (images[i : i + 64] for i in range(0, len(images), 64))

    def get_next(self) -> dict[str, Images] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def frozen_copy(module: nn.Module) -> nn.Module:
    """A copy for inference on the processor; the caller's module stays as it is."""
    return copy.deepcopy(module).to("cpu", torch.float32).eval().requires_grad_(False)


def _inline_shared_weights(graph: onnx.GraphProto) -> None:
    """Removes the Identity nodes through which the exporter lets equal weights share one tensor."""
    weights = {w.name for w in graph.initializer}
    alias = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "Identity" and n.input[0] in weights}
    nodes = [n for n in graph.node if n.output[0] not in alias]
    for node in nodes:
        node.input[:] = [alias.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(nodes)


def open_session(onnx_bytes: bytes) -> onnxruntime.InferenceSession:
    """A model that runs on one thread of the processor."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])


def run_session(session: onnxruntime.InferenceSession, x_NCHW: Images, batch: int = 256) -> tuple[Logits, ...]:
    """The outputs, each of shape (N, ...)."""
    chunks = [session.run(None, {"image": x_NCHW[i : i + batch]}) for i in range(0, len(x_NCHW), batch)]
    return tuple(np.concatenate(parts) for parts in zip(*chunks, strict=True))


def torch_outputs(frozen: nn.Module, x_NCHW: Images) -> tuple[Logits, ...]:
    """The outputs of a module on the processor, each of shape (N, ...)."""
    chunks = []
    with torch.inference_mode():
        for i in range(0, len(x_NCHW), 256):
            outputs = frozen(torch.from_numpy(x_NCHW[i : i + 256]))
            chunks.append([t.numpy() for t in (outputs if isinstance(outputs, tuple) else (outputs,))])
    return tuple(np.concatenate(parts) for parts in zip(*chunks, strict=True))


class Parity:
    """How far the outputs of two forms of a network differ, over batches of images."""

    def __init__(self, tolerance: float = TOLERANCE) -> None:
        self._tolerance = tolerance
        self._error = self._largest = 0.0

    def add(self, expected: Sequence[Logits], actual: Sequence[Logits]) -> None:
        """The outputs of both for the same images. Raises ExportMismatch for other shapes and what is not finite."""
        shapes, actual_shapes = [x.shape for x in expected], [x.shape for x in actual]
        if shapes != actual_shapes:
            raise ExportMismatch(
                f"expected logits of shape {_shapes(shapes)} as torch gives, got {_shapes(actual_shapes)}"
            )
        for one, other in zip(expected, actual, strict=True):
            if not (np.isfinite(one).all() and np.isfinite(other).all()):
                raise ExportMismatch("expected finite logits, got NaN or infinity")
            self._error = max(self._error, float(np.abs(one - other).max(initial=0.0)))
            self._largest = max(self._largest, float(np.abs(one).max(initial=0.0)))

    def largest_difference(self) -> float:
        """The largest absolute difference. Raises ExportMismatch if it exceeds the tolerance times the largest
        output."""
        limit = self._tolerance * max(self._largest, 1e-2)
        if self._error > limit:
            raise ExportMismatch(
                f"the exported model and the torch network disagree: expected logits within {limit:.3g}, got "
                f"{self._error:.3g}"
            )
        return self._error


def _shapes(shapes: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(map(str, shapes))
