"""Criteria tell the important units of a group from the others, on models whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nas.core.arch import Floats
from nas.importance import batch_norm_scale, bip, l2, taylor, trainable_gate
from nas.importance.criteria import unit_orders
from nas.models.channels import analyse_channels
from nas.models.execution import batch_norm_statistics, build
from nas.models.narrowing import narrow
from nas.models.reading.exported import read_exported
from nas.models.reading.model import ReadModel
from tests.support.models import CASES, SIDE, make_model, save_exported

MAX_BYTES = 1 << 28


class Chain(nn.Module):
    """Two convolutions with a batch norm between."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.norm(self.first(x)))).mean((2, 3))


def read(module: nn.Module, folder: Path) -> ReadModel:
    return read_exported(save_exported(module, folder / "model.pt2"), MAX_BYTES)


@pytest.fixture(scope="module")
def images() -> Tensor:
    torch.set_num_threads(1)
    return torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> ReadModel:
    torch.manual_seed(0)
    module = Chain().eval()
    with torch.no_grad():
        module.norm.weight.copy_(torch.tensor([0.5, 3.0, 0.1, 1.0]))
        module.second.weight[:, 0] = 0.0  # the first channel has no effect
    return read(module, tmp_path_factory.mktemp("chain"))


def scores_of(criterion: object, model: ReadModel, images: Tensor) -> Floats:
    analysis = analyse_channels(model.graph)
    [scores] = criterion(model.graph, model.weights, analysis, images).values()  # type: ignore[operator]
    return scores


def test_the_norm_is_that_of_all_weights_of_a_unit(chain: ReadModel, images: Tensor) -> None:
    statistics = batch_norm_statistics(chain.graph)  # no weights
    weights = [w.astype(np.float64) for name, w in chain.weights.items() if name not in statistics]
    expected = np.zeros(4)
    for w in weights:
        for axis in (axis for axis, size in enumerate(w.shape) if size == 4):
            expected += np.square(w).sum(axis=tuple(i for i in range(w.ndim) if i != axis))
    assert scores_of(l2.unit_scores, chain, images) == pytest.approx(np.sqrt(expected))


def test_scales_of_batch_norms_are_scores(chain: ReadModel, images: Tensor) -> None:
    assert scores_of(batch_norm_scale.unit_scores, chain, images) == pytest.approx([0.5, 3.0, 0.1, 1.0])


def test_what_changes_no_output_is_least_important(chain: ReadModel, images: Tensor) -> None:
    scores = scores_of(taylor.unit_scores, chain, images)
    assert scores[0] == 0.0
    assert (scores[1:] > 0.0).all()


def test_first_order_changes_are_those_of_removing_each_unit(chain: ReadModel) -> None:
    analysis = analyse_channels(chain.graph)
    [group] = analysis.groups
    images = torch.randn(64, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    outputs = build(chain.graph, chain.weights)(images).detach()
    changes = []
    for unit in range(group.units):
        other_units = [i for i in range(group.units) if i != unit]
        narrowed = narrow(chain.graph, chain.weights, {group.name: other_units})
        changed_outputs = build(narrowed.graph, narrowed.weights)(images).detach()
        changes.append(float((changed_outputs - outputs).square().sum()))
    variance = float(outputs.var())
    assert scores_of(taylor.unit_scores, chain, images) * 64 * variance == pytest.approx(np.array(changes), rel=0.3)


@pytest.mark.long
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("criterion", ["taylor", "batch_norm_scale", "l2"])
def test_every_group_of_every_family_gets_an_order(
    case: object, criterion: str, images: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = models(case, tmp_path_factory)
    analysis = analyse_channels(model.graph)
    orders = unit_orders(criterion, model.graph, model.weights, analysis, images[:2])  # type: ignore[arg-type]
    assert {name: sorted(order) for name, order in orders.order.items()} == {
        group.name: [*range(group.units)] for group in analysis.groups
    }
    if criterion != "batch_norm_scale":
        assert orders.by_l2 == ()
    again = unit_orders(criterion, model.graph, model.weights, analysis, images[:2])  # type: ignore[arg-type]
    assert orders == again


_MODELS: dict[str, ReadModel] = {}


def models(case: object, folders: pytest.TempPathFactory) -> ReadModel:
    """Each model, exported once."""
    name = str(case)
    if name not in _MODELS:
        _MODELS[name] = read(make_model(case).eval(), folders.mktemp("model"))  # type: ignore[arg-type]
    return _MODELS[name]


def test_a_trainable_gate_is_a_step_with_a_slope_of_one() -> None:
    w = torch.tensor([0.3, -0.3, 0.001], requires_grad=True)
    values = trainable_gate.gate(w)
    values.sum().backward()  # type: ignore[no-untyped-call]
    assert values.tolist() == pytest.approx([1.0, 0.0, 1.0], abs=1.01e-5)
    assert w.grad is not None
    assert w.grad.tolist() == [1.0, 1.0, 1.0]


def test_the_hypergradient_of_a_linear_loss_is_that_of_its_solved_lower_level() -> None:
    gradient, gamma = torch.tensor([1.0, -2.0], dtype=torch.float64), 0.5
    mask = torch.tensor([0.5, 1.0], dtype=torch.float64, requires_grad=True)
    theta = -mask * gradient / gamma  # argmin of g (m theta) + gamma/2 theta^2
    (gradient * mask * theta).sum().backward()  # type: ignore[no-untyped-call]
    assert mask.grad is not None
    hypergradient = bip.hypergradient(theta.detach(), mask.detach(), gradient, gamma)
    assert hypergradient.tolist() == [-2.0, -16.0] == mask.grad.tolist()


@pytest.mark.long
@pytest.mark.parametrize("criterion", [trainable_gate, bip])
def test_learned_criteria_give_up_the_unit_without_effect(criterion: object, chain: ReadModel, images: Tensor) -> None:
    before = {name: weight.copy() for name, weight in chain.weights.items()}
    scores = scores_of(criterion.unit_scores, chain, images)  # type: ignore[attr-defined]
    assert scores[0] < np.median(scores) < scores.max()
    assert np.array_equal(scores, scores_of(criterion.unit_scores, chain, images))  # type: ignore[attr-defined]
    assert all(np.array_equal(weight, chain.weights[name]) for name, weight in before.items())


def test_gates_close_until_half_of_them_are_open(chain: ReadModel, images: Tensor) -> None:
    scores = scores_of(trainable_gate.unit_scores, chain, images)
    assert scores[0] < 0.0 < scores[1]
    assert 1 <= (scores > 0).sum() <= 3


@pytest.mark.long
@pytest.mark.parametrize("criterion", [trainable_gate, bip])
@pytest.mark.parametrize("name", ["efficientnet", "densenet", "vit_fused", "grouped_resnet"])
def test_learned_criteria_score_the_groups_of_all_kinds_of_models(
    criterion: object, name: str, tmp_path: Path, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(criterion, "STEPS", 3)
    [case] = [case for case in CASES if case.name == name]
    model = read(make_model(case), tmp_path)
    analysis = analyse_channels(model.graph)
    scores = criterion.unit_scores(model.graph, model.weights, analysis, images)  # type: ignore[attr-defined]
    assert scores.keys() == taylor.unit_scores(model.graph, model.weights, analysis, images).keys()
    assert all(np.isfinite(values).all() and len(np.unique(values)) > 1 for values in scores.values())
