"""Sharpness of the validation loss in the architecture parameters, and early stopping by it (R-DARTS: Zela et al., ICLR
2020)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Tensor = torch.Tensor
EXPLICIT = 64  # logits up to which the Hessian is written out
WINDOW = 5  # probes of a local average
BACK = 4  # probes between the two averages that are compared
RATIO = 1.3
FIRST_EPOCH = 10


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
        (made,) = torch.autograd.grad(flat, alphas, v, retain_graph=True, allow_unused=True)
        return torch.zeros_like(v) if made is None else made.reshape(-1)

    n = flat.numel()
    if n <= EXPLICIT:
        hessian = torch.stack([product(row) for row in torch.eye(n, dtype=flat.dtype, device=flat.device)]).double()
        return float(torch.linalg.eigvalsh((hessian + hessian.T) / 2)[-1])
    top = _power(product, n, flat, iterations)
    return top if top >= 0 else _power(lambda v: product(v) - top * v, n, flat, iterations) + top


def stop_epoch(eigenvalues: Sequence[tuple[int, float]]) -> int | None:
    """The epoch to go back to, once the local average of ``(epoch, eigenvalue)`` probes has grown by 30 % over four
    probes; None while it has not. The rule of the authors' code: averages of five probes count for the middle one, and
    the earlier of the two must not lie before epoch 10."""
    if len(eigenvalues) < 3:
        return None
    epochs = [e for e, _ in eigenvalues]
    every = epochs[1] - epochs[0]
    averages = [
        sum(v for _, v in eigenvalues[max(0, i + 1 - WINDOW) : i + 1]) / min(WINDOW, i + 1)
        for i in range(2, len(eigenvalues))
    ]
    back_to = epochs[-1] - every * (WINDOW // 2) - every * BACK
    if len(averages) <= BACK or back_to < FIRST_EPOCH:
        return None
    now, then = averages[-1], averages[-1 - BACK]
    return back_to if then > 0 and now / then > RATIO else None


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
