"""MODNAS against separate latency-aware searches of the same cost, on devices that are tables.

One training of preset ``modnas`` on small images of CIFAR-10 is conditioned on devices of NAS-Bench-201's table; its
front is then read off for each of them, and for devices that it never saw. Beside it, preset ``la_darts`` searches each
device under three latency bounds, all of these searches together as long as the one. Hypervolume is that of the true
accuracies after 200 epochs and the latencies of the table, as a share of the best front there is. Random cells, as many
as a front has, are the baseline.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch

from benchmarks._accuracy_table import AccuracyTable, read
from benchmarks._cifar import small_cifar
from benchmarks._cli import Options, main, shared_file
from nas.core.arch import Floats, Genes
from nas.core.pareto import hypervolume
from nas.core.ports import Dataset
from nas.training.gradient.hypernetwork import ConditionedDevice, front_of_device
from nas.training.gradient.loop import GradientSearch, run_gradient_search
from nas.training.gradient.options import DartsParams
from nas.training.gradient.resource import Cost, within_bounds
from nas.training.gradient.steps import LatencyCost
from nas.training.pipeline import Pipeline
from nas.training.state import TrainState
from search_spaces.nas_bench_201.space import NasBench201, build

DEVICES = ("raspi4", "eyeriss", "titan_rtx_256", "pixel2")  # a board, an accelerator, a GPU and a phone
UNSEEN = ("fpga", "gold_6226")
QUANTILES = (0.2, 0.4, 0.7)  # of the latencies of connected cells: the bounds of the separate searches
IMAGES, SIZE = 2_000, 8
SPACE = {"channels": 8, "cells": 1}


def bench(options: Options) -> Mapping[str, Any]:
    """Hypervolume by device and method, means over seeds."""
    torch.set_num_threads(1)
    for name in ("nb201.npz", "nb201_oracle.csv"):
        shared_file(options, "data", name)
    table = read(options.shared, "cifar10")
    data = small_cifar(shared_file(options, "data", "cifar10_jpeg.npz"), IMAGES, 250, SIZE)
    comparison = FrontComparison(table, build(SPACE, data.shape), data, int(options.more["epochs"]))
    runs = [comparison.one_seed(seed) for seed in options.seeds]
    return {**summary(runs), "epochs": comparison.epochs, "devices": DEVICES, "unseen": UNSEEN, "runs": runs}


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over seeds, by device and over the devices of the training."""
    by_device = {
        method: {device: fmean(run[method][device] for run in runs) for device in runs[0][method]}
        for method in ("modnas", "separate", "random")
    }
    means = {method: fmean(by_device[method][d] for d in DEVICES) for method in by_device}
    return {
        "hypervolume": means,
        "gain_over_separate": means["modnas"] - means["separate"],
        "by_device": by_device,
        "read_off_s": fmean(run["read_off_s"] for run in runs),
        "train_s": {m: fmean(run["train_s"][m] for run in runs) for m in ("modnas", "separate")},
    }


@dataclass(frozen=True)
class FrontComparison:
    """``epochs`` of the one training, and of all separate searches together."""

    table: AccuracyTable
    space: NasBench201
    data: Dataset
    epochs: int

    def cost(self, device: str) -> Cost:
        """Latencies of canonical cells by the table, as shares of its slowest connected cell."""
        cost_K = self.table.cost(device)
        return lambda genes_NG: cost_K[self.table.keys(self.space.canonical(genes_NG))]

    def one_seed(self, seed: int) -> dict[str, Any]:
        """Hypervolume by method and device, and processor seconds."""
        started_at = time.process_time()
        search = self.trained({"preset": "modnas", "epochs": self.epochs}, seed, devices=DEVICES)
        trained_at = time.process_time()
        assert search.conditioning is not None
        fronts = {d: front_of_device(search.conditioning.net, self.space, self.device(d)) for d in (*DEVICES, *UNSEEN)}
        read_at = time.process_time()
        separate = {device: self.separate(device, seed) for device in DEVICES}
        ended_at = time.process_time()
        return {
            "seed": seed,
            "modnas": {device: self.hypervolume(genes_NG, device) for device, genes_NG in fronts.items()},
            "separate": {device: self.hypervolume(genes_NG, device) for device, genes_NG in separate.items()},
            "random": {d: self.hypervolume(self.random(len(genes_NG), seed), d) for d, genes_NG in fronts.items()},
            "networks": {device: len(genes_NG) for device, genes_NG in fronts.items()},
            "read_off_s": (read_at - trained_at) / len(fronts),
            "train_s": {"modnas": trained_at - started_at, "separate": ended_at - read_at},
        }

    def device(self, name: str) -> ConditionedDevice:
        """A device of the table as a hypernetwork knows it."""
        return ConditionedDevice.of(self.space, name, self.cost(name))

    def trained(
        self, params: Mapping[str, Any], seed: int, *, devices: Sequence[str] = (), latency: LatencyCost | None = None
    ) -> GradientSearch:
        """A search that has ended."""
        options = DartsParams.model_validate({"tune_epochs": 0, **params})
        conditioned = [self.device(name) for name in devices]
        net, pipeline = self.space.supernet(seed), Pipeline(self.data, "cpu")
        search = GradientSearch(net, self.space, self.data, pipeline, options, seed, latency, None, conditioned)
        for _ in run_gradient_search(search, TrainState(), lambda: False):
            pass
        return search

    def separate(self, device: str, seed: int) -> Genes:
        """The cells of ``la_darts`` under each bound, by as many epochs as are left to each search."""
        cost, cost_K = self.cost(device), self.table.cost(device)[self.table.connected_K]
        epochs = max(1, self.epochs // (len(DEVICES) * len(QUANTILES)))
        cells = []
        for bound in np.quantile(cost_K, QUANTILES).tolist():
            params = {"preset": "la_darts", "epochs": epochs}
            search = self.trained(params, seed, latency=LatencyCost(cost, bound))

            def broken(genes_NG: Genes, bound: float = bound) -> Floats:
                return np.maximum(0.0, cost(genes_NG) / bound - 1.0)

            cells.append(within_bounds(self.space, broken, search.scores(), np.random.default_rng(seed)))
        return np.stack(cells)

    def random(self, count: int, seed: int) -> Genes:
        """Random connected cells."""
        rows = np.flatnonzero(self.table.connected_K)
        sampled = np.random.default_rng(seed).choice(rows, count, replace=False)
        return np.stack(np.unravel_index(sampled, (5,) * 6), axis=1).astype(np.int64)

    def hypervolume(self, genes_NG: Genes, device: str) -> float:
        """Of the connected cells among them, as a share of the best there is on the device; 0 without any."""
        keys_N = np.unique(self.table.keys(self.space.canonical(genes_NG)))
        keys_N = keys_N[self.table.connected_K[keys_N]]
        if not len(keys_N):
            return 0.0
        points_N2 = np.stack([self.table.cost(device)[keys_N], 1.0 - self.table.test_K[keys_N] / 100.0], axis=1)
        return hypervolume(points_N2, np.ones(2)) / self.table.best[device]


def add_options(parser: argparse.ArgumentParser) -> None:
    """How long the searches train."""
    parser.add_argument("--epochs", type=int, default=48, help="of the one training (%(default)s)")


if __name__ == "__main__":
    main("modnas_fronts", bench, __doc__ or "", ("torch", "numpy"), seeds=3, more=add_options)
