"""The elements of training recipes: each by a value that is known otherwise, by its seed, and resumed at any step."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nas.core.errors import InvalidSpec
from nas.core.parent import Preprocessing
from nas.core.ports import Dataset
from nas.supernet import AdaptiveRates
from nas.training.augment import Augmentation, crop_boxes, cutout, mixup, random_resized_crop
from nas.training.distillation import Distillation, Teacher, feature_loss, soft_target_loss
from nas.training.pipeline import Pipeline
from nas.training.recipe import Recipe, cosine_rate, optimiser, weight_average
from nas.training.standalone import StandaloneRecipe, StandaloneTrainer
from nas.training.weights import Weights
from tests.support.small_training import few_digits

pytestmark = pytest.mark.usefixtures("one_thread")

PLAIN = StandaloneRecipe(epochs=2, batch_size=20, lr=0.05, weight_decay=1e-4)
EVERYTHING = replace(
    PLAIN,
    ema_decay=0.9,
    mixup=0.4,
    augmentation=Augmentation(min_crop_area=0.4, cutout=0.4),
    distillation=Distillation(features=0.5),
)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return few_digits(60, max_val=20, max_test=20)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network(channels: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    convolution = nn.Conv2d(1, channels, 3, padding=1, bias=False)
    return nn.Sequential(
        convolution,
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4 * channels, 10),
    )


def teacher_of(data: Dataset, channels: int = 8, resolution: int = 12) -> Teacher:
    return Teacher(network(channels, seed=1).eval(), resolution, Pipeline(data, "cpu").preprocessing)


def begin(data: Dataset, recipe: StandaloneRecipe, teacher: Teacher | None = None, seed: int = 0) -> StandaloneTrainer:
    return StandaloneTrainer(network(), 8, data, Pipeline(data, "cpu"), recipe, seed, teacher)


def stored(trainer: StandaloneTrainer) -> Weights:
    """The state as a checkpoint gives it back."""
    buffer = io.BytesIO()
    torch.save(trainer.state_dict(), buffer)
    weights: Weights = torch.load(io.BytesIO(buffer.getvalue()), weights_only=True)
    return weights


# Moving average, warm-up and weight decay


def test_the_average_of_weights_is_the_closed_form_for_a_constant_gradient() -> None:
    """Weights fall by a constant c each step, from 0. With decay d, the average after n steps lags behind n c by
    c d (1 - d^(n - 1)) / (1 - d)."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    decay, step = 0.1, 0.5  # at 0.1, the shorter memory of the first steps does not show
    average = weight_average(layer, decay)
    assert average is not None
    for n in range(1, 20):
        with torch.no_grad():
            layer.weight -= step
        average.update_parameters(layer)
        lag = decay * (1 - decay ** (n - 1)) / (1 - decay)
        assert average.module.weight.item() == pytest.approx(-step * (n - lag), rel=1e-6)


def test_the_first_averages_have_a_short_memory() -> None:
    layer = nn.Linear(1, 1, bias=False)
    average = weight_average(layer, 0.999)
    assert average is not None
    expected = 0.0
    for n, weight in enumerate([3.0, 5.0, -2.0, 8.0]):
        nn.init.constant_(layer.weight, weight)
        average.update_parameters(layer)
        decay = (1 + n) / (10 + n) if n else 0.0
        expected = decay * expected + (1 - decay) * weight
        assert average.module.weight.item() == pytest.approx(expected)
    assert weight_average(layer, 0.0) is None


def test_what_is_evaluated_is_the_average(data: Dataset) -> None:
    trainer = begin(data, replace(PLAIN, ema_decay=0.5))
    trainer.step(0, 0)
    first = trainer.module[0].weight.detach().clone()  # type: ignore[index]
    trainer.step(0, 1)
    second = trainer.module[0].weight.detach()  # type: ignore[index]
    torch.testing.assert_close(trainer.evaluated[0].weight, torch.lerp(second, first, 2 / 11))  # type: ignore[index]
    plain = begin(data, PLAIN)
    assert plain.evaluated is plain.module


