"""Independent stages in parallel: one Ray task each, in a process of its own.

The tasks hold no durable state: their events return to the job, which emits them. A stage whose process dies continues
in another process from its own last checkpoint, without effect on the other stages.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.core.errors import HwnasError
from nas.core.events import Checkpoint, Event, SearchState, Warned, fold
from nas.core.ports import ParallelRunner, Problem, Resources, Stage

log = logging.getLogger(__name__)

RETRIES = 2  # of a stage whose process died before another checkpoint


@dataclass(frozen=True)
class StageFailure:
    """An HwnasError of a stage, as text, since an exception may not survive pickling."""

    message: str


def ray_parallel_runner(cpus: int, gpus: int) -> ParallelRunner:
    """Return ``Resources.run_parallel`` for a job that holds ``cpus`` cores and ``gpus`` GPUs of its node: as many
    concurrent stages as GPUs, or else as cores, which they share evenly."""
    return partial(_run_stages, cpus=cpus, gpus=gpus)


def _run_stages(
    stages: Sequence[Stage], problem: Problem, resources: Resources, state: SearchState, *, cpus: int, gpus: int
) -> Iterator[Event]:
    """Raises HwnasError if a stage fails or its process dies too often; the remaining stages are killed then."""
    if not ray.is_initialized():
        raise HwnasError("parallel stages need a Ray worker: expected one, got a plain process")
    workers = min(gpus or cpus, len(stages))
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpus else []
    shared = ray.put((problem, replace(resources, tuner=None, run_parallel=None), max(1, cpus // max(1, workers))))
    this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    queued = deque(stages)
    running: dict[int, Any] = {}  # Ray tasks by worker
    closed, starting = threading.Event(), threading.Lock()
    results: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()

    def start(worker: int, stage: Stage, stage_state: SearchState) -> Any:
        device = devices[worker % len(devices)] if devices else None
        task = _RUN_ONCE if gpus else _RUN
        with starting:
            if closed.is_set():  # a task started now would never be cancelled
                return ()
            # The job already holds its cores and GPUs; requesting them again would deadlock.
            options = task.options(name=stage.name, scheduling_strategy=this_node)
            running[worker] = options.remote(stage, shared, stage_state, device)
            return running[worker]

    def work(worker: int) -> None:
        try:
            while queued and not closed.is_set():
                stage = queued.popleft()
                for event in _run_with_restarts(stage, state, partial(start, worker), closed):
                    results.put(event)
            results.put(None)
        except BaseException as error:  # noqa: BLE001  # raised again in the consuming thread
            results.put(error)

    # In background threads: while a job's main thread waits for other tasks, Ray considers the job's cores free.
    for worker in range(workers):
        threading.Thread(target=work, args=(worker,), name=f"stages {worker}", daemon=True).start()
    try:
        active = workers
        while active:
            item = results.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                active -= 1
            else:
                yield item
    finally:
        with starting:
            closed.set()
        for task in running.values():
            ray.cancel(task, force=True)


def _run_with_restarts(
    stage: Stage, state: SearchState, start: Callable[[Stage, SearchState], Any], closed: threading.Event
) -> Iterator[Event]:
    """Yield the events of a stage to its end; restart it from its last checkpoint when its process dies."""
    deaths = 0
    while True:
        try:
            for reference in start(stage, state):
                event = ray.get(reference)
                if isinstance(event, StageFailure):
                    raise HwnasError(event.message)
                state = fold(state, event)
                deaths = 0 if isinstance(event, Checkpoint) else deaths
                yield event
            return
        except RayTaskError as error:
            log.error("%s failed with an unexpected error\n%s", stage.name, error)
            raise HwnasError(f"{stage.name}: {type(error.cause).__name__}: {error.cause}") from error
        except RayError as error:
            if closed.is_set():
                return
            deaths += 1
            log.warning("%s: its process died: %s", stage.name, error)
            why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            if deaths > RETRIES:
                raise HwnasError(f"{stage.name}: its process died {deaths} times in a row: {why}") from error
            last = state.checkpoints.get(stage.name)
            where = f"continues after step {last.step}" if last is not None else "starts again"
            yield Warned(stage.name, f"{stage.name}: its process died ({type(error).__name__}); this stage {where}")


def _run(
    stage: Stage, shared: tuple[Problem, Resources, int], state: SearchState, device: str | None
) -> Iterator[Event | StageFailure]:
    """Run a stage in a Ray worker process. ``device`` is the only visible GPU."""
    problem, resources, threads = shared
    torch.set_num_threads(threads)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        yield from stage.run(problem, resources, state)
    except HwnasError as error:
        yield StageFailure(str(error))


_RUN = ray.remote(num_cpus=0, max_retries=0)(_run)
_RUN_ONCE = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(_run)  # a process cannot change its GPU
