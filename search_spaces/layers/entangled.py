"""Entangled kernels: a convolution with a small kernel whose weights are the centre of a larger one's (TangleNAS:
Sukthanker et al., AutoML 2024)."""

from __future__ import annotations

import torch


def margin(larger: int, smaller: int) -> int:
    """Rows and columns of the larger kernel on either side of the smaller one."""
    return (larger - smaller) // 2


def centre(weight: torch.Tensor, smaller: int) -> torch.Tensor:
    """The kernel of the smaller operation, shape (..., smaller, smaller)."""
    m = margin(weight.shape[-1], smaller)
    return weight[..., m : m + smaller, m : m + smaller]


def entangled_kernel(weight: torch.Tensor, smaller: int, share: torch.Tensor) -> torch.Tensor:
    """The mean of the larger kernel, which weighs ``share`` (0 to 1), and the padded smaller one, which weighs the
    rest. What both have, the centre, counts in full. ``share`` is a scalar, or has a number for each output channel in
    shape (C, 1, 1, 1)."""
    m, k = margin(weight.shape[-1], smaller), weight.shape[-1]
    inside = torch.zeros(k, k, dtype=weight.dtype, device=weight.device)
    inside[m : k - m, m : k - m] = 1.0
    return weight * (inside + share * (1.0 - inside))
