"""Costs of operations in the losses of differentiable search: the resource term of SNAS, the pruning of GOLD-NAS."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from nas.core.arch import Floats, Genes
from nas.core.errors import InvalidSpec
from nas.core.ports import Dataset, ImageShape, RelaxedSpace
from nas.core.spec import DataSpec
from nas.datasets import digits
from nas.training.gradient import monitors, operation_weights, resource
from nas.training.gradient.loop import GradientSearch, run_gradient_search
from nas.training.gradient.options import DartsParams, check_relaxation
from nas.training.gradient.steps import LatencyCost
from nas.training.pipeline import Pipeline
from nas.training.state import TrainState
from search_spaces.darts_cell import free_space
from search_spaces.darts_cell.cell import EDGES, NONE, SEP3, SKIP
from search_spaces.nas_bench_201 import space as nas_bench_201

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = ImageShape(1, 8, 8, 10)
FREE = free_space.build({"preset": "digits"}, SHAPE)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits.load(DataSpec(params={"max_train": 80, "max_val": 40, "max_test": 40}), 0)


def begin(space: RelaxedSpace, data: Dataset, latency: resource.Cost | None = None, **changes: Any) -> GradientSearch:
    options = DartsParams.model_validate({"epochs": 2, "tune_epochs": 0, "batch_size": 40, **changes})
    net = space.supernet(0).to(memory_format=torch.channels_last)
    cost = LatencyCost(latency, None) if latency is not None else None
    return GradientSearch(net, space, data, Pipeline(data, "cpu"), options, 0, cost)


def finish(learning: GradientSearch) -> None:
    list(run_gradient_search(learning, TrainState(), lambda: False))


def test_the_expected_cost_is_relative_to_that_of_uniform_draws() -> None:
    p = torch.tensor([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
    costs = torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 5.0]])
    mask = torch.tensor([[True, True], [True, True], [True, False]])
    # drawn: 0.5 + 1.5 + 0; uniform: 0.5 + 1 + 0, since the last row has no choice
    assert float(resource.relative_cost(p, mask, costs)) == pytest.approx(2.0 / 1.5)
    assert float(resource.relative_cost(p, mask, 0 * costs)) == 0.0


def test_the_resource_term_descends_to_the_cheapest_operations() -> None:
    """Alone, it moves every row to its cheapest operation, as the gradient p (c - mean c) says."""
    alphas = torch.zeros(2, 3, dtype=torch.float64, requires_grad=True)
    mask, costs = torch.ones(2, 3, dtype=torch.bool), torch.tensor([[0.0, 0.2, 1.0], [0.4, 0.1, 0.9]]).double()
    cost = resource.relative_cost(operation_weights.softmax(alphas, mask), mask, costs)
    (gradient,) = torch.autograd.grad(cost, alphas)
    expected = (costs - costs.mean(dim=1, keepdim=True)) / 3 / (costs.sum() / 3)
    torch.testing.assert_close(gradient, expected)


@pytest.mark.slow
def test_a_strong_resource_term_leaves_no_costly_operation(data: Dataset) -> None:
    """SNAS with an overwhelming weight ends where all rows have an operation that is free of MACs."""
    space = nas_bench_201.build({"preset": "digits", "channels": 4}, data.shape)
    expected_macs = []
    for weight in (0.0, 1000.0):
        learning = begin(space, data, preset="snas", resource_weight=weight, alpha_lr=0.3, epochs=6, alpha_warmup=0)
        finish(learning)
        expected_macs.append(float(space.costs(learning.discretised[None])["macs"][0]))
    free = space.costs(np.zeros((1, 6), dtype=np.int64))["macs"][0]
    assert expected_macs[1] == free < expected_macs[0]


def test_each_operation_of_several_costs_what_the_network_loses_without_it() -> None:
    macs_EO = resource.operation_costs(FREE, lambda g: FREE.costs(g)["macs"], np.random.default_rng(0))
    assert macs_EO.shape == (3 * len(EDGES), 8)
    assert macs_EO[EDGES.index((0, 2)), SEP3] == 2 * (9 * 4 + 16) * 64  # in the first cell: 4 channels on 8x8 pixels
    assert macs_EO[len(EDGES) + EDGES.index((3, 2)), SEP3] == 2 * (9 * 8 + 64) * 16  # in the reduction after it
    assert macs_EO[: len(EDGES), SKIP].tolist() == [0.0] * len(EDGES)
    assert macs_EO[:, NONE].tolist() == [0.0] * len(macs_EO)


def test_pruning_weighs_operations_by_latency_if_told_so(data: Dataset) -> None:
    """On a device where identities are slow and convolutions take no time, identities bear the whole cost."""

    def slow_identities(genes_NG: Genes) -> Floats:
        return 1e-3 * np.stack([FREE.table(genes_G)[:, SKIP].sum() for genes_G in genes_NG])

    learning = begin(FREE, data, slow_identities, preset="gold", resource="latency")
    costs_EO = learning.trainer._operation_costs_EO
    assert costs_EO is not None
    assert costs_EO[:, SKIP].tolist() == pytest.approx([1.0] * len(costs_EO))
    assert costs_EO[:, SEP3].tolist() == pytest.approx([0.0] * len(costs_EO))


@pytest.mark.slow
def test_gold_nas_gives_what_survives_pruning(data: Dataset) -> None:
    """Cells have logits of their own, the network is the mask, and each of the series lies within the one before."""
    learning = begin(
        FREE, data, preset="gold", epochs=24, prune_weight=2e-3, prune_until=0.3, batch_size=80, alpha_warmup=0
    )
    assert learning.model.alphas.shape == (3 * len(EDGES), 8)
    with torch.no_grad():
        learning.model.alphas.normal_(0.0, 1.0, generator=torch.Generator().manual_seed(0))
    networks = []
    for _ in run_gradient_search(learning, TrainState(), lambda: False):
        table_EO = FREE.table(learning.discretised)
        assert (table_EO == learning.model.mask.numpy()).all()
        networks.append(table_EO)
    alive = [int(table_EO.sum()) for table_EO in networks]
    assert alive[0] == 2 * len(networks[0]) > alive[-1]
    assert all((later <= earlier).all() for earlier, later in pairwise(networks))
    by_cell = networks[-1].reshape(3, len(EDGES), 8)
    assert not (by_cell == by_cell[0]).all()
    macs = FREE.costs(np.array([*learning.series, learning.discretised]))["macs"]
    assert (np.diff(macs) <= 0).all()


def test_nodes_and_inputs_keep_an_operation_however_weak(data: Dataset) -> None:
    """All but one operation of each node are as good as dead, and none of these reads the second input of a cell."""
    learning = begin(FREE, data, preset="gold")
    strongest = [(e, SKIP) for e, (start, _) in enumerate(EDGES) if start == 0]
    with torch.no_grad():
        learning.model.alphas.fill_(-20.0)
        for row, column in strongest:
            learning.model.alphas[row :: len(EDGES), column] = 5.0
        learning.model.alphas[EDGES.index((1, 2)) :: len(EDGES), SEP3] = -19.0
    monitors.prune(learning.model, learning.progress)
    for cell_E8 in learning.model.mask.reshape(3, len(EDGES), 8):
        alive = {(e, o) for e, o in cell_E8.nonzero().tolist()}
        assert alive == {*strongest, (EDGES.index((1, 2)), SEP3)}
    assert (FREE.table(learning.discretised) == learning.model.mask.numpy()).all()


def test_only_pruning_decides_which_of_several_operations_an_edge_carries() -> None:
    check_relaxation(DartsParams(preset="gold"), FREE)
    with pytest.raises(InvalidSpec, match="expected preset gold"):
        check_relaxation(DartsParams(preset="snas"), FREE)
    single = free_space.build({"preset": "snas"}, SHAPE)
    check_relaxation(DartsParams(preset="snas"), single)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"preset": "gold", "resource_weight": 1.0}, "expected resource_weight 0"),
        ({"resource": "latency"}, "resource is for prune and resource_weight"),
        ({"preset": "snas", "resource_weight": 0.1, "alpha_lr": 0.0}, "resource_weight needs"),
        ({"preset": "modnas", "resource_weight": 1.0}, "every preference"),
    ],
)
def test_costs_that_mean_nothing_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        DartsParams.model_validate(options)
