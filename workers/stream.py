"""The far end of a job: a Ray task that runs it and hands out its events, and a way to see where it hangs."""

from __future__ import annotations

import faulthandler
import os
import pkgutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.core.errors import HwnasError
from nas.core.ports import JobKind

Records = list[dict[str, Any]]
Outcome = Literal["succeeded", "failed", "crashed", "lost", "parked", "stopped"]
AHEAD = 64  # batches that a worker may be ahead of its dispatcher; then it waits
DUMP_S = 10.0


@dataclass(frozen=True)
class Hello:
    """The first thing that a task says: which process it is, and where that writes its stack when it gets SIGUSR1."""

    pid: int
    node: str
    dump: str


@ray.remote(max_retries=0)
def stream_job(
    run_job: str, kind: JobKind, spec: Mapping[str, Any], blobs_url: str, events: Sequence[Mapping[str, Any]]
) -> Iterator[tuple[Outcome | None, Any]]:
    """Runs a job. An error of ours travels as text: what it was made from may not survive the journey."""
    with tempfile.NamedTemporaryFile(prefix="hwnas-stack-") as dump:
        faulthandler.register(signal.SIGUSR1, file=dump, all_threads=True)  # works even while C code holds the GIL
        try:
            yield None, Hello(os.getpid(), ray.get_runtime_context().get_node_id(), dump.name)
            for batch in pkgutil.resolve_name(run_job)(kind, spec, blobs_url, events):
                yield None, batch
        except HwnasError as error:
            yield "failed", str(error)
        finally:
            faulthandler.unregister(signal.SIGUSR1)


def dump_stack(hello: Hello) -> str:
    """The stack of all threads of a worker, taken by a task on its node; or why there is none."""
    here = NodeAffinitySchedulingStrategy(hello.node, soft=False)
    try:
        text: str = ray.get(_dump.options(scheduling_strategy=here).remote(hello.pid, hello.dump), timeout=DUMP_S)
    except RayError as error:
        return f"(no stack: {type(error).__name__})"
    return text


@ray.remote(num_cpus=0, max_retries=0)
def _dump(pid: int, path: str) -> str:
    before = Path(path).stat().st_size
    os.kill(pid, signal.SIGUSR1)
    for _ in range(20):
        time.sleep(0.1)
        if (text := Path(path).read_text()[before:]).endswith("\n"):
            return text
    return "(no stack: the process did not answer)"
