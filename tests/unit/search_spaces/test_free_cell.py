"""What is special to cells of free topology; the contract of all spaces is in ``tests/contracts``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nas.core.arch import Arch
from nas.core.errors import InvalidSpec
from nas.core.ports import ImageShape
from search_spaces.darts_cell.cell import EDGES, MAX, NONE, OPERATIONS, SEP3, SKIP
from search_spaces.darts_cell.free_space import FreeCell, build

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = ImageShape(1, 8, 8, 4)
GOLD: FreeCell = build({"preset": "digits"}, SHAPE)
SNAS: FreeCell = build({"preset": "snas", "channels": 4, "cells": 3}, SHAPE)


def test_the_published_space_of_gold_nas_has_a_gene_for_each_edge_of_each_cell() -> None:
    space = build({"preset": "gold"}, ImageShape(3, 32, 32, 10))
    assert len(space.decisions) == 14 * 14
    assert space.decisions[0].choices == ("none", "skip_connect", "sep_conv_3x3", "skip_connect+sep_conv_3x3")
    assert 2.0 ** (2 * len(space.decisions)) > 1e117  # two bits each: the cells' own, which the paper counts


def test_all_edges_but_those_of_none_are_kept_whatever_their_number() -> None:
    """The derivation of SNAS: no two best edges, and none where its operation is none."""
    scores = np.zeros(SNAS.relaxation.shape)
    scores[:, NONE] = 1.0
    normal = {edge: row for row, edge in enumerate(EDGES)}
    scores[normal[0, 2], MAX] = scores[normal[1, 2], SEP3] = scores[normal[2, 2], SKIP] = 2.0
    scores[normal[1, 0], SEP3] = 0.5  # below none, but all that node 0 has
    scores[normal[0, 1], SKIP] = 2.0
    scores[normal[4, 3], SEP3] = 2.0
    cell = SNAS.inputs_of(SNAS.discretise(scores), 0)
    assert cell == (((1, SEP3),), ((0, SKIP),), ((0, MAX), (1, SEP3), (2, SKIP)), ((4, SEP3),))


def test_an_edge_carries_all_operations_that_are_left() -> None:
    scores = np.zeros(GOLD.relaxation.shape)
    for row, edge in enumerate(EDGES):
        scores[row, SKIP] = float(edge in {(0, 0), (1, 1), (0, 2), (0, 3)})
        scores[row, SEP3] = 0.01 * float(edge in {(0, 0), (4, 3)})
    genes_G = GOLD.discretise(scores)
    assert GOLD.inputs_of(genes_G, 0) == (
        ((0, SKIP), (0, SEP3)),
        ((1, SKIP),),
        ((0, SKIP),),
        ((0, SKIP), (4, SEP3)),
    )
    # nothing was left of other cells but what a cell has at least
    assert GOLD.inputs_of(genes_G, 1) == (((0, SKIP), (1, SKIP)), ((0, SKIP),), ((0, SKIP),), ((0, SKIP),))
    assert (GOLD.table(genes_G)[: len(EDGES)] == (scores[: len(EDGES)] > 0)).all()


def test_nodes_have_an_edge_and_inputs_are_read_in_any_case() -> None:
    genes_G = SNAS.canonical(np.zeros((1, len(SNAS.decisions)), dtype=np.int64))[0]
    assert SNAS.inputs_of(genes_G, 0) == (((0, MAX), (1, MAX)), ((2, MAX),), ((3, MAX),), ((4, MAX),))


def test_a_cell_is_the_sum_of_what_its_edges_carry() -> None:
    edges = {name: i for i, name in enumerate(d.name for d in GOLD.decisions)}
    genes_G = np.zeros(len(GOLD.decisions), dtype=np.int64)
    genes_G[edges["cell1.state0.node0.operation"]] = 3  # both
    genes_G[edges["cell1.state1.node0.operation"]] = 1  # the identity
    genes_G = GOLD.canonical(genes_G[None])[0]
    assert GOLD.inputs_of(genes_G, 0)[1:] == (((2, SKIP),), ((3, SKIP),), ((4, SKIP),))
    net = GOLD.supernet(0).subnet(Arch(GOLD.id, tuple(genes_G.tolist()))).eval()
    cell, x_BCHW = net.cells[0], torch.randn(2, 12, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        older, newer = cell.older(x_BCHW), cell.newer(x_BCHW)
        convolved = cell.operations[f"state0_node0_{OPERATIONS[SEP3]}"](older)
        expected = older + convolved + newer
        # the other nodes pass the one before them on
        torch.testing.assert_close(cell(x_BCHW, x_BCHW), torch.cat([expected] * 4, dim=1))


def test_operations_cost_what_their_formulas_say() -> None:
    """A separable convolution of C channels on HxW pixels is twice a depthwise 3x3 and a pointwise one."""
    edges = {name: i for i, name in enumerate(d.name for d in GOLD.decisions)}
    base_G = GOLD.canonical(np.zeros((1, len(GOLD.decisions)), dtype=np.int64))[0]
    with_one_G = base_G.copy()
    with_one_G[edges["cell1.state0.node2.operation"]] = 2
    halved_G = base_G.copy()
    halved_G[edges["cell2.state3.node2.operation"]] += 2  # a reduction: 8 channels on 4x4 pixels, beside the identity
    params, macs = (GOLD.costs(np.stack([base_G, with_one_G, halved_G]))[key] for key in ("params", "macs"))
    assert (params[1:] - params[0]).tolist() == [2 * (9 * c + c * c) for c in (4, 8)]
    assert (macs[1:] - macs[0]).tolist() == [2 * (9 * 4 + 16) * 64, 2 * (9 * 8 + 64) * 16]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"operations": ["sep_conv_3x3", "skip_connect"]}, "distinct ones in the order"),
        ({"operations": ["skip_connect", "skip_connect"]}, "distinct ones in the order"),
        ({"preset": "snas", "several": True}, "at most 3"),
        ({"operations": []}, "operations"),
    ],
)
def test_operations_that_make_no_space_are_refused(params: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        build(params, SHAPE)  # type: ignore[arg-type]
