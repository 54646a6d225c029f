"""What a dry run says a search will take: from few timed steps to all, and against the search itself."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.dry_run import compare, prepare
from nas.blobs import FolderBlobs
from nas.core.arch import every
from nas.core.cost_estimate import DurationRange, StageCost, average_duration, mean_seconds
from nas.core.errors import MeasurementRefused
from nas.core.events import Event, SearchState, StageFinished, fold_all
from nas.core.jobs import DevicePayload, DryRunPayload, PredictorBlob, SearchPayload
from nas.core.ports import Problem, Resources
from nas.core.spec import BudgetSpec, ObjectiveSpec, SearchSpec, StrategySpec
from nas.engine import estimate_search_cost, run_search
from nas.peak_memory import peak_memory_bytes, reset_peak_memory
from nas.schemas.dry_runs import read_cost_estimate
from nas.stages.estimate import EstimateStage, exceeds_space, most_inherited, profile_space
from nas.stages.explore import ExploreStage
from nas.strategies.once_for_all import ONCE_FOR_ALL
from predictors.storage import dump_predictor
from tests.support import fakes
from tests.support.engine import SPEC, RuleDevice, RuleRefitter, estimate_cost, problem
from workers.runner import run_job

pytestmark = pytest.mark.usefixtures("one_thread")


class Ticks:
    """A clock that work moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# From few steps to all


def test_the_average_lies_inside_the_range_that_a_few_times_leave() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.permutation(np.linspace(0.0, 1.0, 100)).tolist()
    calls: list[int] = []

    def seconds_of(i: int) -> float:
        calls.append(i)
        return 1.0 + float(sizes[i]) ** 2

    comparison = average_duration(sizes, seconds_of)
    truth = float(np.mean([1.0 + s**2 for s in sizes]))
    assert comparison.count == 4
    assert len(calls) == 5  # and one to warm up: the smallest
    assert calls[0] == int(np.argmin(sizes))
    assert (comparison.smallest_s, comparison.largest_s) == (1.0, 2.0)
    assert comparison.span.low_s < truth < comparison.span.high_s
    assert comparison.span.seconds == pytest.approx(truth, rel=0.03)
    assert average_duration(sizes, lambda i: 2.0 + sizes[i], patience_s=3.0).count == 2  # slow: the two ends only


def test_spans_add_and_multiply() -> None:
    assert DurationRange(1.0, 2.0, 3.0) * 2 + DurationRange.exact(1.0) == DurationRange(3.0, 5.0, 7.0)
    cost = StageCost.of("train", DurationRange(8.0, 10.0, 20.0), 5, 2)
    assert cost.low_s is not None
    assert cost.high_s is not None
    assert cost.low_s < 8.0
    assert cost.high_s > 20.0
    assert cost.seconds == 10.0


def test_short_work_is_repeated_and_long_work_is_not() -> None:
    clock = Ticks()

    def work(seconds: float) -> None:
        clock.now += seconds

    assert mean_seconds(clock, lambda: work(0.03), at_least_s=0.1) == pytest.approx(0.03)
    assert clock.now == pytest.approx(0.12)
    assert mean_seconds(clock, lambda: work(5.0)) == 5.0
    assert clock.now == pytest.approx(5.12)
    assert mean_seconds(clock, lambda: work(0.0), max_runs=7) == 0.0


def test_peak_memory_is_that_since_it_was_forgotten() -> None:
    size = 60_000_000
    np.ones(size, dtype=np.uint8)
    reset_peak_memory("cpu")
    before = peak_memory_bytes("cpu")
    buffer = np.ones(size, dtype=np.uint8)
    assert peak_memory_bytes("cpu") - before == pytest.approx(buffer.nbytes, rel=0.3)
    del buffer
    reset_peak_memory("cpu")
    assert peak_memory_bytes("cpu") - before < 0.5 * size


# Stages


@pytest.mark.long
def test_every_stage_of_a_search_says_what_it_takes(tmp_path: Path) -> None:
    device = RuleDevice()
    cost = estimate_cost(tmp_path, problem(), device=device, refit=RuleRefitter())
    assert [s.stage for s in cost.stages] == ["estimate", "train", "explore", "verify", "refine", "export"]
    assert (cost.confidence, cost.worker, cost.evaluations) == ("measured", "bench", 16)
    for s in cost.stages:
        assert s.low_s is not None
        assert s.seconds is not None
        assert s.high_s is not None
        assert 0 < s.low_s < s.seconds < s.high_s
        assert s.timed >= 1
        assert s.memory_bytes is not None
        assert s.memory_bytes > 50e6
    # Three batches of 40 in an epoch; each of the six phases is at least one epoch long.
    assert [s.steps for s in cost.stages] == [1, 18, 32, 8, 3, 2]
    assert cost.stages[1].timed >= 2 * 6
    assert cost.seconds == pytest.approx(sum(s.seconds or 0.0 for s in cost.stages))
    assert cost.low_s < cost.seconds < cost.high_s
    assert cost.cpu_hours == pytest.approx(cost.seconds / 3600)
    assert cost.gpu_hours == 0.0
    assert device.measured <= 3
    assert "not known beforehand" in cost.stages[5].note


@pytest.mark.long
def test_more_of_everything_costs_more(tmp_path: Path) -> None:
    small = estimate_cost(tmp_path, problem())
    more = SPEC.model_copy(
        update={
            "strategy": StrategySpec(params={"epochs": 60, "batch_size": 40}),
            "budget": BudgetSpec(evaluations=160, verified=16),
        }
    )
    large = estimate_cost(tmp_path, problem(more))
    for a, b in zip(small.stages[1:4], large.stages[1:4], strict=True):
        assert (b.seconds or 0.0) > 2 * (a.seconds or 0.0)
        assert b.steps > 2 * a.steps


