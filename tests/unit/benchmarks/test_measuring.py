"""The measuring protocol against the one before it, on a machine with two levels of speed."""

from __future__ import annotations

import numpy as np

from benchmarks import _protocol_2
from benchmarks.measuring import coverage, repeat_sd
from nas.core.device import DeviceProfile, MachineNoise, MeasurementProtocol
from tests.support.synthetic_device import CANARY_MS, Disturbance, SyntheticDevice, two_levels

COSTS_MS = [0.06, 0.1, 0.2]


def test_gated_chunks_repeat_four_times_better_where_a_neighbour_comes_and_goes() -> None:
    """Six repeats of three networks for the same time each, on a machine whose neighbour slows networks 1.4 times as
    much (in logarithms) as the canary."""
    protocol = MeasurementProtocol()
    profile = DeviceProfile(
        *("synthetic", "m", "p", 2, "r", "1", "os", protocol, (0,), CANARY_MS),
        noise=MachineNoise(0.004, (1.0, 1.43), 0.6),
    )
    new, low, high, old = [], [], [], []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        disturbance = Disturbance(two_levels(rng, dwell_ms=800.0), 1.4)
        device = SyntheticDevice(noise=0.005, disturbance=disturbance, layout=0.003, seed=seed)
        measured = device.measure(COSTS_MS, profile)
        new.append([m.median_ms for m in measured])
        low.append([m.low_ms for m in measured])
        high.append([m.high_ms for m in measured])
        peer = SyntheticDevice(noise=0.005, disturbance=disturbance, layout=0.003, seed=100 + seed)
        runs = [peer.run(ms, disturbance.slope) for ms in COSTS_MS]
        seconds = device.now / 1e9
        old.append(
            _protocol_2.measure(
                runs,
                peer.run(CANARY_MS),
                peer.stopwatch,
                seconds,
                lambda peer=peer: peer.now / 1e9,  # type: ignore[misc]
            )
        )
    new_RN, old_RN, low_RN, high_RN = (np.array(v, dtype=np.float64) for v in (new, old, low, high))
    assert repeat_sd(new_RN) <= 0.25 * repeat_sd(old_RN)
    assert repeat_sd(new_RN) <= 1.0
    assert coverage(new_RN, low_RN, high_RN) >= 0.93
