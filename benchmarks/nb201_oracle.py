"""Search by an accuracy predictor on the table of NAS-Bench-201: true accuracy of what is chosen, at equal queries.

A query tells the validation accuracy of one cell after 200 epochs, and nothing else steers: test accuracies are looked
up at the end. With one objective the search asks about 100 cells and chooses one of them; with latency, which is known
for every cell, beside it, about 200 cells, and the chosen front's true hypervolume is divided by that of the best front
there is (``nb201_oracle.csv``: latency by the slowest cell's, error as a fraction, reference (1, 1), connected cells).
All choose by validation accuracy, as the product does.
"""

from __future__ import annotations

import csv
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks._cli import Options, main, shared_file
from nas.core.arch import Floats, Genes, mutate
from nas.core.errors import HwnasError
from nas.core.pareto import hypervolume, non_dominated
from nas.core.ports import History, ImageShape
from nas.explorers import bayesian, random
from search_spaces.nas_bench_201.cell import OPERATIONS
from search_spaces.nas_bench_201.space import NasBench201, SpaceParams

DATA_SETS = {"cifar10": 10, "cifar100": 100, "imagenet16": 120}
QUERIES, FRONT_QUERIES = 100, 200
FIRST, BATCH = 15, 10  # random networks before the model is asked, and networks per proposal
FRONT_FIRST, FRONT_BATCH = 20, 10


class TableSpace(NasBench201):
    """Every cell of the table stands for itself: it was trained and timed with its dead edges, and all others equal
    to it as graphs were too. They share their features, so the model knows that they are alike."""

    def canonical(self, genes_NG: Genes) -> Genes:
        """The cell as it stands in the table."""
        return genes_NG

    def accuracy_features(self, genes_NG: Genes) -> Floats:
        """Those of the cell without its dead edges."""
        return super().accuracy_features(super().canonical(genes_NG))


@dataclass(frozen=True)
class AccuracyTable:
    """The cells by their key, ``genes @ weights``: accuracies (15625,) in %, latencies (15625, D) in ms."""

    space: TableSpace
    validation_K: Floats
    test_K: Floats
    connected_K: NDArray[np.bool_]
    latency_KD: Floats
    devices: tuple[str, ...]

    def keys(self, genes_NG: Genes) -> Genes:
        """Rows of the table."""
        return genes_NG @ (len(OPERATIONS) ** np.arange(5, -1, -1))


def read(options: Options, data_set: str) -> AccuracyTable:
    """The table of one data set."""
    space = TableSpace(SpaceParams(), ImageShape(3, 32, 32, DATA_SETS[data_set]))
    with np.load(shared_file(options, "data", "nb201.npz"), allow_pickle=False) as table:
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
        )


Search = Callable[[AccuracyTable, int, int, Floats | None], Genes]


def history_of(table: AccuracyTable, genes_NG: Genes, cost_K: Floats | None) -> History:
    """Validation losses of the queries, with the exact cost as second column."""
    keys = table.keys(genes_NG)
    columns = [-table.validation_K[keys]] + ([] if cost_K is None else [cost_K[keys]])
    return History(genes_NG, np.stack(columns, axis=1), (~table.connected_K[keys]).astype(np.float64))


