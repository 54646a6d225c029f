"""Training a supernet: schedules, the sum of gradients, resuming, and that shrinking does what it is for."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from pydantic import JsonValue

from nas.core.errors import HwnasError
from nas.core.ports import Dataset, SearchSpace
from nas.training import samplers
from nas.training.augment import Augmentation
from nas.training.calibration import recalibrate
from nas.training.criterion import Criterion
from nas.training.pipeline import Pipeline
from nas.training.progressive import Step, SupernetRecipe, Training, train
from nas.training.schedules import PUBLISHED, Phase, attentive_best, delayed, progressive_shrinking, sandwich
from nas.training.state import TrainState
from tests.support.small_training import few_digits, small_mobile

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL: dict[str, JsonValue] = {"resolutions": [6, 8], "final": 32, "hidden": 32}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return few_digits(320)


@pytest.fixture(scope="module")
def space(data: Dataset) -> SearchSpace:
    return small_mobile(data, **SMALL)


def weights_after(
    space: SearchSpace, data: Dataset, recipe: SupernetRecipe, start: TrainState, stop_at: int | None
) -> TrainState:
    """Trains until ``stop_at`` steps were done in all (None: to the end); saves after every step."""
    net = space.supernet(0)
    last, done = start, 0
    for update in train(net, space, data, Pipeline(data, "cpu"), recipe, 3, start, lambda: True):
        if isinstance(update, TrainState):
            last = TrainState.from_bytes(update.to_bytes(), "cpu")
            if stop_at is not None and done >= stop_at:
                break
        else:
            done = update.done
    return last


@pytest.mark.long
@pytest.mark.parametrize("schedule", [progressive_shrinking, sandwich, delayed, attentive_best])
def test_resuming_at_any_step_ends_in_the_same_weights(schedule: object, space: SearchSpace, data: Dataset) -> None:
    assert callable(schedule)
    phases = schedule(1 if schedule is progressive_shrinking else 2, 0.05, samplers.axes(space.decisions))
    recipe = SupernetRecipe(phases, batch_size=80)
    uninterrupted = weights_after(space, data, recipe, TrainState(), None)
    assert uninterrupted.weights is not None
    for stop in (1, 4):  # inside a phase and between two
        resumed = weights_after(space, data, recipe, weights_after(space, data, recipe, TrainState(), stop), None)
        assert resumed.weights is not None
        assert all(torch.equal(v, resumed.weights["net"][k]) for k, v in uninterrupted.weights["net"].items()), stop


def test_progressive_shrinking_opens_one_dimension_after_the_other(space: SearchSpace) -> None:
    phases = progressive_shrinking(100, 0.1, samplers.axes(space.decisions))
    assert [p.name for p in phases] == ["largest", "kernel", "depth 1", "depth 2", "width 1", "width 2"]
    assert sum(p.epochs for p in phases) == 100
    assert [p.teacher for p in phases] == ["none"] + ["frozen"] * 5
    assert [p.subnets for p in phases] == [1, 1, 2, 2, 4, 4]
    counts = np.array([len(d.choices) for d in space.decisions])
    for phase in phases:
        sampled = samplers.sample_elastic(space, phase.elastic, np.random.default_rng(0), 400)
        genes = np.array([a.genes for a in sampled])
        for axis in ("kernel", "depth", "expand", "width"):
            at = [i for i, d in enumerate(space.decisions) if d.axis == axis]
            if axis not in phase.elastic and axis not in ("kernel", "expand"):
                assert (genes[:, at] == counts[at] - 1).all(), (phase.name, axis)
    everything = samplers.sample_elastic(space, phases[-1].elastic, np.random.default_rng(0), 2000)
    assert {a.genes[1] for a in everything} == {0, 1, 2}


def test_the_published_plan_has_published_lengths_and_rates() -> None:
    phases = progressive_shrinking(590, 0.1, {"resolution", "kernel", "depth", "expand"}, PUBLISHED)
    assert [p.epochs for p in phases] == [180, 120, 25, 120, 25, 120]
    kernel = phases[1].lr
    assert [p.lr / kernel for p in phases[2:]] == pytest.approx([1 / 12, 1 / 4, 1 / 12, 1 / 4])


WIDE: dict[str, JsonValue] = {**SMALL, "expands": [2, 3, 4], "widths": [0.5, 0.75, 1.0]}


def test_channels_are_sorted_before_each_phase_that_narrows(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    space = small_mobile(data, **WIDE)
    phases = progressive_shrinking(6, 0.1, samplers.axes(space.decisions))
    net = space.supernet(0)
    training = Training(net, space, data, Pipeline(data, "cpu"), SupernetRecipe(phases, batch_size=64), 0)
    trained: dict[str, list[tuple[int, ...]]] = {}
    for number, phase in enumerate(phases):
        monkeypatch.setattr(
            net, "sort_channels", lambda archs, name=phase.name: trained.update({name: [a.genes for a in archs]})
        )
        training.begin(number)
    assert list(trained) == ["width 1", "width 2"]
    axes = [d.axis for d in space.decisions]
    assert trained["width 1"] == [samplers.largest(space).genes]
    pairs = {(genes[axes.index("width")], genes[axes.index("expand")]) for genes in trained["width 2"]}
    assert pairs == {(2, 2), (2, 1), (1, 2), (1, 1)}


def test_sorting_channels_keeps_trained_networks_and_orders_the_others(data: Dataset) -> None:
    space = small_mobile(data, **WIDE)
    net = space.supernet(0).eval()
    phases = progressive_shrinking(6, 0.1, samplers.axes(space.decisions))
    training = Training(net, space, data, Pipeline(data, "cpu"), SupernetRecipe(phases, batch_size=64), 0)
    elastic = phases[4].elastic  # the two largest widths and expansions
    archs = [samplers.largest(space), *samplers.sample_elastic(space, elastic, np.random.default_rng(0), 8)]
    x = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = [net(x, arch) for arch in archs]
        net.sort_channels(training._trained_widths(elastic))
        for arch, logits in zip(archs, before, strict=True):
            torch.testing.assert_close(net(x, arch), logits, rtol=1e-4, atol=1e-5)
        # Whole channels are sorted where only the largest network was trained, between blocks as well.
        net.sort_channels()
        last = net.stages[-1]  # type: ignore[union-attr, index]
        importance = net.final.weight.abs().sum((0, 2, 3))  # type: ignore[union-attr]
        importance = importance + sum(block.expand.weight.abs().sum((0, 2, 3)) for block in last[1:])
        assert (importance.diff() <= 1e-5).all()
        torch.testing.assert_close(net(x, archs[0]), before[0], rtol=1e-4, atol=1e-5)


def test_the_frozen_teacher_has_no_dropout(data: Dataset) -> None:
    space = small_mobile(data, **SMALL, dropout=0.9)
    phases = progressive_shrinking(6, 0.1, samplers.axes(space.decisions))
    net = space.supernet(0)
    training = Training(net, space, data, Pipeline(data, "cpu"), SupernetRecipe(phases, batch_size=64), 0)
    training.begin(0)
    training.begin(1)
    teacher = training._teacher
    assert teacher is not None
    teacher.train()
    top = samplers.largest(space)
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(teacher(x, top), teacher(x, top))
        assert not torch.equal(net.train()(x, top), net(x, top))
    resumed = Training(space.supernet(1), space, data, Pipeline(data, "cpu"), SupernetRecipe(phases, batch_size=64), 0)
    resumed.restore(TrainState.from_bytes(training.state(1, 1).to_bytes(), "cpu").weights or {})
    assert resumed._teacher is not None
    assert resumed._teacher.dropout == 0.0


def test_a_space_without_depth_skips_its_phases() -> None:
    phases = progressive_shrinking(50, 0.1, {"resolution", "kernel"})
    assert [p.name for p in phases] == ["largest", "kernel", "width 2"]
    assert sum(p.epochs for p in phases) == 50


def test_all_subnets_of_a_step_share_the_resolution(space: SearchSpace) -> None:
    for seed in range(20):
        sampled = samplers.sample_elastic(space, {"resolution": 9, "depth": 9}, np.random.default_rng(seed), 4)
        assert len({space.input_shape(a) for a in sampled}) == 1


def test_gradients_of_a_step_are_summed(space: SearchSpace, data: Dataset) -> None:
    """With one phase of two equal subnets, momentum free, the step is twice as long as with one subnet."""

    def moved(subnets: int) -> torch.Tensor:
        phase = Phase("x", 1, 1e-3, subnets, {}, "none")
        recipe = SupernetRecipe((phase,), batch_size=len(data.train), momentum=0.0, weight_decay=0.0, clip_norm=1e9)
        recipe = dataclasses.replace(recipe, momentum=1e-9)
        net = space.supernet(0)
        before = net.classifier.weight.detach().clone()  # type: ignore[union-attr]
        for _ in train(net, space, data, Pipeline(data, "cpu"), recipe, 0, TrainState(), lambda: False):
            pass
        return (net.classifier.weight.detach() - before).clone()  # type: ignore[union-attr]

    one, two = moved(1), moved(2)
    torch.testing.assert_close(two, 2 * one, rtol=1e-3, atol=1e-7)


def test_divergence_is_an_error_that_names_the_learning_rate(space: SearchSpace, data: Dataset) -> None:
    phase = Phase("x", 20, 1e12, 1, {}, "none")
    recipe = SupernetRecipe((phase,), batch_size=64, clip_norm=1e30)
    with pytest.raises(HwnasError, match=r"diverged.*learning rate"):
        for _ in train(space.supernet(0), space, data, Pipeline(data, "cpu"), recipe, 0, TrainState(), lambda: False):
            pass


@pytest.mark.slow
@pytest.mark.long
def test_shrinking_makes_small_networks_good(data: Dataset, space: SearchSpace) -> None:
    """The smallest network of a shrunk supernet beats the same part of weights trained for the largest one alone."""
    pipeline = Pipeline(data, "cpu")
    small = samplers.smallest(space)

    def accuracy(phases: tuple[Phase, ...]) -> float:
        net = space.supernet(0)
        for update in train(
            net, space, data, pipeline, SupernetRecipe(phases, batch_size=32), 0, TrainState(), lambda: False
        ):
            assert isinstance(update, Step | TrainState)
        module = net.subnet(small)
        resolution = space.input_shape(small)[1]
        recalibrate(module, (x for x, _ in pipeline.plain(data.train, resolution)))
        return Criterion(data, "cpu").score(module, pipeline.plain(data.val, resolution)).quality

    axes = samplers.axes(space.decisions)
    shrunk = accuracy(progressive_shrinking(24, 0.1, axes))
    largest_only = accuracy((Phase("largest", 24, 0.1, 1, {"resolution": 9}, "none"),))
    assert shrunk > largest_only + 5.0
    assert shrunk > 60.0


@pytest.mark.long
def test_a_supernet_with_averages_and_mixed_images_resumes(space: SearchSpace, data: Dataset) -> None:
    recipe = SupernetRecipe(
        progressive_shrinking(1, 0.05, samplers.axes(space.decisions)),
        batch_size=160,
        ema_decay=0.9,
        mixup=0.4,
        augmentation=Augmentation(min_crop_area=0.5, cutout=0.3),
    )
    uninterrupted = weights_after(space, data, recipe, TrainState(), None)
    assert uninterrupted.weights is not None
    resumed = weights_after(space, data, recipe, weights_after(space, data, recipe, TrainState(), 2), None)
    assert resumed.weights is not None
    assert all(torch.equal(v, resumed.weights["net"][k]) for k, v in uninterrupted.weights["net"].items())


def test_a_phase_ends_with_the_average_of_its_weights(space: SearchSpace, data: Dataset) -> None:
    phases = sandwich(1, 0.05, samplers.axes(space.decisions))
    recipe = SupernetRecipe(phases, batch_size=80, ema_decay=0.9)
    net = space.supernet(0)
    training = Training(net, space, data, Pipeline(data, "cpu"), recipe, 0)
    training.begin(0)
    training.step(0, 0)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    training.step(0, 1)
    after = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    training.end()
    name = next(n for n, p in net.named_parameters() if not torch.equal(before[n], after[n]))
    torch.testing.assert_close(net.state_dict()[name], torch.lerp(after[name], before[name], 2 / 11))
