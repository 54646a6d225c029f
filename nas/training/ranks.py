"""The ranks of a training: processes that each compute a part of every batch and add up their gradients.

``torch.distributed`` connects them; who starts them (Ray Train, in a search) has made its process group. Every rank
holds the same weights, draws the same networks and does the same optimiser steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
import torch.distributed as dist

from nas.core.ports import Rank

Tensor = torch.Tensor


class Ranks(Protocol):
    """All ranks, as one of them sees them."""

    @property
    def rank(self) -> Rank: ...

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replaces tensors by their sums over all ranks, in place. All ranks call it with tensors of equal shapes."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank. All ranks call it."""

    def values(self, value: str) -> list[str]:
        """What every rank has called it with, in order of ranks. All ranks call it."""


class OneProcess:
    """A training of one process."""

    rank = Rank()

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """There is nothing to add."""

    def any(self, flag: bool) -> bool:
        """The flag itself."""
        return flag

    def values(self, value: str) -> list[str]:
        """The value itself."""
        return [value]


class ProcessGroup:
    """The ranks of torch's default process group, which is of the backend gloo: flags travel over the CPU, so that no
    GPU is waited for. Sums of tensors on GPUs go by NCCL."""

    def __init__(self, device: str) -> None:
        self.rank = Rank(dist.get_rank(), dist.get_world_size())
        on_gpu = torch.device(device).type == "cuda"
        if on_gpu:
            torch.cuda.set_device(device)
        self._sums = dist.new_group(backend="nccl") if on_gpu else None
        self._buffer = torch.empty(0)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """By one collective operation on all tensors together."""
        sizes = [tensor.numel() for tensor in tensors]
        buffer = self._room(sum(sizes), tensors[0])
        torch.cat([tensor.reshape(-1) for tensor in tensors], out=buffer)
        dist.all_reduce(buffer, group=self._sums)
        for tensor, summed in zip(tensors, torch.split(buffer, sizes), strict=True):
            tensor.copy_(summed.view_as(tensor))

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        raised = torch.tensor([int(flag)])
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return bool(raised)

    def values(self, value: str) -> list[str]:
        """What every rank has called it with."""
        values: list[str] = [""] * self.rank.count
        dist.all_gather_object(values, value)
        return values

    def _room(self, count: int, like: Tensor) -> Tensor:
        if self._buffer.numel() < count or self._buffer.device != like.device:
            self._buffer = torch.empty(count, device=like.device)
        return self._buffer[:count]


ONE_PROCESS = OneProcess()


def ranks_of(rank: Rank, device: str) -> Ranks:
    """The ranks that a process belongs to: itself alone, or those of its process group, which it trains on ``device``
    with."""
    return ONE_PROCESS if rank.count == 1 else ProcessGroup(device)
