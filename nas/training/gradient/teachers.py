"""Earlier states of a supernet that vote on what it should say: self-distillation against sharp minima.

After SD-DARTS (self-distillation with voting teachers). Which states its authors keep is not published in a form that
we know, so their number, spacing and kind of vote are options.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F

Tensor = torch.Tensor
SMOOTHING = 0.1


def vote(
    logits_KBC: Sequence[Tensor], temperature: float, how: Literal["soft", "majority"], smoothing: float = SMOOTHING
) -> Tensor:
    """What K teachers say together, a distribution for each image, shape (B, C): the mean of their softened
    probabilities, or of their first choices, ``smoothing`` of which goes to all classes."""
    stacked = torch.stack(list(logits_KBC))
    if how == "soft":
        return (stacked / temperature).softmax(dim=-1).mean(dim=0)
    classes = stacked.shape[-1]
    votes = F.one_hot(stacked.argmax(dim=-1), classes).to(stacked.dtype).mean(dim=0)
    return (1 - smoothing) * votes + smoothing / classes


def distillation(logits_BC: Tensor, target_BC: Tensor, temperature: float) -> Tensor:
    """KL divergence from the teachers' word, times the squared temperature so that gradients keep their size."""
    student = (logits_BC / temperature).log_softmax(dim=1)
    return temperature**2 * F.kl_div(student, target_BC, reduction="batchmean")
