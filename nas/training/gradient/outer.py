"""Gradients of the validation loss with respect to the architecture parameters (DARTS: Liu et al., ICLR 2019, section
2.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Tensor = torch.Tensor
Loss = Callable[[], Tensor]


def first_order(val_loss: Loss, alphas: Sequence[Tensor]) -> list[Tensor]:
    """At the current weights. Zero where the loss does not depend on the architecture parameters: in a drawn cell
    without a path from input to output."""
    gradients = torch.autograd.grad(val_loss(), alphas, allow_unused=True)
    return [_or_zeros(g, a) for g, a in zip(gradients, alphas, strict=True)]


def second_order(
    train_loss: Loss,
    val_loss: Loss,
    weights: Sequence[Tensor],
    alphas: Sequence[Tensor],
    *,
    lr: float,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
    moments: Sequence[Tensor | None] | None = None,
    radius: float = 0.01,
    exact: bool = False,
) -> list[Tensor]:
    """At the weights one training step ahead, equations 6 to 8. ``weights`` are afterwards bitwise as they were.

    The step is w' = w - lr (momentum m + dL_train/dw + weight_decay w). The mixed second derivative is a central
    difference around w, along the validation gradient v at w', with a step of ``radius`` / |v|; or ``exact``, by
    differentiating twice, which takes more memory.
    """
    saved = [w.detach().clone() for w in weights]
    moments = moments if moments is not None else [None] * len(weights)
    gradients = torch.autograd.grad(train_loss(), weights, allow_unused=True)
    try:
        with torch.no_grad():
            for w, g, m in zip(weights, gradients, moments, strict=True):
                step = weight_decay * w
                step = step if g is None else step + g
                step = step if m is None else step + momentum * m
                w.sub_(step, alpha=lr)
        gradients_ahead = torch.autograd.grad(val_loss(), [*alphas, *weights], allow_unused=True)
        direct, ahead = gradients_ahead[: len(alphas)], gradients_ahead[len(alphas) :]
        if exact:
            _restore(weights, saved)
            mixed = _mixed_product(train_loss, weights, alphas, ahead)
            return [_or_zeros(d, a) - lr * m for d, m, a in zip(direct, mixed, alphas, strict=True)]
        norm = torch.stack([v.norm() for v in ahead if v is not None]).norm()
        reach = radius / float(norm) if float(norm) > 0 else 0.0
        if reach == 0.0:
            return [_or_zeros(d, a) for d, a in zip(direct, alphas, strict=True)]

        def alpha_gradient(scale: float) -> tuple[Tensor | None, ...]:
            with torch.no_grad():
                for w, before, v in zip(weights, saved, ahead, strict=True):
                    w.copy_(before if v is None else before + scale * v)
            return torch.autograd.grad(train_loss(), alphas, allow_unused=True)

        above, below = alpha_gradient(reach), alpha_gradient(-reach)
    finally:
        _restore(weights, saved)
    return [
        _or_zeros(d, a) - lr * (_or_zeros(p, a) - _or_zeros(n, a)) / (2 * reach)
        for d, p, n, a in zip(direct, above, below, alphas, strict=True)
    ]


def _mixed_product(
    train_loss: Loss, weights: Sequence[Tensor], alphas: Sequence[Tensor], vectors: Sequence[Tensor | None]
) -> list[Tensor]:
    """The second derivative of the training loss in alphas and weights, times a vector of the weights' shapes."""
    gradients = torch.autograd.grad(train_loss(), weights, create_graph=True, allow_unused=True)
    pairs = [(g, v) for g, v in zip(gradients, vectors, strict=True) if g is not None and v is not None]
    if not any(g.requires_grad for g, _ in pairs):
        return [torch.zeros_like(a) for a in alphas]
    along = torch.stack([(g * v).sum() for g, v in pairs]).sum()
    products = torch.autograd.grad(along, alphas, allow_unused=True)
    return [_or_zeros(p, a) for p, a in zip(products, alphas, strict=True)]


@torch.no_grad()
def _restore(weights: Sequence[Tensor], saved: Sequence[Tensor]) -> None:
    for w, before in zip(weights, saved, strict=True):
        w.copy_(before)


def _or_zeros(gradient: Tensor | None, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if gradient is None else gradient
