"""Where a training stands: what a checkpoint keeps of it."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass, field
from typing import Any

import torch

from nas.training.weights import Weights


@dataclass(frozen=True)
class TrainState:
    """A position in training: ``step`` of ``phase``. ``weights`` is None at the very beginning."""

    phase: int = 0
    step: int = 0
    weights: Weights | None = field(default=None, repr=False)

    def to_bytes(self) -> bytes:
        """Tensors and plain values only; ``from_bytes`` never unpickles objects. Equal states give equal bytes."""
        buffer = io.BytesIO()
        torch.save(_interned({"phase": self.phase, "step": self.step, "weights": self.weights}), buffer)
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes, device: str) -> TrainState:
        """Inverse of ``to_bytes``."""
        record = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        return TrainState(record["phase"], record["step"], record["weights"])


def _interned(value: Any) -> Any:
    """The same with one object for equal strings: pickle writes what it has written before as a reference, so that
    strings from a checkpoint beside those of the program would give other bytes."""
    if type(value) is dict:
        return {_interned(k): _interned(v) for k, v in value.items()}
    if type(value) is list:
        return [_interned(v) for v in value]
    return sys.intern(value) if type(value) is str else value
