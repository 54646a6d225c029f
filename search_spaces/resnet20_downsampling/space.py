"""Where a ResNet-20 halves its maps (Javan et al., Balanced mixture of supernets, AutoML 2023). No torch here; the
supernet is in ``network.py``.

The network of He et al. (CVPR 2016) for small images: a stem and nine basic blocks, ten units in a row, whose channels
double before the fourth and the seventh block. Two of the blocks halve height and width; which ones is all there is to
choose, so every network has the same weights. ``[4, 3, 3]`` counts the units at each size: that is the usual network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from nas.core.arch import Arch, Decision, Floats, Genes
from nas.core.errors import InvalidInput
from nas.core.liveness import chain
from nas.core.ports import ImageShape, Layer
from search_spaces.identity import space_id
from search_spaces.presets import resolved

COSTS = ("params", "macs", "model_bytes", "peak_bytes")
CONVOLUTIONS = ("dense", "pointwise")
WIDTHS = 3  # groups of blocks with the same channels
STATES = 5  # of a block: at the size of the input, halving it, at a half, halving that, at a quarter


class SpaceParams(BaseModel):
    """``channels`` of the stem and the first group of blocks, doubled by each of the two after it; ``blocks`` in each
    group: three make a ResNet-20."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    channels: int = Field(default=16, ge=4, le=512, multiple_of=2)
    blocks: int = Field(default=3, ge=1, le=9)


PRESETS: dict[str, SpaceParams] = {
    "digits": SpaceParams(channels=4),
    "small": SpaceParams(channels=8),
    "resnet20": SpaceParams(channels=16),
}


def build(params: Mapping[str, Any], shape: ImageShape) -> Resnet20Downsampling:
    """The 36 ways to place two downsamplings among the nine blocks of a ResNet-20.

    Raises UnknownName for a preset, InvalidSpec for unknown or impossible parameters.
    """
    return Resnet20Downsampling(resolved("resnet20_downsampling", params, PRESETS, "resnet20"), shape)


build.presets = tuple(PRESETS)  # type: ignore[attr-defined]


