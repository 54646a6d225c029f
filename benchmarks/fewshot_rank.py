"""How well supernets rank NAS-Bench-201 cells, one-shot and few-shot, at equal training cost."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import fewshot_parallel
from benchmarks._cifar import small_cifar
from benchmarks._cli import Options, main, shared_file
from nas.core.arch import Arch, as_archs
from nas.core.metrics import kendall
from nas.core.ports import Dataset, ImageShape, SearchSpace, Split
from nas.supernet import Supernet
from nas.training.calibration import recalibrate, score
from nas.training.fewshot.matching import match_all, matched_split
from nas.training.fewshot.partition import Partition, exhaustive_split, random_split, sample_part
from nas.training.fewshot.routed import inherit
from nas.training.pipeline import Pipeline
from nas.training.progressive import Recipe, TrainState, train, uniform
from search_spaces.nas_bench_201.space import build, from_string

IMAGES, VALIDATION, SIZE = 2_000, 250, 16  # training images, images for ranking, their height and width
CELLS, EPOCHS, WARMUP, PARTS = 500, 40, 20, 4
LR, PART_LR, BATCH = 0.1, 0.05, 64
METHODS = ("one_shot", "random_split", "exhaustive", "gradient_matching")


def bench(options: Options) -> Mapping[str, Any]:
    """Tau by method, one seed per process at a time; then how well two workers share the parts of a partition."""
    archive = shared_file(options, "data", "cifar10_jpeg.npz")
    table = shared_file(options, "data", "nb201.npz")
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        runs = list(pool.map(partial(_seed, archive, table), options.seeds))
    tau = {m: float(np.mean([run["tau"][m] for run in runs])) for m in METHODS}
    shared = fewshot_parallel.bench(options)
    return {
        "tau": tau,
        "tau_by_seed": {m: [run["tau"][m] for run in runs] for m in METHODS},
        "gain_over_one_shot": tau["gradient_matching"] - tau["one_shot"],
        "steps": runs[0]["steps"],
        "parts": runs[0]["parts"],
        "partitions": [run["partition"] for run in runs],
        "cells": CELLS,
        "images": IMAGES,
        "resolution": SIZE,
        "train_s": float(np.sum([run["train_s"] for run in runs])),
        **{key: shared[key] for key in ("parallel_efficiency", "one_worker_s", "two_workers_s")},
    }


def _seed(archive: Path, table: Path, seed: int) -> dict[str, Any]:
    torch.set_num_threads(1)
    data, space = _data(archive), _space()
    pipeline = Pipeline(data, "cpu")
    archs, truth_N = _cells(space, table)
    begun = time.process_time()
    nets: dict[str, Supernet] = {}
    steps: dict[str, int] = {}
    one = space.supernet(seed)
    steps["one_shot"] = _fit(one, space, data, pipeline, EPOCHS, LR, seed)
    warm = space.supernet(seed)
    warmed = _fit(warm, space, data, pipeline, WARMUP, LR, seed)

    def batch(arch: Arch, repeat: int) -> tuple[torch.Tensor, torch.Tensor]:
        rows = np.random.default_rng((seed, repeat)).permutation(IMAGES)[:BATCH].astype(np.int64)
        return pipeline.augmented(data.train, rows, SIZE, repeat)

    found = list(match_all(warm, space, batch, (), 16, seed))
    divided = {
        "random_split": random_split(space, PARTS, np.random.default_rng((seed, 20))),
        "exhaustive": exhaustive_split(space, [space.decisions[0].name], 5),
        "gradient_matching": matched_split(found, PARTS),
    }
    nets["one_shot"] = one
    for method, partition in divided.items():
        routed = inherit(space, partition, warm)
        steps[method] = warmed
        for part, net in enumerate(routed.parts):
            assert isinstance(net, Supernet)
            epochs = (EPOCHS - WARMUP) // partition.size
            steps[method] += _fit(
                net, space, data, pipeline, epochs, PART_LR, seed + 1000 * (part + 1), partition, part
            )
        nets[method] = routed
    train_s = time.process_time() - begun
    calibration = Split(data.train.images_NCHW[:100], data.train.labels_N[:100])
    tau = {}
    for method, net in nets.items():
        estimates = []
        for arch in archs:
            module = net.eval().subnet(arch)
            recalibrate(module, (x for x, _ in pipeline.plain(calibration, SIZE)))
            estimates.append(score(module, pipeline.plain(data.val, SIZE)).accuracy)
        tau[method] = kendall(np.array(estimates), truth_N)
    return {
        "tau": tau,
        "steps": steps,
        "parts": {m: p.size for m, p in divided.items()},
        "partition": divided["gradient_matching"].as_json(space.decisions),
        "train_s": train_s,
    }


def _fit(
    net: Supernet,
    space: SearchSpace,
    data: Dataset,
    pipeline: Pipeline,
    epochs: int,
    lr: float,
    seed: int,
    partition: Partition | None = None,
    part: int = 0,
) -> int:
    """Trains in place on networks of the space, or of one part; the number of steps."""
    recipe = Recipe(uniform(epochs, lr, {"operation"}, 1), BATCH)
    drawn: dict[str, Any] = {} if partition is None else {"sample": partial(sample_part, partition, part)}
    news = list(train(net, space, data, pipeline, recipe, seed, TrainState(), lambda: False, **drawn))
    return len(news) - 1  # and the state at the end


def _space() -> SearchSpace:
    return build({"channels": 8, "cells": 1}, ImageShape(3, SIZE, SIZE, 10))


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


def _data(archive: Path) -> Dataset:
    return small_cifar(archive, IMAGES, VALIDATION, SIZE)


if __name__ == "__main__":
    main("fewshot_rank", bench, __doc__ or "", ("torch", "numpy"), seeds=3)
