"""The second stage of DrNAS: fewer operations, more channels, and what is kept of the first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from nas.core.ports import Dataset, RelaxedSpace
from nas.core.spec import DataSpec
from nas.datasets import digits
from nas.training.gradient.loop import GradientSearch, run_gradient_search
from nas.training.gradient.options import DartsParams
from nas.training.pipeline import Pipeline
from nas.training.state import TrainState
from search_spaces.darts_cell.operations import FactorizedReduction, Norm, SeparableConv
from search_spaces.darts_cell.space import build as build_darts
from search_spaces.layers.widening import repeat_channels
from search_spaces.nas_bench_201.cell import NONE
from search_spaces.nas_bench_201.space import build as build_nb201

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits.load(DataSpec(params={"max_train": 80, "max_val": 40, "max_test": 40}), 0)


def begin(space: RelaxedSpace, data: Dataset, **changes: Any) -> GradientSearch:
    given = {"preset": "drnas", "epochs": 4, "tune_epochs": 0, "batch_size": 40, "partial": 4, "progressive": True}
    options = DartsParams.model_validate({**given, **changes})
    net = space.supernet(0).to(memory_format=torch.channels_last)
    return GradientSearch(net, space, data, Pipeline(data, "cpu"), options, 0)


def test_repeated_channels_give_repeated_outputs() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 8, 3, 3, generator=generator)
    x_BCHW = torch.randn(2, 2, 5, 5, generator=generator)
    before = torch.nn.functional.conv2d(x_BCHW, weight[:2, :2])
    untouched = weight[4:].clone()
    repeat_channels(weight, (2, 2), (4, 4))
    after = torch.nn.functional.conv2d(x_BCHW.repeat(1, 2, 1, 1), weight[:4, :4])
    torch.testing.assert_close(after, before.repeat(1, 2, 1, 1))
    assert torch.equal(weight[4:], untouched)


def test_a_separable_convolution_goes_on_with_what_it_has_learned() -> None:
    torch.manual_seed(0)
    conv, x_BCHW = SeparableConv(8, 3, 1, 1, Norm(8, affine=False)), torch.randn(2, 2, 5, 5)
    with torch.no_grad():
        before = conv.scaled(x_BCHW, None, 1, 1)
        conv.widen(2, 4)
        torch.testing.assert_close(conv.scaled(x_BCHW.repeat(1, 2, 1, 1), None, 1, 1), before.repeat(1, 2, 1, 1))


def test_a_reduction_goes_on_with_what_its_halves_have_learned() -> None:
    torch.manual_seed(0)
    part, x_BCHW = FactorizedReduction(8, 8, (6, 6), Norm(8, affine=False)), torch.randn(2, 2, 6, 6)
    with torch.no_grad():
        even, odd = part.scaled(x_BCHW, torch.tensor(1.0)).chunk(2, dim=1)
        part.widen(2, 4)
        wide = part.scaled(x_BCHW.repeat(1, 2, 1, 1), torch.tensor(1.0))
    torch.testing.assert_close(wide, torch.cat([even, even, odd, odd], dim=1))


def test_the_better_half_of_the_operations_is_left_and_a_real_one_of_them(data: Dataset) -> None:
    learning = begin(build_nb201({"preset": "digits", "channels": 8}, data.shape), data)
    model = learning.model
    with torch.no_grad():
        model.alphas.zero_()
        model.alphas[0] = torch.tensor([3.0, 1.0, -2.0, 2.0, -1.0])
        model.alphas[1] = torch.tensor([-3.0, -1.0, 2.0, -2.0, 1.0])
        model.mask[2] = torch.tensor([True, True, False, False, False])
        model.alphas[2, NONE] = 5.0
    model.leave_better_half()
    assert model.mask[0].tolist() == [True, True, False, True, False]
    assert model.mask[1].tolist() == [False, True, True, False, True]
    assert model.mask[2].tolist() == [False, True, False, False, False]  # none is likelier, but not all that is left


@pytest.mark.parametrize("space", ["nas_bench_201", "darts_cell"])
def test_the_second_stage_mixes_twice_the_channels_of_half_the_operations(space: str, data: Dataset) -> None:
    if space == "nas_bench_201":
        built: RelaxedSpace = build_nb201({"preset": "digits", "channels": 8}, data.shape)
    else:
        built = build_darts({"preset": "digits", "channels": 8}, data.shape)
    learning = begin(built, data)
    operations, partials, alive, states = built.relaxation.shape[1], [], [], []
    for update in run_gradient_search(learning, TrainState(), lambda: True):
        if isinstance(update, TrainState) and update.step == 0:
            partials.append(learning.rates.partial)
            alive.append(sorted(set(learning.model.mask.sum(dim=1).tolist())))
            states.append(update)
    assert partials == [4, 2, 2, 2]
    assert alive == [[operations]] + 3 * [[(operations + 1) // 2]]
    table_EO = torch.from_numpy(built.table(learning.discretised)).bool()
    assert not (table_EO & ~learning.model.mask & torch.from_numpy(built.relaxation.real)).any()
    again = begin(built, data)
    again.restore(states[2].weights or {})
    assert (again.rates.partial, again.model.rates.partial) == (2, 2)
    assert torch.equal(again.model.mask, learning.model.mask)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"partial": None}, "expected an even partial, such as 4, got None"),
        ({"partial": 3}, "even partial"),
        ({"epochs": 1}, "at least 2 epochs"),
        ({"epochs": 10, "alpha_warmup": 5}, "shorter alpha_warmup than 5"),
        ({"alpha_lr": 0.0}, "that learn"),
        ({"epochs": 40, "probe_every": 1}, "cannot be compared"),
    ],
)
def test_stages_without_a_meaning_are_refused(options: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        DartsParams.model_validate({"preset": "drnas", "partial": 4, "progressive": True, **options})
