"""Layer tickets lose residual blocks one by one, the least needed first."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nas.core.arch import Genes, as_archs
from nas.core.parent import ParentModel
from nas.core.ports import ImageShape
from nas.stages.layer_tickets import layer_tickets
from nas.stages.sensitivity import DistortionMeter
from search_spaces.own_model.space import build
from tests.support.compressing import compress_problem
from tests.support.models import SIDE
from tests.support.parents import FINE, read_case


def test_a_block_whose_branch_is_zero_is_the_first_to_go_and_changes_nothing() -> None:
    torch.set_num_threads(1)
    model = read_case("vit_fused")  # four residual blocks
    graph, weights = model.graph, {name: array.copy() for name, array in model.weights.items()}
    parent = ParentModel("vit", graph.to_json(), lambda: weights)
    space = build(dict(FINE), ImageShape(3, SIDE, SIDE, 5), parent)  # type: ignore[arg-type]
    blocks = [g for g, decision in enumerate(space.decisions) if decision.axis == "depth"]
    silent = space.decisions[blocks[2]].name.removesuffix(".depth")
    residual = next(block for block in space.choices.blocks if block.name == silent)
    [last] = [
        node
        for node in graph.nodes
        if node.name in residual.nodes and graph.readers[node.name][0].name == residual.addition
    ]
    for name in last.operands[1:]:
        weights[name][...] = 0.0
    meter = DistortionMeter(replace(compress_problem(), space=space), "cpu", 16)
    measured: list[float] = []

    def distortion(genes_G: Genes) -> float:
        measured.append(meter.distortion(as_archs(space.id, genes_G[None])[0]))
        return measured[-1]

    parent_G = np.array(space.pretrained_genes)
    tickets = [*layer_tickets(space.decisions, space.canonical, parent_G, distortion)]
    assert tickets[0][blocks[2]] == 0
    assert min(measured[: len(blocks)]) == pytest.approx(0.0, abs=1e-7)
    assert [int((ticket[blocks] > 0).sum()) for ticket in tickets] == [3, 2, 1]
    widths = [g for g, decision in enumerate(space.decisions) if decision.axis != "depth"]
    assert all(tickets[0][g] in (0, parent_G[g]) for g in widths)
