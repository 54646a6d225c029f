"""A network as a list of typed layers: the one description from which everything else is derived.

Derived are parameters and MACs (``nas.core.layers``), weights and activation memory of the exported model
(``nas.spaces.exported_graph``), tables for whole populations, features of predictors, the drawing on the dashboard, and
the ONNX model of a single layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from nas.core.errors import InvalidInput
from nas.core.layers import INPUT, Layer, MapShape


@dataclass(frozen=True)
class Add:
    """The sum of two maps of one shape."""

    name: str
    inputs: tuple[str, str]
    out_shape: MapShape


@dataclass(frozen=True)
class Relu:
    """A ReLU that is part of no layer."""

    name: str
    inputs: tuple[str]
    out_shape: MapShape


@dataclass(frozen=True)
class Zeros:
    """Its input times zero: the output of a cell without a path from input to output."""

    name: str
    inputs: tuple[str]
    out_shape: MapShape


NetworkNode: TypeAlias = Layer | Add | Relu | Zeros  # what is not a layer appears neither in tables nor in drawings


@dataclass(frozen=True)
class Network:
    """A network as its nodes in the order of the exported model; each reads earlier ones by name."""

    input_shape: MapShape
    nodes: tuple[NetworkNode, ...]

    def check(self) -> None:
        """Raises InvalidInput if a node reads one that does not come before it, or if two share a name."""
        names = {INPUT}
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in names]
            if missing:
                raise InvalidInput(f"node {node.name!r}: expected {missing[0]!r} before it")
            if node.name in names:
                raise InvalidInput(f"node {node.name!r}: expected a name of its own")
            names.add(node.name)

    @property
    def is_constant(self) -> bool:
        """Whether its output is the same for every input, so that a runtime can compute it beforehand."""
        by_name = {node.name: node for node in self.nodes}
        due, seen = [self.nodes[-1].name], set[str]()
        while due:
            name = due.pop()
            if name == INPUT:
                return False
            node = by_name[name]
            if name not in seen and not isinstance(node, Zeros):
                due += node.inputs
            seen.add(name)
        return True

    @property
    def layers(self) -> list[Layer]:
        """Its nodes that are layers."""
        return layers_of(self.nodes)

    @property
    def blocks(self) -> dict[str, dict[str, Layer]]:
        """Its layers with a dotted name: by all before the last dot, then by what is after it."""
        grouped: dict[str, dict[str, Layer]] = {}
        for layer in self.layers:
            block, _, part = layer.name.rpartition(".")
            if block:
                grouped.setdefault(block, {})[part] = layer
        return grouped


def layers_of(nodes: Iterable[NetworkNode]) -> list[Layer]:
    """The nodes that are layers."""
    return [node for node in nodes if not isinstance(node, Add | Relu | Zeros)]


@dataclass(frozen=True)
class LayerSummary:
    """One layer in reports, drawings and REST. ``kernel``: side of its square window, None without one."""

    name: str
    op: str
    in_shape: MapShape
    out_shape: MapShape
    params: int
    macs: int
    detail: str = ""
    kernel: int | None = None


def summarise(layer: Layer) -> LayerSummary:
    """The summary of a layer of any kind."""
    return LayerSummary(
        layer.name, layer.op, layer.in_shape, layer.out_shape, layer.params, layer.macs, layer.detail, layer.window
    )