def test_rates_rise_in_a_line_and_fall_down_a_cosine() -> None:
    assert [cosine_rate(0.4, i, 100, 3) for i in range(3)] == pytest.approx([0.1, 0.2, 0.3])
    assert cosine_rate(0.4, 50, 100, 3) == pytest.approx(0.2)
    assert cosine_rate(0.4, 100, 100, 3) == pytest.approx(0.0)
    assert cosine_rate(0.4, 0, 100, 0) == 0.4


@pytest.mark.parametrize(("warmup_epochs", "expected"), [(None, 0.05 / (0.2 * 3 + 1)), (1.0, 0.05 / 4), (0.0, 0.05)])
def test_warm_up_is_counted_in_epochs(data: Dataset, warmup_epochs: float | None, expected: float) -> None:
    trainer = begin(data, replace(PLAIN, warmup_epochs=warmup_epochs))
    trainer.step(0, 0)
    assert trainer.state_dict()["optimiser"]["param_groups"][0]["lr"] == pytest.approx(expected)  # type: ignore[index]


def test_only_matrices_decay() -> None:
    net = network()
    sgd = optimiser(net.parameters(), Recipe(batch_size=1, weight_decay=0.1), net)
    before = [p.detach().clone() for p in net.parameters()]
    for group in sgd.param_groups:
        group["lr"] = 1.0
    for p in net.parameters():
        p.grad = torch.zeros_like(p)
    sgd.step()
    for p, old in zip(net.parameters(), before, strict=True):
        decayed = old * (1 - 0.1 * 1.9)  # Nesterov's first step looks one momentum of 0.9 ahead
        torch.testing.assert_close(p.detach(), decayed if old.ndim > 1 else old)


class Adaptive(AdaptiveRates):
    def __init__(self) -> None:
        super().__init__()
        self.matrix, self.vector = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))


def test_networks_that_need_adamw_learn_at_a_hundredth_of_the_rate_and_decay_alike() -> None:
    net = Adaptive()
    adamw = optimiser(net.parameters(), Recipe(batch_size=1, weight_decay=0.1), net)
    for group in adamw.param_groups:
        group["lr"] = 0.5
    for parameter, gradient in ((net.matrix, 0.0), (net.vector, 3.0)):
        parameter.grad = torch.full_like(parameter, gradient)
    adamw.step()
    torch.testing.assert_close(net.matrix.detach(), torch.full((2, 2), 1.0 - 0.5 * 0.1))
    torch.testing.assert_close(net.vector.detach(), torch.full((2,), 1.0 - 0.005))  # Adam's first step is its rate
    assert {group["lr"] for group in adamw.param_groups} == {0.5}


# Cutout, random resized crop, mixup


