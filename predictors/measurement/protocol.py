"""The measuring protocol of ``docs/measurement-protocol.md``: how networks are timed, and what the times say.

Knows no runtime and no clock: a network is a function that runs it once, and time is an argument, so that all of it is
tested on a synthetic device. Needs numpy and the plain values of ``nas.core`` alone: the device agent uses it as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nas.core.arch import Floats
from nas.core.device import DeviceProfile, Measurement, MeasurementProtocol
from nas.core.errors import InvalidInput, MeasurementRefused

Run = Callable[[], object]

_STILL = 2**22  # inferences during which a clock must have moved
_DIGITS = 6  # of a time that is kept; no clock is as good


@dataclass(frozen=True)
class Stopwatch:
    """``now_ns`` is monotonic and moves by ``tick_ns`` at least; ``interruptions`` counts how often the process has
    lost its core to another."""

    now_ns: Callable[[], int]
    interruptions: Callable[[], int]
    tick_ns: int = 1


@dataclass(frozen=True)
class Timing:
    """The raw times of one network. ``blocks_ms``: of each round, the time per inference of every uninterrupted chunk;
    ``drift_R``: the canary's, NaN where it was not to be had; ``runs`` inferences were timed.

    ``steady`` tells whether the warm-up ended in a steady state, ``steps_back`` how often the clock went backwards.
    """

    blocks_ms: tuple[tuple[float, ...], ...]
    drift_R: tuple[float, ...]
    runs: int
    steady: bool = True
    steps_back: int = 0
    cold_load_ms: float | None = None
    warm_load_ms: float | None = None

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready record; ``Timing.from_json`` reads it back."""
        return {
            "blocks_ms": [[_rounded(ms) for ms in block] for block in self.blocks_ms],
            "drift": [_rounded(d) if math.isfinite(d) else None for d in self.drift_R],
            "runs": self.runs,
            "steady": self.steady,
            "steps_back": self.steps_back,
            "cold_load_ms": self.cold_load_ms,
            "warm_load_ms": self.warm_load_ms,
        }

    @staticmethod
    def from_json(record: Mapping[str, Any]) -> Timing:
        """Inverse of ``as_json``. Raises InvalidInput for times that no clock gives."""
        rest = {k: v for k, v in record.items() if k not in ("blocks_ms", "drift")}
        timing = Timing(
            tuple(tuple(block) for block in record["blocks_ms"]),
            tuple(math.nan if d is None else d for d in record["drift"]),
            **rest,
        )
        if len(timing.drift_R) != len(timing.blocks_ms):
            raise InvalidInput(
                f"expected a drift for each of {len(timing.blocks_ms)} rounds, got {len(timing.drift_R)}"
            )
        times = [ms for block in timing.blocks_ms for ms in block]
        drifts = [d for d in timing.drift_R if not math.isnan(d)]
        if not all(0 <= t < math.inf for t in times) or not all(0 < d < math.inf for d in drifts):
            raise InvalidInput("expected times and drifts that a clock gives: positive and finite")
        return timing


def measure_runs(
    runs: Sequence[Run], canary: Run, profile: DeviceProfile, watch: Stopwatch, rng: np.random.Generator
) -> list[Measurement]:
    """Measures networks, each given as a function that runs it once."""
    return [judge(timing, profile) for timing in time_runs(runs, canary, profile, watch, rng)]


def time_runs(
    runs: Sequence[Run], canary: Run, profile: DeviceProfile, watch: Stopwatch, rng: np.random.Generator
) -> list[Timing]:
    """Times networks that share their rounds. What was unsteady is timed again, all of it anew, and the steadiest
    attempt counts."""
    protocol = profile.protocol
    best: dict[int, tuple[Measurement, Timing]] = {}
    for _ in range(protocol.retries + 1):
        todo = [i for i in range(len(runs)) if i not in best or not _settled(best[i][0], protocol)]
        if not todo:
            break
        timings = time_group([runs[i] for i in todo], canary, profile.canary_ms, protocol, watch, rng)
        for i, timing in zip(todo, timings, strict=True):
            again = judge(timing, profile)
            if i not in best or _unsteadiness(again) < _unsteadiness(best[i][0]):
                best[i] = (again, timing)
    return [best[i][1] for i in range(len(runs))]


def _settled(measurement: Measurement, protocol: MeasurementProtocol) -> bool:
    return measurement.refused is None and measurement.variation <= protocol.good_variation


def _unsteadiness(measurement: Measurement) -> tuple[bool, float]:
    return measurement.refused is not None, measurement.variation


