"""Stages that need nothing of each other, run at once: each a Ray task, in a process of its own.

Nothing that counts stays there: events come back to the job, which alone hands them out. A stage whose process dies
goes on in another from its own last checkpoint; the others do not notice.
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

RETRIES = 2  # of a stage whose process died, before it has kept anything more


@dataclass(frozen=True)
class Failed:
    """An error of ours. It travels as text: what it was made from may not survive the journey."""

    message: str


def ray_together(cpus: int, gpus: int) -> ParallelRunner:
    """``Resources.run_parallel`` for a job on a Ray worker that holds so many cores and GPUs of its node: as many
    stages at once as there are GPUs, or else cores, which they share evenly."""
    return partial(_on_ray, cpus=cpus, gpus=gpus)


def _on_ray(
    stages: Sequence[Stage], problem: Problem, resources: Resources, state: SearchState, *, cpus: int, gpus: int
) -> Iterator[Event]:
    """Raises HwnasError for a stage that fails, or whose process dies again and again; the others are ended then."""
    if not ray.is_initialized():
        raise HwnasError("stages run at once inside of a Ray worker: expected one, got a plain process")
    hands = min(gpus or cpus, len(stages))
    devices = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if gpus else []
    shared = ray.put((problem, replace(resources, tuner=None, run_parallel=None), max(1, cpus // max(1, hands))))
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    waiting = deque(stages)
    running: dict[int, Any] = {}
    over, starting = threading.Event(), threading.Lock()
    news: queue.SimpleQueue[Event | BaseException | None] = queue.SimpleQueue()

    def start(hand: int, stage: Stage, known: SearchState) -> Any:
        device = devices[hand % len(devices)] if devices else None
        task = _RUN_ONCE if gpus else _RUN
        with starting:
            if over.is_set():  # nobody would end it
                return ()
            # The job holds cores and GPUs already; asking for them again would wait for itself.
            running[hand] = task.options(name=stage.name, scheduling_strategy=here).remote(stage, shared, known, device)
            return running[hand]

    def work(hand: int) -> None:
        try:
            while waiting and not over.is_set():
                stage = waiting.popleft()
                for event in _attempts(stage, state, partial(start, hand), over):
                    news.put(event)
            news.put(None)
        except BaseException as error:  # noqa: BLE001  # it is raised again where it can be seen
            news.put(error)

    # In threads of their own: Ray takes a job's cores for free while its main thread waits for other tasks.
    for hand in range(hands):
        threading.Thread(target=work, args=(hand,), name=f"parts {hand}", daemon=True).start()
    try:
        while hands:
            item = news.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                hands -= 1
            else:
                yield item
    finally:
        with starting:
            over.set()
        for task in running.values():
            ray.cancel(task, force=True)


def _attempts(
    stage: Stage, state: SearchState, start: Callable[[Stage, SearchState], Any], over: threading.Event
) -> Iterator[Event]:
    """The events of a stage to its end, however often its process dies on the way."""
    deaths = 0
    while True:
        try:
            for news in start(stage, state):
                event = ray.get(news)
                if isinstance(event, Failed):
                    raise HwnasError(event.message)
                state = fold(state, event)
                deaths = 0 if isinstance(event, Checkpoint) else deaths
                yield event
            return
        except RayTaskError as error:
            log.error("%s failed with an error that was not foreseen\n%s", stage.name, error)
            raise HwnasError(f"{stage.name}: {type(error.cause).__name__}: {error.cause}") from error
        except RayError as error:
            if over.is_set():
                return
            deaths += 1
            log.warning("%s: its process died: %s", stage.name, error)
            why = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            if deaths > RETRIES:
                raise HwnasError(f"{stage.name}: its process died {deaths} times in a row: {why}") from error
            last = state.checkpoints.get(stage.name)
            where = f"goes on after step {last.step}" if last is not None else "begins again"
            yield Warned(
                stage.name, f"{stage.name}: its process died ({type(error).__name__}); it {where}; nothing else does"
            )


def _run(
    stage: Stage, shared: tuple[Problem, Resources, int], state: SearchState, device: str | None
) -> Iterator[Event | Failed]:
    """What runs in a stage's process. ``device`` is the one GPU that it may see."""
    problem, resources, threads = shared
    torch.set_num_threads(threads)
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        yield from stage.run(problem, resources, state)
    except HwnasError as error:
        yield Failed(str(error))


_RUN = ray.remote(num_cpus=0, max_retries=0)(_run)
_RUN_ONCE = ray.remote(num_cpus=0, max_retries=0, max_calls=1)(_run)  # a process keeps the first GPU that it has seen
