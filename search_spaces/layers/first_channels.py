"""The first channels of weights, with a backward pass that copies once."""

from __future__ import annotations

import torch


class _First(torch.autograd.Function):
    """``weight[:a, :b]``, whose gradient is written into zeros at once: two slices would fill two tensors."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, weight: torch.Tensor, sizes: tuple[int, ...]) -> torch.Tensor:
        ctx.shape, ctx.sizes = weight.shape, sizes  # type: ignore[attr-defined]
        return weight[tuple(slice(size) for size in sizes)]

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = gradients
        of_weight = gradient.new_zeros(ctx.shape)  # type: ignore[attr-defined]
        of_weight[tuple(slice(size) for size in ctx.sizes)] = gradient  # type: ignore[attr-defined]
        return of_weight, None


def first(weight: torch.Tensor, *sizes: int) -> torch.Tensor:
    """``weight[:a, :b, ...]``; the weight itself where that is all of it."""
    if all(size == channels for size, channels in zip(sizes, weight.shape, strict=False)):
        return weight
    part: torch.Tensor = _First.apply(weight, sizes)  # type: ignore[no-untyped-call]
    return part
