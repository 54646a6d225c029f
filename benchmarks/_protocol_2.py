"""The second version of the measuring protocol, in short, as the peer of the one in use: blocks of 12 ms in random
order, each over the drift of the four canary blocks nearest to it, and the median over rounds. It runs in one process,
pinned and prioritised like the product's, for as long as it is given."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from nas.core.device import MeasurementProtocol
from nas.core.runtimes import Execution
from predictors.measurement.machine import (
    canary_model,
    describe_machine,
    machine_stopwatch,
    pin,
    prioritise,
)
from predictors.measurement.sitting import Run, Stopwatch
from predictors.runtimes.onnx_runtime import load

BLOCK_MS, CHUNK_MS, QUANTILE, ROUNDS = 12.0, 0.1, 0.1, 9


def measure(
    runs: list[Run],
    canary: Run,
    watch: Stopwatch,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[float]:
    """Latency of each network in ms, from as many rounds as the time allows, nine at least."""
    chunk = [_chunk(run, watch) for run in runs]
    canary_chunk = _chunk(canary, watch)
    rng = np.random.default_rng(0)
    canaries: list[float] = []
    samples: list[list[tuple[int, float]]] = [[] for _ in runs]
    begun = clock()
    while min(map(len, samples)) < ROUNDS or clock() - begun < seconds:
        for i in rng.permutation(len(runs)):
            canaries.append(_block(canary, canary_chunk, BLOCK_MS / 2, watch))
            samples[i].append((len(canaries), _block(runs[i], chunk[i], BLOCK_MS, watch)))
    canaries.append(_block(canary, canary_chunk, BLOCK_MS / 2, watch))
    usual = float(np.median(canaries))
    drift = [float(np.median(canaries[max(0, k - 2) : k + 2])) / usual for k in range(len(canaries))]
    return [float(np.median([ms / drift[k] for k, ms in of_one])) for of_one in samples]


def _chunk(run: Run, watch: Stopwatch) -> int:
    for _ in range(200):
        run()
    begun = watch.now_ns()
    for _ in range(20):
        run()
    return max(1, round(CHUNK_MS * 20 * 1e6 / (watch.now_ns() - begun)))


def _block(run: Run, chunk: int, lasting_ms: float, watch: Stopwatch) -> float:
    times: list[float] = []
    begun = watch.now_ns()
    while len(times) < 3 or watch.now_ns() - begun < lasting_ms * 1e6:
        before, start = watch.interruptions(), watch.now_ns()
        for _ in range(chunk):
            run()
        end = watch.now_ns()
        if watch.interruptions() == before or end - begun > 4 * lasting_ms * 1e6:
            times.append((end - start) / chunk / 1e6)
    return float(np.quantile(times, QUANTILE, method="lower"))


def main(folder: str, seconds: float) -> None:
    """Measure the models in a folder and print their latencies as JSON."""
    pin(describe_machine("here", MeasurementProtocol()).affinity)
    prioritise()
    models = [load(p.read_bytes(), Execution()).run for p in sorted(Path(folder).glob("*.onnx"))]
    print(json.dumps(measure(models, load(canary_model(), Execution()).run, machine_stopwatch(), seconds)))


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