@pytest.mark.parametrize(("side", "share"), [(8, 0.5), (9, 0.4), (6, 1.0), (5, 0.01)])
def test_cutout_erases_squares_whose_area_is_what_positions_make_it(side: int, share: float) -> None:
    length = max(1, round(share * side))
    erased = cutout(torch.ones(20_000, 2, side, side), generator(), share) == 0
    assert torch.equal(erased[:, 0], erased[:, 1])
    rows, columns = erased[:, 0].any(2).sum(1), erased[:, 0].any(1).sum(1)
    assert torch.equal(erased[:, 0].sum((1, 2)), rows * columns)  # one rectangle
    assert int(rows.max()) == int(columns.max()) == min(length, side)
    starts = [centre - length // 2 for centre in range(side)]
    mean_length = np.mean([min(side, start + length) - max(0, start) for start in starts])
    assert float(erased[:, 0].double().sum((1, 2)).mean()) == pytest.approx(mean_length**2, rel=0.03)


def test_crops_cover_the_range_of_areas_and_keep_expectations() -> None:
    left, top, width, height = crop_boxes(50_000, generator(), 0.2).unbind(1)
    area, ratio = width * height, width / height
    assert float(area.min()) == pytest.approx(0.2, abs=0.01)
    assert float(area.max()) == pytest.approx(1.0, abs=0.01)
    assert float(area.mean()) == pytest.approx(0.6, abs=0.01)
    assert float(ratio.min()) == pytest.approx(3 / 4, abs=0.01)
    assert float(ratio.max()) == pytest.approx(4 / 3, abs=0.01)
    assert float(torch.log(ratio).mean()) == pytest.approx(0.0, abs=0.005)
    assert float((left + width / 2).mean()) == pytest.approx(0.5, abs=0.005)
    assert float((top + height / 2).mean()) == pytest.approx(0.5, abs=0.005)
    assert float(torch.stack([left, top]).min()) >= 0
    assert float(torch.stack([left + width, top + height]).max()) <= 1 + 1e-6


def test_a_crop_shows_its_box() -> None:
    """Of an image whose pixels are their own positions, a crop has the positions of its box."""
    side = 64
    position = (torch.arange(side) + 0.5) / side
    across, down = position.expand(side, side), position[:, None].expand(side, side)
    x = torch.stack([across, down]).expand(500, 2, side, side)
    left, top, width, height = crop_boxes(500, generator(3), 0.3).unbind(1)
    y = random_resized_crop(x, generator(3), 0.3)
    assert y.shape == x.shape
    torch.testing.assert_close(y[:, 0].mean((1, 2)), left + width / 2, atol=5e-3, rtol=0)
    torch.testing.assert_close(y[:, 1].mean((1, 2)), top + height / 2, atol=5e-3, rtol=0)
    torch.testing.assert_close(y[:, 0, 0, -1] - y[:, 0, 0, 0], width * (1 - 1 / side), atol=2e-2, rtol=0)
    torch.testing.assert_close(y[:, 1, -1, 0] - y[:, 1, 0, 0], height * (1 - 1 / side), atol=2e-2, rtol=0)


def test_a_crop_of_everything_changes_nothing() -> None:
    x = torch.randn(8, 3, 10, 10, generator=generator())
    torch.testing.assert_close(random_resized_crop(x, generator(), 1.0), x, atol=1e-4, rtol=0)


def test_the_loss_of_mixed_images_is_the_mixture_of_losses() -> None:
    x, y = torch.randn(6, 1, 4, 4, generator=generator()), torch.arange(6)
    mixed = mixup(x, y, 1.0, 5)
    assert 0 < mixed.share < 1
    partners = mixed.other_y_B  # a label is the position of its image here
    assert sorted(partners.tolist()) == y.tolist()
    torch.testing.assert_close(mixed.x_BCHW, mixed.share * x + (1 - mixed.share) * x[partners])
    logits = torch.randn(6, 6, generator=generator())
    target_BK = mixed.share * F.one_hot(y, 6) + (1 - mixed.share) * F.one_hot(partners, 6)
    torch.testing.assert_close(mixed.loss(partial(F.cross_entropy, logits)), F.cross_entropy(logits, target_BK))
    unmixed = mixup(x, y, 0.0, 5)
    assert unmixed.x_BCHW is x
    assert torch.equal(unmixed.loss(partial(F.cross_entropy, logits)), F.cross_entropy(logits, y))


def test_shares_of_mixed_images_are_beta_distributed() -> None:
    x, y = torch.zeros(2, 1, 1, 1), torch.zeros(2, dtype=torch.int64)
    shares = [mixup(x, y, 0.3, seed).share for seed in range(4000)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.02)
    assert np.var(shares) == pytest.approx(1 / (4 * (2 * 0.3 + 1)), rel=0.05)


# Distillation


def test_a_student_that_equals_its_teacher_has_no_loss() -> None:
    logits = torch.randn(5, 10, generator=generator())
    for temperature in (1.0, 4.0):
        assert float(soft_target_loss(logits, logits.clone(), temperature)) == 0.0
    features = torch.randn(5, 7, generator=generator())
    assert float(feature_loss(features, 3 * features)) == pytest.approx(0.0, abs=1e-6)


def test_soft_targets_by_hand() -> None:
    """Two classes, teacher probabilities (3/4, 1/4) and (1/2, 1/2) of the student at a temperature of 2."""
    teacher = torch.tensor([[2 * math.log(3.0), 0.0]])
    expected = 4 * (0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5))
    assert float(soft_target_loss(torch.zeros(1, 2), teacher, 2.0)) == pytest.approx(expected)


