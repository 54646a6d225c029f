"""Differentiable search on the cells of NAS-Bench-201: every preset as shipped on real images, and random search at
equal cost.

What a search finds is looked up in the table: its accuracy after 200 epochs, which no search ever sees. Random search
spends as many processor seconds on training random cells alone, for a short while and on the same images, and takes the
one that does best on the held-out half. Cells are trained between the searches, so that both meet the machine in the
same state; then many random searches are drawn from all that were trained.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._cifar import small_cifar
from benchmarks._cli import Options, main, shared_file
from benchmarks._finished_runs import FinishedRuns, add_arguments
from nas.core.arch import Floats, Genes, as_archs, every
from nas.core.ports import Dataset, Split
from nas.core.relaxation import parameter_free_share, skip_share
from nas.training.criterion import Criterion
from nas.training.gradient.hypernetwork import ConditionedDevice
from nas.training.gradient.loop import EpochReport, GradientSearch, run_gradient_search
from nas.training.gradient.options import EXPERIMENTAL, PLAIN, DartsParams, Preset
from nas.training.gradient.resource import within_bounds
from nas.training.gradient.steps import LatencyCost
from nas.training.pipeline import Pipeline
from nas.training.standalone import StandaloneRecipe, StandaloneTrainer
from nas.training.state import TrainState
from search_spaces.nas_bench_201.cell import OPERATIONS, active_edges, to_string
from search_spaces.nas_bench_201.space import NasBench201, build

DATA_SETS = ("cifar10", "cifar100", "imagenet16")
NAMES: tuple[str, ...] = get_args(Preset)
DEVICE, QUANTILE = "raspi4", 0.5  # of the table: the bound of presets with a latency term, over its connected cells
DRAWS = 1000  # random searches


@dataclass(frozen=True)
class SearchSetting:
    """Sizes, the same for every preset. ``images`` are halved: one half for the weights, one for the alphas, and for
    random search one to learn from and one to choose by. ``alone_*``: of the random cells, ``alone_cells`` after every
    search."""

    images: int
    size: int
    channels: int
    cells: int
    epochs: int
    batch: int
    alone_cells: int
    alone_epochs: int
    alone_lr: float


SMALL = SearchSetting(2_000, 8, 8, 1, 20, 64, 2, 8, 0.1)
FULL = SearchSetting(50_000, 32, 16, 5, 50, 64, 4, 12, 0.1)


@dataclass(frozen=True)
class CellTable:
    """True accuracies (15625, 3) in % by data set, latencies (15625,) in ms on ``DEVICE``; rows by ``key``."""

    accuracy_KD: Floats
    latency_K: Floats
    connected_K: NDArray[np.bool_]

    def key(self, genes_NG: Genes) -> Genes:
        """Rows of the table."""
        keys: Genes = genes_NG @ (len(OPERATIONS) ** np.arange(5, -1, -1))
        return keys

    def truth(self, genes_G: Sequence[int]) -> dict[str, float]:
        """Accuracies of one cell by data set."""
        row = self.accuracy_KD[self.key(np.array([genes_G]))[0]]
        return dict(zip(DATA_SETS, row.tolist(), strict=True))

    @property
    def bound_ms(self) -> float:
        """The bound of presets with a latency term."""
        return float(np.quantile(self.latency_K[self.connected_K], QUANTILE))


def read(path: Path) -> CellTable:
    """The table from ``nb201.npz``."""
    with np.load(path, allow_pickle=False) as arrays:
        code = np.array([OPERATIONS.index(str(name)) for name in arrays["op_names"]])
        keys_K = code[arrays["ops"]] @ (len(OPERATIONS) ** np.arange(5, -1, -1))
        order = np.argsort(keys_K)
        accuracy = np.stack([arrays[f"test_acc_200ep_{d}"][order] for d in DATA_SETS], axis=1)
        device = [str(name) for name in arrays["latency_device"]].index(DEVICE)
        return CellTable(
            accuracy.astype(np.float64),
            arrays["latency_ms"][order, device].astype(np.float64),
            arrays["connected"][order] > 0,
        )


def options(preset: str, setting: SearchSetting) -> DartsParams:
    """A preset as shipped: nothing but its length is chosen here. What it finds is looked up, so nothing is tuned."""
    length = {"epochs": setting.epochs, "batch_size": setting.batch, "tune_epochs": 0}
    return DartsParams.model_validate({"preset": preset, **length})


class SearchBench:
    """Images, table and space of one setting on one device."""

    def __init__(self, setting: SearchSetting, data: Dataset, table: CellTable, device: str) -> None:
        self.setting, self.data, self.table, self.device = setting, data, table, device
        self.space: NasBench201 = build({"channels": setting.channels, "cells": setting.cells}, data.shape)
        self.pipeline = Pipeline(data, device)
        images, labels, half = data.train.array_NCHW, data.train.labels, setting.images // 2
        fit, rank = Split(images[:half], labels[:half]), Split(images[half:], labels[half:])
        self._halves = replace(data, train=fit, val=rank, test=rank)
        self._halves_pipeline = Pipeline(self._halves, device)

    def searched(self, preset: str, seed: int) -> dict[str, Any]:
        """One search, and what the table says of the cell it found."""
        preset_options = options(preset, self.setting)
        start_s = time.process_time()
        net = self.space.supernet(seed).to(self.device).to(memory_format=torch.channels_last)
        latency = LatencyCost(self._latency_ms, self.table.bound_ms) if preset_options.latency_weight else None
        devices = [ConditionedDevice.of(self.space, DEVICE, self._latency_ms)] if preset_options.hypernetwork else []
        learning = GradientSearch(
            net, self.space, self.data, self.pipeline, preset_options, seed, latency, devices=devices
        )
        readings, warnings, steps = [], list[str](), 0
        for event in run_gradient_search(learning, TrainState(), lambda: False):
            if isinstance(event, EpochReport):
                readings.append(event)
                warnings += event.warnings
            elif not isinstance(event, TrainState):
                steps += 1
        if learning.conditioning is not None:
            learning.conditioning.settle(lambda _: True)  # by accuracy alone
        genes = learning.discretised
        if learning.series and learning.conditioning is None:  # from the most accurate network to the cheapest
            genes = max(learning.series, key=lambda g: float(self.space.costs(g[None])["macs"][0]))
        if latency is not None:
            rng = np.random.default_rng((seed, 12))
            genes = within_bounds(self.space, self._violation, learning.scores(), rng)
        return {
            **self._cell(genes),
            "steps": steps,
            "seconds": time.process_time() - start_s,
            "rates": learning.rates.as_record(),
            "signs": list(learning.signs),
            "warnings": warnings,
            "entropy": [round(r.values["entropy"], 4) for r in readings],
            "skip_shares": [round(r.values["skip_share"], 3) for r in readings],
            "eigenvalues": [round(r.values["eigenvalue"], 5) for r in readings if "eigenvalue" in r.values],
            "series": [self._cell(g) for g in learning.series],
            "scores": np.round(learning.scores(), 4).tolist(),
        }

    def trained(self, genes_G: Sequence[int]) -> dict[str, Any]:
        """One random cell, trained alone on one half and judged on the other."""
        s = self.setting
        start_s = time.process_time()
        (arch,) = as_archs(self.space.id, np.array([genes_G]))
        module = self.space.supernet(0).subnet(arch).to(self.device).to(memory_format=torch.channels_last)
        recipe = StandaloneRecipe(
            epochs=s.alone_epochs, batch_size=s.batch, lr=s.alone_lr, weight_decay=5e-4, label_smoothing=0.0
        )
        training = StandaloneTrainer(module, s.size, self._halves, self._halves_pipeline, recipe, 0)
        for epoch in range(s.alone_epochs):
            training.epoch(epoch)
        found = Criterion(self._halves, self.device).score(
            module, self._halves_pipeline.plain(self._halves.val, s.size)
        )
        steps = s.alone_epochs * training.per_epoch
        seconds = time.process_time() - start_s
        return {**self._cell(arch.genes), "val_accuracy": found.quality, "steps": steps, "seconds": seconds}

    def _cell(self, genes_G: Any) -> dict[str, Any]:
        genes = np.asarray(genes_G, dtype=np.int64)
        table = self.space.table(genes)
        (arch,) = as_archs(self.space.id, genes[None])
        return {
            "genes": genes.tolist(),
            "cell": to_string(arch),
            "accuracy": self.table.truth(arch.genes),
            "latency_ms": float(self._latency_ms(genes[None])[0]),
            "skip_share": skip_share(self.space.relaxation, table),
            "bare": parameter_free_share(self.space.relaxation, table) >= 1.0,
        }

    def _latency_ms(self, genes_NG: Genes) -> Floats:
        latency_ms: Floats = self.table.latency_K[self.table.key(genes_NG)]
        return latency_ms

    def _violation(self, genes_NG: Genes) -> Floats:
        cut = ~active_edges(genes_NG).any(axis=1)
        over: Floats = np.maximum(0.0, self._latency_ms(genes_NG) / self.table.bound_ms - 1.0)
        return over + cut


def random_cells(space: NasBench201, n: int) -> list[list[int]]:
    """The first ``n`` of a fixed random order of all connected cells that are different networks."""
    canonical = np.unique(space.canonical(every(space.decisions)), axis=0)
    connected = canonical[active_edges(canonical).any(axis=1)]
    cells: list[list[int]] = np.random.default_rng(0).permutation(connected)[:n].tolist()
    return cells


def at_cost(trained: Sequence[Mapping[str, Any]], seconds: float, draws: int = DRAWS) -> dict[str, Any]:
    """Random searches that spend at most ``seconds``, and at least one cell: cells in random order for as long as they
    fit, the best by validation. Means and deviations of true accuracies, the mean number of cells, and what they took:
    much less than ``seconds`` if there are too few cells to spend it on."""
    truth_ND = np.array([[run["accuracy"][d] for d in DATA_SETS] for run in trained])
    val_N = np.array([run["val_accuracy"] for run in trained])
    cost_N = np.array([run["seconds"] for run in trained])
    best_ND, counts, spent = [], [], []
    for draw in range(draws):
        order = np.random.default_rng(draw).permutation(len(trained))
        n = max(1, int(np.searchsorted(np.cumsum(cost_N[order]), seconds, side="right")))
        best_ND.append(truth_ND[order[:n][val_N[order[:n]].argmax()]])
        counts.append(n)
        spent.append(float(cost_N[order[:n]].sum()))
    mean, deviation = np.mean(best_ND, axis=0), np.std(best_ND, axis=0)
    return {
        "mean": dict(zip(DATA_SETS, mean.tolist(), strict=True)),
        "deviation": dict(zip(DATA_SETS, deviation.tolist(), strict=True)),
        "cells": fmean(counts),
        "seconds": fmean(spent),
    }


def describe(run: Mapping[str, Any]) -> str:
    """A line on a run."""
    return f"{run['accuracy']['cifar10']:.2f} %, {run['seconds']:.1f} s"


def summary(runs: Sequence[Mapping[str, Any]], trained: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One preset over its seeds, beside random search at its mean cost."""
    seconds = fmean(run["seconds"] for run in runs)
    values = {d: [run["accuracy"][d] for run in runs] for d in DATA_SETS}
    random = at_cost(trained, seconds)
    return {
        "mean": {d: fmean(v) for d, v in values.items()},
        "deviation": {d: pstdev(v) for d, v in values.items()},
        "random": random,
        "gain": {d: fmean(values[d]) - random["mean"][d] for d in DATA_SETS},
        "collapsed": sum(run["bare"] or run["skip_share"] > DartsParams().skip_limit for run in runs),
        "undecided": sum(any("undecided" in sign for sign in run["signs"]) for run in runs),
        "warned": sum(bool(run["signs"] or run["warnings"]) for run in runs),
        "steps": fmean(run["steps"] for run in runs),
        "seconds": seconds,
        "runs": list(runs),
    }


