"""What all kinds of typed layers have in common (``nas.core.layers``)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

MapShape = tuple[int, int, int]
Activation = Literal["relu", "hswish", "swish", "gelu"]

INPUT = "input"
ACTIVATION_TEXT: Mapping[Activation | None, str] = {
    "relu": "ReLU", "hswish": "h-swish", "swish": "swish", "gelu": "GELU", None: "",
}  # fmt: skip


@dataclass(frozen=True)
class LayerBase(ABC):
    """The members of all kinds of layers; a kind overrides the defaults."""

    name: str
    inputs: tuple[str, ...]
    in_shape: MapShape

    @property
    @abstractmethod
    def op(self) -> str:
        """Kind of operation, by which predictors sum layers."""

    @property
    @abstractmethod
    def detail(self) -> str:
        """Text for people. It is part of the keys of stored layer tables, so it must not change."""

    @property
    def out_shape(self) -> MapShape:
        """(channels, height, width) of its output."""
        return self.in_shape

    @property
    def params(self) -> int:
        """Number of parameters."""
        return 0

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image; multiplications by weights and, in attention, of values by
        values."""
        return 0

    @property
    def window(self) -> int | None:
        """Side of its square window, None without one."""
        return None
