"""Measuring on a synthetic device whose truth is known, the predictors' contract, calibrated bounds, onboarding."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.core import registry
from nas.core.arch import Arch, Floats
from nas.core.device import DeviceProfile, Measurement, MeasurementProtocol, verdict
from nas.core.errors import InvalidInput, MeasurementRefused
from nas.core.events import Event, SearchState, fold_all
from nas.core.ports import ImageShape, SearchSpace
from nas.core.spec import DeviceSpec
from predictors.bayesian_linear import BayesianLinear, Prior
from predictors.calibration import upper_factor
from predictors.measure import (
    Stopwatch,
    canary_model,
    describe_machine,
    measure,
    measure_isolated,
    measure_runs,
    median_interval,
    profile_machine,
)
from predictors.onboarding import onboard, stratified
from predictors.storage import dump_predictor, load_predictor
from server.store.blobs import open_blobs

PROTOCOL = MeasurementProtocol()


def profile(canary_ms: float | None = 0.2) -> DeviceProfile:
    return DeviceProfile("synthetic", "m", "p", 2, "r", "1", "os", PROTOCOL, (0,), canary_ms)


class SyntheticDevice:
    """A clock in nanoseconds that runs advance by their true cost, disturbed as told."""

    def __init__(
        self,
        *,
        noise: float = 0.0,
        spikes: float = 0.0,
        drift: Callable[[float], float] = lambda _: 1.0,
        granularity_ns: int = 1,
        quiet_ms: float = math.inf,
    ) -> None:
        self.now = 0.0
        self.interruptions = 0
        self.rng = np.random.default_rng(0)
        self.noise, self.spikes, self.drift, self.granularity_ns = noise, spikes, drift, granularity_ns
        self.quiet_ms = quiet_ms  # how long another program leaves the core alone before it takes it for 4 ms
        self.taken_at = quiet_ms * 1e6

    def clock(self) -> int:
        return int(self.now) // self.granularity_ns * self.granularity_ns

    def run(self, cost_ms: float) -> Callable[[], object]:
        def go() -> None:
            factor = self.drift(self.now / 1e6) * (1 + self.noise * abs(self.rng.standard_normal()))
            if self.rng.random() < self.spikes:
                factor *= 10
            left = cost_ms * factor * 1e6
            while self.now + left > self.taken_at:
                left -= self.taken_at - self.now
                self.now = self.taken_at + 4e6
                self.taken_at = self.now + self.quiet_ms * 1e6
                self.interruptions += 1
            self.now += left

        return go

    def measure(self, costs_ms: Sequence[float]) -> list[Measurement]:
        runs = [self.run(c) for c in costs_ms]
        watch = Stopwatch(self.clock, lambda: self.interruptions)
        return measure_runs(runs, self.run(0.2), profile(), watch, np.random.default_rng(0))


TRUTH = [0.05, 0.2, 1.0, 3.0]


@pytest.mark.parametrize(
    "device",
    [
        SyntheticDevice(),
        SyntheticDevice(noise=0.01),
        SyntheticDevice(spikes=0.1),
        SyntheticDevice(granularity_ns=1000),
        SyntheticDevice(quiet_ms=4),
        SyntheticDevice(drift=lambda ms: 1.25),  # slower throughout, as after a clock-rate change
        SyntheticDevice(drift=lambda ms: 1.0 + 0.2 * min(ms / 5000, 1.0)),  # slower and slower
    ],
    ids=["calm", "noise", "spikes", "coarse timer", "shared", "slow", "drifting"],
)
def test_the_truth_is_recovered(device: SyntheticDevice) -> None:
    for measured, truth in zip(device.measure(TRUTH), TRUTH, strict=True):
        assert measured.refused is None
        assert measured.median_ms == pytest.approx(truth, rel=0.02)


def test_spikes_would_have_fooled_the_mean() -> None:
    device = SyntheticDevice(spikes=0.1)
    run = device.run(1.0)
    before = device.now
    for _ in range(1000):
        run()
    assert (device.now - before) / 1e9 > 1.5


def test_a_restless_device_is_refused_with_the_reason() -> None:
    rng = np.random.default_rng(1)
    level: dict[int, float] = {}
    restless = SyntheticDevice(drift=lambda ms: level.setdefault(int(ms // 7), float(rng.uniform(0.5, 2.0))))
    refused = [m for m in restless.measure(TRUTH) if m.refused is not None]
    assert refused
    assert all(m.median_ms is None and "vary" in str(m.refused) for m in refused)
    slow = SyntheticDevice(drift=lambda ms: 2.0).measure(TRUTH)
    assert all(m.median_ms is None and "canary" in str(m.refused) for m in slow)
    with pytest.raises(MeasurementRefused, match="too coarse"):
        SyntheticDevice(granularity_ns=100_000_000).measure([0.05])


def test_a_network_that_is_always_interrupted_is_refused() -> None:
    """Every inference of 5 ms contains a pause of 4 ms: steady, and wrong by 80 %."""
    short, long = SyntheticDevice(quiet_ms=4).measure([0.5, 5.0])
    assert short.median_ms == pytest.approx(0.5, rel=0.02)
    assert long.median_ms is None
    assert "another program took the processor" in str(long.refused)
    assert Measurement.from_json(json.loads(json.dumps(long.as_json(), allow_nan=False))) == long


def test_what_was_unsteady_is_measured_again() -> None:
    """A storm of a second spoils the first attempt; networks that were steady are left as they were."""
    rng = np.random.default_rng(1)
    level: dict[int, float] = {}

    def storm(ms: float) -> float:
        return level.setdefault(int(ms // 7), float(rng.uniform(1.0, 3.0))) if 100 < ms < 900 else 1.0

    for measured, truth in zip(SyntheticDevice(drift=storm).measure(TRUTH), TRUTH, strict=True):
        assert measured.refused is None
        assert measured.variation <= PROTOCOL.good_variation
        assert measured.median_ms == pytest.approx(truth, rel=0.02)


def test_a_refused_measurement_verifies_nothing() -> None:
    refused = Measurement("p", "d", None, None, None, 10, 0.5, 1.0, refused="samples vary")
    assert verdict(refused, 100.0) == "unverified"
    measured = Measurement("p", "d", 1.0, 0.9, 1.1, 10, 0.01, 1.0)
    assert verdict(measured, 1.0) == "verified"
    assert verdict(measured, 0.999) == "violated"


def test_the_interval_covers_the_median() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        low, high = median_interval(rng.exponential(size=9))
        hits += low <= np.log(2) <= high
    assert hits / 2000 > 0.94


@pytest.mark.slow
def test_a_real_model_is_measured_in_a_process_of_its_own() -> None:
    here = profile_machine("here")
    assert here.canary_ms is not None
    assert 0.001 < here.canary_ms < 50
    try:
        [again] = measure_isolated([canary_model()], here)
    except MeasurementRefused as error:
        pytest.fail(str(error))
    assert again.refused is not None or again.median_ms == pytest.approx(here.canary_ms, rel=0.2)
    assert len(again.samples_ms) == here.protocol.rounds
    with pytest.raises(MeasurementRefused, match="cannot load"):
        list(measure_isolated([b"not a model"], here))


def test_another_machine_is_not_measured_in_this_ones_name() -> None:
    here = describe_machine("here", PROTOCOL)
    for change in ({"processor": "a slower one"}, {"runtime_version": "0.1"}):
        with pytest.raises(MeasurementRefused, match=f"expected {next(iter(change))}.*Add the device again"):
            next(measure([canary_model()], replace(here, **change)))
    with pytest.raises(MeasurementRefused, match="allowed are"):
        next(measure([canary_model()], replace(here, affinity=(4095,))))


# Calibration


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_bound_covers_new_networks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    covered = []
    for _ in range(60):
        ratio = rng.lognormal(sigma=0.1, size=61)
        factor = upper_factor(ratio[:60], np.ones(60))
        covered.append(ratio[60] <= factor)
    assert np.mean(covered) > 0.80  # 0.95 expected; 60 draws, five standard deviations


def test_the_bound_at_hand_can_be_trusted() -> None:
    """Of many calibrations, nine in ten yield a factor that covers at least 95 % of all networks."""
    rng = np.random.default_rng(0)
    for n in (45, 120):
        factors = [upper_factor(rng.lognormal(sigma=0.1, size=n), np.ones(n)) for _ in range(500)]
        truly_95 = math.exp(0.1 * 1.6448536)  # 95 % quantile of the ratios
        assert 0.86 <= np.mean(np.array(factors) >= truly_95) <= 0.96


def test_too_few_networks_give_no_bound() -> None:
    with pytest.raises(InvalidInput, match=r"at least 19.*got 10"):
        upper_factor(np.ones(10), np.ones(10))
    assert upper_factor(np.full(19, 0.5), np.ones(19)) == 1.0


# The contract of predictor families


@pytest.fixture(params=registry.names("nas.predictors"))
def family(request: pytest.FixtureRequest) -> type:
    kind: type = registry.load("nas.predictors", request.param)
    return kind


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    built: SearchSpace = registry.load("nas.search_spaces", "mobilenet_v3")(
        {"preset": "digits"}, ImageShape(1, 8, 8, 10)
    )
    return built


def planted(space: SearchSpace, n: int, noise: float, seed: int = 0) -> tuple[Floats, Floats]:
    """Features and latencies of a device whose latency is a positive sum over layers, with relative noise."""
    genes, _ = stratified(space, n, seed)
    features = space.features(genes)
    rng = np.random.default_rng(99)
    weights = rng.random(features.shape[1]) / features.std(0)
    latency = 0.02 + 0.01 * features @ weights
    return features, latency * (1 + noise * np.random.default_rng(seed).standard_normal(n))


def test_a_predictor_learns_an_additive_device_from_few_networks(family: type, space: SearchSpace) -> None:
    x, y = planted(space, 160, noise=0.01)
    predictor = family.fit(x[:72], y[:72])  # type: ignore[attr-defined]
    latency = predictor.predict(x[72:])
    assert np.mean(np.abs(latency.mean_ms - y[72:]) / y[72:]) < 0.02
    assert 0.85 <= np.mean(y[72:] <= latency.upper_ms) <= 1.0


def test_a_predictor_is_a_value(family: type, space: SearchSpace) -> None:
    x, y = planted(space, 60, noise=0.02)
    predictor = family.fit(x, y)  # type: ignore[attr-defined]
    again = load_predictor(predictor.family, dump_predictor(predictor))
    a, b = predictor.predict(x), again.predict(x)
    assert np.array_equal(a.mean_ms, b.mean_ms)
    assert np.array_equal(a.upper_ms, b.upper_ms)
    one = predictor.predict(x[:1])
    assert one.mean_ms[0] == pytest.approx(a.mean_ms[0])
    assert (a.upper_ms >= a.mean_ms).all()
    assert (predictor.predict(np.zeros_like(x)).mean_ms > 0).all()


def test_a_known_device_stands_in_for_measurements(space: SearchSpace) -> None:
    x, y = planted(space, 200, noise=0.02)
    known = BayesianLinear.fit(x, 3.0 * y)  # three times as slow, layer by layer
    weights = known.weights_F / 3.0
    prior = Prior(weights, np.diag((0.1 * weights) ** 2))
    few = slice(0, 22)
    error = [
        np.mean(np.abs(BayesianLinear.fit(x[few], y[few], prior=p).predict(x[22:]).mean_ms / y[22:] - 1))
        for p in (prior, None)
    ]
    assert error[0] < 0.75 * error[1]


def test_units_of_features_do_not_matter(family: type, space: SearchSpace) -> None:
    x, y = planted(space, 60, noise=0.02)
    scale = np.geomspace(1e-3, 1e3, x.shape[1])
    a = family.fit(x, y).predict(x).mean_ms  # type: ignore[attr-defined]
    b = family.fit(x * scale, y).predict(x * scale).mean_ms  # type: ignore[attr-defined]
    np.testing.assert_allclose(a, b, rtol=1e-5)


def test_nonsense_is_refused(family: type, space: SearchSpace) -> None:
    x, y = planted(space, 40, noise=0.0)
    with pytest.raises(InvalidInput, match="at least 20"):
        family.fit(x[:5], y[:5])  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match="positive"):
        family.fit(x, -y)  # type: ignore[attr-defined]


# Onboarding


def test_the_sample_is_stratified_and_distinct(space: SearchSpace) -> None:
    genes, held_out = stratified(space, 96, 0)
    assert len(np.unique(genes, axis=0)) == len(genes) == 96
    assert 20 <= held_out.sum() <= 28
    work = np.log(space.costs(genes)["macs"])
    for part in (work[held_out], work[~held_out]):
        counts, _ = np.histogram(part, bins=4, range=(work.min(), work.max()))
        assert counts.min() >= 2
    assert not held_out[[work.argmin(), work.argmax()]].any()


class FakeDevice:
    """Measures by a rule; counts how many networks it measured, and can die after some."""

    def __init__(self, dies_after: int | None = None, refuses: bool = False) -> None:
        self.measured = 0
        self.dies_after = dies_after
        self.refuses = refuses

    def __call__(self, models: Sequence[bytes], device: DeviceProfile) -> Iterator[Measurement]:
        for model in models:
            if self.dies_after is not None and self.measured >= self.dies_after:
                raise KeyboardInterrupt
            self.measured += 1
            ms = None if self.refuses else float(model)
            yield Measurement("p", device.id, ms, ms, ms, 9, 0.0, 1.0, refused="restless" if self.refuses else None)


def run_onboarding(space: SearchSpace, device: FakeDevice, folder: Path, state: SearchState) -> Iterator[Event]:
    x, y = planted(space, 200, noise=0.01)
    rule = registry.load("nas.predictors", "bayesian_linear").fit(x, y)

    def export(arch: Arch) -> bytes:
        return repr(float(rule.predict(space.features(np.array([arch.genes]))).mean_ms[0])).encode()

    spec = DeviceSpec(samples=48)
    clock = iter(np.arange(1e6)).__next__
    return onboard(spec, space, export, device, lambda *_: profile(), open_blobs(str(folder)), state, clock)


def test_onboarding_goes_on_without_measuring_twice(space: SearchSpace, tmp_path: Path) -> None:
    events: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        events.extend(run_onboarding(space, FakeDevice(dies_after=35), tmp_path, SearchState()))
    state = fold_all(events)
    kept = state.checkpoints["measure"].step
    assert 0 < kept <= 35
    fresh = FakeDevice()
    state = fold_all(run_onboarding(space, fresh, tmp_path, state), state)
    assert fresh.measured == 48 - kept
    card = state.finished["fit"]["card"]
    assert card["n"] + card["held_out"] == 48
    assert card["mape"] < 2.0
    assert card["spearman"] > 0.97
    undisturbed = fold_all(run_onboarding(space, FakeDevice(), tmp_path, SearchState()))
    assert undisturbed.finished["fit"]["blob"] == state.finished["fit"]["blob"]


def test_a_restless_machine_is_not_added(space: SearchSpace, tmp_path: Path) -> None:
    with pytest.raises(MeasurementRefused, match="too unsteady: 16 of 16"):
        list(run_onboarding(space, FakeDevice(refuses=True), tmp_path, SearchState()))