@pytest.mark.long
def test_a_reused_supernet_costs_no_training(tmp_path: Path) -> None:
    p = problem()
    events = run_search(
        p, ONCE_FOR_ALL.stages(p)[:2], Resources(FolderBlobs(tmp_path), RuleDevice(), Ticks()), SearchState()
    )
    supernet = fold_all(events).finished["train"]["supernet"]
    cost = estimate_cost(tmp_path, problem(supernet=supernet))
    train = cost.stages[1]
    assert (train.seconds, train.high_s, train.steps, train.timed) == (0.0, 0.0, 0, 0)
    assert "trained already" in train.note
    assert cost.confidence == "measured"


class Mystery:
    """A stage that cannot tell what it takes."""

    name = "mystery"

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        return StageCost.unknown(self.name, "this stage cannot say what it takes")

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        raise NotImplementedError


def test_a_stage_that_cannot_say_what_it_takes_is_named_and_gets_no_number(tmp_path: Path) -> None:
    cost = estimate_cost(tmp_path, problem(), (EstimateStage(), Mystery()))
    estimate, mystery = cost.stages
    assert cost.confidence == "partial"
    assert (mystery.seconds, mystery.low_s, mystery.high_s, mystery.timed) == (None, None, None, 0)
    assert "cannot say" in mystery.note
    assert cost.seconds == estimate.seconds


@pytest.mark.long
def test_what_is_finished_costs_nothing(tmp_path: Path) -> None:
    p = problem()
    state = SearchState(finished={"estimate": {}, "train": {}, "verify": {}, "export": {}})
    resources = Resources(FolderBlobs(tmp_path), RuleDevice(), Ticks())
    *_, last = estimate_search_cost(p, ONCE_FOR_ALL.stages(p), resources, state)
    assert isinstance(last, StageFinished)
    cost = read_cost_estimate(last.result)
    assert [s.stage for s in cost.stages if s.timed] == ["explore"]


def test_what_could_not_run_cannot_be_priced(tmp_path: Path) -> None:
    def refuses(models: object, profile: object, networks: object) -> Iterator[object]:
        raise MeasurementRefused("this is not the device")
        yield

    with pytest.raises(MeasurementRefused, match="not the device"):
        estimate_cost(tmp_path, problem(), ONCE_FOR_ALL.stages(problem())[3:], refuses)


def test_bounds_leave_open_how_many_networks_will_be_verified(tmp_path: Path) -> None:
    free = estimate_cost(tmp_path, problem(), ONCE_FOR_ALL.stages(problem())[3:4])
    bounded = SPEC.model_copy(
        update={"objectives": (ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=5.0))}
    )
    estimate_of_all = estimate_cost(tmp_path, problem(bounded), ONCE_FOR_ALL.stages(problem())[3:4])
    assert (estimate_of_all.low_s or 0.0) < 0.5 * (free.low_s or 0.0)


@pytest.mark.long
def test_a_worker_prices_a_search_as_it_would_run_it(tmp_path: Path) -> None:
    p, _, resources = prepare(SPEC, tmp_path)
    predictor = PredictorBlob("bayesian_linear", resources.blobs.put(dump_predictor(p.predictor)))
    search = SearchPayload(SPEC, (DevicePayload(SPEC.device, p.profile, predictor, "version"),))
    *before, [last] = run_job(DryRunPayload(search), str(tmp_path), [])
    assert {event["kind"] for batch in before for event in batch} == {"stage_started", "progress"}
    cost = read_cost_estimate(last["result"])
    assert (last["stage"], cost.worker, cost.confidence) == ("cost_estimate", platform.node(), "measured")
    assert 0.3 < cost.stages[3].low_s < cost.stages[3].seconds  # type: ignore[operator]


# What a space profile says about a small space


def test_a_budget_beyond_a_small_space_is_found_before_it_is_spent() -> None:
    space = fakes.TinySpace({}, fakes.ImageShape(1, 8, 8, 10))
    comparison = profile_space(space, None)
    assert comparison.networks == len({tuple(g) for g in space.canonical(every(space.decisions)).tolist()}) == 52

    def refusals(evaluations: int, inherited: int) -> list[str]:
        spec = SearchSpec(budget=BudgetSpec(evaluations=evaluations))
        return [str(e) for e in exceeds_space(spec, comparison, inherited)]

    assert refusals(52, 0) == refusals(20, 32) == []
    assert "at most 52" in refusals(53, 0)[0]
    assert "at most 20" in refusals(21, 32)[0]
    points = [
        fakes.candidate((0, 0, 0), 1.0),
        fakes.candidate((1, 0, 0), 1.0),
        fakes.candidate((0, 0, 0), 1.0, "baseline"),
    ]
    assert most_inherited(points) == 2
    assert most_inherited([]) == 0


def test_the_surrogate_of_a_price_needs_no_estimate(tmp_path: Path) -> None:
    cost = estimate_cost(tmp_path, problem(), (ExploreStage(rounds=1),))
    assert cost.stages[0].steps == 32


@pytest.mark.long
@pytest.mark.slow
def test_a_dry_run_predicts_what_the_search_takes() -> None:
    """Computing time, so that other programs on the machine do not matter."""
    spec = SearchSpec(strategy=StrategySpec(params={"epochs": 6}), budget=BudgetSpec(evaluations=16, verified=4))
    comparison = compare(spec)
    assert 1 / 1.5 < comparison["total"]["ratio"] < 1.5, comparison
    for stage in ("train", "explore", "verify", "export"):
        assert comparison["stages"][stage]["inside"], (stage, comparison)
    assert 1 / 1.5 < comparison["memory_ratio"] < 1.5
