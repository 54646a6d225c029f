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
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
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
from nas.core.layers import summarise
from nas.core.metrics import metric_info
from nas.core.ports import Dataset, SearchSpace
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
class Footprint:
    """Memory of a model: ``peak_bytes`` of activations at once (see ``nas.spaces.activation_memory``), and
    ``model_bytes`` of weights, which are all float32 values that the file holds."""

    peak_bytes: int
    model_bytes: int


def footprint(onnx_bytes: bytes) -> Footprint:
    """Exactly, from the graph; what its tensors measure is seen by running it on one image."""
    model = onnx.load_model_from_string(onnx_bytes)
    graph = model.graph
    held = [(w.dims, w.data_type) for w in graph.initializer]
    held += [(a.t.dims, a.t.data_type) for n in graph.node for a in n.attribute if n.op_type == "Constant"]
    weights = [math.prod(dims) for dims, kind in held if kind == onnx.TensorProto.FLOAT]
    image = graph.input[0]
    last = {image.name: 0}
    for node in graph.node:
        if read := [name for name in node.input if name in last]:  # others are made of weights alone
            made = [name for name in node.output if name]
            last.update(dict.fromkeys([*read, *made], len(last) + len(made) - 1))
    del graph.output[:]
    graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in last if name != image.name)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    x_1CHW = np.zeros([1, *(d.dim_value for d in image.type.tensor_type.shape.dim[1:])], dtype=np.float32)
    sizes = [x_1CHW.nbytes, *(made.nbytes for made in session.run(None, {image.name: x_1CHW}))]
    most = peak(np.array([sizes], dtype=np.float64), np.array([[*last.values()]]))
    return Footprint(int(most[0]), 4 * sum(weights))


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
) -> tuple[bytes, dict[str, Any]]:
    """Everything a user needs of one network as a zip file, and a report of the checks it passed.

    ``module`` takes images normalised by ``mean`` and ``std`` (pixel values); the exported graph normalises itself.
    Every test image goes through torch, and through the preprocessing and the models of the zip file. Report:
    ``max_abs_err`` (logits), ``accuracy_torch``, ``accuracy_onnx``, ``int8_accuracy`` (%, None without int8) and
    ``sizes`` (bytes by file name). ``versions`` are further ones to record; ``fleet``: the devices of a search over
    several, and what is known of the network on each. Equal arguments give equal bytes.

    Raises ExportMismatch if torch and ONNX disagree, InvalidInput for a measured latency without its measurement.
    """
    if "measured_ms" in metrics and (measurement is None or profile is None):
        raise InvalidInput("a measured latency needs its measurement and device profile: expected both, got less")
    channels, height, width = space.input_shape(arch)
    network = _frozen(Normalised(module, mean, std))
    models = {"model.onnx": to_onnx(network, (channels, height, width))}
    if int8:
        chosen = np.random.default_rng(seed).permutation(len(data.train))[:calibration_images]
        sample = exported_run.resize(data.train.images_NCHW[chosen], height, width)
        models["model.int8.onnx"] = quantise_int8(models["model.onnx"], sample)
    report = _evaluate(network, models, data, height, width)
    shown = {name: _metric_json(name, value) for name, value in metrics.items()}
    shown["test_accuracy"] = _metric_json("test_accuracy", report["accuracy_onnx"])
    if int8:
        shown["int8_test_accuracy"] = {**_metric_json("test_accuracy", report["int8_accuracy"]), "precision": "int8"}
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
        "data": {"name": data.name, "content_hash": data.content_hash, "test_images": len(data.test)},
        "metrics": shown,
        "measurement": None if measurement is None else measurement.as_json(),
        "device": None if profile is None else profile.as_json(),
        **({"fleet": {n: {"profile": p.as_json(), **asdict(on)} for n, (p, on) in fleet.items()}} if fleet else {}),
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
        "onnx": {"opset": OPSET, "output": "logits", "max_abs_err": report["max_abs_err"]},
        "versions": {name: version(name) for name in _VERSIONED} | dict(versions or {}),
    }
    files["model_card.md"] = _model_card(manifest, {name: len(content) for name, content in files.items()}).encode()
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        for name, content in sorted(files.items())
    }
    files["manifest.json"] = _json(manifest)
    report["sizes"] = {name: len(content) for name, content in sorted(files.items())}
    return _zip(files), report


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
    kept = [n for n in graph.node if n.output[0] not in alias]
    for node in kept:
        node.input[:] = [alias.get(name, name) for name in node.input]
    del graph.node[:]
    graph.node.extend(kept)


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


def _max_abs_err(expected: Logits, got: Logits, tolerance: float) -> float:
    if expected.shape != got.shape:
        raise ExportMismatch(f"expected logits of shape {expected.shape} as torch gives, got {got.shape}")
    if not (np.isfinite(expected).all() and np.isfinite(got).all()):
        raise ExportMismatch("expected finite logits, got NaN or infinity")
    error = float(np.abs(expected - got).max())
    limit = tolerance * max(float(np.abs(expected).max()), 1e-2)
    if error > limit:
        raise ExportMismatch(
            f"the exported model and the torch network disagree: expected logits within {limit:.3g}, got {error:.3g}"
        )
    return error


