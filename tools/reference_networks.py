"""Make the reference networks of the measuring protocol: small fixed networks of three sizes.

    python -m tools.reference_networks

They hold the layers that searches use, have no training behind them, and stay as they are: a machine's noise floor is
learned from them (``predictors/measurement/machine.py``).
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from nas.export import to_onnx_for_timing

FOLDER = Path(__file__).resolve().parents[1] / "predictors" / "measurement"
# Blocks, channels, and height and width of the image, by size.
SIZES = {"small": (2, 16, 12), "medium": (4, 24, 16), "large": (6, 32, 24)}


def network(blocks: int, channels: int) -> nn.Sequential:
    """Inverted bottlenecks between a convolution and a classifier."""
    layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, 2, 1), nn.Hardswish()]
    for _ in range(blocks):
        wide = 3 * channels
        layers += [nn.Conv2d(channels, wide, 1), nn.ReLU(), nn.Conv2d(wide, wide, 3, 1, 1, groups=wide), nn.ReLU()]
        layers.append(nn.Conv2d(wide, channels, 1))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def main() -> None:
    """Write one ONNX file for each size."""
    for seed, (size, (blocks, channels, width)) in enumerate(SIZES.items()):
        torch.manual_seed(seed)
        model = to_onnx_for_timing(network(blocks, channels).eval(), (3, width, width))
        (FOLDER / f"reference_{size}.onnx").write_bytes(model)


if __name__ == "__main__":
    main()
