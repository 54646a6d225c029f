"""What zero-cost proxies tell of accuracy on the table of NAS-Bench-201: each alone, aggregated, and as hints for the
accuracy predictor of the Bayesian explorer.

Distinct cells with a path from input to output are scored on a small batch of images, by networks as the strategy
``zero_cost`` would build them; accuracies are those after 200 epochs. ``aggregate`` is the score that this strategy
goes by, of its default proxies; it was put together on CIFAR-10, and the other two data sets judge it. ``settings``
scores fewer cells by single proxies, on noise or images and with small and large networks, to show what their figures
depend on. For the hints, a Gaussian process is fitted to the validation accuracies (CIFAR-10) of a few random cells and
ranks all others: by what the space says of their structure, or by their genes and costs, as where a space says nothing
of it; and by either with hints from the cells that were scored by ``PROXIES``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from benchmarks._cifar import small_cifar
from benchmarks._cli import Options, main, shared_file
from nas.core.arch import Floats, Genes, as_archs
from nas.core.metrics import spearman
from nas.core.ports import History, ImageShape
from nas.explorers.bayesian import ObjectiveModels
from nas.proxies import score
from nas.spaces.wrapper import SpaceWrapper
from nas.stages.proxies import COUNTED, ProxyAwareSpace, Scores
from nas.strategies.zero_cost import ZeroCostParams
from search_spaces.nas_bench_201.cell import OPERATIONS
from search_spaces.nas_bench_201.space import NasBench201, SpaceParams

DATA_SETS = ("cifar10", "cifar100", "imagenet16")
PROXIES = ("synflow", "jacob_cov", "naswot")  # of the hints
AGGREGATE = tuple(ZeroCostParams().proxies)
AGGREGATED, SCORED, EVALUATED = 400, 128, (15, 30, 60)


@dataclass(frozen=True)
class ProxySetting:
    """Size of the networks and of the batch; ``images``: of CIFAR-10, or else noise."""

    channels: int
    cells: int
    size: int
    batch: int
    images: bool

    @property
    def space(self) -> NasBench201:
        """The space of such networks."""
        return NasBench201(
            SpaceParams(channels=self.channels, cells=self.cells), ImageShape(3, self.size, self.size, 10)
        )

    def batch_of(self, shared: Path) -> tuple[Tensor, Tensor]:
        """Images (B, 3, H, W) and their labels."""
        if not self.images:
            noise = torch.randn(self.batch, 3, self.size, self.size, generator=torch.Generator().manual_seed(0))
            return noise, torch.arange(self.batch) % 10
        data = small_cifar(shared / "data" / "cifar10_jpeg.npz", self.batch, 1, self.size)
        x_BCHW = torch.tensor(data.train.images_NCHW).float()
        deviation, mean = torch.std_mean(x_BCHW, dim=(0, 2, 3), keepdim=True)
        return (x_BCHW - mean) / deviation, torch.tensor(data.train.labels)


SMALL = ProxySetting(channels=8, cells=2, size=16, batch=16, images=False)
AGGREGATE_SETTING = ProxySetting(channels=8, cells=2, size=16, batch=32, images=True)
SETTINGS = {
    "small, noise": (SMALL, 128),
    "small, images": (ProxySetting(8, 2, 16, 64, True), 128),
    "large, images": (ProxySetting(16, 5, 32, 64, True), 40),
}


class Plain(SpaceWrapper):
    """A space that says nothing of its networks' structure."""

    @property
    def accuracy_features(self) -> None:
        """None."""
        return


@dataclass(frozen=True)
class ConnectedCells:
    """Distinct connected cells (N, 6) in random order, their validation accuracies on CIFAR-10 and, by data set, test
    accuracies (N,) in %."""

    genes_NG: Genes
    validation_N: Floats
    test_N: dict[str, Floats]

    @staticmethod
    def read(path: Path) -> ConnectedCells:
        """From ``nb201.npz``."""
        with np.load(path) as table:
            columns = np.array([OPERATIONS.index(str(name)) for name in table["op_names"]])
            canonical_NG = SMALL.space.canonical(columns[table["ops"]].astype(np.int64))
            _, first = np.unique(canonical_NG, axis=0, return_index=True)
            first = np.random.default_rng(0).permutation(first[table["connected"][first].astype(bool)])
            test_N = {d: table[f"test_acc_200ep_{d}"][first].astype(np.float64) for d in DATA_SETS}
            return ConnectedCells(canonical_NG[first], table["val_acc_200ep_cifar10"][first].astype(np.float64), test_N)


