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
    sums: list[tuple[torch.Tensor, torch.Tensor]] = [
        (torch.zeros_like(m.weight, dtype=torch.float64), torch.zeros_like(m.weight, dtype=torch.float64))
        for m in norms
    ]
    count = 0

    def record(index: int) -> None:
        def hook(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            var, mean = torch.var_mean(inputs[0], dim=(0, 2, 3), correction=0)
            sums[index][0].add_(mean)
            sums[index][1].add_(var)

        handles.append(norms[index].register_forward_pre_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for i, norm in enumerate(norms):
        record(i)
        norm.train()
        norm.track_running_stats = False  # normalise by the batch, record nothing
    saved = [(m.running_mean, m.running_var) for m in norms]
    for norm in norms:
        norm.running_mean = norm.running_var = None
    try:
        module.eval()
        for batch in batches:
            module(batch)
            count += 1
    finally:
        for handle in handles:
            handle.remove()
        for norm, (mean, var) in zip(norms, saved, strict=True):
            norm.track_running_stats = True
            norm.running_mean, norm.running_var = mean, var
    if count == 0:
        raise ValueError("recalibration needs at least one batch, got none")
    for norm, (mean_sum, var_sum) in zip(norms, sums, strict=True):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(mean_sum / count)
        norm.running_var.copy_(var_sum / count)


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
