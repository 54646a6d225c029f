"""How much the outputs of a network change if something of it is changed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nas.core.tasks import LabelKind


def output_change(outputs: Sequence[Tensor], expected: Sequence[Tensor], labels: LabelKind) -> float:
    """The KL divergence of class probabilities in nats, as a mean over images (and pixels); of other outputs the mean
    squared change relative to the variance of each."""
    if len(outputs) == 1 and labels in ("class", "mask"):
        log_q, log_p = outputs[0].log_softmax(1), expected[0].log_softmax(1)
        return max(0.0, float((log_p.exp() * (log_p - log_q)).sum(1).mean()))
    pairs = zip(outputs, expected, strict=True)
    return float(torch.stack([(a - b).square().mean() / b.var().clamp_min(1e-12) for a, b in pairs]).mean())