def time_group(
    runs: Sequence[Run],
    canary: Run,
    canary_ms: float | None,
    protocol: MeasurementProtocol,
    watch: Stopwatch,
    rng: np.random.Generator,
) -> list[Timing]:
    """Times a group of networks in rounds, in a fresh random order each, with the canary before, between and after.

    The drift of a sample is the median of the four canary blocks nearest to it over ``canary_ms`` (over the group's own
    median when the profile has none yet): one disturbed canary block does not spoil the networks beside it.
    """
    warm = [_warm(run, protocol, watch) for run in runs]
    canary_chunk = _warm(canary, protocol, watch).chunk
    blocks: list[list[_Block]] = [[] for _ in runs]
    place: list[list[int]] = [[] for _ in runs]  # how many canary blocks came before each
    canaries: list[_Block] = []

    def look_at_canary() -> None:
        canaries.append(_block(canary, canary_chunk, protocol.block_ms / 2, protocol, watch))

    for _ in range(protocol.rounds):
        for i in rng.permutation(len(runs)):
            look_at_canary()
            place[i].append(len(canaries))
            blocks[i].append(_block(runs[i], warm[i].chunk, protocol.block_ms, protocol, watch))
    look_at_canary()
    usual_ms = [_sample(block.times_ms, protocol) for block in canaries]
    around = [_median(usual_ms[max(0, k - 2) : k + 2]) for k in range(len(canaries))]
    base = canary_ms if canary_ms is not None else _median(usual_ms)
    steps_back = sum(block.steps_back for block in (*canaries, *(b for of_one in blocks for b in of_one)))
    return [
        Timing(
            blocks_ms=tuple(block.times_ms for block in blocks[i]),
            drift_R=tuple(around[k] / base for k in place[i]),
            runs=sum(len(block.times_ms) for block in blocks[i]) * warm[i].chunk,
            steady=warm[i].steady,
            steps_back=steps_back,
        )
        for i in range(len(runs))
    ]


def time_loading(load: Callable[[], Run], loads: int, watch: Stopwatch) -> tuple[Run, float, float | None]:
    """Loads a model for the first time, runs it once, then loads it ``loads`` times again: the function that runs it,
    the time of the first and the median of the others in ms (None without any)."""
    begun = watch.now_ns()
    run = load()
    run()
    cold_ms = (watch.now_ns() - begun) / 1e6
    again = []
    for _ in range(loads):
        begun = watch.now_ns()
        load()
        again.append((watch.now_ns() - begun) / 1e6)
    return run, max(0.0, cold_ms), max(0.0, float(np.median(again))) if again else None


def judge(timing: Timing, profile: DeviceProfile) -> Measurement:
    """A measurement from raw times: drift divided out, median and its 95 % confidence interval, or a refusal.

    Variation is the interquartile range of the corrected samples over their median, a spread that single spikes do not
    move; 1 when there are too few samples to tell.
    """
    protocol = profile.protocol
    samples_R = np.array([_sample(block, protocol) for block in timing.blocks_ms])
    drift_R = np.asarray(timing.drift_R, dtype=np.float64)
    valid = np.isfinite(samples_R) & np.isfinite(drift_R)
    corrected = samples_R[valid] / drift_R[valid]
    drift = _median(drift_R[valid])
    numbers: dict[str, float | None] = dict.fromkeys(("median_ms", "low_ms", "high_ms", "p90_ms", "p99_ms"))
    variation, refused = 1.0, None
    if timing.steps_back:
        refused = f"the clock of the device went backwards {timing.steps_back} times"
    elif len(corrected) < 2 / 3 * protocol.rounds:
        refused = (
            f"another program took the processor during {protocol.rounds - len(corrected)} of {protocol.rounds} rounds"
        )
    else:
        median = _median(corrected)
        low, high = median_interval(corrected)
        chunks = np.concatenate([np.asarray(timing.blocks_ms[r]) / drift_R[r] for r in np.flatnonzero(valid)])
        p90, p99 = np.quantile(chunks, [0.9, 0.99])
        numbers = {"median_ms": median, "low_ms": low, "high_ms": high, "p90_ms": float(p90), "p99_ms": float(p99)}
        variation = float(np.subtract(*np.quantile(corrected, [0.75, 0.25])) / median)
        if variation > protocol.max_variation:
            refused = f"samples vary by {variation:.0%}, expected at most {protocol.max_variation:.0%}"
        elif not 1 / (1 + protocol.max_drift) <= drift <= 1 + protocol.max_drift:
            refused = (
                f"the canary network takes {drift:.2f} times its usual time, expected within {protocol.max_drift:.0%}"
            )
        elif not timing.steady:
            refused = (
                f"no steady state within {protocol.windows} windows of {protocol.window_ms:g} ms: {protocol.agreeing} "
                f"in a row always differed by more than {protocol.steady:.0%}"
            )
    return Measurement(
        protocol=protocol.id,
        profile=profile.id,
        **(numbers if refused is None else dict.fromkeys(numbers)),
        runs=timing.runs,
        variation=variation,
        drift=drift if math.isfinite(drift) else 1.0,
        refused=refused,
        samples_ms=tuple(round(float(s), 7) for s in samples_R[valid]),
        cold_load_ms=timing.cold_load_ms,
        warm_load_ms=timing.warm_load_ms,
    )


