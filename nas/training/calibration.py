"""Batch-norm recalibration of a subnet.

Batch-norm statistics of shared weights do not fit any single subnet, so each subnet gets its own before evaluation
(Once-for-all, section 3.3; Yu and Huang, US-Nets, ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn


@torch.no_grad()
def recalibrate(module: nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Set every batch norm's statistics to the mean of batch means and of biased batch variances, weighted by values
    per channel.

    Earlier statistics have no influence. Leaves the module in eval mode. ``batches`` of (B, C, H, W). Raises ValueError
    without batches and for a batch of one image, whose statistics would describe that image.
    """
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    sums = [tuple(torch.zeros_like(s, dtype=torch.float64) for s in _statistics(m)) for m in norms]
    totals = [0] * len(norms)
    values: dict[nn.Module, int] = {}  # per channel, in the current batch

    def count_values(norm: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        values[norm] = inputs[0].numel() // inputs[0].shape[1]

    hooks = [norm.register_forward_pre_hook(count_values) for norm in norms]
    momenta = [norm.momentum for norm in norms]
    module.eval()
    for norm in norms:
        norm.train()
        norm.momentum = 1.0  # record the statistics of the last batch only; torch records the unbiased variance
    batch_count = 0
    try:
        for batch in batches:
            if len(batch) < 2:
                raise ValueError("recalibration needs batches of at least 2 images, got a batch of 1")
            module(batch)
            batch_count += 1
            for i, (norm, (mean_sum, var_sum)) in enumerate(zip(norms, sums, strict=True)):
                (mean, var), n = _statistics(norm), values[norm]
                mean_sum += n * mean.double()
                var_sum += (n - 1) * var.double()  # n times the biased variance
                totals[i] += n
    finally:
        for norm, hook, momentum in zip(norms, hooks, momenta, strict=True):
            hook.remove()
            norm.momentum = momentum
            norm.eval()
    if batch_count == 0:
        raise ValueError("recalibration needs at least one batch, got none")
    for norm, (mean_sum, var_sum), total in zip(norms, sums, totals, strict=True):
        mean, var = _statistics(norm)
        mean.copy_(mean_sum / total)
        var.copy_(var_sum / total)


def _statistics(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
