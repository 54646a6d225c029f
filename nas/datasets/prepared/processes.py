"""Shards written by several processes of this machine."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path

from nas.core.records import RecordSource
from nas.datasets.prepared.prepare import WriteShards, write_here
from nas.datasets.prepared.shards import Shard, ShardJob, write_shard


@contextmanager
def process_writer(processes: int) -> Iterator[WriteShards]:
    """Writes so many shards at a time; what others have written stays if one cannot be. One process is this one."""
    if processes == 1:
        yield write_here
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:

        def write(source: RecordSource, jobs: Sequence[ShardJob], folder: Path) -> Iterator[Shard]:
            running = [pool.submit(write_shard, source, job, folder) for job in jobs]
            try:
                for done in as_completed(running):
                    yield done.result()
            finally:
                for future in running:
                    future.cancel()

        yield write