def exact_losses(table: AccuracyTable, cost_K: Floats | None) -> bayesian.ExactLosses:
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
    genes_NG = random.propose(table.space, empty, rng, n + n // 4 + 8)
    return genes_NG[table.connected_K[table.keys(genes_NG)]][:n]


def by_model(table: AccuracyTable, seed: int, queries: int, cost_K: Floats | None) -> Genes:
    """The Bayesian explorer, asked and told through its public interface."""
    first, batch = (FIRST, BATCH) if cost_K is None else (FRONT_FIRST, FRONT_BATCH)
    rng = np.random.default_rng(seed)
    genes_NG = connected(table, rng, first)
    while len(genes_NG) < queries:
        n = min(batch, queries - len(genes_NG))
        history = history_of(table, genes_NG, cost_K)
        genes_NG = np.concatenate(
            [genes_NG, bayesian.propose(table.space, history, rng, n, exact_losses(table, cost_K))]
        )
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
    return np.array(genes)


def final_choice(table: AccuracyTable, genes_NG: Genes, cost_K: Floats | None) -> Genes:
    """The best queried cell, or the front of the queried cells, as keys: by validation, as the front of a search is."""
    losses = history_of(table, genes_NG, cost_K).losses_NM
    best = non_dominated(losses) if cost_K is not None else [int(np.argmin(losses[:, 0]))]
    return table.keys(genes_NG[best])


SEARCHES: dict[str, Search] = {"bayesian": by_model, "evolution": by_evolution, "random": by_chance}


def single(table: AccuracyTable, search: str, seed: int) -> float:
    """True accuracy of the cell chosen after ``QUERIES`` queries, in %."""
    genes_NG = SEARCHES[search](table, seed, QUERIES, None)
    if len(np.unique(table.keys(genes_NG))) != QUERIES:
        raise HwnasError(f"{search}: expected {QUERIES} distinct queries")
    return float(table.test_K[final_choice(table, genes_NG, None)[0]])


def front_ratio(table: AccuracyTable, search: str, device: str, seed: int, best: float) -> float:
    """True hypervolume of the front chosen after ``FRONT_QUERIES`` queries, as a share of the best there is."""
    latency_K = table.latency_KD[:, table.devices.index(device)]
    cost_K = latency_K / latency_K[table.connected_K].max()
    keys = final_choice(table, SEARCHES[search](table, seed, FRONT_QUERIES, cost_K), cost_K)
    return hypervolume(np.stack([cost_K[keys], 1.0 - table.test_K[keys] / 100.0], axis=1), np.ones(2)) / best


def bench(options: Options) -> dict[str, Any]:
    """One objective over all seeds; two objectives over every device with one in 200 of the seeds, at least one."""
    with shared_file(options, "data", "nb201_oracle.csv").open() as lines:
        best = {(r["device"], r["dataset"]): float(r["hv"]) for r in csv.DictReader(lines)}
    front_seeds = options.seeds[: max(1, len(options.seeds) // 200)]
    out: dict[str, Any] = {"single": {}, "hypervolume_ratio": {}, "baselines": {}}
    singles: dict[str, dict[str, Any]] = {s: {} for s in SEARCHES}
    ratios: dict[str, dict[str, Any]] = {s: {} for s in SEARCHES}
    seconds = {"single": 0.0, "hypervolume_ratio": 0.0}
    with threadpool_limits(limits=1):
        for data_set in DATA_SETS:
            table = read(options, data_set)
            for search in SEARCHES:
                start_s = time.process_time()
                values = [single(table, search, seed) for seed in options.seeds]
                singles[search][data_set] = {
                    "mean": float(np.mean(values)),
                    "deviation": float(np.std(values)),
                    "worst": float(np.min(values)),
                }
                between = time.process_time()
                by_device = {
                    d: float(np.mean([front_ratio(table, search, d, s, best[d, data_set]) for s in front_seeds]))
                    for d in table.devices
                }
                ratios[search][data_set] = {"mean": float(np.mean(list(by_device.values()))), "by_device": by_device}
                if search == "bayesian":
                    seconds["single"] += between - start_s
                    seconds["hypervolume_ratio"] += time.process_time() - between
    out["single"] = {d: singles["bayesian"][d]["mean"] for d in DATA_SETS}
    out["hypervolume_ratio"] = {d: ratios["bayesian"][d]["mean"] for d in DATA_SETS}
    out["baselines"] = {
        s: {
            "single": {d: singles[s][d]["mean"] for d in DATA_SETS},
            "hypervolume_ratio": {d: ratios[s][d]["mean"] for d in DATA_SETS},
        }
        for s in SEARCHES
        if s != "bayesian"
    }
    return {
        **out,
        "single_spread": singles["bayesian"],
        "hypervolume_ratio_by_device": {d: ratios["bayesian"][d]["by_device"] for d in DATA_SETS},
        "processor_s": seconds,
        "setting": {
            "queries": QUERIES,
            "front_queries": FRONT_QUERIES,
            "seeds": len(options.seeds),
            "front_seeds": len(front_seeds),
            "first": FIRST,
            "batch": BATCH,
            "threads": 1,
        },
    }


if __name__ == "__main__":
    main("nb201_oracle", bench, __doc__.split("\n")[0], ("numpy", "scipy"), seeds=200)
