"""Everything a user needs of one network as a zip file: models, weights, a manifest, a model card and a runner."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path

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
from nas.core.metrics import kind_of, metric_info
from nas.core.network import summarise
from nas.core.ports import Dataset, SearchSpace
from nas.core.provenance import Provenance
from nas.core.retraining import TrainingRecord
from nas.core.runtimes import Precision
from nas.core.tasks import Task, TaskScores, load_task
from nas.core.zip_files import zip_bytes
from nas.export import (
    OPSET,
    Images,
    InUnits,
    Normalised,
    Parity,
    converted,
    frozen_copy,
    open_session,
    quantise_int8,
    run_session,
    to_onnx,
    torch_outputs,
)
from nas.model_card import MODEL_FILES, model_card

_FURTHER: tuple[Precision, ...] = ("float16", "mixed")  # precisions of models that only searches in them have
_VERSIONED = ("hwnas", "torch", "onnx", "onnxruntime")


@dataclass(frozen=True)
class PackageReport:
    """The checks that a package passed. ``max_abs_err``: the largest difference of outputs between torch and ONNX.
    Scores by the measures of the ``task`` are those on test images, ``int8`` None without such a model, ``further`` by
    the precisions of others. ``sizes``: bytes by file name."""

    task: Task
    class_names: tuple[str, ...]
    max_abs_err: float
    torch: TaskScores
    onnx: TaskScores
    int8: TaskScores | None
    sizes: Mapping[str, int] = field(default_factory=dict)
    further: Mapping[Precision, TaskScores] = field(default_factory=dict)

    def scores_in(self, precision: Precision) -> TaskScores:
        """Those of the model of a precision, or of the float32 model where there is none."""
        return (self.int8 if precision == "int8" else self.further.get(precision)) or self.onnx

    @property
    def by_class(self) -> dict[str, float | None]:
        """The figures by class of the exported model; empty where its task has none."""
        return dict(zip(self.class_names, self.onnx.by_class, strict=True)) if self.onnx.by_class else {}

    @property
    def confusion(self) -> JsonObject:
        """``confusion`` with the class names and, by class, what its test images were answered with; empty without."""
        if not self.onnx.confusion:
            return {}
        counts = [list(row) for row in self.onnx.confusion]
        return {"confusion": {"classes": list(self.class_names), "counts": counts}}

    def to_json(self) -> JsonObject:
        """As artifacts carry it: names are made of those of the task's measures, such as ``accuracy_onnx``."""
        name = self.task.objective
        return {
            "max_abs_err": self.max_abs_err,
            f"{name}_torch": self.torch.quality,
            f"{name}_onnx": self.onnx.quality,
            f"int8_{name}": None if self.int8 is None else self.int8.quality,
            **{f"{precision}_{name}": scores.quality for precision, scores in self.further.items()},
            **self.onnx.further,
            **({f"{self.task.by_class}_by_class": self.by_class} if self.by_class else {}),
            **self.confusion,
            "sizes": dict(self.sizes),
        }


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
    value_scale: tuple[Sequence[float], Sequence[float]] | None = None,
    training: TrainingRecord | None = None,
    provenance: Provenance | None = None,
    precision: Precision = "float32",
    int8_layers: Sequence[bool] | None = None,
    changes: JsonObject | None = None,
) -> tuple[bytes, PackageReport]:
    """Everything a user needs of one network as a zip file, and a report of the checks it passed.

    ``module`` takes images normalised by ``mean`` and ``std`` (pixel values); the exported graph normalises itself.
    Every test image goes through torch, and through the preprocessing and the models of the zip file. ``versions`` are
    further ones to record; ``fleet``: the devices of a search over several, and what is known of the network on each;
    ``virtual``: latencies are estimates from peak figures; ``value_scale``: mean and standard deviation of the values
    that ``module`` gives standardised; ``training``: how the weights came about; ``provenance``: the search, to run it
    again; ``precision``: of the model that the metrics are of; ``int8_layers``: which convolutions and dense layers the
    model of mixed precision has in int8, in the order in which they run; ``changes``: what was done to the network
    after the search, for its description. Equal arguments give equal bytes.

    Raises ExportMismatch if torch and ONNX disagree, InvalidInput for a measured latency without its measurement.
    """
    if "measured_ms" in metrics and (measurement is None or profile is None):
        raise InvalidInput("a measured latency needs its measurement and device profile: expected both, got less")
    channels, height, width = space.input_shape(arch)
    in_units = module if value_scale is None else InUnits(module, *value_scale)
    network = frozen_copy(Normalised(in_units, mean, std))
    models = {"model.onnx": to_onnx(network, (channels, height, width))}
    sample = calibration_sample(data, seed, height, width, calibration_images)
    if int8:
        models[MODEL_FILES["int8"]] = quantise_int8(models["model.onnx"], sample)
    if precision in ("mixed", "float16"):
        models[MODEL_FILES[precision]] = converted(models["model.onnx"], precision, sample, int8_layers)
    report = _evaluate(network, models, data, height, width)
    files = {
        **models,
        "weights.safetensors": safetensors.torch.save(_plain_weights(module)),
        "architecture.json": _json({**_architecture_json(arch, space), **(changes or {})}),
        "run.py": Path(exported_run.__file__).read_bytes(),
    }
    manifest = {
        "format": "hwnas model package",
        "format_version": 1,
        "architecture": arch.id,
        "seed": seed,
        "search": None if provenance is None else provenance.to_json(),
        "data": {
            "name": data.name,
            "content_hash": data.content_hash,
            "test_images": len(data.test),
            "account": asdict(data.account),
        },
        "metrics": _metrics_json(metrics, report, virtual, precision),
        "precision": precision,
        "task": {"name": report.task.name, "labels": report.task.labels, "by_class": report.task.by_class},
        **({f"{report.task.by_class}_by_class": report.by_class} if report.by_class else {}),
        **report.confusion,
        "training": None if training is None else _training_json(training),
        "measurement": None if measurement is None else measurement.as_json(),
        "device": None if profile is None else profile.as_json(),
        **({"fleet": {name: _on_device_json(*known) for name, known in fleet.items()}} if fleet else {}),
        "preprocessing": _preprocessing_json(space.input_shape(arch), mean, std, data.class_names),
        "onnx": {
            "opset": OPSET,
            "output": ", ".join(_outputs(models["model.onnx"])),
            "max_abs_err": report.max_abs_err,
        },
        "versions": {name: version(name) for name in _VERSIONED} | dict(versions or {}),
    }
    sizes = {name: len(content) for name, content in files.items()}
    files["model_card.md"] = model_card(manifest, data.account, sizes).encode()
    manifest["files"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        for name, content in sorted(files.items())
    }
    files["manifest.json"] = _json(manifest)
    return zip_bytes(files), replace(report, sizes={name: len(content) for name, content in sorted(files.items())})