def median_interval(samples: Floats) -> tuple[float, float]:
    """Distribution-free confidence interval of the median by order statistics, at least 95 % from six samples on;
    with fewer, the range."""
    ordered = np.sort(samples)
    n = len(ordered)
    # Largest k with P(Binomial(n, 1/2) < k) <= 2.5 %: the interval is from the k-th smallest to the k-th largest.
    tail, k, term = 0.0, 0, 0.5**n
    while tail + term <= 0.025:
        tail += term
        term *= (n - k) / (k + 1)
        k += 1
    k = max(k, 1)
    return float(ordered[k - 1]), float(ordered[n - k])


@dataclass(frozen=True)
class _Block:
    """Time per inference of each uninterrupted chunk, how long all of it took, and how often the clock stepped back."""

    times_ms: tuple[float, ...]
    lasted_ns: int
    steps_back: int


@dataclass(frozen=True)
class _Warm:
    """A network that has run for a while: how many inferences make a chunk, and whether it became steady."""

    chunk: int
    steady: bool


def _warm(run: Run, protocol: MeasurementProtocol, watch: Stopwatch) -> _Warm:
    """Runs in windows for at least ``warmup_ms``, until the samples of the last ``agreeing`` windows do agree.

    Raises MeasurementRefused for a clock that stands still, or is too coarse for a block.
    """
    chunk_ms = max(protocol.chunk_ms, protocol.chunk_ticks * watch.tick_ns / 1e6)
    if chunk_ms > protocol.block_ms:
        raise MeasurementRefused(
            f"the clock of this machine is too coarse: it moves by {watch.tick_ns / 1e6:g} ms, expected at most "
            f"{protocol.block_ms / protocol.chunk_ticks:g} ms"
        )
    chunk = 1
    while _time(run, chunk, watch) < chunk_ms * 1e6:
        chunk *= 2
        if chunk > _STILL:
            raise MeasurementRefused(f"the clock of this machine stands still: it did not move during {_STILL} runs")
    lasted_ns = 0
    samples: list[float] = []
    for _ in range(protocol.windows):
        window = _block(run, chunk, protocol.window_ms, protocol, watch)
        lasted_ns += window.lasted_ns
        samples.append(_sample(window.times_ms, protocol))
        if math.isfinite(samples[-1]):
            chunk = max(1, round(chunk_ms / samples[-1]))  # the first runs are slow, and so were the first chunks
        last = samples[-protocol.agreeing :]
        agree = len(last) == protocol.agreeing and all(map(math.isfinite, last))
        agree = agree and max(last) - min(last) <= protocol.steady * min(last)
        if lasted_ns >= protocol.warmup_ms * 1e6 and agree:
            return _Warm(chunk, True)
    return _Warm(chunk, False)


def _time(run: Run, count: int, watch: Stopwatch) -> int:
    at = watch.now_ns()
    for _ in range(count):
        run()
    return watch.now_ns() - at


def _block(run: Run, chunk: int, lasting_ms: float, protocol: MeasurementProtocol, watch: Stopwatch) -> _Block:
    """Times chunks for about ``lasting_ms``.

    Inferences are timed in chunks, long against the clock's tick; those during which the process lost its core do not
    count. The block goes on until three chunks do, up to four times its length. A clock that jumps makes it no longer:
    what the chunks took is summed up. Raises MeasurementRefused for a clock that is too coarse.
    """
    times: list[int] = []
    lasted = steps_back = tries = 0
    while len(times) < 3 or lasted < lasting_ms * 1e6:
        if tries >= 6 and lasted > 4 * lasting_ms * 1e6:
            break
        tries += 1
        before = watch.interruptions()
        took = _time(run, chunk, watch)
        lasted += abs(took)
        steps_back += took < 0
        if watch.interruptions() == before and took >= 0:
            times.append(took)
    if times and float(np.quantile(times, protocol.quantile, method="lower")) == 0:
        raise MeasurementRefused(f"the clock of this machine is too coarse: it did not move during {chunk} inferences")
    return _Block(tuple(t / chunk / 1e6 for t in times), lasted, steps_back)


def _sample(times_ms: Sequence[float], protocol: MeasurementProtocol) -> float:
    """What a block says: the lower ``quantile`` of its times; NaN if it has none."""
    return float(np.quantile(times_ms, protocol.quantile, method="lower")) if times_ms else math.nan


def _median(values: Sequence[float] | Floats) -> float:
    finite = np.asarray(values)[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
