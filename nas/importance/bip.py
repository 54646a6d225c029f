"""Bi-level pruning (Zhang et al., Advancing model pruning via bi-level optimization, NeurIPS 2022), for units.

The upper level chooses a mask m, the lower the weights theta*(m) = argmin l(m * theta) + gamma/2 |theta|^2. Since l
reads m * theta alone, the derivative of the lower level's solution by m follows from first derivatives, if the Hessian
of l is left out. A unit has one entry of the mask, for all weights that read it, and each channel group keeps its best
half; the scores by which these are chosen are the importance. Written from the paper's equation.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.core.arch import Floats
from nas.core.operators import Conv2dOp, ConvTranspose2dOp
from nas.importance import l2
from nas.importance.gates import READERS, GatedModel, batches, squared_change
from nas.importance.sums import UnitScores, UnitSums
from nas.models.channels import ChannelAnalysis
from nas.models.graph import GraphNode, ModelGraph, WeightArrays

STEPS = 24  # of each level
GAMMA = 1.0
_MASK_RATE, _WEIGHT_RATE = 0.1, 1e-3
_FIRST = 0.05  # the mean score of a group at first
_SHARE = 0.5  # of each group's units that the mask keeps
A = TypeVar("A", Tensor, NDArray[np.float64])


def hypergradient(theta: A, mask: A, gradient: A, gamma: float = GAMMA) -> A:
    """dl/dm at theta*(m), element by element: (theta - m g / gamma) g, where ``gradient`` g is that of l by m * theta
    (section 3, with the Hessian left out). Exact for linear l."""
    return (theta - mask * gradient / gamma) * gradient


def unit_scores(graph: ModelGraph, weights: WeightArrays, analysis: ChannelAnalysis, x_BCHW: Tensor) -> UnitScores:
    """The scores of the groups whose units are all read by convolutions or linear layers, after ``STEPS`` steps of each
    level in turn, on batches of their own. At first scores are in proportion to the units' L2 norms."""
    model, parent = (GatedModel.of(graph, weights, analysis, x_BCHW.device) for _ in range(2))
    gated_U = model.gated_U.cpu().numpy()
    groups = {name: units for name, units in analysis.numbers.items() if gated_U[units].all()}
    score_U = np.zeros(len(gated_U))
    for name, norms in l2.unit_scores(graph, weights, analysis, x_BCHW).items():
        score_U[analysis.numbers[name]] = _FIRST * norms / max(float(norms.mean()), 1e-12)
    optimiser = torch.optim.SGD(model.weights, lr=_WEIGHT_RATE, momentum=0.9)
    everything = torch.ones(len(score_U), device=x_BCHW.device)
    for i, part_BCHW in enumerate(batches(x_BCHW, 2 * STEPS)):
        with torch.no_grad():
            expected = parent.outputs(part_BCHW, everything)
        mask_U = torch.from_numpy(_kept_half(score_U, groups)).to(everything).requires_grad_()
        optimiser.zero_grad(set_to_none=True)
        squared_change(model.outputs(part_BCHW, mask_U), expected).backward()  # type: ignore[no-untyped-call]
        if i % 2 == 0:
            optimiser.step()
        else:
            gradient_U = _by_unit(graph, analysis, model, mask_U)
            for units in groups.values():
                length = max(float(np.linalg.norm(gradient_U[units])), 1e-12)
                score_U[units] -= _MASK_RATE * gradient_U[units] / length
    return {name: score_U[units] for name, units in groups.items()}


def _kept_half(score_U: Floats, groups: dict[str, NDArray[np.int64]]) -> Floats:
    """The mask: 1 for the units with the highest scores of each group, and for all that has no group."""
    mask_U = np.ones(len(score_U))
    for units in groups.values():
        order = np.argsort(-score_U[units], kind="stable")
        mask_U[units[order[max(1, round(_SHARE * len(units))) :]]] = 0.0
    return mask_U


def _by_unit(graph: ModelGraph, analysis: ChannelAnalysis, model: GatedModel, mask_U: Tensor) -> Floats:
    """The hypergradient of each unit's entry, summed over all weights that read it: the sum of theta * g is the
    derivative by the gate itself; that of g * g counts where the mask is 1, where g is the weights' own gradient."""
    assert mask_U.grad is not None
    squares = UnitSums(analysis)
    for node in graph.nodes:
        if isinstance(node.operator, READERS):
            name, axis = node.operands[1], _input_axis(node)
            units, gradient = analysis.axes.get((name, axis)), model.module.tensor(name).grad
            if units is not None and gradient is not None and units.any():
                other_axes = tuple(i for i in range(gradient.ndim) if i != axis)
                squares.add(units, gradient.double().square().sum(other_axes).cpu().numpy())
    direct_U, mask = mask_U.grad.double().cpu().numpy(), mask_U.detach().double().cpu().numpy()
    return direct_U - mask * squares.sum_U / GAMMA


def _input_axis(node: GraphNode) -> int:
    """The axis of a weight along which it reads channels; of a depthwise convolution its only one."""
    operator = node.operator
    if isinstance(operator, ConvTranspose2dOp) or (isinstance(operator, Conv2dOp) and operator.groups > 1):
        return 0
    return 1
