"""One stage on several ranks: processes that train the same supernet together, started and watched by Ray Train.

Ranks hold no durable state: the events of the first return to the job, which emits them. If one rank dies, Ray Train
ends the others, and a new group goes on from the last checkpoint; a group that keeps dying goes on with fewer ranks.
"""

from __future__ import annotations

import logging
import os
import queue
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypedDict

import ray
import torch
from ray import train
from ray.exceptions import RayError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.util.queue import Empty, Queue
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nas.core.errors import HwnasError
from nas.core.events import Checkpoint, Event, SearchState, Warned, fold
from nas.core.ports import DataParallelRunner, Problem, Rank, Resources, Stage

log = logging.getLogger(__name__)

RETRIES = 2  # of a group that died before another checkpoint, with as many ranks
_PIN = 0.001  # of a node's own resource; it only says where to run
_POLL_S = 0.5
_COLLECTIVE_TIMEOUT_S = 600  # within which the slowest rank has to reach a sum


@dataclass(frozen=True)
class RankFailure:
    """An HwnasError of a rank, as text, since an exception may not survive pickling."""

    message: str


@dataclass(frozen=True)
class GroupEnd:
    """All ranks have ended, with the exception ``death`` unless by themselves."""

    death: Exception | None


class RankConfig(TypedDict):
    """What a rank begins with: its stage and the state so far, the problem and its resources (a Ray reference), the
    channel of events, its share of threads, and whether ranks have GPUs."""

    stage: Stage
    state: SearchState
    shared: Any
    events: Queue
    threads: int
    on_gpus: bool


def ray_data_parallel(ranks: int, cpus: int, gpus: int) -> DataParallelRunner | None:
    """Return ``Resources.run_on_ranks`` for a job that holds ``cpus`` cores and ``gpus`` GPUs of its node, which ranks
    share; None for one rank."""
    return None if ranks == 1 else partial(_run_on_ranks, ranks=ranks, cpus=cpus, on_gpus=gpus > 0)


def _run_on_ranks(
    stage: Stage,
    problem: Problem,
    resources: Resources,
    state: SearchState,
    *,
    ranks: int,
    cpus: int,
    on_gpus: bool,
) -> Iterator[Event]:
    """Raises HwnasError if a rank fails, or if groups die too often; all ranks are ended then."""
    if not ray.is_initialized():
        raise HwnasError("ranks are started by a Ray worker: expected one, got a plain process")
    shared = ray.put((problem, replace(resources, tuner=None, run_parallel=None, run_on_ranks=None)))
    count, deaths = ranks, 0
    while True:
        death = None
        threads = max(1, cpus // count)
        with _group(count, stage, state, shared, threads, on_gpus) as group:
            for event in group:
                if isinstance(event, GroupEnd):
                    death = event.death
                    continue
                state = fold(state, event)
                deaths = 0 if isinstance(event, Checkpoint) else deaths
                yield event
        if death is None:
            return
        deaths += 1
        log.warning("%s: a rank died: %s", stage.name, death)
        why = f"{type(death).__name__}: {str(death).strip().splitlines()[-1]}"
        if deaths > RETRIES and count == 1:
            raise HwnasError(f"{stage.name}: its process died {deaths} times in a row: {why}") from death
        if deaths > RETRIES:
            count, deaths = count - 1, 0
        last = state.checkpoints.get(stage.name)
        where = f"after step {last.step}" if last is not None else "from its beginning"
        yield Warned(stage.name, f"a training process died ({why}); {count} of {ranks} ranks go on {where}")


@contextmanager
def _group(
    count: int, stage: Stage, state: SearchState, shared: Any, threads: int, on_gpus: bool
) -> Iterator[Iterator[Event | GroupEnd]]:
    """Context with the events of the first of ``count`` ranks and how the group ended. Ends all ranks."""
    node = ray.get_runtime_context().get_node_id()
    events = Queue(
        actor_options={"num_cpus": 0, "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}
    )
    ended: list[GroupEnd] = []
    config = RankConfig(stage=stage, state=state, shared=shared, events=events, threads=threads, on_gpus=on_gpus)

    received: queue.SimpleQueue[Event | RankFailure | GroupEnd] = queue.SimpleQueue()

    def fit(folder: str) -> None:
        try:
            _trainer(count, config, folder).fit()
            ended.append(GroupEnd(None))
        except Exception as error:  # noqa: BLE001  # raised or told by the consuming thread
            ended.append(GroupEnd(error))

    def receive(fitting: threading.Thread) -> None:
        while True:
            is_over = not fitting.is_alive()  # before looking: what comes before the end is not missed
            try:
                received.put(events.get(block=not is_over, timeout=None if is_over else _POLL_S))
            except Empty:
                if is_over:
                    break
            except RayError:  # the channel was closed
                break
        fitting.join()
        received.put(ended[0])

    with tempfile.TemporaryDirectory(prefix="nas-train-") as folder:
        # In threads: Ray Train blocks, and on the main thread it would install signal handlers; and while a job's main
        # thread waits for other tasks, Ray considers the job's cores free.
        fitting = threading.Thread(target=fit, args=(folder,), name=f"ranks of {stage.name}", daemon=True)
        receiving = threading.Thread(target=receive, args=(fitting,), name=f"events of {stage.name}", daemon=True)
        fitting.start()
        receiving.start()
        try:
            yield _events(received)
        finally:
            events.shutdown(force=True)  # a rank that goes on fails at its next event
            receiving.join()


def _events(received: queue.SimpleQueue[Event | RankFailure | GroupEnd]) -> Iterator[Event | GroupEnd]:
    """The events in order, and how the group ended. Raises HwnasError for that of a rank."""
    while True:
        item = received.get()
        if isinstance(item, RankFailure):
            raise HwnasError(item.message)
        yield item
        if isinstance(item, GroupEnd):
            return


def _trainer(count: int, config: RankConfig, folder: str) -> TorchTrainer:
    pin = {f"node:{ray.util.get_node_ip_address()}": _PIN}  # type: ignore[no-untyped-call]
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = {"CUDA_VISIBLE_DEVICES": devices} if config["on_gpus"] and devices is not None else {}
    return TorchTrainer(
        _run_rank,  # type: ignore[arg-type]  # a mapping of known keys
        train_loop_config=dict(config),
        # Flags travel by gloo; ranks on GPUs sum by NCCL (``nas.training.ranks``).
        torch_config=TorchConfig(backend="gloo", timeout_s=_COLLECTIVE_TIMEOUT_S),
        # The job already holds its cores and GPUs; requesting them again would deadlock.
        scaling_config=train.ScalingConfig(num_workers=count, resources_per_worker={"CPU": 0, **pin}),
        run_config=train.RunConfig(  # type: ignore[call-arg]  # the types are those of an older version
            storage_path=folder,
            failure_config=train.FailureConfig(max_failures=0),  # groups restart from the events of the search
            worker_runtime_env={"env_vars": visible},
            logging_config=train.LoggingConfig(log_level="ERROR"),
        ),
    )


def _run_rank(config: RankConfig) -> None:
    """Run the stage as one of the ranks, in a process of Ray Train."""
    context = train.get_context()
    rank = Rank(context.get_world_rank(), context.get_world_size())
    torch.set_num_threads(config["threads"])
    problem, resources = ray.get(config["shared"])
    device = f"cuda:{rank.index}" if config["on_gpus"] else "cpu"
    try:
        for event in config["stage"].run(problem, replace(resources, rank=rank, torch_device=device), config["state"]):
            if rank.index == 0:
                config["events"].put(event)
    except HwnasError as error:
        config["events"].put(RankFailure(str(error)))
        raise
