"""A process that runs the model on its standard input by onnxruntime, whose arena takes what is asked of it and logs
it. Prints by how many bytes the process has grown, as the product measures it.

python -m benchmarks._arena_child BATCH < model.onnx
"""

from __future__ import annotations

import sys
from typing import Any

import onnxruntime

from nas.core.runtimes import Execution, RuntimeTarget
from predictors.measurement.inspection import inspect
from predictors.runtimes.onnx_runtime import CPU, ONNXRUNTIME

LOGS_ALLOCATIONS = 1  # severity: information
AS_REQUESTED = 1  # the strategy by which the arena grows; by default, to the next power of two


class SharedArena(onnxruntime.SessionOptions):  # type: ignore[misc]
    """Options of a session that takes its memory from the arena of the process."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.add_session_config_entry("session.use_env_allocators", "1")


def run() -> None:
    """Once, as memory is measured."""
    onnxruntime.set_default_logger_severity(LOGS_ALLOCATIONS)
    kind, where = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, onnxruntime.OrtMemType.DEFAULT
    memory = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, where)
    onnxruntime.create_and_register_allocator(memory, onnxruntime.OrtArenaCfg(0, AS_REQUESTED, -1, -1))
    onnxruntime.SessionOptions = SharedArena
    execution = Execution(RuntimeTarget("onnxruntime", CPU), batch=int(sys.argv[1]))
    print(inspect(ONNXRUNTIME, sys.stdin.buffer.read(), execution).peak_bytes)


if __name__ == "__main__":
    run()
