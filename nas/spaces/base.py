"""Base classes of search spaces. A plug-in may implement ``nas.core.ports.SearchSpace`` without the second one."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np
from pydantic import BaseModel, JsonValue

from nas.core.arch import Arch, Floats, Genes
from nas.core.cells import CellGraph
from nas.core.errors import InvalidInput
from nas.core.graph import GraphEncoding
from nas.core.layers import Layer
from nas.core.network import Network
from nas.core.parent import Preprocessing
from nas.core.ports import ImageShape, RelaxedSpace, SearchSpace
from nas.core.relaxation import Relaxation
from nas.core.tasks import OutputKind

P = TypeVar("P", bound=BaseModel)


class SpaceDefaults:
    """The members of ``SearchSpace`` that a space can do without; a space overrides those that it offers."""

    @property
    def graph_encoding(self) -> GraphEncoding | None:
        """None."""
        return None

    @property
    def cells(self) -> tuple[CellGraph, ...]:
        """None."""
        return ()

    @property
    def relaxation(self) -> Relaxation | None:
        """None."""
        return None

    @property
    def regularisers(self) -> Mapping[str, float]:
        """None."""
        return {}

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
        """None."""
        return None

    @property
    def pretrained_genes(self) -> tuple[int, ...] | None:
        """None."""
        return None

    @property
    def references(self) -> Mapping[str, tuple[int, ...]]:
        """None."""
        return {}

    @property
    def published(self) -> Mapping[str, tuple[int, ...]]:
        """None."""
        return {}

    def from_notation(self, text: str) -> tuple[int, ...]:
        """None: raises InvalidInput."""
        raise InvalidInput(f"networks of {cast(SearchSpace, self).name} have no notation: expected genes, got {text!r}")

    @property
    def preprocessing(self) -> Preprocessing | None:
        """None."""
        return None

    def is_constant(self, arch: Arch) -> bool:
        """No."""
        return False

    @property
    def outputs(self) -> OutputKind:
        """A vector."""
        return "vector"

    def discretise_all(self, scores_NEO: Floats) -> Genes:
        """One after the other."""
        relaxed = cast(RelaxedSpace, self)
        return np.stack([relaxed.discretise(scores_EO) for scores_EO in scores_NEO])

    @property
    def unrestricted(self) -> SearchSpace:
        """The space itself."""
        return cast(SearchSpace, self)


class DescribedSpace(SpaceDefaults, ABC, Generic[P]):
    """A space whose networks are described by typed layers. ``config``: its parameters, presets resolved."""

    name: ClassVar[str]

    def __init__(self, config: P, shape: ImageShape) -> None:
        self.config = config
        self.shape = shape

    @cached_property
    def params(self) -> Mapping[str, JsonValue]:
        """``config`` as plain values."""
        return self.config.model_dump(mode="json")

    @cached_property
    def id(self) -> str:
        """Name plus a hash over parameters, input shape and classes."""
        s = self.shape
        return space_id(self.name, self.params, s.channels, s.height, s.width, s.classes)

    def input_shape(self, arch: Arch) -> tuple[int, int, int]:
        """(channels, height, width), by default the data's own for every network."""
        return (self.shape.channels, self.shape.height, self.shape.width)

    @abstractmethod
    def network(self, arch: Arch) -> Network:
        """The description of one network, from which costs and layers are derived."""

    def is_constant(self, arch: Arch) -> bool:
        """By the description of the network."""
        return self.network(arch).is_constant

    def layers(self, arch: Arch) -> list[Layer]:
        """The layers of one network, in order."""
        return self.network(arch).layers


def space_id(name: str, *contents: Any) -> str:
    """A name plus a hash over everything that changes the networks, as plain values."""
    return f"{name}-{hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()[:8]}"
