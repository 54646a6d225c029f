"""What the schedules of supernet training draw, at which rates, and by which losses their networks learn."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from nas.core import registry
from nas.core.arch import Arch
from nas.core.errors import InvalidSpec
from nas.core.events import SearchState
from nas.core.ports import Dataset, ImageShape, SearchSpace
from nas.core.spec import DataSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.stages.derived import derived_networks
from nas.stages.results import LadderResult
from nas.strategies.once_for_all import OnceForAllParams, check
from nas.training import samplers
from nas.training.alpha_divergence import alpha_divergence_loss
from nas.training.pipeline import Pipeline
from nas.training.progressive import SupernetRecipe, Training, ramp, rate
from nas.training.schedules import (
    SCHEDULES,
    Phase,
    alpha,
    attentive_best,
    attentive_worst,
    coordinated,
    curriculum,
    delayed,
    nested,
    sandwich,
)
from tests.support.small_training import few_digits, small_mobile

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return few_digits(64)


@pytest.fixture(scope="module")
def space(data: Dataset) -> SearchSpace:
    return small_mobile(data, resolutions=[6, 7, 8])


@pytest.mark.parametrize(
    ("schedule", "first_phase"),
    [("progressive", 8), ("published", 6), ("delayed", 10), ("curriculum", 12), ("alpha", 20)],
)
def test_a_warm_up_ends_within_the_first_phase(schedule: str, first_phase: int) -> None:
    fields = {"schedule": schedule, "epochs": 20, "warmup_epochs": first_phase - 0.5}
    OnceForAllParams.model_validate(fields)
    with pytest.raises(ValueError, match=f"epochs of the first phase, which are {first_phase}, got {first_phase}"):
        OnceForAllParams.model_validate({**fields, "warmup_epochs": first_phase})


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("axes", [{"resolution"}, {"kernel"}, {"depth"}, {"kernel", "depth", "expand", "width"}])
def test_a_training_takes_at_least_the_networks_by_which_ranked_ones_are_counted(name: str, axes: set[str]) -> None:
    for epochs in (20, 45, 200):
        params = OnceForAllParams.model_validate({"schedule": name, "epochs": epochs, "rank_epochs": 1})
        trained = sum(phase.epochs * phase.subnets for phase in SCHEDULES[name](epochs, 0.1, axes))
        affordable = min(12, int(0.1 * trained))  # a dozen, if that takes a tenth of the training
        assert params.ranked <= affordable


def training_by(phases: tuple[Phase, ...], space: SearchSpace, data: Dataset) -> Training:
    recipe = SupernetRecipe(phases, batch_size=16)
    return Training(space.supernet(0), space, data, Pipeline(data, "cpu"), recipe, 0)


def trained_archs(training: Training, monkeypatch: pytest.MonkeyPatch, phase: int, step: int = 0) -> list[Arch]:
    """The networks on which a step computes gradients."""
    called: list[Arch] = []
    net, forward = training._net, training._net.forward

    def record(x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        if torch.is_grad_enabled():
            called.append(arch)
        return forward(x_BCHW, arch)

    monkeypatch.setattr(net, "forward", record)
    training.step(phase, step)
    monkeypatch.setattr(net, "forward", forward)
    return called


def test_every_schedule_that_can_be_chosen_exists_and_has_all_epochs(space: SearchSpace) -> None:
    names = OnceForAllParams.model_json_schema()["properties"]["schedule"]["enum"]
    assert names == list(SCHEDULES)
    for schedule in SCHEDULES.values():
        assert sum(p.epochs for p in schedule(40, 0.1, samplers.axes(space.decisions))) == 40


@pytest.mark.parametrize("schedule", [sandwich, attentive_best, alpha, curriculum])
def test_a_sandwich_has_the_largest_and_the_smallest_once(
    schedule: object, space: SearchSpace, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(schedule)
    training = training_by(schedule(4, 0.01, samplers.axes(space.decisions)), space, data)
    training.begin(0)
    archs = trained_archs(training, monkeypatch, 0)
    count = Counter(archs)
    ends = [samplers.with_resolution(space, end(space), archs[0]) for end in (samplers.smallest, samplers.largest)]
    assert len(archs) == 4
    assert [count[end] for end in ends] == [1, 1]


def test_the_delayed_start_trains_the_largest_alone_and_then_a_sandwich(
    space: SearchSpace, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = training_by(delayed(4, 0.01, samplers.axes(space.decisions)), space, data)
    training.begin(0)
    [only] = trained_archs(training, monkeypatch, 0)
    assert only == samplers.with_resolution(space, samplers.largest(space), only)
    sorted_for: list[object] = []
    monkeypatch.setattr(training._net, "sort_channels", lambda trained: sorted_for.append(trained))
    training.begin(1)
    assert len(sorted_for) == 1
    assert len(trained_archs(training, monkeypatch, 1)) == 4


def test_delayed_rates_follow_one_cosine_and_small_networks_a_ramp(space: SearchSpace) -> None:
    first, second = delayed(100, 0.2, samplers.axes(space.decisions))
    per_epoch = 10
    assert rate(first, 499, 500, per_epoch) == pytest.approx(0.1 * (1 + math.cos(math.pi * 499 / 1000)))
    assert rate(second, 0, 500, per_epoch) == pytest.approx(0.1)  # half of the cosine
    assert rate(second, 250, 500, per_epoch) == pytest.approx(0.1 * (1 + math.cos(math.pi * 0.75)))
    ramp_steps = int(second.ramp_epochs * per_epoch)
    assert ramp_steps == 20
    effective = [ramp(second, k, 500, per_epoch) * rate(second, k, 500, per_epoch) for k in range(ramp_steps)]
    assert effective == pytest.approx([0.1 * k / ramp_steps for k in range(ramp_steps)])
    assert ramp(second, ramp_steps, 500, per_epoch) == 1.0
    assert ramp(first, 0, 500, per_epoch) == 1.0


def test_a_ramp_at_0_learns_from_the_largest_network_alone(space: SearchSpace, data: Dataset) -> None:
    phases = sandwich(1, 0.1, samplers.axes(space.decisions))
    [first_candidates, *_], size, images = training_by(phases, space, data)._batch(0, 0)
    top = samplers.with_resolution(space, samplers.largest(space), first_candidates[0])

    def weights_after(phases: tuple[Phase, ...], archs: list[Arch], factor: float) -> dict[str, torch.Tensor]:
        training = training_by(phases, space, data)
        training.begin(0)
        training.learn(0, archs, size, images, 0.1, factor)
        return training._net.state_dict()

    ramped, full = (weights_after(phases, [first_candidates[0]] * 2, factor) for factor in (0.0, 1.0))
    largest_only = weights_after((Phase("alone", 1, 0.1, 1, {}, "none"),), [top], 1.0)
    before = space.supernet(0).state_dict()
    learned = [name for name, weight in largest_only.items() if not torch.equal(weight, before[name])]
    assert len(learned) > 10
    for name in learned:
        torch.testing.assert_close(ramped[name], largest_only[name])
    assert any(not torch.allclose(full[name], largest_only[name]) for name in learned)


def test_a_ladder_is_nested_and_reaches_both_ends(space: SearchSpace, data: Dataset) -> None:
    ladder = samplers.ladder(space)
    assert (ladder[0], ladder[-1]) == (samplers.smallest(space), samplers.largest(space))
    genes_NG = np.array([arch.genes for arch in ladder])
    macs_N = space.costs(genes_NG)["macs"]
    assert (np.diff(macs_N) > 0).all()
    assert (np.diff(space.costs(genes_NG)["params"]) >= 0).all()
    training = training_by(nested(1, 0.1, samplers.axes(space.decisions)), space, data)
    trained = {training.archs(0, step)[0] for step in range(60)}
    assert trained == set(ladder)


def test_exploring_begins_with_the_ladder(space: SearchSpace) -> None:
    networks = tuple(arch.genes for arch in samplers.ladder(space))
    state = SearchState(finished={"ladder": LadderResult(networks).to_json()})
    assert [tuple(genes) for genes in derived_networks(state).tolist()] == list(networks)


def test_candidates_have_about_equal_macs(space: SearchSpace) -> None:
    pool = samplers.sample_elastic(
        space, dict.fromkeys(samplers.axes(space.decisions), 9), np.random.default_rng(0), 64
    )
    groups = samplers.of_equal_macs(space, pool, np.random.default_rng(1), 20, 3)
    macs = [space.costs(np.array([a.genes for a in group]))["macs"] for group in groups]
    pool_macs_N = space.costs(np.array([a.genes for a in pool]))["macs"]
    assert all(len(group) == 3 for group in groups)
    assert np.mean([np.ptp(m) for m in macs]) < 0.2 * np.ptp(pool_macs_N)
    assert np.ptp([m.mean() for m in macs]) > 0.5 * np.ptp(pool_macs_N)


@pytest.mark.parametrize(("schedule", "choose"), [(attentive_best, min), (attentive_worst, max)])
def test_attentive_sampling_trains_the_best_or_the_worst_on_the_batch(
    schedule: object, choose: object, space: SearchSpace, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(schedule)
    assert callable(choose)
    training = training_by(schedule(1, 0.01, samplers.axes(space.decisions)), space, data)
    training.begin(0)
    for step in range(3):
        candidates, size, images = training._batch(0, step)
        mixed = images(training._trainer.micro_batches(size)[0])
        with torch.no_grad():
            loss_of = {
                arch: float(torch.nn.functional.cross_entropy(training._net(mixed.x_BCHW, arch), mixed.y_B))
                for group in candidates
                for arch in group
            }
        expected = [choose(group, key=loss_of.__getitem__) for group in candidates]
        assert trained_archs(training, monkeypatch, 0, step)[1:3] == expected


def test_scales_are_coordinated_after_a_tenth_of_the_epochs(
    space: SearchSpace, data: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    phases = coordinated(10, 0.1, samplers.axes(space.decisions))
    assert [p.epochs for p in phases] == [1, 9]
    assert rate(phases[1], 0, 90, 10) == pytest.approx(0.05 * (1 + math.cos(math.pi * 0.1)))
    training = training_by(phases, space, data)
    training.begin(0)
    assert len(trained_archs(training, monkeypatch, 0)) == 1
    training.begin(1)
    for step in range(5):
        archs = trained_archs(training, monkeypatch, 1, step)
        macs_N = space.costs(np.array([arch.genes for arch in archs]))["macs"]
        assert len(archs) == 4
        assert (np.diff(macs_N) <= 0).all()
        ends = [samplers.with_resolution(space, end(space), archs[0]) for end in (samplers.largest, samplers.smallest)]
        assert [archs[0], archs[-1]] == ends


def test_one_network_of_each_part_of_a_pool_is_drawn(space: SearchSpace) -> None:
    generator = np.random.default_rng(0)
    pool = samplers.sample_elastic(space, dict.fromkeys(samplers.axes(space.decisions), 9), generator, 31)
    ranked = sorted(space.costs(np.array([a.genes for a in pool]))["macs"], reverse=True)
    for _ in range(20):
        larger, smaller = (
            float(space.costs(np.array([arch.genes]))["macs"][0])
            for arch in samplers.of_every_size(space, pool, generator, 2)
        )
        assert larger >= ranked[15] >= ranked[16] >= smaller


def test_each_network_learns_from_labels_and_the_next_larger(space: SearchSpace, data: Dataset) -> None:
    training = training_by(coordinated(10, 0.1, samplers.axes(space.decisions)), space, data)
    training.begin(1)
    candidates, size, images = training._batch(1, 0)
    mixed = images(training._trainer.micro_batches(size)[0])
    archs = [drawn[0] for drawn in candidates]
    top, bottom = (
        samplers.with_resolution(space, end(space), archs[0]) for end in (samplers.largest, samplers.smallest)
    )
    training._net.train()
    losses = list(training._losses(training.recipe.phases[1], archs, mixed))
    with torch.no_grad():
        logits = [training._net(mixed.x_BCHW, arch) for arch in (top, *archs, bottom)]
    expected = [torch.nn.functional.cross_entropy(y_BK, mixed.y_B, label_smoothing=0.1) for y_BK in logits]
    for i in range(1, 4):  # the divergence of Kullback and Leibler but for a constant, the entropy of the teacher
        expected[i] = expected[i] - (logits[i - 1].softmax(1) * logits[i].log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected))


def test_the_curriculum_begins_at_the_smallest_resolution(space: SearchSpace, data: Dataset) -> None:
    phases = curriculum(10, 0.1, samplers.axes(space.decisions))
    assert [p.epochs for p in phases] == [6, 2, 2]
    training = training_by(phases, space, data)
    resolutions = [{space.input_shape(training.archs(p, step)[0])[1] for step in range(40)} for p in range(3)]
    assert resolutions == [{6}, {6, 7}, {6, 7, 8}]
    assert rate(phases[1], 0, 20, 10) == pytest.approx(0.05 * (1 + math.cos(math.pi * 0.6)))


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        ((0.5, 0.5), (0.9, 0.1), 0.510826),  # 0.32 for alpha -1: alpha 1 is larger
        ((0.99, 0.01), (0.5, 0.5), 0.876),  # 0.637 for alpha 1; without clipping -1 would give 12.126
    ],
)
def test_the_alpha_divergence_is_the_larger_of_both(
    teacher: tuple[float, ...], student: tuple[float, ...], expected: float
) -> None:
    p_BK, q_BK = torch.tensor([teacher]).log(), torch.tensor([student]).log().requires_grad_()
    loss = alpha_divergence_loss(q_BK, p_BK)
    assert float(loss.detach()) == pytest.approx(expected, abs=1e-3)
    loss.backward()  # type: ignore[no-untyped-call]
    assert q_BK.grad is not None
    towards = torch.tensor(teacher) - torch.tensor(student)
    assert bool(((-q_BK.grad[0] * towards) > 0).all()), "a step moves the student towards the teacher"
    assert float(alpha_divergence_loss(p_BK, p_BK)) == pytest.approx(0.0, abs=1e-6)


def test_for_alpha_1_the_gradient_is_that_of_the_kullback_leibler_divergence() -> None:
    p_BK = torch.tensor([[0.5, 0.5]]).log()
    first, second = (torch.tensor([[0.9, 0.1]]).log().requires_grad_() for _ in range(2))
    alpha_divergence_loss(first, p_BK).backward()  # type: ignore[no-untyped-call]
    torch.nn.functional.cross_entropy(second, p_BK.exp()).backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(first.grad, second.grad)


def test_schedules_that_cannot_run_are_refused() -> None:
    def of(schedule: str, space_name: str, task: str = "single_label") -> SearchSpec:
        return SearchSpec(
            space=SpaceSpec(name=space_name, params={"preset": "digits"}),
            data=DataSpec(name="npz", path="images.npz", task=task),
            strategy=StrategySpec(params={"schedule": schedule}),
        )

    shape = ImageShape(1, 8, 8, 10)
    cells = registry.build_space(SpaceSpec(name="nas_bench_201", params={"preset": "digits"}), shape)
    with pytest.raises(InvalidSpec, match=r"curriculum.*several resolutions"):
        check(of("curriculum", "nas_bench_201"), cells)
    check(of("nested", "nas_bench_201"), cells)
    mobile = registry.build_space(SpaceSpec(params={"preset": "digits"}), shape)
    check(of("curriculum", "mobilenet_v3"), mobile)
    check(of("alpha", "mobilenet_v3"), mobile)
    with pytest.raises(InvalidSpec, match=r"alpha.*classes.*multi_label"):
        check(of("alpha", "mobilenet_v3", "multi_label"), mobile)
