"""PreCropping: how wide each layer should be, by the density that pruning at initialisation would leave it (Cai et al.,
Structured pruning is all you need for pruning CNNs at initialization, 2022).

The accuracy of a network that was pruned before training depends on how many weights remain in each layer, not on
which: so the densities alone are taken, from SNIP's saliency |w dl/dw| (Lee et al., ICLR 2019), and channels are cut to
them. In place of a loss, outputs are multiplied by random signs and summed, so that no labels are read. The paper's
abstract says no more than the principle; the equations are a reconstruction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import lsq_linear
from torch import Tensor

from nas.core.arch import Decision, Floats, Genes
from nas.importance.gates import READERS
from nas.importance.taylor import random_projection
from nas.models.channels import ChannelAnalysis
from nas.models.execution import build
from nas.models.graph import ModelGraph, WeightArrays

DENSITIES = np.geomspace(0.9, 0.002, 96)  # of all weights together
_PRIOR = 1e-3  # how much the square root of each density counts beside what the densities ask together


@dataclass(frozen=True)
class LayerSaliency:
    """The weights of one layer by rising saliency. ``shares_by_axis``: for the axes of outputs and inputs that can be
    narrowed, the share of their channels that each group has."""

    sorted_W: Floats
    shares_by_axis: tuple[Mapping[str, float], ...]

    def density(self, threshold: float) -> float:
        """The share of the weights above a threshold, at least one weight."""
        above = len(self.sorted_W) - int(np.searchsorted(self.sorted_W, threshold, side="right"))
        return max(above, 1) / len(self.sorted_W)


def layer_saliencies(
    graph: ModelGraph, weights: WeightArrays, analysis: ChannelAnalysis, x_BCHW: Tensor
) -> list[LayerSaliency]:
    """Those of all convolutions and linear layers that read or give removable channels, for a batch of normalised
    images."""
    module = build(graph, weights).to(x_BCHW.device)
    outputs = module(x_BCHW)
    generator = torch.Generator().manual_seed(0)
    projection = random_projection((outputs,) if isinstance(outputs, Tensor) else outputs, generator)
    projection.backward()  # type: ignore[no-untyped-call]
    layers = []
    for node in graph.nodes:
        name = node.operands[1] if isinstance(node.operator, READERS) else ""
        by_axis = tuple(shares for axis in (0, 1) if (shares := _group_shares(analysis, name, axis)))
        if by_axis and (gradient := module.tensor(name).grad) is not None:
            saliency = (gradient * module.tensor(name).detach()).abs().double().cpu().numpy()
            layers.append(LayerSaliency(np.sort(saliency.ravel()), by_axis))
    return layers


def _group_shares(analysis: ChannelAnalysis, name: str, axis: int) -> dict[str, float]:
    units = analysis.axes.get((name, axis))
    if units is None:
        return {}
    shares = {group: float(np.isin(units, numbers).mean()) for group, numbers in analysis.numbers.items()}
    return {group: share for group, share in shares.items() if share > 0}


def densities(layers: Sequence[LayerSaliency], density: float) -> list[float]:
    """The share of each layer's weights among the most salient ``density`` of all weights."""
    saliency_W = np.concatenate([layer.sorted_W for layer in layers])
    threshold = float(np.quantile(saliency_W, 1.0 - density))
    return [layer.density(threshold) for layer in layers]


def width_shares(layers: Sequence[LayerSaliency], density_by_layer: Sequence[float]) -> dict[str, float]:
    """The share of its units that each group keeps, such that a layer of shares r and r' has the density p: log r + log
    r' = log p, in least squares over all layers with r at most 1. A layer of which only one side can be narrowed asks
    for the square root of its density, which is also what is preferred where layers leave a choice: so equal densities
    p give the share sqrt(p) everywhere."""
    groups = sorted({group for layer in layers for shares in layer.shares_by_axis for group in shares})
    rows, targets, prior = [], [], {group: list[float]() for group in groups}
    for layer, density in zip(layers, density_by_layer, strict=True):
        row = np.zeros(len(groups))
        for shares in layer.shares_by_axis:
            for group, share in shares.items():
                row[groups.index(group)] += share
                prior[group].append(0.5 * np.log(density))
        rows.append(row)
        targets.append(0.5 * len(layer.shares_by_axis) * np.log(density))
    preferred = np.array([np.mean(prior[group]) for group in groups])
    a = np.concatenate([np.stack(rows), _PRIOR * np.eye(len(groups))])
    b = np.concatenate([targets, _PRIOR * preferred])
    solution = lsq_linear(a, b, bounds=(-np.inf, 0.0)).x
    return {group: float(np.exp(value)) for group, value in zip(groups, solution, strict=True)}


def cropped_copies(decisions: Sequence[Decision], parent_G: Genes, layers: Sequence[LayerSaliency]) -> Genes:
    """The parent with its widths cut to each of ``DENSITIES``, at its own resolution and with all blocks, shape (D,
    G)."""
    genes_DG = np.tile(parent_G, (len(DENSITIES), 1))
    for genes_G, density in zip(genes_DG, DENSITIES, strict=True):
        shares = width_shares(layers, densities(layers, float(density)))
        for g, decision in enumerate(decisions):
            group = next((name for name in shares if _is_width_of(decision, name)), None)
            if group is not None:
                counts_C = np.array(decision.choices, dtype=np.float64)
                genes_G[g] = int(np.abs(counts_C - shares[group] * counts_C[parent_G[g]]).argmin())
    return genes_DG


def _is_width_of(decision: Decision, group: str) -> bool:
    prefix = decision.name.removesuffix(".width")
    return decision.axis == "width" and (prefix == group or prefix.startswith(f"{group}.part"))
