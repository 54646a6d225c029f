"""One measurement of ``benchmarks.data_loading``, in a process of its own: prepare and load a data set, read batches.

Arguments: the data set's spec as JSON, the folder of the cache, and seconds to read batches for.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch

from nas.core.ports import Dataset
from nas.core.spec import DataSpec
from nas.datasets.storage import Preparation, load_data
from nas.training.loader import BatchLoader
from nas.training.pipeline import Pipeline

BATCH = 64
TURNS = 2  # of one core and two


def main() -> None:
    """Print what was measured as JSON."""
    spec, cache, seconds = DataSpec.model_validate_json(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    torch.set_num_threads(1)
    cores = sorted(os.sched_getaffinity(0))[:2]
    began = time.perf_counter()
    data = load_data(spec, Preparation(cache, threads=len(cores)))
    _read(data, 1)
    first_batch_s = time.perf_counter() - began
    _read(data, len(data.train) // BATCH)  # a whole epoch: whatever grows with the data has grown
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    speeds = [(_speed(data, cores[:1], seconds), _speed(data, cores, seconds)) for _ in range(TURNS if seconds else 0)]
    print(json.dumps({"first_batch_s": first_batch_s, "peak_mb": peak_mb, "speeds": speeds}))


def _read(data: Dataset, batches: int) -> None:
    pipeline = Pipeline(data, "cpu")
    for _ in islice(BatchLoader(pipeline, data.train, BATCH, seed=0).batches(), batches):
        pass
    pipeline.close()


def _speed(data: Dataset, cores: Sequence[int], seconds: float) -> float:
    """Images per second that are read by so many cores."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)  # of this thread and of those that it starts
    pipeline = Pipeline(data, "cpu")
    batches = BatchLoader(pipeline, data.train, BATCH, seed=1).batches()
    next(batches)
    began, images, elapsed = time.perf_counter(), 0, 0.0
    while elapsed < seconds:
        _, batch = next(batches)
        images += len(batch.labels)
        elapsed = time.perf_counter() - began
    pipeline.close()
    os.sched_setaffinity(0, allowed)
    return images / elapsed


if __name__ == "__main__":
    main()
