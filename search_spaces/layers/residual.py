"""The sum of a map and what a body makes of it."""

from __future__ import annotations

import torch
from torch import nn


class Residual(nn.Module):
    """``shortcut(x) + body(x)``; without a ``shortcut``, ``x + body(x)``."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Shape of what the body makes."""
        past = x_BCHW if self.shortcut is None else self.shortcut(x_BCHW)
        out: torch.Tensor = past + self.body(x_BCHW)
        return out
