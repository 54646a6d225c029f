"""One sitting of the measuring protocol (``docs/measurement-protocol.md``): one process times networks in turns.

A network is a function that runs it once, and the clock is an argument, so that all of it is tested on synthetic
devices. What the times say is judged in ``predictors.measurement.judging``. Needs numpy and the plain values of
``nas.core`` alone: the device agent uses it as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nas.core.arch import Floats
from nas.core.device import DeviceProfile, MeasurementProtocol
from nas.core.errors import MeasurementRefused
from nas.core.timing import Sitting, Visit

Run = Callable[[], object]

STILL = 2**22  # inferences during which a clock must have moved
HOT_MS = 2.0  # a network that takes longer refills the caches by itself
LEAST_SLOPE_ERROR = 0.1
QUANTILES = np.linspace(0.0, 1.0, 41)


@dataclass(frozen=True)
class Stopwatch:
    """``now_ns`` is monotonic and moves by ``tick_ns`` at least. ``interruptions`` counts how often the process has
    lost its core to another. ``cpu_ns`` is the time that the calling thread has run, None where one thread does not do
    all the work."""

    now_ns: Callable[[], int]
    interruptions: Callable[[], int]
    tick_ns: int = 1
    cpu_ns: Callable[[], int] | None = None


def sit(
    runs: Sequence[Sequence[Run]],
    canary: Run,
    profile: DeviceProfile,
    watch: Stopwatch,
    rng: np.random.Generator,
    survey_ms: float | None = None,
) -> list[Sitting]:
    """Times networks in turns, each visit in a fresh random order, until each time is precise or the time is spent.
    Each network is given as functions that run it, one for each time its model was loaded: visits go round them, since
    the memory that a load happens to get changes a small network's time.

    Before that, the canary runs alone for ``survey_ms``, and longer, up to the protocol's ``patience_ms``, while the
    machine is slower than its profile says. Raises MeasurementRefused for a clock that stands still or is too coarse.
    """
    protocol = profile.protocol
    timer = _Timer(watch)
    canary_chunk = _chunk_size(canary, protocol, timer)
    track = _CanaryTrack(protocol)
    _survey(canary, canary_chunk, profile, timer, track, protocol.survey_ms if survey_ms is None else survey_ms)
    chunks = [_chunk_size(loads[0], protocol, timer) for loads in runs]
    pair = [_Pair(tuple(r), chunk, canary, canary_chunk, timer, track) for r, chunk in zip(runs, chunks, strict=True)]
    steady = [_warm_up(p, protocol) for p in pair]
    visits: list[list[_RawVisit]] = [[] for _ in runs]
    begun_ns, spent_ns = timer.spent_ns, len(runs) * protocol.budget_ms * 1e6
    active = set(range(len(runs)))
    while active and (timer.spent_ns - begun_ns < spent_ns or min(len(visits[i]) for i in active) == 0):
        for i in rng.permutation(sorted(active)):
            visits[i].append(_visit(pair[i], protocol, len(visits[i])))
        active = {i for i in active if not _is_precise(visits[i], track.level_ms(timer.spent_ns), protocol)}
    finished = [
        tuple(
            Visit(tuple(v.network_ms), tuple(v.canary_ms), tuple(v.interrupted_ms), track.level_ms(v.at_ns))
            for v in of_one
        )
        for of_one in visits
    ]
    slopes = [s for s in (own_slope(of_one, protocol) for of_one in finished) if s is not None]
    slope = spread_of(slopes)
    return [
        Sitting(
            finished[i],
            sum(len(v.network_ms) + len(v.interrupted_ms) for v in finished[i]) * pair[i].chunk,
            steady[i],
            timer.steps_back,
            slope,
            track.quantiles_ms(),
        )
        for i in range(len(runs))
    ]


def time_loading(
    load: Callable[[], Run], loads: int, watch: Stopwatch, keep: bool = True
) -> tuple[list[Run], float, float | None]:
    """Loads a model for the first time, runs it once, then loads it ``loads`` times again: the functions that run it,
    as often as it was loaded, or only the first unless all are to be kept; the time of the first and the median of the
    later loads in ms (None without any)."""
    started_ns = watch.now_ns()
    run = load()
    run()
    cold_ms = (watch.now_ns() - started_ns) / 1e6
    runs, again = [run], []
    for _ in range(loads):
        started_ns = watch.now_ns()
        later = load()
        again.append((watch.now_ns() - started_ns) / 1e6)
        if keep:
            runs.append(later)
    return runs, max(0.0, cold_ms), max(0.0, float(np.median(again))) if again else None


class _Timer:
    """Times chunks of inferences and adds up what they took, which a jump of the clock does not stop."""

    def __init__(self, watch: Stopwatch) -> None:
        self.watch = watch
        self.spent_ns = 0.0
        self.steps_back = 0

    def chunk(self, run: Run, count: int, hot: bool) -> tuple[float, bool, float | None]:
        """Time per inference in ms, whether the process kept its core, and the processor time per inference in ms.
        ``hot``: one inference goes before, untimed, so that the caches hold the network."""
        watch = self.watch
        started_ns = watch.now_ns()
        if hot:
            run()
        before = watch.interruptions()
        cpu = watch.cpu_ns() if watch.cpu_ns is not None else 0
        start = watch.now_ns()
        for _ in range(count):
            run()
        end = watch.now_ns()
        cpu_ms = (watch.cpu_ns() - cpu) / count / 1e6 if watch.cpu_ns is not None else None
        uninterrupted = watch.interruptions() == before
        self.steps_back += end < started_ns
        self.spent_ns += abs(end - started_ns)
        return (end - start) / count / 1e6, uninterrupted, cpu_ms


class _CanaryTrack:
    """All canary chunks of a sitting in the order of time, from which the undisturbed level is followed. They lie in
    arrays that double when they are full: the level is asked for after every few chunks."""

    def __init__(self, protocol: MeasurementProtocol) -> None:
        self._protocol = protocol
        self._at_ns_N = np.empty(1024)
        self._ms_N = np.empty(1024)
        self._count = 0

    def add(self, at_ns: float, ms: float) -> None:
        """One uninterrupted chunk, not earlier than the last one."""
        if self._count == len(self._ms_N):
            self._at_ns_N, self._ms_N = (np.concatenate([a, np.empty_like(a)]) for a in (self._at_ns_N, self._ms_N))
        self._at_ns_N[self._count], self._ms_N[self._count] = at_ns, ms
        self._count += 1

    @property
    def ready(self) -> bool:
        """Whether there is any chunk."""
        return self._count > 0

    def level_ms(self, at_ns: float) -> float:
        """The undisturbed level around a time: a low quantile over a window that holds disturbed and undisturbed
        moments, and is short against changes of clock rate."""
        at_N, ms_N = self._at_ns_N[: self._count], self._ms_N[: self._count]
        half = self._protocol.level_window_ms * 1e6 / 2
        middle = min(max(at_ns, at_N[0] + half), max(at_N[-1] - half, at_N[0] + half))
        begin, end = np.searchsorted(at_N, middle - half, "left"), np.searchsorted(at_N, middle + half, "right")
        near_N = ms_N[begin:end]
        return float(np.quantile(near_N if near_N.size else ms_N, self._protocol.level_quantile))

    def quantiles_ms(self) -> tuple[float, ...]:
        """All chunks, at ``QUANTILES``."""
        return tuple(np.quantile(self._ms_N[: self._count], QUANTILES).tolist())


@dataclass(frozen=True)
class _Pair:
    """A network and the canary that alternates with it."""

    loads: tuple[Run, ...]
    chunk: int
    canary: Run
    canary_chunk: int
    timer: _Timer
    track: _CanaryTrack

    def canary_ms(self) -> float:
        """One canary chunk; infinite if it was interrupted, so that nothing beside it counts as undisturbed."""
        ms, uninterrupted, _ = self.timer.chunk(self.canary, self.canary_chunk, hot=True)
        if not uninterrupted or ms <= 0:
            return math.inf
        self.track.add(self.timer.spent_ns, ms)
        return ms


@dataclass
class _RawVisit:
    """A visit before the level at its time is known."""

    at_ns: float
    network_ms: list[float]
    canary_ms: list[float]
    interrupted_ms: list[float]


def _visit(pair: _Pair, protocol: MeasurementProtocol, number: int) -> _RawVisit:
    """Alternates canary and network for ``visit_ms``, three chunks at least; the network as it was loaded at the
    visit's turn."""
    timer, run = pair.timer, pair.loads[number % len(pair.loads)]
    visit = _RawVisit(timer.spent_ns, [], [], [])
    hot, tries = pair.chunk > 1, 0
    before_ms = pair.canary_ms()
    while tries < 3 or timer.spent_ns - visit.at_ns < protocol.visit_ms * 1e6:
        tries += 1
        ms, uninterrupted, cpu_ms = timer.chunk(run, pair.chunk, hot)
        after_ms = pair.canary_ms()
        disturbance_ms = max(before_ms, after_ms)
        before_ms = after_ms
        if uninterrupted and ms > 0:
            hot = ms < HOT_MS
            visit.network_ms.append(ms)
            # A canary that lost its core says that the moment was disturbed, not how much.
            visit.canary_ms.append(disturbance_ms if math.isfinite(disturbance_ms) else 1e6)
        elif cpu_ms is not None and cpu_ms > 0:
            visit.interrupted_ms.append(cpu_ms)
    return visit


