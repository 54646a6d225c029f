"""Convolutions that go on with more channels than they have learned: relaxations that mix ever more of them."""

from __future__ import annotations

import torch


@torch.no_grad()
def repeat_channels(weight_OIKK: torch.Tensor, before: tuple[int, int], after: tuple[int, int]) -> None:
    """Repeat the first ``before`` output and input channels of a kernel up to ``after``, in place, so that an input
    whose channels repeat gives outputs that repeat (Net2WiderNet: Chen et al., ICLR 2016)."""
    rows, columns = (torch.arange(end) % begin for begin, end in zip(before, after, strict=True))
    weight_OIKK[: after[0], : after[1]] = weight_OIKK[rows][:, columns] * (before[1] / after[1])
