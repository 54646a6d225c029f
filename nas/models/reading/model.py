"""What a reader returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nas.models.graph import ModelGraph


@dataclass(frozen=True)
class ReadModel:
    """A graph and its weights, by the names of the graph's parameters."""

    graph: ModelGraph
    weights: dict[str, NDArray[Any]]