def _survey(
    canary: Run, chunk: int, profile: DeviceProfile, timer: _Timer, track: _CanaryTrack, survey_ms: float
) -> None:
    """Runs the canary alone, until it does not become faster any more and is as fast as the profile says, or
    ``patience_ms`` are over."""
    protocol = profile.protocol
    started_ns = timer.spent_ns
    calm_ms = math.inf if profile.canary_ms is None else (1 + protocol.gate) * profile.canary_ms
    fastest: list[float] = []
    while True:
        block = [timer.chunk(canary, chunk, hot=True) for _ in range(20)]
        kept_ms = [ms for ms, uninterrupted, _ in block if uninterrupted and ms > 0] or [
            max(1e-9, min(ms for ms, _, _ in block))
        ]
        fastest.append(min(kept_ms))
        warm = len(fastest) >= 20 and min(fastest[-10:]) >= 0.99 * min(fastest[-20:-10])
        if warm:
            for ms in kept_ms:
                track.add(timer.spent_ns, ms)
        passed_ms = (timer.spent_ns - started_ns) / 1e6
        if passed_ms >= max(survey_ms, protocol.patience_ms) and track.ready:
            return
        if passed_ms >= survey_ms and warm and track.level_ms(timer.spent_ns) <= calm_ms:
            return


