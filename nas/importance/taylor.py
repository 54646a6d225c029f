"""How much the outputs change, to first order, if a unit is removed (Taylor criterion: Molchanov et al., Importance
estimation for neural network pruning, CVPR 2019), without labels.

A gate of 1 stands before every layer that reads units. For each image, outputs are multiplied by random signs and
summed: the mean square of this sum's derivative by a gate is the squared change of all outputs per change of the gate
(Hutchinson's estimator), so that one pass scores all units at once, for any task.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.importance.gates import gated_graph
from nas.importance.sums import UnitScores, UnitSums
from nas.models.channels import ChannelAnalysis
from nas.models.execution import build
from nas.models.graph import ModelGraph, WeightArrays
from nas.models.units import UnitArray

_IMAGES_AT_ONCE = 16  # whose activations are held for the gradient


def unit_scores(graph: ModelGraph, weights: WeightArrays, analysis: ChannelAnalysis, x_BCHW: Tensor) -> UnitScores:
    """The scores of the groups whose units are all read by convolutions or linear layers, from a batch of normalised
    images."""
    sums = UnitSums(analysis)
    for units in gated_graph(graph, analysis, 1)[1].values():
        sums.add(units, np.zeros(units.shape))
    squares_U, generator = np.zeros(len(sums.sum_U)), torch.Generator().manual_seed(0)
    for part_BCHW in torch.split(x_BCHW, _IMAGES_AT_ONCE):
        derivative_BU = np.zeros((len(part_BCHW), len(squares_U)))
        for units, gradient in _gradients(graph, weights, analysis, part_BCHW, generator):
            _add_by_image(derivative_BU, units, gradient)
        squares_U += np.square(derivative_BU).sum(axis=0)
    return sums.by_group(squares_U / len(x_BCHW), sums.groups_with_values())


def _gradients(
    graph: ModelGraph, weights: WeightArrays, analysis: ChannelAnalysis, x_BCHW: Tensor, generator: torch.Generator
) -> list[tuple[UnitArray, NDArray[np.float64]]]:
    """For each gate the units of its elements, and the derivative of the projected outputs by them."""
    gated, units_by_gate = gated_graph(graph, analysis, len(x_BCHW))
    ones = {name: np.ones(gated.shapes[name], dtype=np.float32) for name in units_by_gate}
    module = build(gated, {**weights, **ones}).to(x_BCHW.device)
    outputs = module(x_BCHW)
    projection = random_projection((outputs,) if isinstance(outputs, Tensor) else outputs, generator)
    gradients = torch.autograd.grad(projection, [module.tensor(name) for name in units_by_gate])
    arrays = [gradient.double().cpu().numpy() for gradient in gradients]
    return list(zip(units_by_gate.values(), arrays, strict=True))


def random_projection(outputs: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
    """The sum of all outputs with random signs, each output in units of its standard deviation."""
    total = torch.zeros((), device=outputs[0].device)
    for output in outputs:
        signs = torch.randint(0, 2, output.shape, generator=generator).to(output) * 2 - 1
        total = total + (output * signs).sum() / output.detach().std().clamp_min(1e-12)
    return total


def _add_by_image(derivative_BU: NDArray[np.float64], units: UnitArray, gradient: NDArray[np.float64]) -> None:
    """Add the derivatives by a gate. That by one gate for all images is spread over them: signs are independent, so its
    square is a sum over images."""
    flat_BE = gradient.reshape(len(gradient), -1) * np.sqrt(len(gradient) / len(derivative_BU))
    for element, unit in enumerate(np.broadcast_to(units, (1, *gradient.shape[1:])).ravel()):
        derivative_BU[:, unit] += flat_BE[:, element]
