"""Batch-norm recalibration and evaluation of a subnet.

Statistics of shared weights are meaningless for a part of them, so each subnet gets its own before it is evaluated
(Once-for-all, section 3.3; Yu and Huang, US-Nets, ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Score:
    """Accuracy in % and mean cross-entropy in nats."""

    accuracy: float
    loss: float


@torch.no_grad()
def recalibrate(module: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Sets every batch norm's statistics to the plain mean of batch means and of biased batch variances.

    What the statistics were before has no influence. Leaves the module in eval mode. ``batches`` of (B, C, H, W).
    """
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    sums = [tuple(torch.zeros_like(s, dtype=torch.float64) for s in _statistics(m)) for m in norms]
    pixels: dict[nn.Module, int] = {}

    def count_pixels(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        pixels[norm] = inputs[0].numel() // inputs[0].shape[1]

    hooks = [norm.register_forward_pre_hook(count_pixels) for norm in norms]
    usual = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # the statistics of the last batch and nothing else; torch records the unbiased variance
    batch_count = 0
    try:
        for batch in batches:
            module(batch)
            batch_count += 1
            for norm, (mean_sum, var_sum) in zip(norms, sums, strict=True):
                (mean, var), n = _statistics(norm), pixels[norm]
                mean_sum += mean
                var_sum += var * ((n - 1) / n)
    finally:
        for norm, hook, momentum in zip(norms, hooks, usual, strict=True):
            hook.remove()
            norm.momentum = momentum
            norm.eval()
    if batch_count == 0:
        raise ValueError("recalibration needs at least one batch, got none")
    for norm, (mean_sum, var_sum) in zip(norms, sums, strict=True):
        mean, var = _statistics(norm)
        mean.copy_(mean_sum / batch_count)
        var.copy_(var_sum / batch_count)


def _statistics(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var


@torch.no_grad()
def score(module: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> Score:
    """Accuracy and loss of a module in eval mode over (images, labels) batches."""
    right = total = 0
    loss = 0.0
    module.eval()
    for x_BCHW, y_B in batches:
        logits = module(x_BCHW)
        right += int((logits.argmax(1) == y_B).sum())
        loss += float(F.cross_entropy(logits, y_B, reduction="sum"))
        total += len(y_B)
    return Score(100.0 * right / total, loss / total)
