"""Searches on the table of NAS-Bench-201: a query tells the validation accuracy of one cell after 200 epochs, latency
is known of every cell, and test accuracy is looked up once a search has chosen.

``DEVELOPMENT`` are the devices, and ``DEVELOPMENT_DATA`` the data set, that constants of the explorers were chosen
with."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats, Genes, mutate
from nas.core.pareto import hypervolume, non_dominated
from nas.core.ports import History, ImageShape
from nas.explorers import bayesian, random
from nas.explorers.automatic import round_sizes
from nas.explorers.final_choice import shrunk_losses
from nas.explorers.initial_design import ExactLosses
from search_spaces.nas_bench_201.cell import OPERATIONS
from search_spaces.nas_bench_201.space import NasBench201, SpaceParams

DATA_SETS = {"cifar10": 10, "cifar100": 100, "imagenet16": 120}
DEVELOPMENT_DATA = "cifar10"


class TableSpace(NasBench201):
    """Every cell of the table stands for itself: it was trained and timed with its dead edges, and all others equal
    to it as graphs were too. They share their features, so the model knows that they are alike."""

    def canonical(self, genes_NG: Genes) -> Genes:
        """The cell as it stands in the table."""
        return genes_NG

    def accuracy_features(self, genes_NG: Genes) -> Floats:
        """Those of the cell without its dead edges."""
        return super().accuracy_features(super().canonical(genes_NG))


@dataclass(frozen=True, eq=False)
class AccuracyTable:
    """The cells by their key, ``genes @ weights``: accuracies (15625,) in %, latencies (15625, D) in ms. ``best`` is
    the highest hypervolume that there is, by device."""

    space: TableSpace
    validation_K: Floats
    test_K: Floats
    connected_K: NDArray[np.bool_]
    latency_KD: Floats
    devices: tuple[str, ...]
    best: dict[str, float]

    def keys(self, genes_NG: Genes) -> Genes:
        """Rows of the table."""
        return genes_NG @ (len(OPERATIONS) ** np.arange(5, -1, -1))

    def cost(self, device: str) -> Floats:
        """Latency by that of the slowest connected cell, shape (15625,)."""
        latency_K = self.latency_KD[:, self.devices.index(device)]
        return np.asarray(latency_K / latency_K[self.connected_K].max())

    @property
    def development(self) -> tuple[str, ...]:
        """Every other device, by name."""
        return tuple(sorted(self.devices)[::2])


@lru_cache(maxsize=3)
def read(shared: Path, data_set: str) -> AccuracyTable:
    """The table of one data set, from ``data/nb201.npz`` and ``data/nb201_oracle.csv`` of the shared folder."""
    with (shared / "data" / "nb201_oracle.csv").open() as lines:
        best = {r["device"]: float(r["hv"]) for r in csv.DictReader(lines) if r["dataset"] == data_set}
    space = TableSpace(SpaceParams(), ImageShape(3, 32, 32, DATA_SETS[data_set]))
    with np.load(shared / "data" / "nb201.npz", allow_pickle=False) as table:
        code = np.array([OPERATIONS.index(str(name)) for name in table["op_names"]])
        keys_K = code[table["ops"]] @ (len(OPERATIONS) ** np.arange(5, -1, -1))

        def column(name: str) -> Floats:
            out = np.empty(table[name].shape)
            out[keys_K] = table[name]
            return out

        return AccuracyTable(
            space,
            column(f"val_acc_200ep_{data_set}"),
            column(f"test_acc_200ep_{data_set}"),
            column("connected") > 0,
            column("latency_ms"),
            tuple(str(name) for name in table["latency_device"]),
            best,
        )


# The queried cells in the order of the queries, by the table, the seed, their number, and the cost if there is one.
Search = Callable[[AccuracyTable, int, int, Floats | None], Genes]


def history_of(table: AccuracyTable, genes_NG: Genes, cost_K: Floats | None) -> History:
    """Validation losses of the queries, with the exact cost as second column."""
    keys = table.keys(genes_NG)
    columns = [-table.validation_K[keys]] + ([] if cost_K is None else [cost_K[keys]])
    return History(genes_NG, np.stack(columns, axis=1), (~table.connected_K[keys]).astype(np.float64))


def exact_losses(table: AccuracyTable, cost_K: Floats | None) -> ExactLosses:
    """Latency, and whether the cell is connected at all; no accuracy."""

    def tell(genes_NG: Genes) -> tuple[Floats, Floats]:
        keys = table.keys(genes_NG)
        unknown = np.full(len(keys), np.nan)
        columns = [unknown] + ([] if cost_K is None else [cost_K[keys]])
        return np.stack(columns, axis=1), (~table.connected_K[keys]).astype(np.float64)

    return tell


def connected(table: AccuracyTable, rng: np.random.Generator, n: int) -> Genes:
    """Distinct random cells with a path from input to output."""
    empty = History(np.zeros((0, 6), dtype=np.int64), np.zeros((0, 1)), np.zeros(0))
    genes_NG = random.propose(table.space, empty, rng, n + n // 4 + 16)
    return genes_NG[table.connected_K[table.keys(genes_NG)]][:n]


def by_model(table: AccuracyTable, seed: int, queries: int, cost_K: Floats | None) -> Genes:
    """The Bayesian explorer, asked in rounds as a search asks it."""
    rng, exact = np.random.default_rng(seed), exact_losses(table, cost_K)
    reference = None if cost_K is None else np.array([0.0, 1.0])  # no accuracy, the slowest cell
    genes_NG = np.zeros((0, 6), dtype=np.int64)
    for size in round_sizes("bayesian", queries):
        history = history_of(table, genes_NG, cost_K)
        genes_NG = np.concatenate([genes_NG, bayesian.propose(table.space, history, rng, size, exact, reference)])
    return genes_NG


def by_chance(table: AccuracyTable, seed: int, queries: int, cost_K: Floats | None) -> Genes:
    """Random search."""
    return connected(table, np.random.default_rng(seed), queries)


def by_evolution(table: AccuracyTable, seed: int, queries: int, cost_K: Floats | None) -> Genes:
    """Regularised evolution (Real et al., AAAI 2019): population 20, tournaments of 5, one mutation, the oldest dies;
    with a cost, each tournament is for a random weighting of both."""
    rng = np.random.default_rng(seed)
    first = connected(table, rng, 20)
    seen_keys = {int(k) for k in table.keys(first)}
    genes, alive = list(first), deque(range(20), maxlen=20)
    while len(genes) < queries:
        tournament = rng.choice(np.array(alive), 5, replace=False)
        losses = history_of(table, np.array(genes), cost_K).losses_NM
        spread = np.maximum(np.ptp(losses, axis=0), 1e-9)
        weights = rng.dirichlet(np.ones(losses.shape[1]))
        parent = genes[tournament[np.argmin((losses[tournament] / spread) @ weights)]]
        child = mutate(table.space.decisions, parent[None], rng, 0.0)
        key = int(table.keys(child)[0])
        if key in seen_keys or not table.connected_K[key]:
            child = mutate(table.space.decisions, child, rng, 0.0)
            key = int(table.keys(child)[0])
        if key in seen_keys or not table.connected_K[key]:
            continue
        seen_keys.add(key)
        alive.append(len(genes))
        genes.append(child[0])
    return np.array(genes[:queries])


def final_choice(table: AccuracyTable, genes_NG: Genes, cost_K: Floats | None) -> Genes:
    """The best queried cell, or the front of the queried cells, as keys, as a search chooses what it verifies: by
    validation, shrunk by the fitted noise."""
    losses_NM = history_of(table, genes_NG, cost_K).losses_NM
    losses_NM[:, 0] = shrunk_losses(table.space, genes_NG, losses_NM[:, 0])
    best = non_dominated(losses_NM) if cost_K is not None else [int(np.argmin(losses_NM[:, 0]))]
    return table.keys(genes_NG[best])


def chosen_accuracy(table: AccuracyTable, genes_NG: Genes) -> float:
    """True accuracy of the cell chosen among the queried ones, in %."""
    return float(table.test_K[final_choice(table, genes_NG, None)[0]])


def hypervolume_ratio(table: AccuracyTable, genes_NG: Genes, device: str) -> float:
    """True hypervolume of the front chosen among the queried cells, as a share of the best there is: latency by the
    slowest cell's, error as a fraction, reference (1, 1)."""
    cost_K = table.cost(device)
    keys = final_choice(table, genes_NG, cost_K)
    volume = hypervolume(np.stack([cost_K[keys], 1.0 - table.test_K[keys] / 100.0], axis=1), np.ones(2))
    return volume / table.best[device]


def mean_and_error(values: Sequence[float]) -> dict[str, float]:
    """Mean and its standard error."""
    return {"mean": float(np.mean(values)), "error": float(np.std(values, ddof=1) / np.sqrt(len(values)))}
