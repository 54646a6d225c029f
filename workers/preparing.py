"""Data sets prepared by Ray tasks on the node of the job that needs them; what the tasks return holds no images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.core.errors import HwnasError
from nas.core.records import RecordSource
from nas.datasets.prepared.prepare import WriteShards, write_here
from nas.datasets.prepared.shards import Shard, ShardJob, write_shard

_JOBS = 8  # consecutive shards that one task writes, so that archives are unpacked from their beginning less often
_RETRIES = 2  # of a task whose process died


def shard_writer(cpus: int) -> WriteShards:
    """Write shards in as many Ray tasks at a time as the job holds ``cpus``; outside of Ray, in this process."""
    return partial(_write, parallel=cpus) if ray.is_initialized() else write_here


def _write(source: RecordSource, jobs: Sequence[ShardJob], folder: Path, *, parallel: int) -> Iterator[Shard]:
    """Raises what a task raises; the shards that others have written stay."""
    shared = ray.put(source)
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queued = [jobs[start : start + _JOBS] for start in range(0, len(jobs), _JOBS)]
    running: list[Any] = []
    try:
        while queued or running:
            while queued and len(running) < parallel:
                # The job already holds its cores; requesting them again would deadlock.
                options = _WRITE.options(name="prepare data", scheduling_strategy=this_node)
                running.append(options.remote(shared, queued.pop(0), folder))
            (done, *_), running = ray.wait(running, num_returns=1)
            yield from ray.get(done)
    except RayTaskError as error:
        if isinstance(error.cause, HwnasError):
            raise error.cause from error
        raise HwnasError(f"preparing the data failed: {type(error.cause).__name__}: {error.cause}") from error
    except RayError as error:
        raise HwnasError(f"preparing the data failed {_RETRIES + 1} times: {type(error).__name__}: {error}") from error
    finally:
        for task in running:
            ray.cancel(task, force=True)


def _write_some(source: RecordSource, jobs: Sequence[ShardJob], folder: Path) -> list[Shard]:
    return [write_shard(source, job, folder) for job in jobs]


_WRITE = ray.remote(num_cpus=0, max_retries=_RETRIES)(_write_some)
