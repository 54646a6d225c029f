"""Record how a machine disturbs networks: chunks of the canary and of a reference network in turns, for the tests.

    python -m tools.record_trace OUT.npz --seconds 8 --busy 1

``--busy`` programs compute and write memory meanwhile. The file holds ``canary`` and ``network``, times over their
fifth percentile, and ``step_ms``, the mean time between two chunks. Chunks during which the process lost its core are
left out, as the protocol leaves them out.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.measuring import busy
from nas.core.arch import Floats
from nas.core.device import MeasurementProtocol
from nas.core.runtimes import Execution
from predictors.measurement.machine import (
    canary_model,
    describe_machine,
    machine_stopwatch,
    pin,
    reference_models,
)
from predictors.runtimes.onnx_runtime import load


def record(seconds: float) -> tuple[Floats, Floats, float]:
    """Chunks of canary and network for so many seconds, and the mean time between them in ms."""
    pin(describe_machine("here", MeasurementProtocol()).affinity)
    watch = machine_stopwatch()
    runs = [load(model, Execution()).run for model in (canary_model(), reference_models()[1])]
    for run in runs * 200:
        run()
    times: list[tuple[float, float]] = []
    begun = time.monotonic()
    while time.monotonic() - begun < seconds:
        before, pair = watch.interruptions(), []
        for run in runs:
            run()
            start = watch.now_ns()
            run()
            run()
            pair.append((watch.now_ns() - start) / 2e6)
        if watch.interruptions() == before:
            times.append((pair[0], pair[1]))
    canary, network = np.array(times).T
    return (
        (canary / np.quantile(canary, 0.05)).astype(np.float32),
        (network / np.quantile(network, 0.05)).astype(np.float32),
        1e3 * seconds / len(times),
    )


def main() -> None:
    """Record a trace beside busy programs, which are stopped at the end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--busy", type=int, default=0)
    options = parser.parse_args()
    with busy(options.busy):
        time.sleep(1.0)
        canary, network, step_ms = record(options.seconds)
        np.savez_compressed(options.out, canary=canary, network=network, step_ms=np.array(step_ms))


if __name__ == "__main__":
    main()
