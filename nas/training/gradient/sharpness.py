"""Sharpness of the validation loss in the architecture parameters (R-DARTS: Zela et al., ICLR 2020)."""

from __future__ import annotations

from collections.abc import Callable

import torch

Tensor = torch.Tensor
EXPLICIT = 64  # logits up to which the Hessian is written out


def dominant_eigenvalue(loss: Callable[[Tensor], Tensor], alphas_EO: Tensor, iterations: int = 20) -> float:
    """The largest eigenvalue, with its sign, of the Hessian of ``loss`` at ``alphas_EO``.

    Small Hessians are written out and made symmetric; of larger ones power iteration finds the eigenvalue of largest
    magnitude and, where that is negative, once more the top of the shifted matrix.
    """
    alphas = alphas_EO.detach().clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss(alphas), alphas, create_graph=True)
    flat = gradient.reshape(-1)

    def product(v: Tensor) -> Tensor:
        if not flat.requires_grad:  # a loss that is linear in the logits
            return torch.zeros_like(v)
        (second,) = torch.autograd.grad(flat, alphas, v, retain_graph=True, allow_unused=True)
        return torch.zeros_like(v) if second is None else second.reshape(-1)

    n = flat.numel()
    if n <= EXPLICIT:
        hessian = torch.stack([product(row) for row in torch.eye(n, dtype=flat.dtype, device=flat.device)]).double()
        return float(torch.linalg.eigvalsh((hessian + hessian.T) / 2)[-1])
    top = _power(product, n, flat, iterations)
    return top if top >= 0 else _power(lambda v: product(v) - top * v, n, flat, iterations) + top


def _power(product: Callable[[Tensor], Tensor], n: int, like: Tensor, iterations: int) -> float:
    """The Rayleigh quotient after power iteration from a fixed start."""
    v = torch.randn(n, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(like)
    v = v / v.norm()
    value = 0.0
    for _ in range(iterations):
        u = product(v)
        value, norm = float(v @ u), float(u.norm())
        if norm == 0.0:
            return 0.0
        v = u / norm
    return value