def scored(shared: Path, setting: ProxySetting, proxies: Sequence[str], genes_NG: Genes) -> Floats:
    """Scores of N cells by P proxies, shape (N, P)."""
    torch.set_num_threads(1)
    space, (x_BCHW, y_B) = setting.space, setting.batch_of(shared)
    net, costs = space.supernet(0), space.costs(genes_NG)
    rows = []
    for i, arch in enumerate(as_archs(space.id, genes_NG)):
        module = net.subnet(arch)
        rows.append([float(costs[p][i]) if p in COUNTED else score(p, module, x_BCHW, y_B) for p in proxies])
    return np.array(rows)


def ranks(space: Any, genes_NG: Genes, accuracy_N: Floats, rows: Any) -> float:
    """Rank correlation over all cells after those of ``rows`` were evaluated."""
    history = History(genes_NG[rows], -accuracy_N[rows, None], np.zeros(len(rows)))
    models = ObjectiveModels.fit(space, history, None)
    return spearman(-models.processes[0].posterior(models.encode(genes_NG))[0], accuracy_N)


def hints(table: ConnectedCells, scores: Scores, seeds: Sequence[int]) -> dict[str, Any]:
    """Rank correlation of the accuracy predictor with and without hints, means over seeds."""
    out: dict[str, Any] = {}
    for label, base in (("structure", SMALL.space), ("genes_and_costs", Plain(SMALL.space))):
        hinted = ProxyAwareSpace(base, scores)
        for n in EVALUATED:
            draws = [np.random.default_rng((seed, n)).permutation(len(table.genes_NG))[:n] for seed in seeds]
            out.setdefault(label, {})[str(n)] = {
                name: float(np.mean([ranks(s, table.genes_NG, table.validation_N, rows) for rows in draws]))
                for name, s in (("without", base), ("with_hints", hinted))
            }
    return out


def correlations(table: ConnectedCells, scores: Scores) -> dict[str, dict[str, float]]:
    """Spearman with test accuracy by data set, of the aggregate and of each proxy."""
    score_NP, n = scores.standard(scores.scores_NP), len(scores.genes_NG)
    values = {"aggregate": scores.on_one_scale(scores.scores_NP)}
    values |= {name: score_NP[:, p] for p, name in enumerate(scores.proxies)}
    return {name: {d: spearman(v, a[:n]) for d, a in table.test_N.items()} for name, v in values.items()}


def bench(options: Options) -> dict[str, Any]:
    """Means over seeds, each with other evaluated cells."""
    shared_file(options, "data", "cifar10_jpeg.npz")
    table = ConnectedCells.read(shared_file(options, "data", "nb201.npz"))
    start_s = time.monotonic()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:

        def submit(setting: ProxySetting, proxies: Sequence[str], n: int) -> list[Any]:
            parts = np.array_split(table.genes_NG[:n], 4)
            return [pool.submit(scored, options.shared, setting, proxies, part) for part in parts]

        single = {name: submit(setting, PROXIES, n) for name, (setting, n) in SETTINGS.items()}
        aggregated = submit(AGGREGATE_SETTING, AGGREGATE, AGGREGATED)
        hinting = submit(SMALL, PROXIES, SCORED)

        def gathered(proxies: tuple[str, ...], parts: list[Any]) -> Scores:
            score_NP = np.concatenate([part.result() for part in parts])
            return Scores(proxies, table.genes_NG[: len(score_NP)], score_NP)

        by_setting = {name: correlations(table, gathered(PROXIES, parts)) for name, parts in single.items()}
        own = correlations(table, gathered(AGGREGATE, aggregated))
        hint_scores = gathered(PROXIES, hinting)
    seconds = time.monotonic() - start_s
    with threadpool_limits(limits=1):
        predicted = hints(table, hint_scores, options.seeds)
    return {
        "aggregate": {"spearman": own.pop("aggregate"), "of": list(AGGREGATE), "cells": AGGREGATED},
        "spearman_alone": own,
        "settings": {name: {p: v["cifar10"] for p, v in rows.items()} for name, rows in by_setting.items()},
        "spearman": predicted,
        "scoring_s": seconds,
        "seeds": len(options.seeds),
    }


if __name__ == "__main__":
    main("proxy_hints", bench, __doc__.split("\n")[0], ("numpy", "torch"), seeds=10)
