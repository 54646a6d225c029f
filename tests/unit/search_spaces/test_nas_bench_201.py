"""What is special to the NAS-Bench-201 space; the contract of all spaces is in ``tests/contracts``."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from nas.core.arch import Arch
from nas.core.errors import InvalidInput, InvalidSpec, UnknownName
from nas.core.ports import ImageShape
from search_spaces.nas_bench_201.cell import (
    CONV1,
    CONV3,
    EDGES,
    NONE,
    OPERATIONS,
    SKIP,
    active_edges,
    from_string,
    to_string,
)
from search_spaces.nas_bench_201.space import build
from tests.support.paths import ROOT

CIFAR = ImageShape(3, 32, 32, 10)
TABLE = ROOT.parent / "shared" / "data" / "nb201.npz"
ALL = np.array(list(product(range(len(OPERATIONS)), repeat=6)), dtype=np.int64)


@pytest.mark.parametrize(
    ("operation", "classes", "size", "params", "macs"),
    [
        (CONV3, 10, 32, 1_531_546, 220_119_680),
        (SKIP, 10, 32, 73_306, 7_783_040),
        (NONE, 10, 32, 73_306, 7_783_040),
        (CONV1, 10, 32, 241_306, 31_376_000),
    ],
)
def test_counts_equal_the_published_ones(operation: int, classes: int, size: int, params: int, macs: int) -> None:
    space = build({"preset": "benchmark"}, ImageShape(3, size, size, classes))
    costs = space.costs(np.full((1, 6), operation))
    assert costs["params"][0] == params
    assert costs["macs"][0] == macs


@pytest.mark.skipif(not TABLE.exists(), reason=f"the table of the benchmark is not at {TABLE}")
def test_names_and_parameters_equal_the_table() -> None:
    table = np.load(TABLE, allow_pickle=False)
    space = build({}, CIFAR)
    genes = np.array([from_string(str(name)) for name in table["arch_str"]])
    operations = np.array([OPERATIONS.index(str(op)) for op in table["op_names"]])
    assert np.array_equal(genes, operations[table["ops"]])
    assert [to_string(Arch(space.name, tuple(g))) for g in genes[:500].tolist()] == table["arch_str"][:500].tolist()
    # The table counts operations on edges that lead nowhere; where there are none, the counts are equal.
    alive = (active_edges(genes) == (genes != NONE)).all(axis=1)
    assert alive.sum() > 9000
    params = space.costs(genes)["params"] / 1e6
    np.testing.assert_allclose(params[alive], table["params_M_cifar10"][alive], atol=1e-6)
    assert (params[~alive] <= table["params_M_cifar10"][~alive] + 1e-6).all()
    assert np.array_equal(active_edges(genes).any(axis=1), table["connected"])


def test_an_edge_without_a_path_to_the_output_is_inactive() -> None:
    # 0 -> 1 carries a convolution, but neither 1 -> 2 nor 1 -> 3 carries anything; 0 -> 3 does.
    genes = np.array([[CONV3, NONE, NONE, SKIP, NONE, NONE]])
    assert build({}, CIFAR).canonical(genes).tolist() == [[NONE, NONE, NONE, SKIP, NONE, NONE]]
    # 2 -> 3 carries a convolution, but nothing reaches 2.
    genes = np.array([[NONE, NONE, SKIP, SKIP, NONE, CONV3]])
    assert build({}, CIFAR).canonical(genes).tolist() == [[NONE, NONE, NONE, SKIP, NONE, NONE]]


def test_all_cells_that_are_equal_after_cutting_compute_the_same() -> None:
    space = build({"preset": "digits"}, ImageShape(1, 8, 8, 4))
    net = space.supernet(0).eval()
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    for genes in ALL[rng.permutation(len(ALL))[:40]]:
        canonical = space.canonical(genes[None])[0]
        raw, cut = (net(x, Arch(space.id, tuple(g.tolist()))) for g in (genes, canonical))
        assert torch.equal(raw, cut)


def test_a_relaxation_of_one_operation_per_edge_is_that_network() -> None:
    space = build({"preset": "digits"}, ImageShape(1, 8, 8, 4))
    net = space.supernet(0).eval()
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for genes in ([4, 1, 3, 2, 4, 1], [1, 1, 1, 1, 1, 1], [3, 0, 4, 0, 0, 2]):
        weights = torch.eye(len(OPERATIONS))[genes]
        torch.testing.assert_close(net.mix(x, weights), net(x, Arch(space.id, tuple(genes))))


def plain_mix(net: Any, x: torch.Tensor, weights: torch.Tensor, edges: torch.Tensor | None, k: int) -> torch.Tensor:
    """The sum over operations on every edge, one after the other, as the formula has it."""

    def norm(y: torch.Tensor) -> torch.Tensor:
        return F.batch_norm(y, None, None, training=True)

    def mixed(cell: Any, e: int, state: torch.Tensor) -> torch.Tensor:
        c = state.shape[1] // k
        part, passed_through = state[:, :c], state[:, c:]
        one, three = (convs[e].conv.weight[:c, :c] for convs in (cell.conv1, cell.conv3))
        branches = [
            torch.zeros_like(part),
            part,
            F.avg_pool2d(part, 3, 1, 1, count_include_pad=False),
            norm(F.conv2d(F.relu(part), one)),
            norm(F.conv2d(F.relu(part), three, padding=1)),
        ]
        y = torch.stack([w * m for w, m in zip(weights[e], branches, strict=True)]).sum(0)
        y = y if k == 1 else torch.cat([y, passed_through], 1).unflatten(1, (k, c)).transpose(1, 2).flatten(1, 2)
        return y if edges is None else edges[e] * y

    y = net.stem(x)
    for stage, cells in enumerate(net.stages):
        y = net.reductions[stage - 1](y) if stage else y
        for cell in cells:
            nodes = [y]
            for b in (1, 2, 3):
                nodes.append(sum(mixed(cell, e, nodes[a]) for e, (a, end) in enumerate(EDGES) if end == b))
            y = nodes[-1]
    return net.classifier(F.relu(net.norm(y)).mean((2, 3)), net.classifier.out_features)


@pytest.mark.parametrize("partial", [1, 4])
def test_a_relaxation_equals_the_plain_sum_in_double_precision(partial: int) -> None:
    """Logits, gradients of weights and architecture parameters, and the relaxation's second derivatives."""
    net = build({"preset": "digits"}, ImageShape(1, 8, 8, 4)).supernet(0).double().train()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=generator)
    alphas = torch.randn(6, 5, dtype=torch.float64, generator=generator).requires_grad_(True)
    edges = torch.rand(6, dtype=torch.float64, generator=generator) if partial > 1 else None
    outputs = []
    for mix in (
        lambda w: net.mix(x, w, edges_E=edges, partial=partial),
        lambda w: plain_mix(net, x, w, edges, partial),
    ):
        logits = mix(alphas.softmax(1))
        learned = [alphas, *net.stages[0][0].conv3.parameters(), *net.stages[2][0].conv1.parameters()]
        first = torch.autograd.grad(logits.logsumexp(1).sum(), learned, create_graph=True, allow_unused=True)
        (second,) = torch.autograd.grad((first[0] ** 2).sum(), alphas)
        outputs.append([logits, *(g for g in first if g is not None), second])
    for relaxed, plain in zip(*outputs, strict=True):
        torch.testing.assert_close(relaxed, plain, rtol=1e-9, atol=1e-11)


