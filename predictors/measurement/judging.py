"""What the times of several sittings say: a latency with a 95 % interval, or a refusal.

The second half of the measuring protocol (``docs/measurement-protocol.md``). The times were taken by the first,
``predictors.measurement.sitting``, on this machine or on another. Needs numpy and the plain values of ``nas.core``
alone: the device agent uses it as well.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nas.core.arch import Floats
from nas.core.device import DeviceProfile, MachineNoise, Measurement, MeasurementProtocol
from nas.core.timing import Sitting, Timing, Visit
from predictors.measurement.sitting import error_of, own_slope, spread_of

DEFAULT_FLOOR = 0.01  # relative standard deviation between sittings, where a profile has none
FLOOR_WEIGHT = 10  # sittings that the profile's noise floor counts for beside a network's own
CONTENTION_SLOPE = (1.35, 0.175)  # mean and standard deviation: 1 for a change of clock rate, up to 1.7 for contention
CPU_TIME_ERROR = 0.03  # of the time of an interrupted chunk: its caches were used by another program
AGAIN = "{}.again"  # the name of a network that a device elsewhere measures a second time
REFUSED_FACTOR = 10.0  # an interval whose ends differ by more says nothing


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
    slopes = [s for s in (own_slope(visits, protocol) for visits in by_network) if s is not None]
    return MachineNoise(
        floor=max(floor, 0.001),
        levels=(1.0, float(np.median(disturbed))) if disturbed.size > 0.05 * ratios.size else (1.0,),
        undisturbed=float((ratios <= 1 + 2 * protocol.gate).mean()),
        slope=spread_of(slopes),
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
        return _Sample(_low(accepted, protocol), error_of(accepted), drift_error, True)
    interrupted = [
        np.log(v.interrupted_ms) - _log_drift(v, profile) * slope for v in sitting.visits if v.interrupted_ms
    ]
    if interrupted and sum(map(len, interrupted)) >= sum(len(v.network_ms) for v in visits):
        error = error_of(interrupted)
        return _Sample(_low(interrupted, protocol), error, drift_error + CPU_TIME_ERROR, False)
    if not visits:
        return None
    own = own_slope(sitting.visits, protocol)
    corrected, slowed = [], []
    for visit in visits:
        x = np.log(np.minimum(np.asarray(visit.canary_ms), 2 * visit.level_ms) / visit.level_ms)
        corrected.append(
            np.log(visit.network_ms) - x * (slope if own is None else own) - _log_drift(visit, profile) * slope
        )
        slowed.append(x)
    doubt = 2 * slope_error * float(np.median(np.concatenate(slowed)))
    return _Sample(_low(corrected, protocol), error_of(corrected), drift_error + doubt, False)


def _low(blocks: Sequence[Floats], protocol: MeasurementProtocol) -> float:
    """The lower ``quantile`` of all chunks: short disturbances that the canary did not meet move it little."""
    return float(np.quantile(np.concatenate(blocks), protocol.quantile))


def _log_drift(visit: Visit, profile: DeviceProfile) -> float:
    return math.log(visit.level_ms / profile.canary_ms) if profile.canary_ms else 0.0


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