class Resnet20Downsampling:
    """The space as the engine sees it (``nas.core.ports.SearchSpace``).

    Two genes: how many units come before the first and before the second downsampling. Genes in the wrong order mean
    the same two places; twice the same place means that place and the next.
    """

    name = "resnet20_downsampling"

    def __init__(self, params: SpaceParams, shape: ImageShape) -> None:
        self.config = params
        self.shape = shape
        self.depth = WIDTHS * params.blocks  # blocks in all; the stem is one unit more
        self.decisions = (
            Decision("first.downsampling", tuple(range(1, self.depth))),
            Decision("second.downsampling", tuple(range(2, self.depth + 1))),
        )

    @property
    def params(self) -> Mapping[str, Any]:
        """All parameters, presets resolved."""
        return self.config.model_dump(mode="json")

    @cached_property
    def id(self) -> str:
        """Name plus a hash over parameters, input shape and classes."""
        s = self.shape
        return space_id(self.name, self.params, s.channels, s.height, s.width, s.classes)

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Channels after each unit, the stem first."""
        groups = [self.config.channels * 2**g for g in range(WIDTHS) for _ in range(self.config.blocks)]
        return (self.config.channels, *groups)

    def canonical(self, genes_NG: Genes) -> Genes:
        """The first place before the second."""
        places = genes_NG + [1, 2]
        low, high = places.min(axis=1), places.max(axis=1)
        high = np.maximum(high, low + 1)
        return np.stack([low - 1, high - 2], axis=1)

    def counts(self, arch: Arch) -> tuple[int, int, int]:
        """Units at the size of the input, at a half and at a quarter of it, such as (4, 3, 3)."""
        first, second = (self.canonical(np.array([arch.genes]))[0] + [1, 2]).tolist()
        return first, second - first, self.depth + 1 - second

    def from_counts(self, counts: tuple[int, int, int]) -> Arch:
        """Inverse of ``counts``. Raises InvalidInput."""
        if len(counts) != 3 or min(counts) < 1 or sum(counts) != self.depth + 1:
            raise InvalidInput(f"expected three counts of at least 1 that sum to {self.depth + 1}, got {counts}")
        return Arch(self.id, (counts[0] - 1, counts[0] + counts[1] - 2))

    def strides(self, arch: Arch) -> tuple[int, ...]:
        """The stride of each block, 2 for two of them."""
        first, second = (self.canonical(np.array([arch.genes]))[0] + [1, 2]).tolist()
        return tuple(2 if unit in (first, second) else 1 for unit in range(1, self.depth + 1))

    def input_shape(self, arch: Arch) -> tuple[int, int, int]:
        """(channels, height, width), the data's own for every network."""
        return (self.shape.channels, self.shape.height, self.shape.width)

    def layers(self, arch: Arch) -> list[Layer]:
        """Every layer with its shapes, parameters and MACs, in order."""
        h, w = self.shape.height, self.shape.width
        out = [_conv("stem", self.shape.channels, self.widths[0], h, w, 3, 1)]
        for b, stride in enumerate(self.strides(arch)):
            c_in, c_out = self.widths[b], self.widths[b + 1]
            name, h_in, w_in = f"block{b + 1}", h, w
            h, w = -(-h // stride), -(-w // stride)
            out.append(_conv(f"{name}.conv1", c_in, c_out, h_in, w_in, 3, stride))
            out.append(_conv(f"{name}.conv2", c_out, c_out, h, w, 3, 1))
            if c_in != c_out:
                out.append(_conv(f"{name}.shortcut", c_in, c_out, h_in, w_in, 1, stride))
            else:
                detail = "identity" if stride == 1 else "every other pixel"
                out.append(Layer(f"{name}.shortcut", "skip", (c_in, h_in, w_in), (c_out, h, w), 0, 0, detail))
        c, classes = self.widths[-1], self.shape.classes
        return [
            *out,
            Layer("pool", "pool", (c, h, w), (c, 1, 1), 0, 0, "global average"),
            Layer("classifier", "linear", (c, 1, 1), (classes, 1, 1), (c + 1) * classes, c * classes),
        ]

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """Exact ``params``, ``macs``, ``model_bytes`` and ``peak_bytes`` of N networks, each shape (N,)."""
        table = self._cost_table
        found_NC = np.array([table[tuple(row)] for row in self.canonical(genes_NG).tolist()]).reshape(-1, len(COSTS))
        return {name: found_NC[:, c] for c, name in enumerate(COSTS)}

    @cached_property
    def _cost_table(self) -> dict[tuple[int, ...], tuple[float, ...]]:
        found: dict[tuple[int, ...], tuple[float, ...]] = {}
        for genes in ((low, high) for high in range(self.depth - 1) for low in range(high + 1)):
            layers = self.layers(Arch(self.name, genes))
            # In the exported model, batch norm is a bias of the convolution before it; image mean and scale are held.
            held = 2 * self.shape.channels + sum(x.params - (x.op in CONVOLUTIONS) * x.out_shape[0] for x in layers)
            costs = (sum(x.params for x in layers), sum(x.macs for x in layers), 4 * held, 4 * self._peak(layers))
            found[genes] = tuple(float(cost) for cost in costs)
        return found

    def _peak(self, layers: Sequence[Layer]) -> float:
        """Numbers that live at once in the exported graph. A block holds its input beside two maps of its own until the
        shortcut is taken, and then three maps while it adds."""
        image = prod(layers[0].in_shape)
        stem, last = prod(layers[0].out_shape), prod(layers[-2].in_shape)
        maps = [(prod(a.in_shape), prod(a.out_shape)) for a in layers if a.name.endswith("conv1")]
        blocks = [max(before, after) + 2 * after for before, after in maps]
        channels = self.widths[-1]
        tail = chain([last, channels, channels, self.shape.classes])
        return max(chain([image, image, image, stem, stem]), *blocks, tail)

    def features(self, genes_NG: Genes) -> Floats:
        """What latency is learned from, shape (N, 5 * blocks): what each block does at which size. Latency is nearly
        additive over blocks, and a block of known channels has no other property."""
        places_NG = self.canonical(genes_NG) + [1, 2]
        units_B = np.arange(1, self.depth + 1)
        passed_NBG = units_B[None, :, None] >= places_NG[:, None, :]
        at_NBG = units_B[None, :, None] == places_NG[:, None, :]
        state_NB = 2 * passed_NBG.sum(axis=2) - at_NBG.sum(axis=2)
        features: Floats = (state_NB[:, :, None] == np.arange(STATES)).reshape(len(genes_NG), -1).astype(np.float64)
        return features

    def supernet(self, seed: int) -> Any:
        """A fresh supernet, weights drawn from ``seed``."""
        from search_spaces.resnet20_downsampling.network import Resnet20Supernet

        return Resnet20Supernet(self, seed)


def _conv(name: str, c_in: int, c_out: int, h: int, w: int, kernel: int, stride: int) -> Layer:
    h_out, w_out = -(-h // stride), -(-w // stride)
    weights = c_in * c_out * kernel * kernel
    op = "pointwise" if kernel == 1 else "dense"
    detail = f"{kernel}x{kernel}" + (f", stride {stride}" if stride > 1 else "")
    return Layer(name, op, (c_in, h, w), (c_out, h_out, w_out), weights + 2 * c_out, weights * h_out * w_out, detail)
