"""A folder in the layout of a model repository of Hugging Face: card with metadata, configuration, models, weights.

`huggingface-cli upload USER/MODEL FOLDER` puts it online; nothing here uses a network.
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from nas.core.errors import InvalidInput
from nas.core.json_types import JsonObject
from nas.core.metrics import METRICS
from nas.core.model_package import ModelPackage
from nas.core.plugins import Exporter

_PIPELINES = {"class": "image-classification", "mask": "image-segmentation"}
_RENAMED = {"weights.safetensors": "model.safetensors", "model_card.md": None}


def export(package: ModelPackage, target: str) -> str:
    """Write the folder ``target``, which must not exist or be empty."""
    folder = Path(target).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder}: expected a folder that is empty or does not exist")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in package.files.items():
            if (new_name := _RENAMED.get(name, name)) is not None:
                (folder / new_name).write_bytes(content)
        (folder / "README.md").write_text(_card(package), encoding="utf-8")
        (folder / "config.json").write_text(json.dumps(_config(package), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"{folder} cannot be written: {error.strerror}") from error
    return str(folder)


def _card(package: ModelPackage) -> str:
    """The card of the package below the metadata that Hugging Face reads."""
    metadata = yaml.safe_dump(_metadata(package), sort_keys=False, allow_unicode=True)
    return f"---\n{metadata}---\n\n{package.files['model_card.md'].decode()}"


def _metadata(package: ModelPackage) -> JsonObject:
    manifest = package.manifest
    task = _PIPELINES.get(manifest["task"]["labels"], "other")
    tested = {n: v for n, v in package.values.items() if n in METRICS and n.startswith("test_")}
    results = [
        {"type": name.removeprefix("test_"), "value": value, "name": METRICS[name].label}
        for name, value in tested.items()
    ]
    dataset = {"name": manifest["data"]["name"], "type": manifest["data"]["name"], "split": "test"}
    entry = {"task": {"type": task}, "dataset": dataset, "metrics": results}
    return {
        "library_name": "onnx",
        "pipeline_tag": task,
        "tags": ["hwnas", "neural-architecture-search", "onnx"],
        "model-index": [{"name": manifest["architecture"], "results": [entry]}],
    }


def _config(package: ModelPackage) -> JsonObject:
    """Labels and preprocessing, by the names that libraries of Hugging Face use where they have some."""
    image = package.manifest["preprocessing"]
    names = package.class_names
    return {
        "architectures": [package.manifest["architecture"]],
        "model_type": "hwnas",
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "num_channels": image["channels"],
        "image_size": [image["height"], image["width"]],
        "image_mean": image["mean"],
        "image_std": image["std"],
        "pixel_values": image["values"],
    }


HUGGINGFACE = Exporter(
    "huggingface", "A folder in the layout of a model repository of Hugging Face.", "a folder", export
)