def test_operations_that_are_not_active_take_no_part() -> None:
    net = build({"preset": "digits"}, ImageShape(1, 8, 8, 4)).supernet(0).train()
    x = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    weights = torch.rand(6, 5, generator=torch.Generator().manual_seed(1))
    active = torch.rand(6, 5, generator=torch.Generator().manual_seed(2)) < 0.5
    torch.testing.assert_close(net.mix(x, weights, active_EO=active), net.mix(x, weights * active))


def test_weights_of_a_relaxation_have_gradients() -> None:
    space = build({"preset": "digits"}, ImageShape(1, 8, 8, 4))
    alphas = torch.zeros(6, len(OPERATIONS), requires_grad=True)
    space.supernet(0).mix(torch.randn(2, 1, 8, 8), alphas.softmax(-1)).logsumexp(1).sum().backward()
    assert alphas.grad is not None
    assert (alphas.grad.abs().sum(1) > 0).all()


def test_bad_input_is_refused() -> None:
    with pytest.raises(UnknownName, match="benchmark"):
        build({"preset": "benchmrk"}, CIFAR)
    with pytest.raises(InvalidSpec, match="cells"):
        build({"cells": 0}, CIFAR)
    for name in ("", "|skip_connect~0|", "|magic~0|+|none~0|none~1|+|none~0|none~1|none~2|"):
        with pytest.raises(InvalidInput, match="NAS-Bench-201"):
            from_string(name)
