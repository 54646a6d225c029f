"""A user's model that a search starts from: the parent of all networks of its space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nas.core.errors import InvalidInput


@dataclass(frozen=True)
class Preprocessing:
    """What a model expects of its images: ``(pixel - mean) / std`` by channel. ``mean`` and ``std`` are pixel values, 0
    to 255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(deviation > 0 for deviation in self.std):
            raise InvalidInput(
                f"preprocessing: expected a mean and a positive standard deviation for each channel, got mean "
                f"{list(self.mean)} and std {list(self.std)}"
            )


@dataclass(frozen=True)
class ParentModel:
    """A model under the ``name`` it is stored by.

    ``graph_json``: its ``nas.models.graph.ModelGraph``. ``load_weights`` reads its parameters by name; only what
    computes needs them. ``preprocessing`` None: the mean and standard deviation of the training images.
    """

    name: str
    graph_json: bytes
    load_weights: Callable[[], Mapping[str, NDArray[Any]]]
    preprocessing: Preprocessing | None = None