def bench(arguments: Options) -> dict[str, Any]:
    """All presets with all seeds, random cells between them."""
    torch.set_num_threads(1)
    setting = FULL if arguments.more["full"] else SMALL
    names: Sequence[str] = arguments.more["presets"]
    table = read(shared_file(arguments, "data", "nb201.npz"))
    data = small_cifar(shared_file(arguments, "data", "cifar10_jpeg.npz"), setting.images, 2, setting.size)
    b = SearchBench(setting, data, table, arguments.more["device"])
    finished = FinishedRuns(arguments.more["partial"], asdict(setting))
    return {
        **result(b, finished, names, arguments.seeds),
        "setting": asdict(setting),
    }


def result(b: SearchBench, finished: FinishedRuns, names: Sequence[str], seeds: Iterable[int]) -> dict[str, Any]:
    """What the benchmark prints, apart from its setting."""
    order = [(preset, seed) for seed in seeds for preset in names]
    cells = iter(random_cells(b.space, len(order) * b.setting.alone_cells))
    runs_of: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    trained = []
    for preset, seed in order:
        runs_of[preset].append(finished.run(f"{preset}/{seed}", lambda p=preset, s=seed: b.searched(p, s), describe))  # type: ignore[misc]
        for genes in [next(cells) for _ in range(b.setting.alone_cells)]:
            trained.append(finished.run(f"alone/{genes}", lambda g=genes: b.trained(g), describe))  # type: ignore[misc]
    within = [run for run in trained if run["latency_ms"] <= b.table.bound_ms]
    presets = {
        name: summary(runs, within if options(name, b.setting).latency_weight else trained)
        for name, runs in runs_of.items()
    }
    repaired = [name for name in names if name not in (*PLAIN, *EXPERIMENTAL)]
    return {
        "accuracy": {name: p["mean"] for name, p in presets.items()},
        "gain_over_random": {name: p["gain"]["cifar10"] for name, p in presets.items()},
        "repaired_beat_random": sum(presets[name]["gain"]["cifar10"] > 0 for name in repaired),
        "repaired_collapsed": sum(presets[name]["collapsed"] for name in repaired),
        "repaired": len(repaired),
        "undecided": sum(p["undecided"] for p in presets.values()),
        "presets": presets,
        "random_cells": {
            "cells": len(trained),
            "mean": {d: fmean(run["accuracy"][d] for run in trained) for d in DATA_SETS},
            "seconds": fmean(run["seconds"] for run in trained),
            "runs": trained,
        },
        "bound": {"device": DEVICE, "bound_ms": b.table.bound_ms},
    }


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--presets", nargs="+", choices=NAMES, default=list(NAMES), metavar="NAME", help="which ones")
    add_arguments(parser, "nb201_search")


if __name__ == "__main__":
    main("nb201_search", bench, __doc__.split("\n")[0], ("torch", "numpy"), seeds=3, more=_more)
