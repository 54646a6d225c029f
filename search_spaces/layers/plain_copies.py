"""Plain torch modules as copies of the first channels of elastic layers."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


def filled(module: M, **tensors: torch.Tensor) -> M:
    """The module, built on the meta device so that nothing was drawn or computed for it, with copies of ``tensors``."""
    for name, tensor in tensors.items():
        copy = tensor.detach().clone(memory_format=torch.contiguous_format)
        setattr(module, name, nn.Parameter(copy) if name in ("weight", "bias") else copy)
    return module


def module_key(name: str) -> str:
    """A name of a module, which has no dots."""
    return name.replace(".", "_")
