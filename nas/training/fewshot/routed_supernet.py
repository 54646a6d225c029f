"""Several supernets as one: a router decides which of them holds the weights of an architecture."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence

import torch
from torch import nn

from nas.core.arch import Arch
from nas.core.ports import SearchSpace
from nas.supernet import Supernet
from nas.training.fewshot.partition import SupernetRouter, router_from_json, sub_supernet_index
from nas.training.weights import Weights


class RoutedSupernet(Supernet):
    """Sends every architecture to its sub-supernet, and is a ``Supernet`` itself."""

    def __init__(self, space: SearchSpace, router: SupernetRouter, sub_supernets: Sequence[Supernet]) -> None:
        super().__init__()
        if len(sub_supernets) != router.size:
            raise ValueError(f"expected {router.size} sub-supernets, got {len(sub_supernets)}")
        self.space, self.router = space, router
        self.sub_supernets = nn.ModuleList(sub_supernets)

    def sub_supernet(self, arch: Arch) -> Supernet:
        """The supernet that holds the weights of ``arch``."""
        net = self.sub_supernets[sub_supernet_index(self.router, self.space, arch)]
        assert isinstance(net, Supernet)
        return net

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        """Logits of shape (B, classes)."""
        logits: torch.Tensor = self.sub_supernet(arch)(x_BCHW, arch)
        return logits

    def subnet(self, arch: Arch) -> nn.Module:
        """A stand-alone module with weights copied from the architecture's sub-supernet."""
        return self.sub_supernet(arch).subnet(arch)

    def sort_channels(self, trained: Sequence[Arch] = ()) -> None:
        """Sort the channels of each sub-supernet."""
        for net in self.sub_supernets:
            assert isinstance(net, Supernet)
            net.sort_channels(trained)


def split_supernet(space: SearchSpace, router: SupernetRouter, net: Supernet) -> RoutedSupernet:
    """A routed supernet whose sub-supernets all start with the weights of ``net``."""
    return RoutedSupernet(space, router, [copy.deepcopy(net) for _ in range(router.size)])


def supernet_from_weights(space: SearchSpace, seed: int, weights: Weights) -> Supernet:
    """The supernet of stored weights: a routed one where they hold a router under ``partition``."""
    net: Supernet
    state = weights["net"]
    if "partition" in weights:
        router = router_from_json(json.loads(weights["partition"]), space.decisions)
        net = RoutedSupernet(space, router, [space.supernet(seed) for _ in range(router.size)])
        # Blobs of earlier versions call the sub-supernets parts.
        state = {f"sub_supernets.{k[6:]}" if k.startswith("parts.") else k: v for k, v in state.items()}
    else:
        net = space.supernet(seed)
    net.load_state_dict(state)
    return net
