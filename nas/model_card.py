"""The model card of an exported network: its manifest as a page for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nas.core.data_account import DataAccount, account_sentences
from nas.core.json_types import JsonObject
from nas.core.metrics import metric_info
from nas.core.placement import Placement
from nas.core.runtimes import Precision
from nas.core.tasks import LabelKind, load_task


@dataclass(frozen=True)
class _TaskWords:
    """What a card says of a network by its labels. ``purpose`` takes the number of classes, or of values."""

    title: str
    purpose: str
    output: str
    limits: str


_WORDS: Mapping[LabelKind, _TaskWords] = {
    "class": _TaskWords(
        "Image classifier",
        "It sorts images into {} classes",
        "The output `logits` has one column per class, in the order above.",
        "The network knows these classes only and answers with one of them whatever it is shown.",
    ),
    "tags": _TaskWords(
        "Image tagger",
        "It says which of {} classes an image shows",
        "The output `logits` has one column per class, in the order above; above 0, the class is more likely than not.",
        "The network knows these classes only.",
    ),
    "mask": _TaskWords(
        "Segmentation network",
        "It sorts the pixels of images into {} classes",
        "The output `logits` has shape (batch, classes, height, width), classes in the order above.",
        "The network knows these classes only and answers with one of them for every pixel.",
    ),
    "values": _TaskWords(
        "Regression network",
        "It tells {} values of an image",
        "The output `logits` has one column per value, in the order above and in their units.",
        "Outside the range of the values that it was trained on, the network extrapolates.",
    ),
    "none": _TaskWords(
        "Network",
        "It answers as the model that it was made from, as far as the figures below say",
        "The outputs are those of that model, in its order.",
        "Where that model is wrong, this network is wrong as well.",
    ),
}

FILES = {
    "model.onnx": "the network in float32",
    "model.int8.onnx": "the network in int8; its figures are its own, see above",
    "model.float16.onnx": "the network in float16",
    "model.mixed.onnx": "the network with some groups of layers in int8, as architecture.json lists them",
    "weights.safetensors": "the weights as torch had them",
    "architecture.json": "the architecture: choices and layers",
    "run.py": "runs the models with numpy and onnxruntime",
}
MODEL_FILES: Mapping[Precision, str] = {
    "float32": "model.onnx",
    "float16": "model.float16.onnx",
    "int8": "model.int8.onnx",
    "mixed": "model.mixed.onnx",
}
_CLASSES_SHOWN = 20
Manifest = JsonObject


def model_card(manifest: Manifest, account: DataAccount, sizes: Mapping[str, int]) -> str:
    """The card as Markdown; ``sizes`` in bytes by file name."""
    image = manifest["preprocessing"]
    channels = {1: "grey", 3: "RGB"}.get(image["channels"], f"{image['channels']}-channel")
    words = _WORDS[manifest["task"]["labels"]]
    names = f":\n{', '.join(image['class_names'])}" if image["class_names"] else ""
    return f"""# {words.title} {manifest["architecture"]}

Found by hwnas for the data set {manifest["data"]["name"]}. {words.purpose.format(len(image["class_names"]))}{names}.

| | value | evidence |
|---|---|---|
{chr(10).join(_metric_rows(manifest))}

{_latency(manifest)}

{_test_images(manifest, account)} The network's ONNX and torch forms agree within {manifest["onnx"]["max_abs_err"]:.1e}
(largest difference of any logit).
{_by_class(manifest)}{_training(manifest)}{_data(account)}
## Use

    pip install numpy onnxruntime
    python run.py images.npy

The input `image` is float32 of shape (batch, {image["channels"]}, {image["height"]}, {image["width"]}): {channels}
pixel values from 0 to 255, scaled to {image["height"]}x{image["width"]} ({image["resize"]}). The model
normalises them itself. {words.output}

## Files

{chr(10).join(f"- `{name}`: {FILES[name]}, {size / 1024:,.0f} KiB" for name, size in sizes.items())}
- `manifest.json`: checksums, metrics with their evidence, measurement protocol, versions

## Limits

