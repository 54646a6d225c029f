"""A user's model as a graph: values that nodes compute from earlier ones. JSON, without torch or ONNX."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from nas.core.errors import InvalidInput
from nas.core.operators import GraphOperator, OpaqueOp

TensorShape = tuple[int, ...]
WeightArrays: TypeAlias = Mapping[str, NDArray[Any]]
FORMAT_VERSION = 2
"""Written by this version. In graphs of version 1, stored by earlier ones, channels that a norm runs over stay, and
buffers are trained: searches over them were made so."""
READABLE_VERSIONS = (1, 2)


class InvalidModel(InvalidInput):
    """A model that cannot be taken in. The message names the module or operator, and the reason."""

    code = "invalid_model"


class UnfinishedReading(InvalidModel):
    """A model that was not read to its end, for want of time or memory; on another machine it may be."""


@dataclass(frozen=True)
class GraphValue:
    """An input or a parameter of the graph (weights, statistics and constants alike). ``is_buffer``: it is part of the
    model but not trained, as buffers and constants of a module are."""

    name: str
    shape: TensorShape
    dtype: str = "float32"
    is_buffer: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GraphNode:
    """One operator, whose output has the node's name. ``module``: the part of the user's model that it comes from."""

    name: str
    operator: GraphOperator
    operands: tuple[str, ...]
    shape: TensorShape
    module: str = ""

    @property
    def label(self) -> str:
        """What to call it in messages: its module and the kind of its operator; of one that is not known, its name."""
        if isinstance(self.operator, OpaqueOp):
            return f"{self.module} ({self.operator.operator})" if self.module else self.operator.operator
        return f"{self.module or self.name} ({self.operator.kind})"


@dataclass(frozen=True)
class ModelGraph:
    """A model. Shapes are those of the example with which it was exported; ``inputs[i].shape[0]`` counts its images."""

    inputs: tuple[GraphValue, ...]
    parameters: tuple[GraphValue, ...]
    nodes: tuple[GraphNode, ...]
    outputs: tuple[str, ...]
    format_version: int = FORMAT_VERSION

    @cached_property
    def shapes(self) -> dict[str, TensorShape]:
        """The shape of every input, parameter and node."""
        values = {value.name: value.shape for value in (*self.inputs, *self.parameters)}
        return values | {node.name: node.shape for node in self.nodes}

    @cached_property
    def parameter_names(self) -> frozenset[str]:
        """The names of all parameters."""
        return frozenset(value.name for value in self.parameters)

    @cached_property
    def learned(self) -> tuple[GraphValue, ...]:
        """The parameters that training changes: floating-point numbers that are neither buffers nor statistics of batch
        norms."""
        statistics = {name for node in self.nodes if node.operator.kind == "batch_norm" for name in node.operands[1:3]}
        return tuple(
            value
            for value in self.parameters
            if not value.is_buffer and value.name not in statistics and np.dtype(value.dtype).kind == "f"
        )

    @cached_property
    def narrows_norms(self) -> bool:
        """Whether channels that a layer norm runs over may be removed; the norm runs over those that remain."""
        return self.format_version >= 2

    @cached_property
    def batch(self) -> int:
        """Number of images in the example."""
        return self.inputs[0].shape[0]

    @cached_property
    def readers(self) -> dict[str, tuple[GraphNode, ...]]:
        """By name of a value, the nodes that read it."""
        nodes_by_operand: dict[str, list[GraphNode]] = {name: [] for name in self.shapes}
        for node in self.nodes:
            for operand in dict.fromkeys(node.operands):
                nodes_by_operand[operand].append(node)
        return {name: tuple(nodes) for name, nodes in nodes_by_operand.items()}

    def check(self) -> None:
        """Raises InvalidModel if a name is used twice, or before it is defined, or if an output is missing."""
        names: set[str] = set()
        for value in (*self.inputs, *self.parameters):
            _define(names, value.name)
        for node in self.nodes:
            for operand in node.operands:
                if operand not in names:
                    raise InvalidModel(f"{node.label}: expected {operand!r} to be computed before it")
            _define(names, node.name)
        for name in self.outputs:
            if name not in names:
                raise InvalidModel(f"expected output {name!r} to be computed")
        if not self.inputs or not self.outputs:
            raise InvalidModel("expected a model with at least one input and one output")

    def to_json(self) -> bytes:
        """The graph as JSON."""
        return _ADAPTER.dump_json(self)

    @classmethod
    def from_json(cls, text: bytes) -> ModelGraph:
        """The graph that ``to_json`` wrote. Raises InvalidModel for anything else."""
        try:
            graph = _ADAPTER.validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise InvalidModel(f"expected the JSON of a graph, got at {place}: {first['msg']}") from None
        if graph.format_version not in READABLE_VERSIONS:
            raise InvalidModel(f"expected a graph of a format up to {FORMAT_VERSION}, got {graph.format_version}")
        graph.check()
        return graph


def check_weights(graph: ModelGraph, weights: WeightArrays) -> None:
    """Raises InvalidModel unless ``weights`` holds every parameter with its shape."""
    for value in graph.parameters:
        if value.name not in weights:
            raise InvalidModel(f"weights: expected {value.name!r} of shape {list(value.shape)}, got nothing")
        if (shape := weights[value.name].shape) != value.shape:
            raise InvalidModel(f"weights: expected {value.name!r} of shape {list(value.shape)}, got {list(shape)}")


def without_unread(graph: ModelGraph) -> ModelGraph:
    """The graph without nodes and parameters that no output depends on."""
    needed = set(graph.outputs)
    nodes = []
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.operands)
            nodes.append(node)
    parameters = tuple(value for value in graph.parameters if value.name in needed)
    return replace(graph, parameters=parameters, nodes=tuple(reversed(nodes)))


def count_parameters(graph: ModelGraph) -> int:
    """Number of floating-point elements in all parameters."""
    return sum(value.size for value in graph.parameters if np.dtype(value.dtype).kind == "f")


def _define(names: set[str], name: str) -> None:
    if name in names:
        raise InvalidModel(f"expected one value of the name {name!r}, got two")
    names.add(name)


_ADAPTER = TypeAdapter(ModelGraph)
