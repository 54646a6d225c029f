"""The measuring protocol of ``docs/measurement-protocol.md``: how networks are timed, and what the times say.

A network is a function that runs it once, and the clock is an argument, so that all of it is tested on synthetic
devices. Needs numpy and the plain values of ``nas.core`` alone: the device agent uses it as well. The two halves are
apart: ``sit`` times networks in one process; ``judge`` makes a measurement of the times of several such sittings.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nas.core.arch import Floats
from nas.core.device import DeviceProfile, MachineNoise, Measurement, MeasurementProtocol
from nas.core.errors import MeasurementRefused
from nas.core.timing import Sitting, Timing, Visit

Run = Callable[[], object]

STILL = 2**22  # inferences during which a clock must have moved
HOT_MS = 2.0  # a network that takes longer refills the caches by itself
QUANTILES = np.linspace(0.0, 1.0, 41)
DEFAULT_FLOOR = 0.01  # relative standard deviation between sittings, where a profile has none
FLOOR_WEIGHT = 10  # sittings that the profile's noise floor counts for beside a network's own
CONTENTION_SLOPE = (1.35, 0.175)  # mean and standard deviation: 1 for a change of clock rate, up to 1.7 for contention
LEAST_SLOPE_ERROR = 0.1
CPU_TIME_ERROR = 0.03  # of the time of an interrupted chunk: its caches were used by another program
AGAIN = "{}.again"  # the name of a network that a device elsewhere measures a second time
REFUSED_FACTOR = 10.0  # an interval whose ends differ by more says nothing


@dataclass(frozen=True)
class Stopwatch:
    """``now_ns`` is monotonic and moves by ``tick_ns`` at least. ``interruptions`` counts how often the process has
    lost its core to another. ``cpu_ns`` is the time that the calling thread has run, None where one thread does not do
    all the work."""

    now_ns: Callable[[], int]
    interruptions: Callable[[], int]
    tick_ns: int = 1
    cpu_ns: Callable[[], int] | None = None


# --- Timing: one sitting -------------------------------------------------------------------------------------------


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
    slopes = [s for s in (_own_slope(of_one, protocol) for of_one in finished) if s is not None]
    slope = _spread_of(slopes)
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
            error = math.hypot(_median_error(before), _median_error(ratio))
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
    return _error_of(logs) <= protocol.target


# --- Judging: what the times say -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sample:
    """What one sitting says, in logarithms: the time, its standard error, and a bound of the error of its
    correction."""

    log_ms: float
    error: float
    drift_error: float
    accepted: bool


def judge(timing: Timing, profile: DeviceProfile) -> Measurement:
    """A measurement from raw times: undisturbed chunks of each sitting, corrected for the machine's speed, and a 95 %
    interval over sittings; or a refusal if the times say nothing. Sittings whose warm-up did not end in a steady state
    count only where there are no others."""
    protocol = profile.protocol
    forward = [s for s in timing.sittings if not s.steps_back]
    counted = [s for s in forward if s.steady] or forward
    samples = [s for s in (_sample(sitting, profile) for sitting in counted) if s is not None]
    if any(s.accepted for s in samples):
        samples = [s for s in samples if s.accepted]
    chunks = [ms for s in counted for v in s.visits for ms in v.network_ms]
    drifts = [v.level_ms / profile.canary_ms for s in counted for v in s.visits] if profile.canary_ms else []
    steps_back = sum(s.steps_back for s in timing.sittings)
    refused = None
    if not samples:
        refused = (
            f"the clock of the device went backwards {steps_back} times"
            if steps_back
            else "another program took the processor during every inference"
        )
    measurement = Measurement(
        protocol=protocol.id,
        profile=profile.id,
        median_ms=None,
        low_ms=None,
        high_ms=None,
        runs=sum(s.runs for s in timing.sittings),
        variation=1.0,
        drift=float(np.median(drifts)) if drifts else 1.0,
        refused=refused,
        cold_load_ms=timing.cold_load_ms,
        warm_load_ms=timing.warm_load_ms,
        placement=timing.placement,
        peak_bytes=timing.peak_bytes,
        energy_mj=timing.energy_mj,
        gpu=timing.gpu,
        layers=timing.layers,
        undisturbed=_undisturbed(counted, protocol),
    )
    if refused is not None:
        return measurement
    if chunks:
        p90, p99 = np.quantile(chunks, [0.9, 0.99])
        measurement = replace(measurement, p90_ms=float(p90), p99_ms=float(p99))
    return _with_interval(
        replace(
            measurement,
            samples_ms=tuple(float(f"{math.exp(s.log_ms):.7g}") for s in samples),
            sample_error=float(np.sqrt(np.mean([s.error**2 for s in samples]))),
            drift_error=float(np.mean([s.drift_error for s in samples])),
        ),
        profile,
    )


def needs_sitting(timing: Timing, profile: DeviceProfile, promised_ms: float = math.nan) -> bool:
    """Whether one more sitting is worth its time: the protocol wants it, the interval is wide, or it holds the latency
    ``promised_ms`` and is not yet as narrow as more sittings make it. Of the sittings that the protocol wants, those
    that did not become steady are made up for."""
    protocol, count = profile.protocol, len(timing.sittings)
    if count < protocol.sittings:
        return True
    if sum(s.steady for s in timing.sittings) < protocol.sittings and count < protocol.most_sittings:
        return True
    measurement = judge(timing, profile)
    if measurement.low_ms is None or measurement.high_ms is None or measurement.half_width is None:
        return count < protocol.most_sittings
    if measurement.low_ms <= promised_ms < measurement.high_ms:
        return count < protocol.close_sittings
    return measurement.half_width > protocol.settled and count < protocol.most_sittings


def combine(measurements: Sequence[Measurement], profile: DeviceProfile) -> Measurement:
    """One measurement of several of the same network: all their sittings count. Refused ones add nothing, unless all
    are refused."""
    usable = [m for m in measurements if m.refused is None]
    if len(usable) < 2:
        return (usable or list(measurements))[-1]
    weights = [len(m.samples_ms) for m in usable]

    def mean(values: Sequence[float]) -> float:
        return float(np.average(values, weights=weights))

    return _with_interval(
        replace(
            usable[-1],
            runs=sum(m.runs for m in usable),
            samples_ms=tuple(ms for m in usable for ms in m.samples_ms),
            sample_error=math.sqrt(mean([m.sample_error**2 for m in usable])),
            drift_error=mean([m.drift_error for m in usable]),
            drift=mean([m.drift for m in usable]),
            undisturbed=mean([m.undisturbed for m in usable]),
        ),
        profile,
    )


def machine_noise(
    sittings_by_network: Sequence[Sequence[Sitting]], profile: DeviceProfile, load: float | None
) -> MachineNoise:
    """How steady a machine is, from several sittings of reference networks on it; ``profile`` has its ``canary_ms``."""
    protocol = profile.protocol
    assert profile.canary_ms is not None
    deviations = []
    for sittings in sittings_by_network:
        calm = [s for s in sittings if all(abs(_log_drift(v, profile)) <= protocol.gate for v in s.visits)]
        samples = [s for s in (_sample(sitting, profile) for sitting in calm) if s is not None and s.accepted]
        if len(samples) > 1:
            deviations.append(np.array([s.log_ms for s in samples]) - np.mean([s.log_ms for s in samples]))
    freedom = sum(len(d) - 1 for d in deviations)
    floor = math.sqrt(sum(float((d**2).sum()) for d in deviations) / freedom) if freedom else DEFAULT_FLOOR
    ratios = np.concatenate([np.array(s.canary_quantiles_ms[:-1]) for s in sittings_by_network[0]]) / profile.canary_ms
    disturbed = ratios[ratios > 1 + 2 * protocol.gate]
    by_network = [
        [replace(v, level_ms=profile.canary_ms) for s in of_one for v in s.visits] for of_one in sittings_by_network
    ]
    slopes = [s for s in (_own_slope(visits, protocol) for visits in by_network) if s is not None]
    return MachineNoise(
        floor=max(floor, 0.001),
        levels=(1.0, float(np.median(disturbed))) if disturbed.size > 0.05 * ratios.size else (1.0,),
        undisturbed=float((ratios <= 1 + 2 * protocol.gate).mean()),
        slope=_spread_of(slopes),
        load=load,
    )


def _sample(sitting: Sitting, profile: DeviceProfile) -> _Sample | None:
    """What a sitting says of its network; None if every chunk was interrupted and has no processor time."""
    protocol = profile.protocol
    slope, slope_error = sitting.slope or (profile.noise.slope if profile.noise else None) or CONTENTION_SLOPE
    visits = [v for v in sitting.visits if v.network_ms]
    accepted: list[Floats] = []
    for visit in visits:
        network, canary = np.asarray(visit.network_ms), np.asarray(visit.canary_ms)
        log_ms = np.log(network[canary <= (1 + protocol.gate) * visit.level_ms])
        if log_ms.size:
            accepted.append(log_ms - _log_drift(visit, profile) * slope)
    drift_error = max(
        (2 * slope_error * abs(_log_drift(v, profile)) for v in sitting.visits), default=0.0
    )  # within two standard errors of the slope
    if sum(map(len, accepted)) >= 3:
        return _Sample(_low(accepted, protocol), _error_of(accepted), drift_error, True)
    interrupted = [
        np.log(v.interrupted_ms) - _log_drift(v, profile) * slope for v in sitting.visits if v.interrupted_ms
    ]
    if interrupted and sum(map(len, interrupted)) >= sum(len(v.network_ms) for v in visits):
        error = _error_of(interrupted)
        return _Sample(_low(interrupted, protocol), error, drift_error + CPU_TIME_ERROR, False)
    if not visits:
        return None
    own = _own_slope(sitting.visits, protocol)
    corrected, slowed = [], []
    for visit in visits:
        x = np.log(np.minimum(np.asarray(visit.canary_ms), 2 * visit.level_ms) / visit.level_ms)
        corrected.append(
            np.log(visit.network_ms) - x * (slope if own is None else own) - _log_drift(visit, profile) * slope
        )
        slowed.append(x)
    doubt = 2 * slope_error * float(np.median(np.concatenate(slowed)))
    return _Sample(_low(corrected, protocol), _error_of(corrected), drift_error + doubt, False)


def _low(blocks: Sequence[Floats], protocol: MeasurementProtocol) -> float:
    """The lower ``quantile`` of all chunks: short disturbances that the canary did not meet move it little."""
    return float(np.quantile(np.concatenate(blocks), protocol.quantile))


def _log_drift(visit: Visit, profile: DeviceProfile) -> float:
    return math.log(visit.level_ms / profile.canary_ms) if profile.canary_ms else 0.0


def _own_slope(visits: Sequence[Visit], protocol: MeasurementProtocol) -> float | None:
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


def _spread_of(slopes: Sequence[float]) -> tuple[float, float] | None:
    """Mean and standard deviation of the slopes of several networks; None for fewer than three."""
    if len(slopes) < 3:
        return None
    return float(np.mean(slopes)), max(LEAST_SLOPE_ERROR, float(np.std(slopes, ddof=1)))


def _undisturbed(sittings: Sequence[Sitting], protocol: MeasurementProtocol) -> float:
    count = calm = 0
    for visit in (v for s in sittings for v in s.visits):
        count += len(visit.canary_ms) + len(visit.interrupted_ms)
        calm += sum(c <= (1 + protocol.gate) * visit.level_ms for c in visit.canary_ms)
    return calm / count if count else 0.0


def _with_interval(measurement: Measurement, profile: DeviceProfile) -> Measurement:
    """The value and interval of a measurement's samples.

    The variance between sittings is the network's own, pooled with the noise floor of the profile, which counts for
    ``FLOOR_WEIGHT`` degrees of freedom: three sittings alone say little of it. What differs between measurements
    minutes apart is added, which more sittings do not reduce. An interval that says nothing refuses.
    """
    logs = np.log(measurement.samples_ms)
    count = len(logs)
    floor = profile.noise.floor if profile.noise is not None else DEFAULT_FLOOR
    squares = float(((logs - logs.mean()) ** 2).sum())
    freedom = FLOOR_WEIGHT + count - 1
    variance = (FLOOR_WEIGHT * (floor**2 + measurement.sample_error**2) + squares) / freedom
    error = math.sqrt(variance / count + profile.protocol.session_error**2)
    half = student_quantile(freedom) * error + measurement.drift_error
    middle = float(logs.mean())
    if 2 * half > math.log(REFUSED_FACTOR):
        return replace(
            measurement,
            variation=math.sqrt(variance),
            refused=f"the times vary too much to say anything: the 95 % interval of the latency spans a factor of "
            f"{math.exp(2 * half):.3g}, expected at most {REFUSED_FACTOR:g}",
        )
    return replace(
        measurement,
        median_ms=math.exp(middle),
        low_ms=math.exp(middle - half),
        high_ms=math.exp(middle + half),
        variation=math.sqrt(variance),
    )


def student_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t, from three degrees of freedom on, within 1 %: Cornish and Fisher's expansion
    (Abramowitz and Stegun, 26.7.5). The agent has no SciPy."""
    z = 1.959964
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def _error_of(blocks: Sequence[Floats]) -> float:
    """Standard error of the median of all chunks, about that of their lower quartile. Chunks of one visit are alike, so
    it is not less than what the medians of the visits say."""
    of_chunks = _median_error(np.concatenate(blocks))
    if len(blocks) < 3:
        return of_chunks
    return max(of_chunks, _median_error(np.array([np.median(b) for b in blocks])))


def _median_error(values: Floats) -> float:
    """Standard error of a median from the interquartile range, as for a Gaussian in the middle."""
    if len(values) < 3:
        return float(np.ptp(values)) if len(values) else math.inf
    return 1.2533 * float(np.subtract(*np.quantile(values, [0.75, 0.25]))) / 1.349 / math.sqrt(len(values))