def _evaluate(
    network: nn.Module, models: Mapping[str, bytes], data: Dataset, height: int, width: int
) -> dict[str, Any]:
    """Test accuracies in % and the largest difference of logits; images are prepared by torch for ``network`` and by
    the shipped preprocessing for ``models``, so that both are compared."""
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
    return {
        "max_abs_err": _max_abs_err(joined["torch"], joined["model.onnx"], TOLERANCE),
        "accuracy_torch": accuracy["torch"],
        "accuracy_onnx": accuracy["model.onnx"],
        "int8_accuracy": accuracy.get("model.int8.onnx"),
    }


def _plain_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}


def _metric_json(name: str, value: float) -> dict[str, Any]:
    info = metric_info(name)
    return {"value": value, "unit": info.unit, "kind": info.kind}


def _json(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def _zip(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))  # no clock: equal content, equal bytes
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, content, compress_type=zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _model_card(manifest: Mapping[str, Any], sizes: Mapping[str, int]) -> str:
    wanted, device, measurement = manifest["preprocessing"], manifest["device"], manifest["measurement"]
    rows = []
    for name, metric in manifest["metrics"].items():
        label = "Test accuracy, int8 model" if name == "int8_test_accuracy" else metric_info(name).label
        value = f"{metric['value']:,.4g}" if metric["unit"] else f"{metric['value']:,.0f}"
        rows.append(f"| {label} | {value} {metric['unit']} | {metric['kind']} |".replace("  ", " "))
    if measurement is None or device is None:
        measured = "Its latency was not measured."
    elif measurement["median_ms"] is None:
        measured = f"Its latency on {device['name']} could not be measured: {measurement['refused']}."
    else:
        protocol = device["protocol"]
        measured = (
            f"Latency of `model.onnx`: {measurement['median_ms']:.4g} ms (95 % interval {measurement['low_ms']:.4g} to "
            f"{measurement['high_ms']:.4g} ms, {measurement['runs']} runs), measured on {device['name']} "
            f"({device['processor']}) with {device['runtime']} {device['runtime_version']}, batch {protocol['batch']}, "
            f"threads {protocol['threads']}. On any other machine it differs."
        )
    if fleet := manifest.get("fleet"):
        measured = f"{_fleet_table(fleet)}\n\n{measured}"
    channels = {1: "grey", 3: "RGB"}.get(wanted["channels"], f"{wanted['channels']}-channel")
    return f"""# Image classifier {manifest["architecture"]}

Found by hwnas for the data set {manifest["data"]["name"]}. It sorts images into {len(wanted["class_names"])} classes:
{", ".join(wanted["class_names"])}.

| | value | evidence |
|---|---|---|
{chr(10).join(rows)}

{measured}

Test accuracy was taken over {manifest["data"]["test_images"]} images that had no part in training or in the choice of
this network, with the models of this package. The network's ONNX and torch forms agree within
{manifest["onnx"]["max_abs_err"]:.1e} (largest difference of any logit).

## Use

    pip install numpy onnxruntime
    python run.py images.npy

The input `image` is float32 of shape (batch, {wanted["channels"]}, {wanted["height"]}, {wanted["width"]}): {channels}
pixel values from 0 to 255, scaled to {wanted["height"]}x{wanted["width"]} ({wanted["resize"]}). The model
normalises them itself. The output `logits` has one column per class, in the order above.

## Files

{chr(10).join(f"- `{name}`: {_FILES[name]}, {size / 1024:,.0f} KiB" for name, size in sizes.items())}
- `manifest.json`: checksums, metrics with their evidence, measurement protocol, versions

## Limits

The network knows these classes only and answers with one of them whatever it is shown. It was trained on this data set
alone; check it on your own images before you rely on it.
"""


def _fleet_table(fleet: Mapping[str, Any]) -> str:
    """What is known of the network on every device of the search."""
    rows = ["| device | predicted ms | 95 % upper bound ms | measured ms | status |", "|---|---|---|---|---|"]
    for name, on in fleet.items():
        measured_ms = on["measurement"]["median_ms"] if on["measurement"] is not None else None
        shown = f"{measured_ms:.4g}" if measured_ms is not None else "not measured"
        rows.append(f"| {name} | {on['predicted_ms']:.4g} | {on['upper_ms']:.4g} | {shown} | {on['status']} |")
    return "\n".join(rows)


_FILES = {
    "model.onnx": "the network in float32",
    "model.int8.onnx": "the network in int8; its accuracy is its own, see above",
    "weights.safetensors": "the weights as torch had them",
    "architecture.json": "the architecture: choices and layers",
    "run.py": "runs the models with numpy and onnxruntime",
}
