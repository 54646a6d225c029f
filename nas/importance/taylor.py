"""How much the outputs change, to first order, if a unit is removed (Taylor criterion: Molchanov et al., Importance
estimation for neural network pruning, CVPR 2019), without labels.

A gate of 1 stands before every layer that reads units. For each image, outputs are multiplied by random signs and
summed: the mean square of this sum's derivative by a gate is the squared change of all outputs per change of the gate
(Hutchinson's estimator), so that one pass tells of all units at once, of any task.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nas.importance.sums import UnitScores, UnitSums
from nas.models.channels import ChannelAnalysis
from nas.models.execution import build
from nas.models.graph import GraphNode, GraphValue, ModelGraph, WeightArrays
from nas.models.operators import BinaryOp, Conv2dOp, ConvTranspose2dOp, LinearOp
from nas.models.units import UnitArray

_READERS = (Conv2dOp, ConvTranspose2dOp, LinearOp)


def unit_scores(graph: ModelGraph, weights: WeightArrays, analysis: ChannelAnalysis, x_BCHW: Tensor) -> UnitScores:
    """The scores of the groups whose units are all read by convolutions or linear layers, from a batch of normalised
    images; all images are computed at once."""
    gated, units_by_gate = _gated(graph, analysis, len(x_BCHW))
    ones = {name: np.ones(gated.shapes[name], dtype=np.float32) for name in units_by_gate}
    module = build(gated, {**weights, **ones}).to(x_BCHW.device)
    outputs = module(x_BCHW)
    projection = _random_projection((outputs,) if isinstance(outputs, Tensor) else outputs)
    gates = [module.tensor(name) for name in units_by_gate]
    gradients = torch.autograd.grad(projection, gates)
    sums = UnitSums(analysis)
    derivative_BU = np.zeros((len(x_BCHW), len(sums.sum_U)))
    for units, gradient in zip(units_by_gate.values(), gradients, strict=True):
        _add_by_image(derivative_BU, units, gradient.double().cpu().numpy())
        sums.add(units, np.zeros(units.shape))
    return sums.by_group(np.square(derivative_BU).mean(axis=0), sums.groups_with_values())


def _gated(graph: ModelGraph, analysis: ChannelAnalysis, images: int) -> tuple[ModelGraph, dict[str, UnitArray]]:
    """The graph with a gate before every layer that reads removable units, one for each of so many images, or one for
    all where rows are no images, as behind a reshape of tokens; and the units of each gate's elements."""
    nodes: list[GraphNode] = []
    parameters, units_by_gate = list(graph.parameters), {}
    for node in graph.nodes:
        units = analysis.values[node.operands[0]]
        if isinstance(node.operator, _READERS) and units.any():
            value, gate = node.operands[0], f"gate of {node.name}"
            rows = images if graph.shapes[value][0] == graph.batch else 1
            parameters.append(GraphValue(gate, (rows, *units.shape[1:])))
            nodes.append(GraphNode(f"{gate} applied", BinaryOp("mul"), (value, gate), graph.shapes[value]))
            node = replace(node, operands=(nodes[-1].name, *node.operands[1:]))
            units_by_gate[gate] = units
        nodes.append(node)
    return replace(graph, parameters=tuple(parameters), nodes=tuple(nodes)), units_by_gate


def _random_projection(outputs: tuple[Tensor, ...]) -> Tensor:
    """The sum of all outputs with random signs, each output in units of its standard deviation."""
    generator = torch.Generator().manual_seed(0)
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