def _chunk_size(run: Run, protocol: MeasurementProtocol, timer: _Timer) -> int:
    """How many inferences make a chunk: long against the clock's tick, short against disturbances.

    Raises MeasurementRefused for a clock that stands still, or is too coarse.
    """
    tick_ms = timer.watch.tick_ns / 1e6
    chunk_ms = max(protocol.chunk_ms, protocol.chunk_ticks * tick_ms)
    if chunk_ms > protocol.visit_ms:
        raise MeasurementRefused(
            f"the clock of this machine is too coarse: it moves by {tick_ms:g} ms, expected at most "
            f"{protocol.visit_ms / protocol.chunk_ticks:g} ms"
        )
    count = 1
    while timer.chunk(run, count, hot=False)[0] * count < chunk_ms:
        count *= 2
        if count > STILL:
            raise MeasurementRefused(f"the clock of this machine stands still: it did not move during {STILL} runs")
    shortest_ms = min(ms for ms in (timer.chunk(run, count, hot=True)[0] for _ in range(5)))
    if shortest_ms <= 0:
        return count
    return max(1, math.ceil(chunk_ms / shortest_ms - 0.5))


def _warm_up(pair: _Pair, protocol: MeasurementProtocol) -> bool:
    """Runs for at least ``warmup_ms``, until the network's time over the canary's does not fall any more by more than
    the noise of the last windows; whether that was reached within ``warmup_windows``."""
    before: Floats | None = None
    started_ns = pair.timer.spent_ns
    for later in pair.loads[1:]:
        later()
    for _ in range(protocol.warmup_windows):
        raw = _visit(pair, protocol, 0)
        ratio = np.log(np.asarray(raw.network_ms) / np.asarray(raw.canary_ms))
        if before is not None and before.size and ratio.size:
            error = math.hypot(median_error(before), median_error(ratio))
            falls = float(np.median(before) - np.median(ratio))
            if falls <= 2 * error + 0.01 and pair.timer.spent_ns - started_ns >= protocol.warmup_ms * 1e6:
                return True
        before = ratio
    return False


