"""What a differentiable search begins with: the images of its relaxation, the order in which selection by
perturbation decides, and what latency and operations cost."""

from __future__ import annotations

import numpy as np
import torch

from nas.core.arch import Arch, Floats, Genes
from nas.core.images import Resolution
from nas.core.ports import RelaxedSpace
from nas.core.rng import Stream, rng
from nas.training.gradient import perturbation, resource
from nas.training.gradient.model import RelaxedModel
from nas.training.gradient.options import DartsParams
from nas.training.gradient.steps import LatencyCost


def selection_targets(space: RelaxedSpace, generator: np.random.Generator) -> list[tuple[perturbation.Target, ...]]:
    """What selection by perturbation decides; edges that are in no cell are decided one after the other."""
    names = [[edge.name for edge in cell.edges if edge.name] for cell in space.cells]
    rows = [[space.relaxation.edges.index(name) for name in cell if name in space.relaxation.edges] for cell in names]
    in_cells = {e for cell in rows for e in cell}
    outside_cells = [e for e in range(len(space.relaxation.edges)) if e not in in_cells]
    return perturbation.targets(space.relaxation, [*filter(None, (*rows, outside_cells))], generator)


def resolution_of(space: RelaxedSpace) -> Resolution:
    """Of the images that the networks of a relaxation take."""
    genes_G = space.discretise(space.relaxation.uniform)
    return space.input_shape(Arch(space.id, tuple(genes_G.tolist())))[1:]


def first_multiplier(
    space: RelaxedSpace, latency: LatencyCost | None, options: DartsParams, seed: int
) -> resource.Multiplier | None:
    """How strongly latency counts at first; None where it counts nothing."""
    if latency is None or options.latency_weight == 0:
        return None
    generator = rng(seed, Stream.LATENCY_REFERENCE)
    reference = resource.expected(space, latency.cost, space.relaxation.uniform, generator, 8).mean
    return resource.Multiplier.of(options.latency_weight, latency.bound_ms, reference)


def operation_costs(model: RelaxedModel, latency: LatencyCost | None, seed: int) -> torch.Tensor | None:
    """What an operation adds to the cost of networks, relative to the largest, shape (E, O); None where no loss has a
    part of it."""
    space, options = model.space, model.options
    if not options.prune and options.resource_weight == 0:
        return None

    def cost(genes_NG: Genes) -> Floats:
        if options.resource == "latency":
            assert latency is not None
            return latency.cost(genes_NG)
        return space.costs(genes_NG)[options.resource]

    added_EO = resource.operation_costs(space, cost, rng(seed, Stream.OPERATION_COSTS))
    return torch.as_tensor(added_EO / (float(added_EO.max()) or 1.0)).to(model.alphas)
