"""Gates before the layers of a user's model that read removable units, and training them beside the weights.

The criteria that learn which units matter (``trainable_gate``, ``bip``) train on the images that importance is told
from, taught by the outputs of the model as it came: no labels are read, and the learned weights are thrown away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from nas.core.operators import BinaryOp, Conv2dOp, ConvTranspose2dOp, LinearOp
from nas.models.channels import ChannelAnalysis
from nas.models.execution import GraphModule, build
from nas.models.graph import GraphNode, GraphValue, ModelGraph, WeightArrays
from nas.models.units import UnitArray

READERS = (Conv2dOp, ConvTranspose2dOp, LinearOp)
_IMAGES_AT_ONCE = 16  # whose activations are held for the gradient


def gated_graph(graph: ModelGraph, analysis: ChannelAnalysis, images: int) -> tuple[ModelGraph, dict[str, UnitArray]]:
    """The graph with a gate before every layer that reads removable units, one for each of so many images, or one for
    all where rows are no images, as behind a reshape of tokens; and the units of each gate's elements."""
    nodes: list[GraphNode] = []
    parameters, units_by_gate = list(graph.parameters), {}
    for node in graph.nodes:
        units = analysis.values[node.operands[0]]
        if isinstance(node.operator, READERS) and units.any():
            value, gate = node.operands[0], f"gate of {node.name}"
            rows = images if graph.shapes[value][0] == graph.batch else 1
            parameters.append(GraphValue(gate, (rows, *units.shape[1:])))
            nodes.append(GraphNode(f"{gate} applied", BinaryOp("mul"), (value, gate), graph.shapes[value]))
            node = replace(node, operands=(nodes[-1].name, *node.operands[1:]))
            units_by_gate[gate] = units
        nodes.append(node)
    return replace(graph, parameters=tuple(parameters), nodes=tuple(nodes)), units_by_gate


@dataclass(frozen=True, eq=False)
class GatedModel:
    """The model with a gate for each unit, shared by all layers that read it. ``gated_U``: by the number of a unit,
    whether it has one; number 0 stands for all that stays."""

    module: GraphModule
    units_by_gate: dict[str, Tensor]
    gated_U: Tensor

    @staticmethod
    def of(graph: ModelGraph, weights: WeightArrays, analysis: ChannelAnalysis, device: torch.device) -> GatedModel:
        """With weights of its own, on ``device``, in evaluation mode: batch norms keep their statistics."""
        gated, units_by_gate = gated_graph(graph, analysis, 1)
        ones = {name: np.ones(gated.shapes[name], dtype=np.float32) for name in units_by_gate}
        module = build(gated, {**weights, **ones}).to(device)
        size = 1 + max((int(units.max()) for units in analysis.axes.values()), default=0)
        gated_U = torch.zeros(size, dtype=torch.bool, device=device)
        tensors = {name: torch.from_numpy(units).to(device) for name, units in units_by_gate.items()}
        for units in tensors.values():
            gated_U[units.ravel()] = True
        gated_U[0] = False
        return GatedModel(module, tensors, gated_U)

    @property
    def weights(self) -> list[Tensor]:
        """What is trained beside the gates."""
        gates = {id(self.module.tensor(name)) for name in self.units_by_gate}
        return [tensor for tensor in self.module.parameters() if tensor.requires_grad and id(tensor) not in gates]

    def outputs(self, x_BCHW: Tensor, gate_U: Tensor) -> tuple[Tensor, ...]:
        """The outputs where each unit is multiplied by its gate; what has none stays as it is."""
        gate_U = torch.where(self.gated_U, gate_U, torch.ones_like(gate_U))

        def applied(units: Tensor) -> Callable[[Tensor], Tensor]:
            return lambda x: x * gate_U[units]

        taps = {f"{gate} applied": applied(units) for gate, units in self.units_by_gate.items()}
        with self.module.tapped(taps):
            outputs = self.module(x_BCHW)
        return (outputs,) if isinstance(outputs, Tensor) else outputs


def squared_change(outputs: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> Tensor:
    """The mean squared change of the outputs, each relative to the variance of what it was."""
    pairs = zip(outputs, expected, strict=True)
    return torch.stack([(a - b).square().mean() / b.var().clamp_min(1e-12) for a, b in pairs]).mean()


def batches(x_BCHW: Tensor, steps: int, seed: int = 0) -> Iterator[Tensor]:
    """Random batches of the images, so many."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.randperm(len(x_BCHW), generator=generator)[:_IMAGES_AT_ONCE]
        yield x_BCHW[rows.to(x_BCHW.device)]
