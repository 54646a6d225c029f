"""Batch-norm recalibration and evaluation of a subnet.

Batch-norm statistics of shared weights do not fit any single subnet, so each subnet gets its own before evaluation
(Once-for-all, section 3.3; Yu and Huang, US-Nets, ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from nas.core.metrics import recall_by_class


@dataclass(frozen=True)
class AccuracyAndLoss:
    """Accuracy in % and mean cross-entropy in nats. ``recall_by_class``: the share of each class's images that are
    recognised, in %, None for a class without images; empty where it was not counted."""

    accuracy: float
    loss: float
    recall_by_class: tuple[float | None, ...] = ()

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes, in %: as accurate as ``accuracy`` where all classes are of one size."""
        recalls = [recall for recall in self.recall_by_class if recall is not None]
        return sum(recalls) / len(recalls)


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


@torch.no_grad()
def score(module: nn.Module, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> AccuracyAndLoss:
    """Accuracy and loss of a module in eval mode over (images, labels) batches."""
    loss = 0.0
    labels, answers = [], []
    module.eval()
    for x_BCHW, y_B in batches:
        logits_BK = module(x_BCHW)
        labels.append(y_B.cpu())
        answers.append(logits_BK.argmax(1).cpu())
        classes = logits_BK.shape[1]
        loss += float(F.cross_entropy(logits_BK, y_B, reduction="sum"))
    label_N, answer_N = torch.cat(labels), torch.cat(answers)
    accuracy = 100.0 * int((answer_N == label_N).sum()) / len(label_N)
    return AccuracyAndLoss(accuracy, loss / len(label_N), recall_by_class(label_N.numpy(), answer_N.numpy(), classes))