def test_the_square_of_the_temperature_keeps_the_size_of_gradients() -> None:
    """For high temperatures, the gradient is that of half the mean squared difference of centred logits."""
    teacher = torch.randn(4, 10, generator=generator())
    gradients = []
    for temperature in (50.0, 100.0):
        student = torch.zeros(4, 10, requires_grad=True)
        soft_target_loss(student, teacher, temperature).backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        gradients.append(student.grad)
    centred = teacher - teacher.mean(1, keepdim=True)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0.1, atol=2e-4)
    torch.testing.assert_close(gradients[1], -centred / (10 * 4), rtol=0.1, atol=2e-4)


def test_features_are_compared_by_direction() -> None:
    east, north = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    assert float(feature_loss(east, north)) == pytest.approx(1.0)
    assert float(feature_loss(east, -7 * east)) == pytest.approx(2.0)


def test_a_teacher_without_weight_is_no_teacher(data: Dataset) -> None:
    silent = replace(PLAIN, distillation=Distillation(weight=0.0))
    without = begin(data, PLAIN)
    with_teacher = begin(data, silent, teacher_of(data, resolution=8))
    assert with_teacher.epoch(0) == without.epoch(0)
    for name, tensor in without.module.state_dict().items():
        assert torch.equal(tensor, with_teacher.module.state_dict()[name])


