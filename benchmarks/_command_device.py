"""A program that measures, as a user would write one: onnxruntime by its own loop, for a device of runtime `command`.

    python -m benchmarks._command_device MODEL.onnx

Prints the times of single inferences and the placement as one JSON object, as `docs/runtimes.md` describes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from nas.core.runtimes import Execution
from predictors.runtimes.onnx_runtime import load, report

WARM_S, TIMED_S, CHUNKS = 0.2, 0.6, 200


def main(path: str) -> None:
    """Time a model in chunks, and print the fastest half, which nothing has disturbed."""
    execution = Execution(batch=int(os.environ["HWNAS_BATCH"]), threads=int(os.environ["HWNAS_THREADS"]))
    model = Path(path).read_bytes()
    run = load(model, execution).run
    end, runs = time.perf_counter() + WARM_S, 0
    while time.perf_counter() < end:
        run()
        runs += 1
    count = max(1, round(runs / WARM_S * TIMED_S / CHUNKS))
    times_ms = []
    for _ in range(CHUNKS):
        start = time.perf_counter()
        for _ in range(count):
            run()
        times_ms.append(1e3 * (time.perf_counter() - start) / count)
    placement = report(model, execution).placement
    record = {"provider": placement.provider, "nodes": dict(placement.nodes), "fallback": list(placement.fallback)}
    print(json.dumps({"samples_ms": sorted(times_ms)[: CHUNKS // 2], "placement": record}))


if __name__ == "__main__":
    main(sys.argv[1])