def calibration_sample(data: Dataset, seed: int, height: int, width: int, images: int = 128) -> Images:
    """Random training images as models take them, by which int8 models are calibrated."""
    rows = np.random.default_rng(seed).permutation(len(data.train))[:images]
    return exported_run.resize(data.train.images_NCHW[rows], height, width)


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


def _metrics_json(
    metrics: Mapping[str, float], report: PackageReport, virtual: bool, precision: Precision
) -> dict[str, JsonObject]:
    """The metrics of the search, and the scores of these very files in place of its own, in an order that does not
    depend on the database they were read from."""
    task = report.task
    record = {name: _metric_json(name, value, virtual) for name, value in metrics.items()}
    own = report.scores_in(precision)
    scores = {task.tested: own.quality}
    scores |= {m.metric("test").name: own.further[m.name] for m in task.further}
    record |= {name: _metric_json(name, value) for name, value in scores.items()}
    quantised = ({} if report.int8 is None else {"int8": report.int8}) | dict(report.further)
    for other, tested in quantised.items():
        record[f"{other}_{task.tested}"] = {**_metric_json(task.tested, tested.quality), "precision": other}
    return dict(sorted(record.items()))


def _training_json(training: TrainingRecord) -> JsonObject:
    return {**asdict(training), "recipe": dict(sorted(training.recipe.items()))}


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
    """Scores on test images and the largest difference of outputs; images are prepared by torch for ``network`` and by
    the shipped preprocessing for ``models``, so that both are compared."""
    task, parity = load_task(data.task), Parity()
    sessions = {name: open_session(model) for name, model in models.items()}
    scorers = {name: task.scorer(data.shape.classes) for name in ("torch", *models)}
    for start in range(0, len(data.test), 256):
        images_NCHW = data.test.images_NCHW[start : start + 256]
        x = torch.from_numpy(images_NCHW).float()
        x = F.interpolate(x, size=(height, width), mode="bilinear", antialias=True)
        labels = data.test.labels[start : start + 256]
        expected = torch_outputs(network, x.numpy())
        scorers["torch"].add(expected, labels)
        shipped = exported_run.resize(images_NCHW, height, width)
        for name, session in sessions.items():
            outputs = run_session(session, shipped)
            scorers[name].add(outputs, labels)
            if name == "model.onnx":
                parity.add(expected, outputs)
    return PackageReport(
        task,
        data.class_names,
        parity.largest_difference(),
        scorers["torch"].scores(),
        scorers["model.onnx"].scores(),
        scorers[MODEL_FILES["int8"]].scores() if MODEL_FILES["int8"] in scorers else None,
        further={p: scorers[MODEL_FILES[p]].scores() for p in _FURTHER if MODEL_FILES[p] in scorers},
    )


def _outputs(model: bytes) -> list[str]:
    return [output.name for output in open_session(model).get_outputs()]


def _plain_weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous().clone() for name, tensor in module.state_dict().items()}


def _metric_json(name: str, value: float, virtual: bool = False) -> JsonObject:
    return {"value": value, "unit": metric_info(name).unit, "kind": kind_of(name, virtual)}


def _on_device_json(profile: DeviceProfile, on_device: OnDevice) -> JsonObject:
    kind = kind_of("predicted_ms", virtual=profile.source == "roofline")
    return {"profile": profile.as_json(), **asdict(on_device), "kind": kind}


def _json(record: JsonObject) -> bytes:
    return (json.dumps(record, indent=2, sort_keys=True, allow_nan=False) + "\n").encode()