{words.limits} It was trained on this data set
alone; check it on your own images before you rely on it.
"""


def _metric_rows(manifest: Manifest) -> list[str]:
    rows = []
    for name, metric in manifest["metrics"].items():
        precision = next((p for p in MODEL_FILES if name.startswith(f"{p}_")), None)
        info = metric_info(name.removeprefix(f"{precision}_"))
        label = info.label if precision is None else f"{info.label}, {precision} model"
        counted = info.kind == "exact" and not info.unit
        value = f"{metric['value']:,.0f}" if counted else f"{metric['value']:,.4g}"
        rows.append(f"| {label} | {value} {metric['unit']} | {metric['kind']} |".replace("  ", " "))
    return rows


def _latency(manifest: Manifest) -> str:
    device, measurement = manifest["device"], manifest["measurement"]
    if measurement is None or device is None:
        measured = "Its latency was not measured."
    elif measurement["median_ms"] is None:
        measured = f"Its latency on {device['name']} could not be measured: {measurement['refused']}."
    else:
        protocol = device["protocol"]
        measured = (
            f"Latency of `{_measured_file(manifest)}`: {measurement['median_ms']:.4g} ms "
            f"(95 % interval {measurement['low_ms']:.4g} to "
            f"{measurement['high_ms']:.4g} ms, {measurement['runs']} runs), measured on {device['name']} "
            f"({device['processor']}) with {device['runtime']} {device['runtime_version']}, batch {protocol['batch']}, "
            f"threads {protocol['threads']}. On any other machine it differs."
        )
        placement = measurement.get("placement")
        if placement is not None and placement["fallback"]:
            measured += f" **Fallback: {Placement.from_json(placement).sentence}.**"
    fleet = manifest.get("fleet")
    return f"{_fleet_table(fleet)}\n\n{measured}" if fleet else measured


def _measured_file(manifest: Manifest) -> str:
    """The model that was measured: that of the precision of the search."""
    precision: Precision = manifest.get("precision", "float32")
    return MODEL_FILES[precision]


def _test_images(manifest: Manifest, account: DataAccount) -> str:
    """How far the test images are new to the network."""
    images = manifest["data"]["test_images"]
    quality = load_task(manifest["task"]["name"]).quality
    tested = f"{quality.metric('test').label} was taken over {images} images, with the models of this package."
    new = "had no part in training or in the choice of this network"
    if (test := account.splits.get("test")) is None:
        return f"{tested} They {new}."
    if test.copies:
        return (
            f"{tested} **{test.copies} of them are exact copies of training images**, so the {quality.title} on new "
            f"images is {'lower' if quality.goal == 'max' else 'higher'}; the others {new}."
        )
    return f"{tested} They {new}; none is an exact copy of a training image."


def _by_class(manifest: Manifest) -> str:
    name = manifest["task"]["by_class"]
    figures: Mapping[str, float | None] = manifest.get(f"{name}_by_class", {})
    if not figures:
        return ""
    ordered = sorted((value, of_class) for of_class, value in figures.items() if value is not None)
    listed = ", ".join(f"{of_class} {value:.1f} %" for value, of_class in ordered[:_CLASSES_SHOWN])
    more = f", and {len(ordered) - _CLASSES_SHOWN} classes above" if len(ordered) > _CLASSES_SHOWN else ""
    title = name.replace("_", " ")
    return f"\n{title[0].upper()}{title[1:]} by class, the lowest first: {listed}{more}.\n"


def _training(manifest: Manifest) -> str:
    """From what weights, by whom and by which recipe the network was trained; empty where it is not recorded."""
    training = manifest.get("training")
    if training is None:
        return ""
    supernet = training.get("supernet", {})
    computed = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in supernet.items())
    computed = f" Its supernet was trained with {computed}." if computed else ""
    if training["start"] == "supernet":
        return (
            f"\n## Training\n\nThe weights are those of the search, recalibrated and not trained further.{computed}\n"
        )
    start = "from scratch" if training["start"] == "scratch" else "from inherited weights"
    taught = ""
    if training["teacher"] is not None:
        metric = load_task(manifest["task"]["name"]).quality.metric("val")
        quality = f"{metric.label}: {training['teacher_quality']:.4g} {metric.unit}".rstrip()
        taught = f", and learned from {training['teacher']} ({quality})"
    values = ", ".join(f"{k.replace('_', ' ')} {v:g}" for k, v in training["recipe"].items() if v is not None)
    return (
        f"\n## Training\n\nThe network was trained {start} for {training['epochs']} epochs{taught}.\n\n"
        f"Recipe: {values}.{computed}\n"
    )


def _data(account: DataAccount) -> str:
    """What became of the images when they were read."""
    if not account.splits:
        return ""
    warnings = [
        f"{warning[0].upper()}{warning[1:]}." for warning in (w.removeprefix("data: ") for w in account.warnings)
    ]
    return f"\n## Data\n\n{' '.join([*account_sentences(account), *warnings])}\n"


def _fleet_table(fleet: JsonObject) -> str:
    """The latencies of the network on every device of the search."""
    head = "| device | latency ms | 95 % upper bound ms | evidence | measured ms | status |"
    rows = [head, "|---|---|---|---|---|---|"]
    for name, on in fleet.items():
        measured_ms = on["measurement"]["median_ms"] if on["measurement"] is not None else None
        latency = f"{measured_ms:.4g}" if measured_ms is not None else "not measured"
        without = f"{on['predicted_ms']:.4g} | {on['upper_ms']:.4g} | {on['kind']}"
        rows.append(f"| {name} | {without} | {latency} | {on['status']} |")
    return "\n".join(rows)
