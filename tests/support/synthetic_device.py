"""Synthetic devices: a clock that inferences advance by their true cost, disturbed in the ways real machines are."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nas.core.arch import Floats
from nas.core.device import DeviceProfile, Measurement, MeasurementProtocol
from nas.core.timing import Sitting, Timing
from predictors.measurement.judging import judge, machine_noise, needs_sitting
from predictors.measurement.sitting import Stopwatch, sit

PROTOCOL = MeasurementProtocol()
CANARY_MS = 0.05
Factor = Callable[[float], float]


def undisturbed(_: float) -> float:
    """A machine that nothing disturbs."""
    return 1.0


@dataclass(frozen=True)
class Disturbance:
    """By what factor a disturbance slows the canary at a time in ms, and how much more it slows networks:
    d log(network) / d log(canary)."""

    canary: Factor = undisturbed
    slope: float = 1.0


def two_levels(rng: np.random.Generator, slow: float = 1.43, dwell_ms: float = 1500.0, share: float = 0.5) -> Factor:
    """A neighbour that comes and goes: ``share`` of the time the machine takes ``slow`` times as long. The stretches
    are exponential, ``dwell_ms`` long in the mean."""
    ends: list[float] = [0.0]
    states: list[bool] = []

    def factor(ms: float) -> float:
        while ends[-1] <= ms:
            states.append(not states[-1] if states else bool(rng.random() < share))
            mean = dwell_ms * 2 * (share if states[-1] else 1 - share)
            ends.append(ends[-1] + rng.exponential(max(mean, 1.0)))
        return slow if states[bisect_right(ends, ms) - 1] else 1.0

    return factor


class SyntheticDevice:
    """A machine with noise, spikes, interruptions, jumps of the clock, warm-up, a layout that differs between sittings,
    and a ``disturbance`` that slows networks and canary."""

    def __init__(
        self,
        *,
        noise: float = 0.0,
        spikes: float = 0.0,
        disturbance: Disturbance | None = None,
        granularity_ns: int = 1,
        quiet_ms: float = math.inf,
        warming: float = 0.0,
        jumps: Mapping[float, float] | None = None,
        layout: float = 0.0,
        seed: int = 0,
        cpu_time: bool = False,
    ) -> None:
        self.now = 0.0
        self.lost_ns = 0.0
        self.interruptions = 0
        self.rng = np.random.default_rng(seed)
        self.noise, self.spikes, self.granularity_ns = noise, spikes, granularity_ns
        self.disturbance = disturbance or Disturbance()
        self.quiet_ms = quiet_ms  # how long another program leaves the core alone before it takes it for 4 ms
        self.taken_at = quiet_ms * 1e6
        self.warming = warming  # how much slower the first run of a network is; that halves every 20 ms of running
        self.jumps = jumps or {}  # by how many ms the clock jumps at which time in ms
        self.layout = layout  # relative standard deviation of a network's cost between sittings
        self.cpu_time = cpu_time

    def clock(self) -> int:
        reading_ns = self.now
        if self.jumps:
            reading_ns += sum(by for at, by in self.jumps.items() if self.now >= at * 1e6) * 1e6
        return int(reading_ns) // self.granularity_ns * self.granularity_ns

    def cpu_clock(self) -> int:
        return int(self.now - self.lost_ns)

    def run(self, cost_ms: float, slope: float = 1.0) -> Callable[[], object]:
        ran_ms = 0.0

        def go() -> None:
            nonlocal ran_ms
            factor = self.disturbance.canary(self.now / 1e6) ** slope
            if self.warming:
                factor *= 1 + self.warming * 0.5 ** (ran_ms / 20)
            factor *= 1 + self.noise * abs(self.rng.standard_normal())
            if self.rng.random() < self.spikes:
                factor *= 10
            ran_ms += cost_ms * factor
            remaining_ns = cost_ms * factor * 1e6
            while self.now + remaining_ns > self.taken_at:
                remaining_ns -= self.taken_at - self.now
                self.now = self.taken_at + 4e6
                self.lost_ns += 4e6
                self.taken_at = self.now + self.quiet_ms * 1e6
                self.interruptions += 1
            self.now += remaining_ns

        return go

    @property
    def stopwatch(self) -> Stopwatch:
        return Stopwatch(
            self.clock,
            lambda: self.interruptions,
            self.granularity_ns,
            self.cpu_clock if self.cpu_time else None,
        )

    def sit(
        self, costs_ms: Sequence[float], profile: DeviceProfile, seed: int, survey_ms: float | None = None
    ) -> list[Sitting]:
        """One sitting of networks of known cost."""
        layouts = [c * math.exp(self.layout * self.rng.standard_normal()) for c in costs_ms]
        runs = [[self.run(c, self.disturbance.slope)] for c in layouts]
        rng = np.random.default_rng(seed)
        return sit(runs, self.run(CANARY_MS), profile, self.stopwatch, rng, survey_ms)

    def measure(self, costs_ms: Sequence[float], profile: DeviceProfile) -> list[Measurement]:
        """All sittings that the protocol wants, as in separate processes."""
        sittings: list[list[Sitting]] = [[] for _ in costs_ms]
        due = [*range(len(costs_ms))]
        for seed in range(PROTOCOL.most_sittings):
            for i, sitting in zip(due, self.sit([costs_ms[i] for i in due], profile, seed), strict=True):
                sittings[i].append(sitting)
            due = [i for i in due if needs_sitting(Timing(tuple(sittings[i])), profile)]
            if not due:
                break
        return [judge(Timing(tuple(of_one)), profile) for of_one in sittings]

    def profiled(self, profile: DeviceProfile) -> DeviceProfile:
        """The profile with canary and noise as this device shows them now."""
        survey_profile = replace(profile, protocol=replace(PROTOCOL, fewest_visits=16))
        looks = [self.sit([0.02, CANARY_MS, 0.15], survey_profile, seed, 500.0) for seed in range(5)]
        by_network = [list(of_one) for of_one in zip(*looks, strict=True)]
        levels = [v.level_ms for s in by_network[0] for v in s.visits]
        measured_profile = replace(profile, canary_ms=min(levels))
        return replace(measured_profile, noise=machine_noise(by_network, measured_profile, None))


def replay(canary_N: Floats, network_N: Floats, step_ms: float) -> tuple[Factor, Factor]:
    """The disturbances of a recorded trace, one factor each for canary and network, as functions of time."""

    def factor(of_N: Floats) -> Factor:
        return lambda ms: float(of_N[int(ms / step_ms) % len(of_N)])

    return factor(canary_N), factor(network_N)
