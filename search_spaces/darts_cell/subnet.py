"""Subnets of the DARTS space as plain modules."""

from __future__ import annotations

import torch
from torch import nn

from search_spaces.darts_cell.operations import plain_conv

Tensor = torch.Tensor


class DartsSubnetCell(nn.Module):
    """A plain cell. ``inputs``: of each node, the states and the names of the operations on them."""

    def __init__(
        self, older: nn.Module, newer: nn.Module, operations: dict[str, nn.Module], inputs: list[list[tuple[int, str]]]
    ) -> None:
        super().__init__()
        self.older, self.newer, self.inputs = older, newer, inputs
        self.operations = nn.ModuleDict(operations)

    def paths(self) -> list[nn.Module]:
        """The operations that path dropping may drop (``nas.training.regularise``): all but identities."""
        return [op for op in self.operations.values() if not isinstance(op, nn.Identity)]

    def forward(self, older: Tensor, newer: Tensor) -> Tensor:
        """(B, 4C, H, W)."""
        states = [self.older(older), self.newer(newer)]
        for of_node in self.inputs:
            total = None
            for state, name in of_node:
                term = self.operations[name](states[state])
                total = term if total is None else total + term
            assert total is not None
            states.append(total)
        return torch.cat(states[2:], dim=1)


class Auxiliary(nn.Sequential):
    """The second classifier that DARTS trains its evaluation networks with, on 8x8 maps as published; other maps are
    pooled to the same 2x2."""

    def __init__(self, channels: int, map_size: tuple[int, int], classes: int) -> None:
        pool = nn.AvgPool2d(5, stride=3, count_include_pad=False) if map_size == (8, 8) else nn.AdaptiveAvgPool2d(2)
        super().__init__(
            nn.ReLU(),
            pool,
            plain_conv(channels, 128),
            nn.BatchNorm2d(128),
            nn.ReLU(),
            plain_conv(128, 768, 2),
            nn.BatchNorm2d(768),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(768, classes),
        )


class DartsSubnet(nn.Module):
    """A plain network of cells. ``map_size``: height and width of what its second reduction cell gives."""

    def __init__(
        self, stem: nn.Module, cells: list[nn.Module], classifier: nn.Linear, map_size: tuple[int, int]
    ) -> None:
        super().__init__()
        self.stem, self.cells, self.classifier = stem, nn.ModuleList(cells), classifier
        self.map_size = map_size

    def auxiliary(self) -> tuple[nn.Module, nn.Module]:
        """The second reduction cell and a classifier of what it gives (``nas.training.regularise``)."""
        head = Auxiliary(self.classifier.in_features, self.map_size, self.classifier.out_features)
        return self.cells[2 * len(self.cells) // 3], head

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, classes)."""
        older = newer = self.stem(x_BCHW)
        for cell in self.cells:
            older, newer = newer, cell(older, newer)
        out: Tensor = self.classifier(newer.mean((2, 3)))
        return out
