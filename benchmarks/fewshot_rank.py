"""How well supernets rank cells of NAS-Bench-201, one-shot and few-shot, at equal training cost.

All supernets train for the same number of steps on the same images: one undivided, the others warmed up together, then
divided at random, by all choices of one edge, by gradient matching, or only where that predicts a gain (``auto``).
Random cells are judged with inherited weights; what counts is how well that agrees with the accuracy that the table
gives them after 200 epochs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import fewshot_parallel
from benchmarks._cifar import small_cifar
from benchmarks._cli import Options, main, shared_file
from benchmarks._finished_runs import FinishedRuns, add_arguments
from nas.core.arch import Arch, as_archs
from nas.core.metrics import kendall
from nas.core.ports import Dataset, ImageShape, SearchSpace, Split
from nas.supernet import Supernet
from nas.training.calibration import recalibrate
from nas.training.criterion import Criterion
from nas.training.fewshot.automatic import AutomaticSplit
from nas.training.fewshot.matching import BatchSource, match_decisions, split_by_matching
from nas.training.fewshot.partition import (
    SpacePartition,
    exhaustive_split,
    random_split,
    sample_subspace,
    splittable,
)
from nas.training.fewshot.routed_supernet import split_supernet
from nas.training.pipeline import Pipeline
from nas.training.progressive import SupernetRecipe, train
from nas.training.schedules import uniform
from nas.training.state import TrainState
from search_spaces.nas_bench_201.cell import from_string
from search_spaces.nas_bench_201.space import build

CELLS, PARTS, BATCHES = 500, 4, 16  # cells to rank, parts of a division, batches that gradients are compared on
METHODS = ("one_shot", "random_split", "exhaustive", "gradient_matching", "auto")


@dataclass(frozen=True)
class RankingSetting:
    """Sizes, the same for all methods. ``epochs`` over ``images``, the first ``warmup`` undivided; ``validation`` other
    images judge, and ``calibration`` of the images give each cell its statistics."""

    images: int
    validation: int
    calibration: int
    size: int
    channels: int
    cells: int
    epochs: int
    warmup: int
    lr: float
    subspace_lr: float
    batch: int


SMALL = RankingSetting(10_000, 1_000, 200, 8, 8, 1, 80, 60, 0.1, 0.01, 64)
FULL = RankingSetting(45_000, 5_000, 2_000, 32, 16, 5, 250, 150, 0.1, 0.05, 128)


def bench(options: Options) -> Mapping[str, Any]:
    """Tau by method; then how well two workers share the parts of a partition."""
    setting = FULL if options.more["full"] else SMALL
    archive = shared_file(options, "data", "cifar10_jpeg.npz")
    table = shared_file(options, "data", "nb201.npz")
    device: str = options.more["device"]
    finished = FinishedRuns(options.more["partial"], asdict(setting))
    work = partial(one_seed, setting, archive, table, device)
    names = {seed: f"seed {seed}" for seed in options.seeds}
    missing = [seed for seed in options.seeds if names[seed] not in finished.runs]
    # Two at once on cores, one after another on a GPU.
    with ProcessPoolExecutor(2 if device == "cpu" else 1, mp_context=get_context("spawn")) as pool:
        for seed, run in zip(missing, pool.map(work, missing), strict=True):
            finished.keep(names[seed], run, f"tau {run['tau']}")
    shared = fewshot_parallel.bench(options)
    figures = result([finished.runs[names[seed]] for seed in options.seeds])
    efficiency = {key: shared[key] for key in ("parallel_efficiency", "one_worker_s", "two_workers_s")}
    return {**figures, "cells": CELLS, "setting": asdict(setting), "device": device, **efficiency}


def result(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """What the benchmark prints of its seeds."""
    tau = {m: float(np.mean([run["tau"][m] for run in runs])) for m in METHODS}
    return {
        "tau": tau,
        "tau_by_seed": {m: [run["tau"][m] for run in runs] for m in METHODS},
        "gain_over_one_shot": tau["gradient_matching"] - tau["one_shot"],
        "auto_over_one_shot": tau["auto"] - tau["one_shot"],
        "gain_over_random_split": tau["gradient_matching"] - tau["random_split"],
        "after_warmup": float(np.mean([run["after_warmup"] for run in runs])),
        "accuracy": {m: float(np.mean([run["accuracy"][m] for run in runs])) for m in METHODS},
        "steps": runs[0]["steps"],
        "parts": runs[0]["parts"],
        "partitions": [run["partition"] for run in runs],
        "train_s": float(np.sum([run["train_s"] for run in runs])),
    }


def one_seed(s: RankingSetting, archive: Path, table: Path, device: str, seed: int) -> dict[str, Any]:
    """All methods with one seed: tau, mean accuracy of the cells in %, steps, and processor seconds of training."""
    torch.set_num_threads(1)
    data = small_cifar(archive, s.images, s.validation, s.size)
    space = build({"channels": s.channels, "cells": s.cells}, ImageShape(3, s.size, s.size, len(data.class_names)))
    pipeline = Pipeline(data, device)
    archs, truth_N = _cells(space, table)
    start_s = time.process_time()
    fit = partial(_fit, space=space, data=data, pipeline=pipeline, batch=s.batch)
    one = space.supernet(seed).to(device)
    steps = {"one_shot": fit(one, epochs=s.epochs, lr=s.lr, seed=seed)}
    warm = space.supernet(seed).to(device)
    warmed = fit(warm, epochs=s.warmup, lr=s.lr, seed=seed)

    def batch(arch: Arch, repeat: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = np.random.default_rng((seed, repeat)).permutation(s.images)[: s.batch].astype(np.int64)
        return pipeline.augmented(data.train, rows, s.size, repeat)

    matches = list(match_decisions(warm, space, batch, (), BATCHES, seed))
    divided = {
        "random_split": random_split(space, PARTS, np.random.default_rng((seed, 20))),
        "exhaustive": exhaustive_split(space, [space.decisions[0].name], 5),
        "gradient_matching": split_by_matching(matches, PARTS),
        "auto": _automatic(warm, space, batch, seed),
    }
    nets: dict[str, Supernet] = {"after_warmup": warm, "one_shot": one}
    for method, partition in divided.items():
        nets[method] = routed = split_supernet(space, partition, warm)
        steps[method] = warmed
        epochs_each, remaining = divmod(s.epochs - s.warmup, partition.size)
        for part, net in enumerate(routed.sub_supernets):
            assert isinstance(net, Supernet)
            epochs = epochs_each + (part < remaining)
            own = partial(sample_subspace, partition, part)
            steps[method] += fit(
                net.to(device), epochs=epochs, lr=s.subspace_lr, seed=seed + 1000 * (part + 1), sample=own
            )
    train_s = time.process_time() - start_s
    calibration = Split(data.train.images_NCHW[: s.calibration], data.train.labels[: s.calibration])
    tau, accuracy, criterion = {}, {}, Criterion(data, device)
    for method, net in nets.items():
        estimates = []
        for arch in archs:
            module = net.eval().subnet(arch)
            recalibrate(module, (x for x, _ in pipeline.plain(calibration, s.size)))
            estimates.append(criterion.score(module, pipeline.plain(data.val, s.size)).quality)
        tau[method] = kendall(np.array(estimates), truth_N)
        accuracy[method] = float(np.mean(estimates))
    return {
        "after_warmup": tau.pop("after_warmup"),
        "tau": tau,
        "accuracy": accuracy,
        "steps": steps,
        "parts": {m: p.size for m, p in divided.items()},
        "partition": divided["gradient_matching"].as_json(space.decisions),
        "train_s": train_s,
    }


def _automatic(net: Supernet, space: SearchSpace, batch: BatchSource, seed: int) -> SpacePartition:
    automatic = AutomaticSplit(net, space, batch, splittable(space), BATCHES, seed, PARTS)
    for _ in automatic.run():
        pass
    return automatic.partition


def _fit(
    net: Supernet,
    space: SearchSpace,
    data: Dataset,
    pipeline: Pipeline,
    batch: int,
    epochs: int,
    lr: float,
    seed: int,
    **sample: Any,
) -> int:
    """Trains in place on networks of the space, or of those that ``sample`` draws; the number of steps."""
    recipe = SupernetRecipe(uniform(epochs, lr, {"operation"}, 1), batch_size=batch)
    progress = list(train(net, space, data, pipeline, recipe, seed, TrainState(), lambda: False, **sample))
    return len(progress) - 1  # and the state at the end


def _cells(space: SearchSpace, table: Path) -> tuple[list[Arch], np.ndarray[Any, np.dtype[np.float64]]]:
    """Random cells that are different networks, the same for all seeds, and their accuracy after 200 epochs in %."""
    with np.load(table) as arrays:
        names, truth_N = arrays["arch_str"], arrays["test_acc_200ep_cifar10"].astype(np.float64)
    genes = np.array([from_string(str(name)) for name in names])
    order = np.random.default_rng(0).permutation(len(genes))
    canonical = space.canonical(genes[order])
    _, first = np.unique(canonical, axis=0, return_index=True)
    rows = np.sort(first)[:CELLS]
    return as_archs(space.id, canonical[rows]), truth_N[order[rows]]


if __name__ == "__main__":
    main(
        "fewshot_rank",
        bench,
        __doc__.split("\n")[0],
        ("torch", "numpy"),
        seeds=3,
        more=partial(add_arguments, name="fewshot_rank"),
    )