def _is_precise(visits: Sequence[_RawVisit], level_ms: float, protocol: MeasurementProtocol) -> bool:
    """Whether the visits of a sitting are enough for the precision that the protocol aims at."""
    if len(visits) < protocol.fewest_visits:
        return False
    accepted = [
        [ms for ms, c in zip(v.network_ms, v.canary_ms, strict=True) if c <= (1 + protocol.gate) * level_ms]
        for v in visits
    ]
    logs = [np.log(chunks) for chunks in accepted if chunks]
    count = sum(map(len, logs))
    if len(logs) < protocol.fewest_visits or count < min(protocol.fewest_chunks, 3 * len(visits)):
        return False
    return error_of(logs) <= protocol.target


def error_of(blocks: Sequence[Floats]) -> float:
    """Standard error of the median of all chunks, about that of their lower quartile. Chunks of one visit are alike, so
    it is not less than what the medians of the visits say."""
    of_chunks = median_error(np.concatenate(blocks))
    if len(blocks) < 3:
        return of_chunks
    return max(of_chunks, median_error(np.array([np.median(b) for b in blocks])))


def median_error(values: Floats) -> float:
    """Standard error of a median from the interquartile range, as for a Gaussian in the middle."""
    if len(values) < 3:
        return float(np.ptp(values)) if len(values) else math.inf
    return 1.2533 * float(np.subtract(*np.quantile(values, [0.75, 0.25]))) / 1.349 / math.sqrt(len(values))


def own_slope(visits: Sequence[Visit], protocol: MeasurementProtocol) -> float | None:
    """d log(network) / d log(canary) between undisturbed and disturbed visits to one network; None where either are
    few. Only disturbances that last for a visit count: a short one may have hit the canary alone."""
    timed = [v for v in visits if v.network_ms]
    slower = np.array([math.log(float(np.median(v.canary_ms)) / v.level_ms) for v in timed])
    log_ms = np.array([math.log(float(np.median(v.network_ms))) for v in timed])
    calm = slower <= math.log(1 + protocol.gate)
    disturbed = (slower > math.log(1 + 3 * protocol.gate)) & (slower < math.log(4.0))
    if min(calm.sum(), disturbed.sum()) < protocol.fewest_visits:
        return None
    rise = float(np.median(log_ms[disturbed]) - np.median(log_ms[calm]))
    return rise / float(np.median(slower[disturbed]) - np.median(slower[calm]))


def spread_of(slopes: Sequence[float]) -> tuple[float, float] | None:
    """Mean and standard deviation of the slopes of several networks; None for fewer than three."""
    if len(slopes) < 3:
        return None
    return float(np.mean(slopes)), max(LEAST_SLOPE_ERROR, float(np.std(slopes, ddof=1)))
