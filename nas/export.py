"""From a trained torch network to files that run without this project, checked against the network on the way.

The exported graph takes pixel values: ``image`` is float32 of shape (batch, C, H, W) with values 0 to 255, at the
network's own resolution; normalisation is the graph's first step, since wrong preprocessing is the most common reason
why a model disappoints elsewhere. Latency is measured on this very graph: measure ``to_onnx(Normalised(...), ...)``.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import onnx
import onnxruntime
import safetensors.torch
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from nas import exported_run
from nas.core.arch import Arch
from nas.core.device import DeviceProfile, Measurement, OnDevice
from nas.core.errors import ExportMismatch, InvalidInput
from nas.core.json_types import JsonObject
from nas.core.metrics import kind_of, metric_info, recall_by_class
from nas.core.network import summarise
from nas.core.ports import Dataset, SearchSpace
from nas.model_card import model_card
from nas.spaces.activation_memory import peak

OPSET = 17
TOLERANCE = 1e-4
_VERSIONED = ("hwnas", "torch", "onnx", "onnxruntime")
Images = NDArray[np.float32]
Logits = NDArray[np.float32]

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

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Logits of shape (B, classes)."""
        logits: torch.Tensor = self.network((x_BCHW - self.mean) * self.scale)
        return logits


def to_onnx(module: nn.Module, input_shape: tuple[int, int, int]) -> bytes:
    """The module as an ONNX model: float32, evaluation mode, batch norm folded into convolutions, any batch size.

    ``input_shape`` is (C, H, W). Input ``image``, output ``logits``. Equal modules give equal bytes.
    Raises ExportMismatch if a batch norm that follows a convolution was not folded.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        for message in _DEPRECATED:
            warnings.filterwarnings("ignore", message=message, category=DeprecationWarning)
        torch.onnx.export(
            _frozen(module),
            (torch.zeros(1, *input_shape),),
            buffer,  # type: ignore[arg-type]  # files in memory are taken, but not declared
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
            opset_version=OPSET,
            dynamo=False,
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    _inline_shared_weights(model.graph)
    convolved = {name for node in model.graph.node if node.op_type == "Conv" for name in node.output}
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
class PackageReport:
    """The checks that a package passed. ``max_abs_err``: the largest difference of logits between torch and ONNX.
    Accuracies are those on test images, in %: ``int8_accuracy`` None without int8, ``balanced_accuracy`` the mean of
    ``recall_by_class``, which is None for a class without images. ``sizes``: bytes by file name."""

    max_abs_err: float
    accuracy_torch: float
    accuracy_onnx: float
    int8_accuracy: float | None
    balanced_accuracy: float
    recall_by_class: Mapping[str, float | None]
    sizes: Mapping[str, int] = field(default_factory=dict)


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
    """Logits of shape (N, classes), by onnxruntime on one thread."""
    return _run(_session(onnx_bytes), x_NCHW, batch)


def check_parity(onnx_bytes: bytes, module: nn.Module, x_NCHW: Images, tolerance: float = TOLERANCE) -> float:
    """The largest absolute difference between the logits of both.

    Raises ExportMismatch if it exceeds ``tolerance`` times the largest logit, or if anything is not finite.
    """
    return _max_abs_err(_torch_logits(_frozen(module), x_NCHW), onnx_predict(onnx_bytes, x_NCHW), tolerance)


def quantise_int8(onnx_bytes: bytes, calibration_images: Images) -> bytes:
    """The model in int8: weights per output channel, activations by the range they have on ``calibration_images``.

    The images are training images as the model takes them, shape (N, C, H, W). Input and output stay float32.
    Weights use 7 bits: with 8, processors without int8 dot products add up 16-bit sums that saturate, and the same
    model would give other answers there.
    """
    with tempfile.TemporaryDirectory() as folder:
        shaped, quantised = Path(folder) / "shaped.onnx", Path(folder) / "quantised.onnx"
        model = onnx.load_model_from_string(onnx_bytes)
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
        )
        return quantised.read_bytes()


def package(
    module: nn.Module,
    arch: Arch,
    space: SearchSpace,
    data: Dataset,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    seed: int,
    metrics: Mapping[str, float],
    measurement: Measurement | None = None,
    profile: DeviceProfile | None = None,
    fleet: Mapping[str, tuple[DeviceProfile, OnDevice]] | None = None,
    int8: bool = True,
    calibration_images: int = 128,
    versions: Mapping[str, str] | None = None,
    virtual: bool = False,
) -> tuple[bytes, PackageReport]:
    """Everything a user needs of one network as a zip file, and a report of the checks it passed.

    ``module`` takes images normalised by ``mean`` and ``std`` (pixel values); the exported graph normalises itself.
    Every test image goes through torch, and through the preprocessing and the models of the zip file. ``versions`` are
    further ones to record; ``fleet``: the devices of a search over several, and what is known of the network on each;
    ``virtual``: latencies are estimates from peak figures. Equal arguments give equal bytes.

    Raises ExportMismatch if torch and ONNX disagree, InvalidInput for a measured latency without its measurement.
    """
    if "measured_ms" in metrics and (measurement is None or profile is None):
        raise InvalidInput("a measured latency needs its measurement and device profile: expected both, got less")
    channels, height, width = space.input_shape(arch)
    network = _frozen(Normalised(module, mean, std))
    models = {"model.onnx": to_onnx(network, (channels, height, width))}
    if int8:
        sample_rows = np.random.default_rng(seed).permutation(len(data.train))[:calibration_images]
        sample = exported_run.resize(data.train.images_NCHW[sample_rows], height, width)
        models["model.int8.onnx"] = quantise_int8(models["model.onnx"], sample)
    report = _evaluate(network, models, data, height, width)
    metrics_json = {name: _metric_json(name, value, virtual) for name, value in metrics.items()}
    metrics_json["test_accuracy"] = _metric_json("test_accuracy", report.accuracy_onnx)
    metrics_json["test_balanced_accuracy"] = _metric_json("test_balanced_accuracy", report.balanced_accuracy)
    if report.int8_accuracy is not None:
        metrics_json["int8_test_accuracy"] = {
            **_metric_json("test_accuracy", report.int8_accuracy),
            "precision": "int8",
        }
    files = {
        **models,
        "weights.safetensors": safetensors.torch.save(_plain_weights(module)),
        "architecture.json": _json(
            {
                "space": space.name,
                "space_id": space.id,
                "params": dict(space.params),
                "id": arch.id,
                "genes": list(arch.genes),
                "choices": {d.name: d.choices[g] for d, g in zip(space.decisions, arch.genes, strict=True)},
                "layers": [asdict(summarise(layer)) for layer in space.layers(arch)],
            }
        ),
        "run.py": Path(exported_run.__file__).read_bytes(),
    }
    manifest = {
        "format": "hwnas model package",
        "format_version": 1,
        "architecture": arch.id,
        "seed": seed,
        "data": {
            "name": data.name,
            "content_hash": data.content_hash,
            "test_images": len(data.test),
            "account": asdict(data.account),
        },
        "metrics": metrics_json,
        "recall_by_class": dict(report.recall_by_class),
        "measurement": None if measurement is None else measurement.as_json(),
        "device": None if profile is None else profile.as_json(),
        **({"fleet": {name: _on_device_json(*known) for name, known in fleet.items()}} if fleet else {}),
        "preprocessing": {
            "input": "image",
            "layout": "NCHW",
            "type": "float32",
            "values": "pixel values 0 to 255; the model normalises them itself",
            "channels": channels,
            "channel_order": "RGB" if channels == 3 else "grey" if channels == 1 else "as in the data set",
            "height": height,
            "width": width,
            "resize": "bilinear, antialiased where it shrinks",
            "mean": list(mean),
            "std": list(std),
            "class_names": list(data.class_names),
        },
        "onnx": {"opset": OPSET, "output": "logits", "max_abs_err": report.max_abs_err},
        "versions": {name: version(name) for name in _VERSIONED} | dict(versions or {}),
    }
    sizes = {name: len(content) for name, content in files.items()}
    files["model_card.md"] = model_card(manifest, data.account, sizes).encode()
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        for name, content in sorted(files.items())
    }
    files["manifest.json"] = _json(manifest)
    return _zip(files), replace(report, sizes={name: len(content) for name, content in sorted(files.items())})


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, images: Images) -> None:
        self._batches: Iterator[Images] = (images[i : i + 64] for i in range(0, len(images), 64))

    def get_next(self) -> dict[str, Images] | None:
        batch = next(self._batches, None)
        return None if batch is None else {"image": batch}


def _frozen(module: nn.Module) -> nn.Module:
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


def _session(onnx_bytes: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(onnx_bytes, options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, x_NCHW: Images, batch: int = 256) -> Logits:
    chunks = [session.run(["logits"], {"image": x_NCHW[i : i + batch]})[0] for i in range(0, len(x_NCHW), batch)]
    return np.concatenate(chunks)


def _torch_logits(frozen: nn.Module, x_NCHW: Images) -> Logits:
    with torch.inference_mode():
        chunks = [frozen(torch.from_numpy(x_NCHW[i : i + 256])).numpy() for i in range(0, len(x_NCHW), 256)]
    return np.concatenate(chunks)


def _max_abs_err(expected: Logits, actual: Logits, tolerance: float) -> float:
    if expected.shape != actual.shape:
        raise ExportMismatch(f"expected logits of shape {expected.shape} as torch gives, got {actual.shape}")
    if not (np.isfinite(expected).all() and np.isfinite(actual).all()):
        raise ExportMismatch("expected finite logits, got NaN or infinity")
    error = float(np.abs(expected - actual).max())
    limit = tolerance * max(float(np.abs(expected).max()), 1e-2)
    if error > limit:
        raise ExportMismatch(
            f"the exported model and the torch network disagree: expected logits within {limit:.3g}, got {error:.3g}"
        )
    return error


def _evaluate(network: nn.Module, models: Mapping[str, bytes], data: Dataset, height: int, width: int) -> PackageReport:
    """Test accuracies and the largest difference of logits; images are prepared by torch for ``network`` and by the
    shipped preprocessing for ``models``, so that both are compared."""
    sessions = {name: _session(model) for name, model in models.items()}
    logits: dict[str, list[Logits]] = {name: [] for name in ("torch", *models)}
    for start in range(0, len(data.test), 256):
        images_NCHW = data.test.images_NCHW[start : start + 256]
        x = torch.from_numpy(images_NCHW).float()
        x = F.interpolate(x, size=(height, width), mode="bilinear", antialias=True)
        logits["torch"].append(_torch_logits(network, x.numpy()))
        shipped = exported_run.resize(images_NCHW, height, width)
        for name, session in sessions.items():
            logits[name].append(_run(session, shipped))
    joined = {name: np.concatenate(chunks) for name, chunks in logits.items()}
    accuracy = {name: float((v.argmax(axis=1) == data.test.labels_N).mean() * 100.0) for name, v in joined.items()}
    answers_N = joined["model.onnx"].argmax(axis=1)
    recalls = recall_by_class(data.test.labels_N, answers_N, len(data.class_names))
    return PackageReport(
        max_abs_err=_max_abs_err(joined["torch"], joined["model.onnx"], TOLERANCE),
        accuracy_torch=accuracy["torch"],
        accuracy_onnx=accuracy["model.onnx"],
        int8_accuracy=accuracy.get("model.int8.onnx"),
        balanced_accuracy=fmean(r for r in recalls if r is not None),
        recall_by_class=dict(zip(data.class_names, recalls, strict=True)),
    )


def _plain_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}


def _metric_json(name: str, value: float, virtual: bool = False) -> dict[str, Any]:
    return {"value": value, "unit": metric_info(name).unit, "kind": kind_of(name, virtual)}


def _on_device_json(profile: DeviceProfile, on_device: OnDevice) -> dict[str, Any]:
    kind = kind_of("predicted_ms", virtual=profile.source == "roofline")
    return {"profile": profile.as_json(), **asdict(on_device), "kind": kind}


def _json(record: JsonObject) -> bytes:
    return (json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _zip(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # no clock: equal content, equal bytes
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, content, compress_type=zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
