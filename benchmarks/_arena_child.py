"""A process that runs the model on its standard input by onnxruntime, which logs what its arena allocates.

python -m benchmarks._arena_child BATCH < model.onnx
"""

from __future__ import annotations

import sys

import onnxruntime

from nas.core.runtimes import Execution, RuntimeTarget
from predictors.measurement.inspection import MEMORY_RUNS
from predictors.runtimes.onnx_runtime import CPU, load

LOGS_ALLOCATIONS = 1  # severity: information


def run() -> None:
    """As often as memory is measured."""
    onnxruntime.set_default_logger_severity(LOGS_ALLOCATIONS)
    execution = Execution(RuntimeTarget("onnxruntime", CPU), batch=int(sys.argv[1]))
    loaded = load(sys.stdin.buffer.read(), execution)
    for _ in range(MEMORY_RUNS):
        loaded.run()


if __name__ == "__main__":
    run()
