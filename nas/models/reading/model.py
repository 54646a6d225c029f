"""What a reader returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from nas.core.parent import Preprocessing
from nas.models.graph import ModelGraph


@dataclass(frozen=True)
class ReadModel:
    """A graph and its weights, by the names of the graph's parameters. ``constants``: those parameters that a state
    dict of the model lacks. ``preprocessing``: what its source says of its images, None if it says nothing."""

    graph: ModelGraph
    weights: dict[str, NDArray[Any]]
    constants: frozenset[str] = frozenset()
    preprocessing: Preprocessing | None = None
    warnings: tuple[str, ...] = ()
