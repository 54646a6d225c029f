"""The order in which narrow networks take channels (Once-for-all, Cai et al., ICLR 2020, section 3.3)."""

from __future__ import annotations

from collections.abc import Collection

import torch


def importance_order(importance_C: torch.Tensor, boundaries: Collection[int]) -> torch.Tensor:
    """The channels by falling importance, within groups that end at ``boundaries``: the first n channels are the same
    set as before for every n of them."""
    ends = sorted({*boundaries, len(importance_C)})
    groups = zip([0, *ends], ends, strict=False)
    return torch.cat([start + importance_C[start:end].argsort(descending=True) for start, end in groups])
