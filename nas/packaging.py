"""Everything a user needs of one network as a zip file: models, weights, a manifest, a model card and a runner."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

from nas import exported_run
from nas.core.arch import Arch
from nas.core.device import DeviceProfile, Measurement, OnDevice
from nas.core.errors import InvalidInput
from nas.core.json_types import JsonObject
from nas.core.metrics import kind_of, metric_info, recall_by_class
from nas.core.network import summarise
from nas.core.ports import Dataset, SearchSpace
from nas.export import (
    OPSET,
    Logits,
    Normalised,
    frozen_copy,
    largest_difference,
    open_session,
    quantise_int8,
    run_session,
    to_onnx,
    torch_logits,
)
from nas.model_card import model_card

_VERSIONED = ("hwnas", "torch", "onnx", "onnxruntime")


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
    network = frozen_copy(Normalised(module, mean, std))
    models = {"model.onnx": to_onnx(network, (channels, height, width))}
    if int8:
        sample_rows = np.random.default_rng(seed).permutation(len(data.train))[:calibration_images]
        sample = exported_run.resize(data.train.images_NCHW[sample_rows], height, width)
        models["model.int8.onnx"] = quantise_int8(models["model.onnx"], sample)
    report = _evaluate(network, models, data, height, width)
    files = {
        **models,
        "weights.safetensors": safetensors.torch.save(_plain_weights(module)),
        "architecture.json": _json(_architecture_json(arch, space)),
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
        "metrics": _metrics_json(metrics, report, virtual),
        "recall_by_class": dict(report.recall_by_class),
        "measurement": None if measurement is None else measurement.as_json(),
        "device": None if profile is None else profile.as_json(),
        **({"fleet": {name: _on_device_json(*known) for name, known in fleet.items()}} if fleet else {}),
        "preprocessing": _preprocessing_json(space.input_shape(arch), mean, std, data.class_names),
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


def _architecture_json(arch: Arch, space: SearchSpace) -> JsonObject:
    return {
        "space": space.name,
        "space_id": space.id,
        "params": dict(space.params),
        "id": arch.id,
        "genes": list(arch.genes),
        "choices": {d.name: d.choices[g] for d, g in zip(space.decisions, arch.genes, strict=True)},
        "layers": [asdict(summarise(layer)) for layer in space.layers(arch)],
    }


def _metrics_json(metrics: Mapping[str, float], report: PackageReport, virtual: bool) -> dict[str, JsonObject]:
    """The metrics of the search, and the accuracies of these very files in place of its own."""
    record = {name: _metric_json(name, value, virtual) for name, value in metrics.items()}
    record["test_accuracy"] = _metric_json("test_accuracy", report.accuracy_onnx)
    record["test_balanced_accuracy"] = _metric_json("test_balanced_accuracy", report.balanced_accuracy)
    if report.int8_accuracy is not None:
        record["int8_test_accuracy"] = {**_metric_json("test_accuracy", report.int8_accuracy), "precision": "int8"}
    return record


def _preprocessing_json(
    input_shape: tuple[int, int, int], mean: Sequence[float], std: Sequence[float], class_names: Sequence[str]
) -> JsonObject:
    channels, height, width = input_shape
    return {
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
        "class_names": list(class_names),
    }


def _evaluate(network: nn.Module, models: Mapping[str, bytes], data: Dataset, height: int, width: int) -> PackageReport:
    """Test accuracies and the largest difference of logits; images are prepared by torch for ``network`` and by the
    shipped preprocessing for ``models``, so that both are compared."""
    sessions = {name: open_session(model) for name, model in models.items()}
    logits: dict[str, list[Logits]] = {name: [] for name in ("torch", *models)}
    for start in range(0, len(data.test), 256):
        images_NCHW = data.test.images_NCHW[start : start + 256]
        x = torch.from_numpy(images_NCHW).float()
        x = F.interpolate(x, size=(height, width), mode="bilinear", antialias=True)
        logits["torch"].append(torch_logits(network, x.numpy()))
        shipped = exported_run.resize(images_NCHW, height, width)
        for name, session in sessions.items():
            logits[name].append(run_session(session, shipped))
    joined = {name: np.concatenate(chunks) for name, chunks in logits.items()}
    accuracy = {name: float((v.argmax(axis=1) == data.test.labels_N).mean() * 100.0) for name, v in joined.items()}
    answers_N = joined["model.onnx"].argmax(axis=1)
    recalls = recall_by_class(data.test.labels_N, answers_N, len(data.class_names))
    return PackageReport(
        max_abs_err=largest_difference(joined["torch"], joined["model.onnx"]),
        accuracy_torch=accuracy["torch"],
        accuracy_onnx=accuracy["model.onnx"],
        int8_accuracy=accuracy.get("model.int8.onnx"),
        balanced_accuracy=fmean(r for r in recalls if r is not None),
        recall_by_class=dict(zip(data.class_names, recalls, strict=True)),
    )


def _plain_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}


def _metric_json(name: str, value: float, virtual: bool = False) -> JsonObject:
    return {"value": value, "unit": metric_info(name).unit, "kind": kind_of(name, virtual)}


def _on_device_json(profile: DeviceProfile, on_device: OnDevice) -> JsonObject:
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
