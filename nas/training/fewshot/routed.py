"""Several supernets, each for a part of the space, as one."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nas.core.arch import Arch
from nas.core.ports import SearchSpace
from nas.supernet import Supernet
from nas.training.fewshot.partition import Division, division_from_json, route


class Routed(Supernet):
    """Sends every architecture to the supernet of its part, and is a ``Supernet`` itself."""

    def __init__(self, space: SearchSpace, partition: Division, parts: Sequence[Supernet]) -> None:
        super().__init__()
        if len(parts) != partition.size:
            raise ValueError(f"expected a supernet for each of {partition.size} parts, got {len(parts)}")
        self.space, self.partition = space, partition
        self.parts = nn.ModuleList(parts)

    def part(self, arch: Arch) -> Supernet:
        """The supernet that holds the weights of ``arch``."""
        part = self.parts[route(self.partition, self.space, arch)]
        assert isinstance(part, Supernet)
        return part

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        """Logits of shape (B, classes)."""
        logits: torch.Tensor = self.part(arch)(x_BCHW, arch)
        return logits

    def subnet(self, arch: Arch) -> nn.Module:
        """A stand-alone module with the weights of its part."""
        return self.part(arch).subnet(arch)

    def sort_channels(self) -> None:
        """Each part for itself."""
        for part in self.parts:
            assert isinstance(part, Supernet)
            part.sort_channels()


def inherit(space: SearchSpace, partition: Division, net: Supernet) -> Routed:
    """Every part begins with the weights of ``net``."""
    return Routed(space, partition, [copy.deepcopy(net) for _ in range(partition.size)])


def restored(space: SearchSpace, seed: int, weights: Mapping[str, Any]) -> Supernet:
    """The supernet of kept weights: a routed one where they name a partition."""
    net: Supernet
    if "partition" in weights:
        partition = division_from_json(json.loads(weights["partition"]), space.decisions)
        net = Routed(space, partition, [space.supernet(seed) for _ in range(partition.size)])
    else:
        net = space.supernet(seed)
    net.load_state_dict(weights["net"])
    return net
