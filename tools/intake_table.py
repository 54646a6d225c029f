"""The table of docs/own-models.md: what the intake finds in each of the small models of ``tests.support.models``.

    python -m tools.intake_table            prints it
    python -m tools.intake_table --write    puts it into the guide, between its markers

The contract tests (``tests/contracts/test_own_models.py``) hold the same counts, and the equality of each model with
its parent, kept whole and narrowed, in torch and in onnxruntime.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from torch import nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from nas.models.graph import InvalidModel
from nas.models.intake import IntakeReport, report_intake
from nas.models.reading.exported import read_exported
from tests.support.models import CASES, Bessel, Dynamic, make_model, save_exported

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "own-models.md"
BEGIN, END = "<!-- python -m tools.intake_table --write -->", "<!-- end of the table -->"
MAX_BYTES = 1 << 28
REFUSED: tuple[tuple[str, Callable[[], nn.Module]], ...] = (("control_flow", Dynamic), ("no_onnx", Bessel))
FAMILIES = {
    "resnet": "plain ResNet",
    "bottleneck_resnet": "ResNet of bottlenecks",
    "grouped_resnet": "ResNet with grouped convolutions",
    "mobilenet_v2": "MobileNetV2",
    "efficientnet": "EfficientNet: depthwise, squeeze-excite",
    "shufflenet": "ShuffleNet V2: channel shuffle",
    "densenet": "DenseNet: concatenation",
    "unet": "UNet: skips, transposed convolution",
    "detector": "YOLO-like: concatenation, upsampling, two outputs",
    "vit_fused": "ViT: fused qkv, attention as one operator",
    "vit_explicit": "ViT: fused qkv, attention written out",
    "vit_multihead": "ViT of nn.MultiheadAttention",
    "convnext": "ConvNeXt: layer norm over channels",
    "tied": "a weight that two layers share",
    "group_norm": "group norm",
    "control_flow": "control flow that depends on values",
    "group_norm_resnet": "ResNet of group norms",
    "vit_masked": "ViT of masked attention",
    "vit_einsum": "ViT of Einstein sums, its mask made of constants",
    "audio": "audio: convolutions and pools over one dimension",
    "prelu": "PReLU",
    "super_resolution": "super-resolution: pixel shuffle, bicubic upsampling",
    "coordinates": "coordinates from arange, a buffer of numbers",
    "opaque": "an operator that the intake does not know",
    "no_onnx": "an operator without a form in ONNX",
}


def table() -> str:
    """The table in Markdown."""
    rows = ["| model | may be narrowed | may be skipped | resolution |", "|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt2"
        for case in CASES:
            save_exported(make_model(case), path)
            rows.append(_row(FAMILIES[case.name], report_intake(read_exported(path, MAX_BYTES).graph)))
        for name, make in REFUSED:
            rows.append(f"| {FAMILIES[name]} | refused: {_refusal(make(), path)} | | |")
    return "\n".join(rows)


def _row(family: str, report: IntakeReport) -> str:
    resolution = report.resolution
    steps = resolution.sentence.removeprefix("may change by ")
    groups = ", ".join(f"{group.units}" for group in report.groups)
    blocks = _counted(len(report.blocks), "block") if report.blocks else "none"
    return f"| {family} | {_counted(len(report.groups), 'group')}, of {groups} units | {blocks} | {steps} |"


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _refusal(module: nn.Module, path: Path) -> str:
    try:
        save_exported(module, path)
    except GuardOnDataDependentSymNode as error:
        return f"torch.export: {str(error).strip().partition('.')[0]}"
    try:
        read_exported(path, MAX_BYTES)
    except InvalidModel as error:
        return str(error)
    raise AssertionError("expected a refusal, got a model")


def main() -> None:
    """Print the table, or write it into the guide."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the table into docs/own-models.md")
    content = table()
    if not parser.parse_args().write:
        sys.stdout.write(f"{content}\n")
        return
    text = GUIDE.read_text()
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    GUIDE.write_text(f"{before}{BEGIN}\n{content}\n{END}{after}")


if __name__ == "__main__":
    main()
