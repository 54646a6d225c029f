"""How well two workers share the training of four parts of a supernet: on a local Ray, as a search trains them."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._cli import Options, main
from nas.blobs import open_blobs
from nas.core import registry
from nas.core.events import EncodedEvent, SearchState, StageFinished
from nas.core.jobs import Lease, SearchPayload
from nas.core.ports import Problem, Resources
from nas.core.spec import DataSpec, ResourceSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.stages.results import SplitResult, TrainResult
from nas.stages.sub_supernets import SubSupernetsStage
from nas.strategies.few_shot import FEW_SHOT
from nas.training.fewshot.partition import random_split
from nas.training.state import TrainState
from workers.attempt import AttemptOutcome
from workers.parallel_stages import ray_parallel_runner
from workers.ray_cluster import RayCluster, ray_cluster

PARTS, EPOCHS, REPEATS = 4, 40, 3
SPEC = SearchSpec(
    space=SpaceSpec(name="nas_bench_201", params={"preset": "digits"}),
    data=DataSpec(),
    strategy=StrategySpec(
        name="few_shot",
        params={"subspaces": PARTS, "split": "random", "subspace_epochs": EPOCHS, "compare_one_shot": False},
    ),
)


def bench(options: Options) -> Mapping[str, Any]:
    """Medians of paired repeats, after one that is not counted: workers start, and read their code, only once."""
    seconds: dict[int, list[float]] = {1: [], 2: []}
    busy: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        cluster_options = {"blobs_url": folder, "run_job": "benchmarks.fewshot_parallel:run_job"}
        with ray_cluster(None, Path(folder) / "ray", cpus=2, **cluster_options) as cluster:
            _train(cluster, 2)
            for _ in range(REPEATS):
                for workers in seconds:
                    wall_s, cpu_s = _train(cluster, workers)
                    seconds[workers].append(wall_s)
                    busy[workers].append(cpu_s)
    ratios = [one / (2 * two) for one, two in zip(seconds[1], seconds[2], strict=True)]
    return {
        "parallel_efficiency": float(np.median(ratios)),
        "by_repeat": ratios,
        "one_worker_s": float(np.median(seconds[1])),
        "two_workers_s": float(np.median(seconds[2])),
        "others_cpus": float(np.median([*busy[1], *busy[2]])),
        "subspaces": PARTS,
        "epochs": EPOCHS,
    }


def _train(cluster: RayCluster, workers: int) -> tuple[float, float]:
    """Seconds that all parts took, and how many cores other programs had meanwhile."""
    spec = SPEC.model_copy(update={"resources": ResourceSpec(cpus=workers)})
    lease = Lease(f"on {workers}", 1, 0.0, SearchPayload(spec, devices=()))
    job = cluster.start(lease, ResourceSpec(cpus=2), cluster.nodes()[0])
    records: list[EncodedEvent] = []
    while not isinstance(outcome := job.poll(600.0), AttemptOutcome):
        if outcome is None:
            raise TimeoutError(job.dump_stacks())
        records += outcome
    if outcome.status != "succeeded":
        raise RuntimeError(f"training {outcome.status}: {outcome.message}")
    return records[-1]["seconds"], records[-1]["others"]


def run_job(payload: SearchPayload, blobs_url: str, events: Sequence[EncodedEvent]) -> Iterator[list[dict[str, Any]]]:
    """Train the sub-supernets on ``resources.cpus`` workers with one thread each, and report how long that took."""
    torch.set_num_threads(1)
    data = registry.load_dataset(SPEC.data.name).load(SPEC.data, SPEC.data.seed)
    space = registry.build_space(SPEC.space, data.shape)
    blobs = open_blobs(blobs_url)
    partition = random_split(space, PARTS, np.random.default_rng(0))
    warm = TrainState(0, 0, {"net": space.supernet(0).state_dict()})
    state = SearchState(
        finished={
            "warm_up": TrainResult(blobs.put(warm.to_bytes())).to_json(),
            "split": SplitResult(partition=partition.as_json(space.decisions)).to_json(),
        }
    )
    problem = Problem(SPEC, space, data, None, None)  # type: ignore[arg-type]  # training asks for no device
    [stage] = [s for s in FEW_SHOT.stages(problem) if isinstance(s, SubSupernetsStage)]
    workers = payload.spec.resources.cpus
    run_parallel = ray_parallel_runner(workers, 0)
    resources = Resources(blobs, None, time.monotonic, run_parallel=run_parallel)  # type: ignore[arg-type]
    start_s, idle = time.perf_counter(), _busy_s()
    steps = [e.result["steps"] for e in stage.run(problem, resources, state) if isinstance(e, StageFinished)]
    wall_s = time.perf_counter() - start_s
    other_load = (_busy_s() - idle) / wall_s - workers
    yield [{"kind": "timed", "seconds": wall_s, "steps": steps[0], "others": other_load}]


def _busy_s() -> float:
    """Seconds that all cores of this machine have worked, by the system's own books; 0 where it keeps none."""
    books = Path("/proc/stat")
    if not books.exists():
        return 0.0
    user, nice, system, *_ = (int(word) for word in books.read_text().splitlines()[0].split()[1:])
    return (user + nice + system) / 100


if __name__ == "__main__":
    main("fewshot_parallel", bench, __doc__ or "", ("torch", "numpy", "ray"))
