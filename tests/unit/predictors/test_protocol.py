"""The measuring protocol on a synthetic device whose truth is known, and with the real runtime."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from nas.core.device import DeviceProfile, Measurement, MeasurementProtocol, verdict
from nas.core.errors import InvalidInput, MeasurementRefused
from predictors.measurement.onnx_runtime import (
    canary_model,
    describe_machine,
    measure,
    measure_isolated,
    profile_machine,
)
from predictors.measurement.protocol import Stopwatch, Timing, judge, measure_runs, median_interval, time_loading

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
        warming: float = 0.0,
        jumps: Mapping[float, float] | None = None,
    ) -> None:
        self.now = 0.0
        self.interruptions = 0
        self.rng = np.random.default_rng(0)
        self.noise, self.spikes, self.drift, self.granularity_ns = noise, spikes, drift, granularity_ns
        self.quiet_ms = quiet_ms  # how long another program leaves the core alone before it takes it for 4 ms
        self.taken_at = quiet_ms * 1e6
        self.warming = warming  # how much slower the first run of a network is; that halves every 20 ms of running
        self.jumps = jumps or {}  # by how many ms the clock jumps at which time in ms

    def clock(self) -> int:
        shown = self.now + sum(by for at, by in self.jumps.items() if self.now >= at * 1e6) * 1e6
        return int(shown) // self.granularity_ns * self.granularity_ns

    def run(self, cost_ms: float) -> Callable[[], object]:
        ran_ms = 0.0

        def go() -> None:
            nonlocal ran_ms
            factor = (
                (1 + self.warming * 0.5 ** (ran_ms / 20))
                * self.drift(self.now / 1e6)
                * (1 + self.noise * abs(self.rng.standard_normal()))
            )
            if self.rng.random() < self.spikes:
                factor *= 10
            ran_ms += cost_ms * factor
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
        watch = Stopwatch(self.clock, lambda: self.interruptions, self.granularity_ns)
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
        SyntheticDevice(warming=2.0),
        SyntheticDevice(jumps={300.0: 3_600_000.0, 600.0: 5.0}),  # forwards, as after a suspension
        SyntheticDevice(noise=0.01, spikes=0.02, granularity_ns=1000, warming=1.0, drift=lambda ms: 1.1, quiet_ms=20),
    ],
    ids=["calm", "noise", "spikes", "coarse timer", "shared", "slow", "drifting", "warming", "jumps", "all of it"],
)
def test_the_truth_is_recovered(device: SyntheticDevice) -> None:
    for measured, truth in zip(device.measure(TRUTH), TRUTH, strict=True):
        assert measured.refused is None
        assert measured.median_ms == pytest.approx(truth, rel=0.02)


def test_the_truth_is_recovered_or_nothing_is_said() -> None:
    """Twenty devices that are disturbed in all ways at once, and networks of 0.01 to 20 ms."""
    right = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        cost_ms = float(np.exp(rng.uniform(np.log(0.01), np.log(20))))
        depth, length_ms = rng.uniform(0, 0.3), rng.uniform(300, 3000)
        device = SyntheticDevice(
            noise=float(rng.uniform(0, 0.03)),
            spikes=float(rng.uniform(0, 0.15)) * min(1.0, cost_ms / PROTOCOL.chunk_ms / 4),  # they come by time
            granularity_ns=int(rng.choice([1, 41, 1000, 10_000])),
            quiet_ms=float(rng.choice([3.0, 8.0, 30.0, math.inf])),
            warming=float(rng.uniform(0, 5)),
            drift=lambda ms, depth=depth, length_ms=length_ms: 1 + depth * math.sin(ms / length_ms) ** 2,  # type: ignore[misc]
            jumps={float(rng.uniform(50, 800)): float(rng.choice([5.0, 1000.0, -1000.0]))}
            if rng.random() < 0.3
            else {},
        )
        device.rng = rng
        [measured] = device.measure([cost_ms])
        assert measured.refused is not None or measured.median_ms == pytest.approx(cost_ms, rel=0.04), seed
        right += measured.refused is None
    assert right >= 14


def test_a_warming_network_is_not_timed_before_its_steady_state() -> None:
    device = SyntheticDevice(warming=30.0)
    [measured] = device.measure([1.0])
    assert measured.median_ms == pytest.approx(1.0, rel=0.02)
    assert measured.p99_ms is not None
    assert measured.p99_ms < 1.2  # even the first chunks that count are those of a warm network
    [slow] = SyntheticDevice(warming=1e6).measure([1.0])  # halves every 20 ms: never within 5 % of 10 ms before
    assert slow.median_ms == pytest.approx(1.0, rel=0.02) or slow.refused is not None
    refused = judge(replace(_timing(), steady=False), profile())
    assert refused.median_ms is None
    assert "no steady state" in str(refused.refused)


def test_percentiles_are_those_of_single_chunks() -> None:
    """Each chunk is one inference of 1 ms, of which one in twenty takes ten times as long."""
    [measured] = SyntheticDevice(spikes=0.05).measure([1.0])
    assert measured.median_ms == pytest.approx(1.0, rel=0.02)
    assert measured.p90_ms == pytest.approx(1.0, rel=0.05)
    assert measured.p99_ms == pytest.approx(10.0, rel=0.05)


def test_a_clock_that_goes_backwards_is_refused_with_the_reason() -> None:
    """As a clock of day would when it is set. The measuring ends all the same, however far it was set back."""
    jumps = {float(at): -3_600_000.0 for at in range(100, 4000, 37)}
    [measured] = SyntheticDevice(jumps=jumps).measure([1.0])
    assert measured.median_ms is None
    assert "went backwards" in str(measured.refused)
    [once] = SyntheticDevice(jumps={150.0: -5000.0}).measure([1.0])  # measured again, and steady then
    assert once.median_ms == pytest.approx(1.0, rel=0.02)


def test_a_clock_that_stands_still_is_refused() -> None:
    watch = Stopwatch(lambda: 0, lambda: 0)
    with pytest.raises(MeasurementRefused, match="stands still"):
        measure_runs([lambda: None], lambda: None, profile(), watch, np.random.default_rng(0))


def test_loading_cold_warm_and_inference_are_apart() -> None:
    device = SyntheticDevice()
    loads = iter([30.0, 4.0, 9.0, 5.0])

    def load() -> Callable[[], object]:
        device.now += next(loads) * 1e6
        return device.run(2.0)

    _, cold_ms, warm_ms = time_loading(load, 3, Stopwatch(device.clock, lambda: 0))
    assert cold_ms == pytest.approx(32.0)  # the first inference included
    assert warm_ms == pytest.approx(5.0)


def _timing() -> Timing:
    return Timing(((1.0, 1.01, 1.02),) * 9, (1.0,) * 9, 27, cold_load_ms=3.0, warm_load_ms=2.0)


def test_raw_times_travel_and_are_judged_elsewhere() -> None:
    timing = replace(_timing(), drift_R=(math.nan, *(1.1,) * 8), blocks_ms=((), *((1.1, 1.2, 1.3),) * 8))
    again = Timing.from_json(json.loads(json.dumps(timing.as_json(), allow_nan=False)))
    assert again.blocks_ms == timing.blocks_ms
    measured = judge(again, profile())
    assert measured == judge(timing, profile())
    assert measured.median_ms == pytest.approx(1.0)
    assert (measured.cold_load_ms, measured.warm_load_ms) == (3.0, 2.0)
    for wrong in ({"drift": [1.0]}, {"blocks_ms": [[-1.0]] * 9}, {"drift": [0.0] * 9}, {"blocks_ms": [[math.inf]] * 9}):
        with pytest.raises(InvalidInput):
            Timing.from_json({**timing.as_json(), **wrong})


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
    assert verdict(measured, 1.1) == "verified"
    assert verdict(measured, 1.099) == "unverified"  # too close to call
    assert verdict(measured, 1.0) == "unverified"
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
    older = replace(here, protocol=replace(PROTOCOL, version=1))
    with pytest.raises(MeasurementRefused, match="version 1 of the measuring protocol"):
        next(measure([canary_model()], older))


def test_the_canary_is_the_network_that_the_protocol_describes() -> None:
    model = onnx.load_from_string(canary_model())
    onnx.checker.check_model(model)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert kinds == {"Conv": 5, "Relu": 5, "GlobalAveragePool": 1}
    digest = hashlib.sha256(canary_model()).hexdigest()
    assert digest in Path("docs/measurement-protocol.md").read_text()
