"""Mixed precision as decisions of a search space: each group of layers is int8 or float32.

A group holds consecutive layers, such as a stage: between layers of two precisions, values are quantised or
dequantised, which takes time, so that single layers are not worth a decision of their own. Torch is imported by
``supernet`` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np

from nas.core.arch import Arch, Decision, Floats, Genes
from nas.core.errors import InvalidSpec
from nas.core.graph import GraphEncoding
from nas.core.layers import (
    ComposedLayer,
    Conv2d,
    CustomLayer,
    Layer,
    Linear,
    OperatorLayer,
    ShiftedConv2d,
    SqueezeExcite,
)
from nas.core.ports import SearchSpace
from nas.core.relaxation import Relaxation
from nas.core.runtimes import Precision
from nas.core.token_layers import PatchEmbedding, TokenLinear
from nas.spaces.exported_graph import lower
from nas.spaces.wrapper import SpaceWrapper

GROUP_PRECISIONS = ("int8", "float32")  # the smaller model first
PRECISION_AXIS = "precision"
_SUFFIX = "-mixed"
_MOST_NUMBERED = 6  # groups of the numbered parts of a network, such as stages or cells
_MOST_CACHED = 65_536  # networks of which the work by group is kept
_COLUMNS = 4  # of a group: layers, MACs, parameters and values


@dataclass(frozen=True)
class LayerGroup:
    """Consecutive layers of one precision: those of ``parts`` of a network."""

    name: str
    parts: tuple[str, ...]


def layer_groups(layers: Sequence[Layer]) -> tuple[LayerGroup, ...]:
    """The groups of a network: what is before its numbered parts (``stem``), these, such as ``stage1``, of many several
    together, and what is after them (``head``). Raises InvalidSpec for layers of a user's own kind, of which it is not
    known what int8 does to them."""
    own = [layer.name for layer in layers if isinstance(layer, OperatorLayer | CustomLayer)]
    if own:
        raise InvalidSpec(f"precision: 'mixed' expects layers of known kinds, got {own[0]!r}")
    parts = [*dict.fromkeys(_part(layer) for layer in layers)]
    numbered = [i for i, part in enumerate(parts) if part[-1].isdigit()] or [0, len(parts) - 1]
    first, last = numbered[0], numbered[-1] + 1
    chunks = np.array_split(np.arange(first, last), min(_MOST_NUMBERED, last - first))
    middle = [tuple(parts[i] for i in chunk) for chunk in chunks]
    named = [("stem", tuple(parts[:first])), *((_chunk_name(chunk), chunk) for chunk in middle)]
    named.append(("head", tuple(parts[last:])))
    return tuple(LayerGroup(name, members) for name, members in named if members)


def _part(layer: Layer) -> str:
    """The part of a network that a layer belongs to: the first word of its name, with the second where that is the one
    with a number, as in ``encoder.block1``."""
    first, *further = layer.name.split(".")
    numbered_within = len(further) > 1 and not first[-1].isdigit() and further[0][-1].isdigit()
    return f"{first}.{further[0]}" if numbered_within else first


def _chunk_name(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{parts[0]}_to_{parts[-1]}"


def weighted_operators(layer: Layer) -> int:
    """How many convolutions and dense layers an exported model has for a layer."""
    match layer:
        case Conv2d() | ShiftedConv2d() | Linear() | PatchEmbedding() | TokenLinear():
            return 1
        case SqueezeExcite():
            return 2
        case ComposedLayer():
            shapes = zip(layer.inputs, layer.input_shapes, strict=True)
            graph = lower([layer], {name: prod(shape) for name, shape in shapes})
            return sum(operator.kind == "Conv" for operator in graph.operators)
        case _:
            return 0


class MixedPrecisionSpace(SpaceWrapper):
    """Networks of ``inner`` with a precision for each group of layers: the last decisions, named as the group, such as
    ``stage1.precision``. Counted costs are those of the network in float32."""

    def __init__(self, inner: SearchSpace) -> None:
        super().__init__(inner)
        largest = Arch(inner.id, tuple(len(d.choices) - 1 for d in inner.decisions))
        self.groups = layer_groups(inner.layers(largest))
        self._group_of = {part: k for k, group in enumerate(self.groups) for part in group.parts}
        self._known_work: dict[tuple[int, ...], Floats] = {}

    @property
    def id(self) -> str:
        """That of ``inner``, marked as mixed."""
        return f"{self.inner.id}{_SUFFIX}"

    @property
    def decisions(self) -> tuple[Decision, ...]:
        """Those of ``inner``, then the precision of each group."""
        return (*self.inner.decisions, *(Decision(f"{g.name}.{PRECISION_AXIS}", GROUP_PRECISIONS) for g in self.groups))

    def arch_of(self, arch: Arch) -> Arch:
        """The network of ``inner``, whatever its precisions."""
        return Arch(self.inner.id, arch.genes[: self._own])

    def int8_operators(self, arch: Arch) -> tuple[bool, ...]:
        """Whether each convolution and dense layer of a network is int8, in the order in which they run."""
        bits = arch.genes[self._own :]
        return tuple(
            bits[self._group(layer)] == 0 for layer in self.layers(arch) for _ in range(weighted_operators(layer))
        )

    def with_precisions(self, arch: Arch, in_int8: Sequence[bool]) -> Arch:
        """The network of ``arch`` with other precisions by group, canonical."""
        genes_1G = np.array([[*arch.genes[: self._own], *(int(not int8) for int8 in in_int8)]], dtype=np.int64)
        return replace(arch, genes=tuple(self.canonical(genes_1G)[0].tolist()))

    def active_groups(self, arch: Arch) -> tuple[bool, ...]:
        """Which groups of a network have convolutions or dense layers."""
        return tuple((self._work_of(arch.genes[: self._own])[:, 0] > 0).tolist())

    def canonical(self, genes_NG: Genes) -> Genes:
        """By ``inner``; a group without convolutions and dense layers has the first precision."""
        own_NG = self.inner.canonical(genes_NG[:, : self._own])
        bits_NK = genes_NG[:, self._own :]
        if not self._all_always_active:
            bits_NK = np.where(self._work_NK4(own_NG)[:, :, 0] > 0, bits_NK, 0)
        return np.concatenate([own_NG, bits_NK], axis=1)

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        """Those of ``inner``, in float32."""
        return self.inner.costs(genes_NG[:, : self._own])

    def features(self, genes_NG: Genes) -> Floats:
        """Those of ``inner``; of each group the layers, MACs, parameters and values that are int8; and how many values
        cross from one precision into the other, shape (N, F)."""
        own_NG, int8_NK = genes_NG[:, : self._own], genes_NG[:, self._own :] == 0
        work_NK4 = self._work_NK4(own_NG)
        crossing_NK = work_NK4[:, :-1, 3] * (int8_NK[:, 1:] != int8_NK[:, :-1])
        int8_NC = (work_NK4 * int8_NK[:, :, None]).reshape(len(genes_NG), -1)
        return np.hstack([self.inner.features(own_NG), int8_NC, crossing_NK.sum(axis=1, keepdims=True)])

    @property
    def graph_encoding(self) -> GraphEncoding | None:
        """None: a graph does not tell precisions."""
        return None

    @property
    def relaxation(self) -> Relaxation | None:
        """None: precisions are not relaxed."""
        return None

    @property
    def features_as_written(self) -> Callable[[Genes], Floats] | None:
        """None."""
        return None

    @property
    def costs_as_written(self) -> Callable[[Genes], dict[str, Floats]] | None:
        """None."""
        return None

    @property
    def accuracy_features(self) -> Callable[[Genes], Floats] | None:
        """Those of ``inner`` and the precisions."""
        of_inner = self.inner.accuracy_features
        if of_inner is None:
            return None
        return lambda genes_NG: np.hstack([of_inner(genes_NG[:, : self._own]), genes_NG[:, self._own :]])

    @property
    def references(self) -> dict[str, tuple[int, ...]]:
        """Those of ``inner``, in float32."""
        return self._in_float32(self.inner.references)

    @property
    def published(self) -> dict[str, tuple[int, ...]]:
        """Those of ``inner``, in float32."""
        return self._in_float32(self.inner.published)

    def layers(self, arch: Arch) -> list[Layer]:
        """By ``inner``."""
        return self.inner.layers(self.arch_of(arch))

    def is_constant(self, arch: Arch) -> bool:
        """By ``inner``."""
        return self.inner.is_constant(self.arch_of(arch))

    def input_shape(self, arch: Arch) -> tuple[int, int, int]:
        """By ``inner``."""
        return self.inner.input_shape(self.arch_of(arch))

    def supernet(self, seed: int) -> Any:
        """That of ``inner``, with the same weights, which networks of all precisions share."""
        from nas.supernet import PrefixSupernet

        return PrefixSupernet(self.inner.supernet(seed), self.inner.id, self._own)

    @property
    def _own(self) -> int:
        return len(self.inner.decisions)

    @property
    def _all_always_active(self) -> bool:
        """Whether the smallest network has layers in all groups, as then all networks have."""
        return bool((self._work_of((0,) * self._own)[:, 0] > 0).all())

    def _in_float32(self, genes_by_name: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        return {name: (*genes, *(1 for _ in self.groups)) for name, genes in genes_by_name.items()}

    def _group(self, layer: Layer) -> int:
        return self._group_of[_part(layer)]

    def _work_NK4(self, own_NG: Genes) -> Floats:
        """Of N networks and K groups: layers, MACs, parameters and values, shape (N, K, 4)."""
        return np.stack([self._work_of(tuple(genes_G)) for genes_G in own_NG.tolist()]).reshape(
            -1, len(self.groups), _COLUMNS
        )

    def _work_of(self, own_genes: tuple[int, ...]) -> Floats:
        if own_genes not in self._known_work:
            if len(self._known_work) >= _MOST_CACHED:
                self._known_work.clear()
            self._known_work[own_genes] = self._work(own_genes)
        return self._known_work[own_genes]

    def _work(self, own_genes: tuple[int, ...]) -> Floats:
        """Of one network, shape (K, 4): layers, MACs (1e6), parameters (1e3) and the values that layers give (1e3)."""
        work_K4 = np.zeros((len(self.groups), _COLUMNS))
        for layer in self.inner.layers(Arch(self.inner.id, own_genes)):
            count = weighted_operators(layer)
            if count:
                row = (count, layer.macs / 1e6, layer.params / 1e3, prod(layer.out_shape) / 1e3)
                work_K4[self._group(layer)] += row
        return work_K4


def in_precision_of(space: SearchSpace, precision: Precision) -> SearchSpace:
    """The space of a search in a precision: in ``mixed`` that of each group is decided, too. Raises InvalidSpec for a
    space whose layers are not known."""
    return MixedPrecisionSpace(space) if precision == "mixed" else space


def mixed_precision_space(space: SearchSpace) -> MixedPrecisionSpace:
    """The space of mixed precision that wrappers may hide. Raises InvalidSpec where there is none."""
    layer: SearchSpace | SpaceWrapper = space
    while not isinstance(layer, MixedPrecisionSpace):
        if not isinstance(layer, SpaceWrapper):
            raise InvalidSpec(f"expected a space of mixed precision, got {space.id}")
        layer = layer.inner
    return layer


def weights_space_id(space_id: str) -> str:
    """The id of the space whose supernet a space uses: that without precisions."""
    return space_id.removesuffix(_SUFFIX)


def int8_mask(space: SearchSpace, arch: Arch, precision: Precision) -> tuple[bool, ...] | None:
    """Which convolutions and dense layers of a network are int8, in the order in which they run; None: all, as of the
    references of another space, in which no precisions are decided."""
    if precision != "mixed":
        return None
    mixed = mixed_precision_space(space)
    return mixed.int8_operators(arch) if arch.space == mixed.id else None
