"""What is special to the DARTS cell space; the contract of all spaces is in ``tests/contracts``."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch

from benchmarks.darts_step import plain_mix
from nas.core.arch import Arch, sample, space_size
from nas.core.errors import InvalidInput, InvalidSpec, UnknownName
from nas.core.ports import ImageShape
from search_spaces.darts_cell.cell import EDGES, NONE, OPERATIONS, PAIRS, from_genotype, genotype
from search_spaces.darts_cell.network import DartsSupernet
from search_spaces.darts_cell.operations import from_quarters, to_quarters
from search_spaces.darts_cell.space import DartsCell, build
from tests.support.darts import DARTS_V2

pytestmark = pytest.mark.usefixtures("one_thread")

CIFAR = ImageShape(3, 32, 32, 10)
TINY: DartsCell = build({"preset": "digits"}, ImageShape(1, 8, 8, 4))


def test_the_search_network_has_its_published_size() -> None:
    net = build({"preset": "search"}, CIFAR).supernet(0)
    assert sum(p.numel() for p in net.parameters()) == 1_930_618


def test_the_published_cell_has_its_published_size() -> None:
    space = build({"preset": "evaluation"}, CIFAR)
    genes = np.array([from_genotype(DARTS_V2)])
    assert space.costs(genes)["params"][0] == 3_349_342


def test_the_published_number_of_cells() -> None:
    per_kind = prod(len(PAIRS[node]) * (len(OPERATIONS) - 1) ** 2 for node in range(4))
    assert per_kind == 1_037_664_180
    assert space_size(TINY.decisions) == per_kind**2


def test_genotypes_there_and_back() -> None:
    for genes in sample(TINY.decisions, np.random.default_rng(0), 20):
        assert from_genotype(genotype(genes)) == tuple(genes)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="8 pairs"):
        from_genotype({"normal": (), "reduce": ()})
    with pytest.raises(InvalidInput, match="two states below 2"):
        from_genotype({**DARTS_V2, "normal": (("skip_connect", 0), ("skip_connect", 2), *DARTS_V2["normal"][2:])})


def test_published_cells_have_their_published_sizes() -> None:
    """C=36, 20 cells. DARTS-V2: to the parameter; the others as their papers round them."""
    space = build({"preset": "evaluation"}, CIFAR)
    assert space.published["DARTS-V2"] == from_genotype(DARTS_V2)
    params = {name: float(space.costs(np.array([genes]))["params"][0]) for name, genes in space.published.items()}
    assert params["DARTS-V2"] == 3_349_342
    assert params["PC-DARTS"] == pytest.approx(3.6e6, abs=0.05e6)
    assert params["P-DARTS"] == pytest.approx(3.4e6, abs=0.05e6)


def test_genotypes_are_read_as_papers_print_them() -> None:
    pairs = {kind: list(cell) for kind, cell in DARTS_V2.items()}
    text = f"Genotype(normal={pairs['normal']}, normal_concat=range(2, 6), reduce={pairs['reduce']})"
    assert TINY.from_notation(f"  {text} ") == from_genotype(DARTS_V2)
    for wrong in (
        "DARTS_V3",
        "Genotype(",
        text.replace("Genotype(", "open('x'), Genotype("),
        text.replace("range(2, 6)", "[4, 5]"),
        text.replace("normal=", "recurrent="),
        "Genotype(normal=open('x'), reduce=[])",
        "Genotype(normal=[('sep_conv_3x3', '0')], reduce=[])",
    ):
        with pytest.raises(InvalidInput, match="expected"):
            TINY.from_notation(wrong)


def test_every_network_is_the_one_its_own_table_favours() -> None:
    for genes in sample(TINY.decisions, np.random.default_rng(1), 50):
        table = TINY.table(genes)
        assert table.sum() == 16
        assert np.array_equal(TINY.discretise(table), genes)


def test_the_best_two_edges_survive_and_none_is_never_derived() -> None:
    scores = np.random.default_rng(0).random(TINY.relaxation.shape)
    scores[:, NONE] = 9.0
    genes = TINY.discretise(scores)
    table = TINY.table(genes)
    assert table[:, NONE].sum() == 0
    best = scores[:, 1:].max(axis=1)
    for node in set(TINY.relaxation.nodes):
        rows = [e for e, n in enumerate(TINY.relaxation.nodes) if n == node]
        kept_edges = [e for e in rows if table[e].any()]
        assert sorted(kept_edges) == sorted(sorted(rows, key=lambda e: -best[e])[:2])
        assert all(table[e].argmax() == 1 + scores[e, 1:].argmax() for e in kept_edges)


def test_quarters_there_and_back() -> None:
    x = torch.randn(3, 5, 6, 8).contiguous(memory_format=torch.channels_last)
    assert torch.equal(from_quarters(to_quarters(x)), x)


@pytest.mark.parametrize("size", [8, 9, 10])
def test_a_relaxation_equals_the_plain_sum_in_double_precision(size: int) -> None:
    """Logits and gradients of weights and architecture parameters, for maps of even and of odd size."""
    torch.manual_seed(0)
    space = build({"channels": 4, "cells": 3}, ImageShape(3, size, size, 5))
    net = space.supernet(0).double().train()
    assert isinstance(net, DartsSupernet)
    x = torch.randn(4, 3, size, size, dtype=torch.float64)
    alphas = torch.randn(2 * len(EDGES), len(OPERATIONS), dtype=torch.float64, requires_grad=True)
    y = torch.randint(5, (4,))
    outputs = []
    for mix in (lambda w: net.mix(x, w), lambda w: plain_mix(net, x, w)):
        loss = torch.nn.functional.cross_entropy(mix(alphas.softmax(1)), y)
        outputs.append((loss, torch.autograd.grad(loss, [alphas, *net.parameters()])))
    torch.testing.assert_close(outputs[0][0], outputs[1][0], rtol=1e-11, atol=1e-12)
    for relaxed, plain in zip(outputs[0][1], outputs[1][1], strict=True):
        torch.testing.assert_close(relaxed, plain, rtol=1e-7, atol=1e-9)


def test_the_relaxation_is_twice_differentiable() -> None:
    net = TINY.supernet(0).double()
    x = torch.randn(3, 1, 8, 8, dtype=torch.float64)
    alphas = torch.zeros(28, 8, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(net.mix(x, alphas.softmax(1)).logsumexp(1).sum(), alphas, create_graph=True)
    (h,) = torch.autograd.grad(g.square().sum(), alphas)
    assert bool(torch.isfinite(h).all())
    assert float(h.abs().max()) > 0


def test_a_relaxation_of_one_network_is_that_network() -> None:
    net = TINY.supernet(0).train()
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    for genes in sample(TINY.decisions, np.random.default_rng(2), 4):
        table = torch.from_numpy(TINY.table(genes)).float()
        expected = net(x, Arch(TINY.id, tuple(genes.tolist())))
        torch.testing.assert_close(net.mix(x, table), expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(net.mix(x, table, active_EO=table > 0), expected, rtol=1e-3, atol=1e-4)


def test_inactive_operations_are_not_computed_and_learn_nothing() -> None:
    net = TINY.supernet(0).train()
    active = torch.zeros(28, 8, dtype=torch.bool)
    active[:, 6] = True  # separable 3x3 alone
    net.mix(torch.randn(4, 1, 8, 8), torch.full((28, 8), 0.125), active_EO=active).sum().backward()
    learned = {name for name, p in net.named_parameters() if p.grad is not None and "operations" in name}
    assert learned
    assert all(f"-{6}." in name for name in learned)


def test_partial_channels_mix_a_part_and_pass_the_rest() -> None:
    space = build({"channels": 8, "cells": 3}, ImageShape(1, 8, 8, 4))
    net = space.supernet(0).train()
    weights, edges = torch.full((28, 8), 0.125), torch.full((28,), 0.5)
    net.mix(torch.randn(4, 1, 8, 8), weights, edges_E=edges, partial=2).logsumexp(1).sum().backward()
    for name, p in net.named_parameters():
        if "depthwise" in name and p.grad is not None:
            assert float(p.grad[4 * (p.shape[0] // 8) :].abs().sum()) == 0.0
    assert any(float(p.grad.abs().sum()) > 0 for n, p in net.named_parameters() if "depthwise" in n)


def test_bad_input_is_refused() -> None:
    with pytest.raises(UnknownName, match="search"):
        build({"preset": "serch"}, CIFAR)
    with pytest.raises(InvalidSpec, match="cells"):
        build({"cells": 2}, CIFAR)


def test_presets_never_change_their_meaning() -> None:
    assert {name: build({"preset": name}, CIFAR).id for name in ("digits", "search", "evaluation")} == {
        "digits": "darts_cell-d64f1d8d",
        "search": "darts_cell-25d87983",
        "evaluation": "darts_cell-6f828d86",
    }
