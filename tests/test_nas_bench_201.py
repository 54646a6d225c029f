"""What is special to the NAS-Bench-201 space; the contract of all spaces is in ``test_spaces.py``."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.core.arch import Arch
from nas.core.errors import InvalidInput, InvalidSpec, UnknownName
from nas.core.ports import ImageShape
from search_spaces.nas_bench_201.space import (
    CONV1,
    CONV3,
    NONE,
    OPERATIONS,
    SKIP,
    active_edges,
    build,
    from_string,
    to_string,
)

CIFAR = ImageShape(3, 32, 32, 10)
TABLE = Path(__file__).resolve().parents[2] / "shared" / "data" / "nb201.npz"
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
    here = np.array([OPERATIONS.index(str(op)) for op in table["op_names"]])
    assert np.array_equal(genes, here[table["ops"]])
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


def test_a_mixture_of_one_operation_per_edge_is_that_network() -> None:
    space = build({"preset": "digits"}, ImageShape(1, 8, 8, 4))
    net = space.supernet(0).eval()
    x = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for genes in ([4, 1, 3, 2, 4, 1], [1, 1, 1, 1, 1, 1], [3, 0, 4, 0, 0, 2]):
        weights = torch.eye(len(OPERATIONS))[genes]
        torch.testing.assert_close(net.mix(x, weights), net(x, Arch(space.id, tuple(genes))))


def test_weights_of_a_mixture_have_gradients() -> None:
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
