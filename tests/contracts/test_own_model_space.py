"""What holds for the space of every own model: equal to its parent, sliced as cut, counted as exported."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nas.core.arch import Arch, as_archs, sample
from nas.models.execution import build_masked
from nas.models.narrowing import element_masks
from nas.testing.search_spaces import check_canonical, check_costs, check_subnets, extremes_and_random
from search_spaces.own_model.network import OwnModelSupernet
from search_spaces.own_model.space import OwnModel
from tests.support.models import CASES, SIDE
from tests.support.parents import own_model, read_case


@pytest.fixture(scope="module", params=[case.name for case in CASES])
def space(request: pytest.FixtureRequest) -> OwnModel:
    return own_model(request.param)


@pytest.fixture(scope="module")
def net(space: OwnModel) -> OwnModelSupernet:
    net: OwnModelSupernet = space.supernet(0).eval()
    return net


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def some_archs(space: OwnModel, n: int) -> list[Arch]:
    return as_archs(space.id, extremes_and_random(space, n))


def test_keeping_everything_equals_the_parent(space: OwnModel, net: OwnModelSupernet, images: torch.Tensor) -> None:
    [arch] = as_archs(space.id, space.parent_genes()[None])
    expected = _run(net.parent, images)
    _assert_equal(_run(net.subnet(arch), images), expected)
    _assert_equal(_run(net, images, arch), expected)
    assert (space.canonical(np.array([arch.genes])) == arch.genes).all()


def test_a_slice_of_the_supernet_equals_the_subnet(
    space: OwnModel, net: OwnModelSupernet, images: torch.Tensor
) -> None:
    for arch in some_archs(space, 6):
        _assert_equal(_run(net.subnet(arch), images), _run(net, images, arch))


def test_a_narrowed_network_equals_its_masked_parent(
    space: OwnModel, net: OwnModelSupernet, images: torch.Tensor
) -> None:
    model = read_case(space.parent.name)
    genes = space.parent_genes()
    genes[1 : 1 + len(space.choices.widths)] = sample(space.decisions, np.random.default_rng(2), 1)[
        0, 1 : 1 + len(space.choices.widths)
    ]
    [arch] = as_archs(space.id, genes[None])
    masks = element_masks(model.graph, space.choices.kept_units(arch, net.unit_order))
    batch = images[: model.graph.batch]
    _assert_equal(_run(net, batch, arch), _run(build_masked(model.graph, model.weights, masks), batch))


def test_the_contract_of_search_spaces(space: OwnModel) -> None:
    check_canonical(space)
    check_costs(space)
    check_subnets(space, inherits=True)


def test_costs_are_those_of_the_narrowed_graph(space: OwnModel, net: OwnModelSupernet) -> None:
    genes = extremes_and_random(space, 8)
    costs = space.costs(genes)
    for i, arch in enumerate(as_archs(space.id, genes)):
        layers = space.layers(arch)
        module = space.supernet(0).subnet(arch)
        assert (
            costs["params"][i] == sum(layer.params for layer in layers) == sum(p.numel() for p in module.parameters())
        )
        assert costs["macs"][i] == sum(layer.macs for layer in layers)


def _run(module: torch.nn.Module, *inputs: object) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        outputs = module(*inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _assert_equal(outputs: tuple[torch.Tensor, ...], expected_outputs: tuple[torch.Tensor, ...]) -> None:
    for actual, expected in zip(outputs, expected_outputs, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5 * max(1.0, float(expected.abs().max())), rtol=0.0)
