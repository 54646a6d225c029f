"""The once-for-all MobileNetV3 space: what can be chosen and what it costs. No torch here; the supernet is in
``network.py``.

Sources: MobileNetV3 (Howard et al., ICCV 2019) for the blocks, Once-for-all (Cai et al., ICLR 2020) for the elastic
dimensions. The presets size the same space from 8x8 digits to the published ImageNet space.

A network is: stem 3x3 convolution, one fixed depthwise-separable block, stages of inverted-residual blocks, a 1x1
convolution, global pooling, a hidden layer, the classifier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from nas.core.arch import Arch, Decision, Floats, Genes
from nas.core.errors import InvalidSpec
from nas.core.graph import Graph
from nas.core.liveness import chain
from nas.core.ports import ImageShape, Layer
from search_spaces.identity import space_id
from search_spaces.presets import preset_of

Activation = Literal["relu", "hswish"]


def divisible(channels: float, by: int = 8) -> int:
    """The nearest multiple of ``by`` that is not more than 10 % below ``channels`` (MobileNet's rounding rule)."""
    rounded = max(by, int(channels + by / 2) // by * by)
    return rounded + by if rounded < 0.9 * channels else rounded


class StageParams(BaseModel):
    """One stage: output ``width`` at multiplier 1, ``stride`` of its first block, activation, squeeze-excite."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    width: int = Field(ge=8, le=2048)
    stride: Literal[1, 2]
    act: Activation
    se: bool


# What a decision can hold: a space beyond this would exhaust whoever looks at it, long before anything is trained.
_CHOICES = 64
_LARGEST = {"resolutions": 2048, "depths": 16, "kernels": 31, "expands": 16, "widths": 8}


class SpaceParams(BaseModel):
    """Everything that sizes the space. Choices are sorted, smallest network first."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    resolutions: tuple[int, ...]
    stem: int = Field(ge=8, le=512)
    stem_stride: Literal[1, 2]
    stages: tuple[StageParams, ...] = Field(min_length=1, max_length=8)
    depths: tuple[int, ...] = (2, 3, 4)
    kernels: tuple[int, ...] = (3, 5, 7)
    expands: tuple[float, ...] = (3, 4, 6)
    widths: tuple[float, ...] = (1.0,)
    final: int = Field(ge=8, le=4096)
    hidden: int = Field(ge=8, le=8192)
    dropout: float = Field(default=0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _choices_are_sane(self) -> SpaceParams:
        for name, most in _LARGEST.items():
            value = getattr(self, name)
            if not 0 < len(value) <= _CHOICES or not all(0 < v <= most for v in value):
                raise ValueError(
                    f"{name}: expected 1 to {_CHOICES} choices above 0 and up to {most}, got {value[:4]}..."
                )
            if list(value) != sorted(set(value)):
                raise ValueError(f"{name}: expected distinct choices in rising order, got {value}")
        if any(k % 2 == 0 for k in self.kernels):
            raise ValueError(f"kernels: expected odd sizes, got {self.kernels}")
        if self.resolutions[0] < 4:
            raise ValueError(f"resolutions: expected at least 4 pixels, got {self.resolutions[0]}")
        return self


def _stages(*rows: tuple[int, Literal[1, 2], Activation, bool]) -> tuple[StageParams, ...]:
    return tuple(StageParams(width=w, stride=s, act=a, se=se) for w, s, a, se in rows)


def _imagenet(multiplier: float) -> SpaceParams:
    def width(channels: int) -> int:
        return divisible(channels * multiplier)

    return SpaceParams(
        resolutions=tuple(range(128, 225, 4)),
        stem=width(16),
        stem_stride=2,
        stages=_stages(
            (width(24), 2, "relu", False),
            (width(40), 2, "relu", True),
            (width(80), 2, "hswish", False),
            (width(112), 1, "hswish", True),
            (width(160), 2, "hswish", True),
        ),
        final=width(960),
        hidden=width(1280),
    )


PRESETS: dict[str, SpaceParams] = {
    "digits": SpaceParams(
        resolutions=(4, 8, 12, 16),
        stem=16,
        stem_stride=1,
        stages=_stages((24, 2, "relu", False), (32, 2, "relu", False), (48, 1, "hswish", True)),
        depths=(1, 2, 3, 4),
        kernels=(3, 5),
        expands=(2, 3, 4),
        widths=(0.5, 0.75, 1.0),
        final=128,
        hidden=128,
    ),
    "cifar": SpaceParams(
        resolutions=(24, 28, 32),
        stem=16,
        stem_stride=1,
        stages=_stages(
            (24, 1, "relu", False),
            (40, 2, "relu", True),
            (80, 2, "hswish", False),
            (112, 1, "hswish", True),
            (160, 2, "hswish", True),
        ),
        final=480,
        hidden=640,
    ),
    "imagenet": _imagenet(1.0),
    "imagenet-w1.2": _imagenet(1.2),
}


def build(params: Mapping[str, Any], shape: ImageShape) -> MobileNetV3:
    """The space for ``params`` (``preset`` plus overrides, or all keys) and the data's channels and classes.

    Raises UnknownName for a preset, InvalidSpec for unknown or impossible parameters.
    """
    given = dict(params)
    preset = given.pop("preset", None)
    base = {} if preset is None else preset_of("mobilenet_v3", preset, PRESETS).model_dump()
    try:
        return MobileNetV3(SpaceParams.model_validate({**base, **given}), shape)
    except ValidationError as error:
        known = ", ".join(["preset", *SpaceParams.model_fields])
        details = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'params'}: {e['msg']}" for e in error.errors())
        raise InvalidSpec(
            f"parameters of mobilenet_v3: {details} (known: {known}; presets: {', '.join(PRESETS)})"
        ) from error


build.presets = tuple(PRESETS)  # type: ignore[attr-defined]

# Latency is learned from sums over layers by kind of operation; depthwise layers are apart by kernel size.
_PARTS = ("layers", "macs", "moved", "params", "blocks", "outputs")  # as ``_work`` gives them
_VECTOR = 16  # channels that a CPU's vector unit holds; narrower layers cost as much


class Choices(BaseModel):
    """An architecture in words: what each part of the network is."""

    resolution: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    kernels: tuple[tuple[int, ...], ...]
    expands: tuple[tuple[float, ...], ...]


class MobileNetV3:
    """The space as the engine sees it (``nas.core.ports.SearchSpace``).

    Genes in order: resolution; then per stage width, depth, and per block kernel, expand.
    """

    name = "mobilenet_v3"

    def __init__(self, params: SpaceParams, shape: ImageShape) -> None:
        self.config = params
        self.shape = shape

    @property
    def params(self) -> Mapping[str, Any]:
        """All parameters, presets resolved."""
        return self.config.model_dump(mode="json")

    @cached_property
    def id(self) -> str:
        """Name plus a hash over parameters, input channels and classes."""
        return space_id(self.name, self.params, self.shape.channels, self.shape.classes)

    @cached_property
    def decisions(self) -> tuple[Decision, ...]:
        """What can be chosen."""
        c = self.config
        out = [Decision("resolution", c.resolutions)]
        for s in range(len(c.stages)):
            out += [Decision(f"stage{s + 1}.width", c.widths), Decision(f"stage{s + 1}.depth", c.depths)]
            for b in range(c.depths[-1]):
                out += [Decision(f"stage{s + 1}.block{b + 1}.kernel", c.kernels)]
                out += [Decision(f"stage{s + 1}.block{b + 1}.expand", c.expands)]
        return tuple(out)

    # Positions of genes: resolution 0; stage s starts at 1 + s * (2 + 2 * blocks).
    def _start(self, stage: int) -> int:
        return 1 + stage * (2 + 2 * self.config.depths[-1])

    def canonical(self, genes_NG: Genes) -> Genes:
        """Kernel and expand genes of blocks beyond a stage's depth set to 0."""
        out = genes_NG.copy()
        depths = np.array(self.config.depths)
        for s in range(len(self.config.stages)):
            start = self._start(s)
            depth_N = depths[genes_NG[:, start + 1]]
            for b in range(self.config.depths[-1]):
                out[depth_N <= b, start + 2 + 2 * b : start + 4 + 2 * b] = 0
        return out

    def choices(self, arch: Arch) -> Choices:
        """The architecture in words; lists per stage hold active blocks only."""
        c, g = self.config, arch.genes
        starts = [self._start(s) for s in range(len(c.stages))]
        depths = tuple(c.depths[g[i + 1]] for i in starts)
        return Choices(
            resolution=c.resolutions[g[0]],
            widths=tuple(divisible(st.width * c.widths[g[i]]) for st, i in zip(c.stages, starts, strict=True)),
            depths=depths,
            kernels=tuple(
                tuple(c.kernels[g[i + 2 + 2 * b]] for b in range(d)) for i, d in zip(starts, depths, strict=True)
            ),
            expands=tuple(
                tuple(c.expands[g[i + 3 + 2 * b]] for b in range(d)) for i, d in zip(starts, depths, strict=True)
            ),
        )

    def input_shape(self, arch: Arch) -> tuple[int, int, int]:
        """(channels, height, width) of the input this network takes."""
        resolution = self.config.resolutions[arch.genes[0]]
        return (self.shape.channels, resolution, resolution)

    def layers(self, arch: Arch) -> list[Layer]:
        """Every layer with its shapes, parameters and MACs, in order."""
        c, ch = self.config, self.choices(arch)
        out = self._stem(ch.resolution)
        size = out[-1].out_shape[1]
        c_in = c.stem
        for s, stage in enumerate(c.stages):
            for b in range(ch.depths[s]):
                stride = stage.stride if b == 0 else 1
                out += block_layers(
                    f"stage{s + 1}.block{b + 1}",
                    c_in,
                    ch.widths[s],
                    size,
                    stride,
                    ch.kernels[s][b],
                    ch.expands[s][b],
                    stage,
                )
                c_in, size = ch.widths[s], out[-1].out_shape[1]
        return out + self._head(c_in, size)

    def _stem(self, resolution: int) -> list[Layer]:
        c = self.config
        stem = conv_layer("stem", self.shape.channels, c.stem, resolution, c.stem_stride, 3, "h-swish")
        size = stem.out_shape[1]
        return [
            stem,
            depthwise_layer("first.depthwise", c.stem, size, 1, 3, "ReLU"),
            conv_layer("first.project", c.stem, c.stem, size, 1, 1, "+ input"),
        ]

    def _head(self, c_in: int, size: int) -> list[Layer]:
        c = self.config
        return [
            conv_layer("final", c_in, c.final, size, 1, 1, "h-swish"),
            Layer("pool", "pool", (c.final, size, size), (c.final, 1, 1), 0, 0, "global average"),
            linear_layer("hidden", c.final, c.hidden, "h-swish", bias=False),
            linear_layer("classifier", c.hidden, self.shape.classes, "", bias=True),
        ]

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """Exact ``params``, ``macs``, ``model_bytes`` and ``peak_bytes`` of N networks, each shape (N,)."""
        sums_N3, peak_N = np.zeros((len(genes_NG), 3)), np.zeros(len(genes_NG))
        for part_N4 in self._parts(genes_NG, self._cost_tables):
            sums_N3 += part_N4[:, :3]
            np.maximum(peak_N, part_N4[:, 3], out=peak_N)  # between two parts a single tensor lives
        return {"params": sums_N3[:, 0], "macs": sums_N3[:, 1], "model_bytes": sums_N3[:, 2], "peak_bytes": peak_N}

    def features(self, genes_NG: Genes) -> Floats:
        """What latency is learned from, shape (N, F): per kind of operation the number of layers, MACs, elements moved,
        parameters, and work in whole vector blocks. Latency is nearly additive over layers, so linear models fit."""
        return self._totals(genes_NG, self._feature_tables)[:, self._live_features]

    @cached_property
    def graph(self) -> Graph:
        """A chain: what comes before the stages, their blocks, and what comes after. A place holds its work by kind of
        operation, of which ``features`` is the sum; a block is there if it has a depthwise layer."""
        c = self.config
        blocks = [f"stage{s + 1}.block{b + 1}" for s in range(len(c.stages)) for b in range(c.depths[-1])]
        places = ("stem", *blocks, "head")
        kinds = self._kinds
        names = [f"{kind}.{part}" for kind in kinds for part in _PARTS]
        live = self._live_features.tolist()
        there = [float(names[f].startswith("depthwise") and names[f].endswith(".layers")) for f in live]
        always = (0, len(places) - 1)
        return Graph(
            places,
            tuple(names[f] for f in live),
            tuple((i, i + 1) for i in range(len(places) - 1)),
            tuple(v for v in range(len(places)) for _ in live),
            tuple(o for _ in places for o in range(len(live))),
            tuple(0.0 if v in always else p for v in range(len(places)) for p in there),
        )

    def graph_columns(self, genes_NG: Genes) -> Floats:
        """The work in every place, shape (N, places x F)."""
        parts = self._parts(genes_NG, self._feature_tables)
        return np.hstack([part[:, self._live_features] for part in parts])

    def supernet(self, seed: int) -> Any:
        """A fresh supernet, weights drawn from ``seed``."""
        from search_spaces.mobilenet_v3.network import MobileNetV3Supernet

        return MobileNetV3Supernet(self, seed)

    # Costs and features are sums over parts, and a part depends on a few genes only; so each part has a table over
    # those genes, computed once from ``layers``, and a population is summed by indexing.
    def _totals(self, genes_NG: Genes, tables: Sequence[Floats]) -> Floats:
        total: Floats = sum(self._parts(genes_NG, tables), np.zeros(tables[0].shape[-1]))
        return total

    def _parts(self, genes_NG: Genes, tables: Sequence[Floats]) -> Iterator[Floats]:
        c = self.config
        resolution = genes_NG[:, 0]
        yield tables[0][resolution]
        previous = np.zeros(len(genes_NG), dtype=np.int64)
        depths = np.array(c.depths)
        part = 1
        for s in range(len(c.stages)):
            start = self._start(s)
            width, depth = genes_NG[:, start], depths[genes_NG[:, start + 1]]
            for b in range(c.depths[-1]):
                kernel, expand = genes_NG[:, start + 2 + 2 * b], genes_NG[:, start + 3 + 2 * b]
                c_in = previous if b == 0 else width
                rows = tables[part][resolution, c_in, width, kernel, expand]
                yield rows if b < c.depths[0] else np.where((depth > b)[:, None], rows, 0.0)
                part += 1
            previous = width
        yield tables[part][resolution, previous]

    def _tables(self, values: Callable[[Sequence[Layer]], Any], size: int) -> list[Floats]:
        c = self.config
        n_res, n_width = len(c.resolutions), len(c.widths)
        stem = np.zeros((n_res, size))
        maps = []
        for r, resolution in enumerate(c.resolutions):
            layers = self._stem(resolution)
            stem[r] = values(layers)
            maps.append(layers[-1].out_shape[1])
        tables: list[Floats] = [stem]
        for s, stage in enumerate(c.stages):
            for b in range(c.depths[-1]):
                first = b == 0
                table = np.zeros((n_res, n_width, n_width, len(c.kernels), len(c.expands), size))
                for r, i, o, k, e in np.ndindex(*table.shape[:-1]):
                    c_out = divisible(stage.width * c.widths[o])
                    before = c.stem if s == 0 else divisible(c.stages[s - 1].width * c.widths[i])
                    layers = block_layers(
                        "",
                        before if first else c_out,
                        c_out,
                        maps[r],
                        stage.stride if first else 1,
                        c.kernels[k],
                        c.expands[e],
                        stage,
                    )
                    table[r, i, o, k, e] = values(layers)
                tables.append(table)
                if first:
                    maps = [-(-m // stage.stride) for m in maps]
        head = np.zeros((n_res, n_width, size))
        for r, i in np.ndindex(n_res, n_width):
            head[r, i] = values(self._head(divisible(c.stages[-1].width * c.widths[i]), maps[r]))
        return [*tables, head]

    @cached_property
    def _cost_tables(self) -> list[Floats]:
        def values(layers: Sequence[Layer]) -> list[float]:
            numbers = sum(_exported(x) for x in layers)
            if layers[0].name == "stem":  # the image, and its mean and scale
                numbers += 2 * self.shape.channels
            return [sum(x.params for x in layers), sum(x.macs for x in layers), 4 * numbers, 4 * _peak(layers)]

        return self._tables(values, 4)

    @cached_property
    def _kinds(self) -> tuple[str, ...]:
        return ("dense", *(f"depthwise{k}" for k in {3, *self.config.kernels}), "pointwise", "se", "linear")

    @cached_property
    def _feature_tables(self) -> list[Floats]:
        kinds = self._kinds

        def values(layers: Sequence[Layer]) -> Floats:
            out = np.zeros((len(kinds), len(_PARTS)))
            for layer in layers:
                kind = layer.op + (layer.detail.partition("x")[0] if layer.op == "depthwise" else "")
                if kind in kinds:
                    out[kinds.index(kind)] += _work(layer)
            return out.reshape(-1)

        return self._tables(values, len(kinds) * len(_PARTS))

    @cached_property
    def _live_features(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        rng = np.random.default_rng(0)
        counts = np.array([len(d.choices) for d in self.decisions])
        genes = self.canonical(rng.integers(0, counts, size=(512, len(counts))))
        return np.flatnonzero(np.ptp(self._totals(genes, self._feature_tables), axis=0) > 0)


def conv_layer(name: str, c_in: int, c_out: int, size: int, stride: int, kernel: int, detail: str) -> Layer:
    """A convolution with batch norm; 1x1 is *pointwise*, else *dense*."""
    out = -(-size // stride)
    weights = c_in * c_out * kernel * kernel
    op = "pointwise" if kernel == 1 else "dense"
    return Layer(
        name,
        op,
        (c_in, size, size),
        (c_out, out, out),
        weights + 2 * c_out,
        weights * out * out,
        f"{kernel}x{kernel} {detail}".strip(),
    )


def depthwise_layer(name: str, channels: int, size: int, stride: int, kernel: int, detail: str) -> Layer:
    """A depthwise convolution with batch norm."""
    out = -(-size // stride)
    weights = channels * kernel * kernel
    text = f"{kernel}x{kernel} {detail}" + (f", stride {stride}" if stride > 1 else "")
    return Layer(
        name,
        "depthwise",
        (channels, size, size),
        (channels, out, out),
        weights + 2 * channels,
        weights * out * out,
        text,
    )


def linear_layer(name: str, c_in: int, c_out: int, detail: str, *, bias: bool) -> Layer:
    """A fully connected layer."""
    weights = c_in * c_out
    return Layer(name, "linear", (c_in, 1, 1), (c_out, 1, 1), weights + (c_out if bias else 0), weights, detail)


def _exported(layer: Layer) -> int:
    """Weights of a layer in the exported model, where batch norm is a bias of its convolution."""
    return layer.params - (layer.out_shape[0] if layer.op in ("dense", "depthwise", "pointwise") else 0)


def _peak(layers: Sequence[Layer]) -> float:
    """Numbers that live at once in one part of the exported network; see ``nas.core.liveness``."""
    held = math.prod(layers[-1].out_shape) if layers[-1].detail.endswith("+ input") else 0
    sizes: list[float] = [math.prod(layers[0].in_shape)]
    most = 0.0
    if layers[0].name == "stem":  # the first block's input is what the stem makes
        image, stem = sizes[0], math.prod(layers[0].out_shape)
        most, sizes, layers = chain([image, image, image, stem, stem]), [stem], layers[1:]
    for layer in layers:
        size = math.prod(layer.out_shape)
        if layer.op == "se":
            c, narrow = layer.out_shape[0], int(layer.detail.split()[1])
            most = max(most, chain([c, narrow, narrow, c, c], held + size), held + 2 * size + c)
            sizes.append(size)
        elif layer.op == "pool":
            sizes += [size, size]  # flattened
        else:
            sizes += [size, size] if "ReLU" in layer.detail or "h-swish" in layer.detail else [size]
    if held:
        most = max(most, 3 * held)  # both summands and the sum
    return max(most, chain(sizes, held))


def _work(layer: Layer) -> tuple[float, ...]:
    """Number, MACs (1e6), elements moved (1e3), parameters (1e3), MACs and outputs in whole vector blocks."""
    c_in, _, _ = layer.in_shape
    c_out, height, width = layer.out_shape
    moved = math.prod(layer.in_shape) + math.prod(layer.out_shape)
    blocks_in, blocks_out = math.ceil(c_in / _VECTOR), math.ceil(c_out / _VECTOR)
    pixels = height * width
    return (
        1.0,
        layer.macs / 1e6,
        moved / 1e3,
        layer.params / 1e3,
        blocks_in * blocks_out * pixels / 1e2,
        blocks_out * math.ceil(pixels / 6) / 1e1,
    )


def squeezed(channels: int) -> int:
    """Width of a squeeze-excite's bottleneck: a quarter, rounded."""
    return divisible(channels / 4)


def expanded(c_in: int, expand: float) -> int:
    """Width inside an inverted-residual block."""
    return divisible(c_in * expand)


def block_layers(
    name: str, c_in: int, c_out: int, size: int, stride: int, kernel: int, expand: float, stage: StageParams
) -> list[Layer]:
    """One inverted-residual block: expand, depthwise, squeeze-excite, project."""
    act = "ReLU" if stage.act == "relu" else "h-swish"
    inner = expanded(c_in, expand)
    out = [
        conv_layer(f"{name}.expand", c_in, inner, size, 1, 1, act),
        depthwise_layer(f"{name}.depthwise", inner, size, stride, kernel, act),
    ]
    small = out[-1].out_shape[1]
    if stage.se:
        narrow = squeezed(inner)
        shape = (inner, small, small)
        weights = 2 * inner * narrow
        out.append(
            Layer(f"{name}.se", "se", shape, shape, weights + inner + narrow, weights, f"squeeze-excite {narrow}")
        )
    skip = "+ input" if stride == 1 and c_in == c_out else ""
    return [*out, conv_layer(f"{name}.project", inner, c_out, small, 1, 1, skip)]
