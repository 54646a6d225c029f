"""Gates that are trained with the weights until about half of them have closed (Kim et al., Plug-in, trainable gate for
streamlining arbitrary neural networks, AAAI 2020).

A gate is 0 or 1 in the forward pass and has a derivative all the same: to the step function, a saw-tooth of height 1/M
is added whose slope is 1 wherever it is defined.
"""

from __future__ import annotations

import torch
from torch import Tensor

from nas.importance import l2
from nas.importance.gates import GatedModel, batches, squared_change
from nas.importance.sums import UnitScores, UnitSums
from nas.models.channels import ChannelAnalysis
from nas.models.graph import ModelGraph, WeightArrays

M = 1e5
"""Teeth of the saw per unit of w. In float32, M * |w| has to stay below 2^24."""
STEPS = 48
_OPEN = 0.1  # w at first, in the mean of a group: all gates are open
_GATE_RATE, _WEIGHT_RATE = 0.01, 1e-3
_PRESSURE = 1.0  # of the budget beside the change of the outputs
_SHARE = 0.5  # of units that are to stay open


def gate(w: Tensor) -> Tensor:
    """TG(w) = step(w) + s(w) with s(w) = (M w - floor(M w)) / M, which is below 1/M and has the slope 1: the derivative
    is 1 almost everywhere (the paper's g(w) = 1)."""
    return (w > 0).to(w) + (M * w - torch.floor(M * w)) / M


def unit_scores(graph: ModelGraph, weights: WeightArrays, analysis: ChannelAnalysis, x_BCHW: Tensor) -> UnitScores:
    """What the gates of units are after ``STEPS`` steps of Adam on the change of the outputs and on the share of open
    gates above one half. Of the groups whose units are all read by convolutions or linear layers."""
    model = GatedModel.of(graph, weights, analysis, x_BCHW.device)
    w_U = _first_gates(graph, weights, analysis, x_BCHW).requires_grad_()
    everything = torch.ones_like(w_U)
    optimiser = torch.optim.Adam([{"params": [w_U], "lr": _GATE_RATE}, {"params": model.weights, "lr": _WEIGHT_RATE}])
    parent = GatedModel.of(graph, weights, analysis, x_BCHW.device)
    for part_BCHW in batches(x_BCHW, STEPS):
        with torch.no_grad():
            expected = parent.outputs(part_BCHW, everything)
        gate_U = gate(w_U)
        share = gate_U[model.gated_U].mean()
        loss = squared_change(model.outputs(part_BCHW, gate_U), expected) + _PRESSURE * (share - _SHARE).relu()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    sums = UnitSums(analysis)
    for units in model.units_by_gate.values():
        array = units.cpu().numpy()
        sums.add(array, 0.0 * array)
    return sums.by_group(w_U.detach().double().cpu().numpy(), sums.groups_with_values())


def _first_gates(graph: ModelGraph, weights: WeightArrays, analysis: ChannelAnalysis, x_BCHW: Tensor) -> Tensor:
    """In proportion to the L2 norms of the units' weights, so that gates do not close all at once."""
    w_U = torch.full((1 + max(int(units.max()) for units in analysis.axes.values()),), _OPEN, device=x_BCHW.device)
    for name, norms in l2.unit_scores(graph, weights, analysis, x_BCHW).items():
        w_U[torch.from_numpy(analysis.numbers[name])] *= torch.from_numpy(norms / max(float(norms.mean()), 1e-12)).to(
            w_U
        )
    return w_U