def test_a_student_comes_closer_to_its_teacher(data: Dataset) -> None:
    teacher = teacher_of(data)
    recipe = replace(PLAIN, epochs=12, distillation=Distillation(weight=1.0, features=1.0))
    trainer = begin(data, recipe, teacher)
    losses = [trainer.epoch(i) for i in range(recipe.epochs)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_teacher_takes_images_as_it_was_trained_with(data: Dataset) -> None:
    teacher = teacher_of(data)
    pixels = torch.randint(0, 256, (3, 1, 12, 12), generator=generator()).float()
    own, by = teacher.preprocessing, Preprocessing((30.0,), (7.0,))
    expected = teacher.module((pixels - own.mean[0]) / own.std[0])
    normalised = (pixels - by.mean[0]) / by.std[0]
    torch.testing.assert_close(teacher(normalised, by).logits_BK, expected, rtol=1e-4, atol=1e-4)
    assert teacher(normalised[:, :, :8, :8], by).logits_BK.shape == (3, 10)


def test_a_teacher_answers_each_batch_once_for_all_students(data: Dataset) -> None:
    teacher, seen = teacher_of(data, resolution=8), list[int]()
    teacher.module.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    first, second, other = (begin(data, PLAIN, teacher, seed) for seed in (0, 0, 1))
    alone = begin(data, PLAIN, teacher_of(data, resolution=8))
    losses = [[trainer.step(0, i) for i in range(2)] for trainer in (first, second, alone)]
    assert losses[0] == losses[1] == losses[2]
    assert seen == [20, 20]
    other.step(0, 0)
    begin(data, replace(PLAIN, augmentation=Augmentation(strength=0.5)), teacher).step(0, 0)
    begin(data, replace(PLAIN, mixup=0.4), teacher).step(0, 0)
    assert len(seen) == 5


def test_a_teacher_remembers_no_more_than_fits(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nas.training.distillation._REMEMBERED_BYTES", 20 * 10 * 4)  # the logits of one batch
    teacher, seen = teacher_of(data, resolution=8), list[int]()
    teacher.module.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    for _ in range(2):
        trainer = begin(data, PLAIN, teacher)
        trainer.step(0, 0)
        trainer.step(0, 1)
    assert len(seen) == 3


def test_features_need_a_linear_classifier(data: Dataset) -> None:
    head = nn.Sequential(nn.Conv2d(1, 10, 8), nn.Flatten())
    recipe = replace(PLAIN, distillation=Distillation(features=1.0))
    with pytest.raises(InvalidSpec, match=r"retrain\.distillation\.features: expected networks that end in a linear"):
        StandaloneTrainer(head, 8, data, Pipeline(data, "cpu"), recipe, 0, teacher_of(data))


# All of them


@pytest.mark.parametrize("cut", [(0, 1), (0, 2), (1, 0), (1, 1)])
def test_training_with_everything_resumes_at_any_step_bit_by_bit(data: Dataset, cut: tuple[int, int]) -> None:
    teacher = teacher_of(data)
    uninterrupted = begin(data, EVERYTHING, teacher)
    resumed = begin(data, EVERYTHING, teacher)
    for epoch in range(2):
        for i in range(uninterrupted.per_epoch):
            if (epoch, i) == cut:
                weights = stored(resumed)
                resumed = begin(data, EVERYTHING, teacher)
                resumed.load_state_dict(weights)
            assert uninterrupted.step(epoch, i) == resumed.step(epoch, i)
    for module, other in ((uninterrupted.module, resumed.module), (uninterrupted.evaluated, resumed.evaluated)):
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name
    assert uninterrupted.state_dict()["projection"]


@pytest.mark.parametrize(
    "element",
    [
        {"mixup": 0.4},
        {"augmentation": Augmentation(min_crop_area=0.4)},
        {"augmentation": Augmentation(cutout=0.4)},
        {"label_smoothing": 0.3},
        {"weight_decay": 0.3},
        {"warmup_epochs": 1.0},
    ],
    ids=str,
)
def test_the_seed_decides_and_every_element_counts(data: Dataset, element: dict[str, float]) -> None:
    recipe = replace(PLAIN, **element)

    def weights(recipe: StandaloneRecipe, seed: int) -> torch.Tensor:
        trainer = begin(data, recipe, seed=seed)
        for i in range(2):
            trainer.step(0, i)
        return torch.cat([p.detach().flatten() for p in trainer.module.parameters()])

    assert torch.equal(weights(recipe, 0), weights(recipe, 0))
    assert not torch.equal(weights(recipe, 0), weights(recipe, 1))
    assert not torch.equal(weights(recipe, 0), weights(PLAIN, 0))


def test_checkpoints_from_before_averages_and_teachers_are_read(data: Dataset) -> None:
    trainer = begin(data, PLAIN)
    trainer.epoch(0)
    weights = stored(trainer)
    del weights["projection"]
    resumed = begin(data, PLAIN)
    resumed.load_state_dict(weights)
    assert trainer.epoch(1) == resumed.epoch(1)


def test_the_last_epochs_are_computed_with_rounding_and_go_on_from_a_checkpoint(data: Dataset) -> None:
    plain = StandaloneRecipe(epochs=2, batch_size=16, lr=0.05)
    recipe = replace(plain, quantised_epochs=1)
    trainers = [begin(data, r) for r in (plain, recipe)]
    [of_plain, of_rounded] = [[trainer.epoch(i) for i in range(2)] for trainer in trainers]
    assert of_plain[0] == of_rounded[0]
    assert of_plain[1] != of_rounded[1]
    resumed = begin(data, recipe)
    first = begin(data, recipe)
    first.epoch(0)
    resumed.load_state_dict(stored(first))
    assert resumed.epoch(1) == of_rounded[1]
