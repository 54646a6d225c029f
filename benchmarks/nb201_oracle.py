"""Search by an accuracy predictor on the table of NAS-Bench-201: true accuracy of what is chosen, at equal queries.

A query tells the validation accuracy of one cell after 200 epochs, and nothing else steers: test accuracies are looked
up at the end. With one objective the search chooses one of the cells that it has asked about; with latency, which is
known of every cell, beside it, a front, whose true hypervolume is divided by that of the best front there is
(``nb201_oracle.csv``: latency by the slowest cell's, error as a fraction, reference (1, 1), connected cells). All
choose as the product does: by validation accuracy, shrunk by the fitted noise.

After fewer queries than the last, the first of them count. Peers, which take seconds for every ten queries, run with
fewer seeds and on fewer devices; they are compared with ``bayesian`` on the same.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._accuracy_table import (
    DATA_SETS,
    DEVELOPMENT_DATA,
    Search,
    by_chance,
    by_evolution,
    by_model,
    chosen_accuracy,
    hypervolume_ratio,
    mean_and_error,
    read,
)
from benchmarks._cli import Options, main, shared_file
from benchmarks._peers import PEERS
from nas.core.errors import HwnasError

QUERIES, FRONT_QUERIES = (50, 100, 150), (50, 100, 200)
SEARCHES: Mapping[str, Search] = {"bayesian": by_model, "evolution": by_evolution, "random": by_chance}
PEER_QUERIES, PEER_SEEDS, PEER_DEVICES = (50, 100), 2, ("pixel3",)


@dataclass(frozen=True)
class Task:
    """One search; ``device`` None: with one objective."""

    search: str
    data_set: str
    device: str | None
    seed: int
    queries: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """The value after each number of queries, and the processor time of it all."""

    values: tuple[float, ...]
    seconds: float


def run(shared: Path, task: Task) -> Outcome:
    """True accuracy in %, or share of the hypervolume, of what is chosen. Raises HwnasError for a cell that is asked
    about twice."""
    table, started_s = read(shared, task.data_set), time.process_time()
    cost_K = None if task.device is None else table.cost(task.device)
    search = {**SEARCHES, **PEERS}[task.search]
    with threadpool_limits(limits=1):
        genes_NG = search(table, task.seed, max(task.queries), cost_K)
        if len(np.unique(table.keys(genes_NG))) != max(task.queries):
            raise HwnasError(f"{task.search}: expected {max(task.queries)} distinct queries")
        values = tuple(
            chosen_accuracy(table, genes_NG[:n])
            if task.device is None
            else hypervolume_ratio(table, genes_NG[:n], task.device)
            for n in task.queries
        )
    return Outcome(values, time.process_time() - started_s)


def tasks_of(options: Options) -> list[Task]:
    """All searches of the benchmark; those that take longest first."""
    fronts = range(int(options.more["front_seeds"]))
    devices = read(options.shared, DEVELOPMENT_DATA).devices
    peers = range(min(PEER_SEEDS, len(options.seeds)))
    return [
        *(
            Task(p, data, device, seed, PEER_QUERIES)
            for p, data, device, seed in product(PEERS, DATA_SETS, (None, *PEER_DEVICES), peers)
        ),
        *(Task(s, data, d, seed, FRONT_QUERIES) for s, data, d, seed in product(SEARCHES, DATA_SETS, devices, fronts)),
        *(Task(s, data, None, seed, QUERIES) for s, data, seed in product(SEARCHES, DATA_SETS, options.seeds)),
    ]


def bench(options: Options) -> dict[str, Any]:
    """One objective over all seeds; two objectives over every device with ``--front-seeds`` seeds."""
    for name in ("nb201.npz", "nb201_oracle.csv"):
        shared_file(options, "data", name)
    tasks = tasks_of(options)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        outcomes = dict(zip(tasks, pool.map(run, [options.shared] * len(tasks), tasks, chunksize=4), strict=True))
    own = {t: o for t, o in outcomes.items() if t.search in SEARCHES}
    searches = {name: _summary({t: o for t, o in own.items() if t.search == name}) for name in SEARCHES}
    return {
        **searches["bayesian"],
        "baselines": {name: searches[name] for name in SEARCHES if name != "bayesian"},
        "peers": {name: _against(name, outcomes) for name in PEERS},
        "judged": _judged(own, read(options.shared, DEVELOPMENT_DATA).development),
        "processor_s_per_query": _seconds(outcomes),
        "setting": {
            "seeds": len(options.seeds),
            "front_seeds": options.more["front_seeds"],
            "peer_seeds": PEER_SEEDS,
            "peer_devices": PEER_DEVICES,
            "threads": 1,
        },
    }


def _summary(outcomes: Mapping[Task, Outcome]) -> dict[str, Any]:
    """Means by kind of search, number of queries and data set, with the standard errors of means over seeds."""
    out: dict[str, Any] = {}
    for task in outcomes:
        kind = "single" if task.device is None else "hypervolume_ratio"
        for i, queries in enumerate(task.queries):
            rows = out.setdefault(kind, {}).setdefault(str(queries), {})
            if task.data_set not in rows:
                rows[task.data_set] = mean_and_error(_by_seed(outcomes, task, i))
    return out


def _by_seed(outcomes: Mapping[Task, Outcome], like: Task, i: int) -> list[float]:
    """The ``i``-th value of searches like one, the mean over devices for each seed."""
    by_seed: dict[int, list[float]] = {}
    for task, outcome in outcomes.items():
        if (task.search, task.data_set, task.device is None) == (like.search, like.data_set, like.device is None):
            by_seed.setdefault(task.seed, []).append(outcome.values[i])
    return [float(np.mean(values)) for values in by_seed.values()]


def _against(peer: str, outcomes: Mapping[Task, Outcome]) -> dict[str, Any]:
    """A peer, and ``bayesian`` less the peer on the same devices with the same seeds."""
    tasks = [t for t in outcomes if t.search == peer]
    out = _summary({t: outcomes[t] for t in tasks})
    leads: dict[str, list[float]] = {}
    for task in tasks:
        queries = QUERIES if task.device is None else FRONT_QUERIES
        same = Task("bayesian", task.data_set, task.device, task.seed, queries)
        if same in outcomes:
            for i, n in enumerate(task.queries):
                kind = "single" if task.device is None else "hypervolume_ratio"
                lead = outcomes[same].values[queries.index(n)] - outcomes[task].values[i]
                leads.setdefault(f"{kind}.{n}.{task.data_set}", []).append(lead)
    return {**out, "bayesian_less_peer": {name: mean_and_error(values) for name, values in leads.items()}}


def _judged(outcomes: Mapping[Task, Outcome], development: Sequence[str]) -> dict[str, Any]:
    """``hypervolume_ratio`` of the explorer on devices that its constants were chosen with, and on the others."""
    rows = {t: o for t, o in outcomes.items() if t.search == "bayesian" and t.device is not None}
    parts = {"development_devices": True, "other_devices": False}
    return {
        name: _summary({t: o for t, o in rows.items() if (t.device in development) == inside})["hypervolume_ratio"]
        for name, inside in parts.items()
    }


def _seconds(outcomes: Mapping[Task, Outcome]) -> dict[str, float]:
    """Processor time of a query, choosing included."""
    names = {t.search for t in outcomes}
    spent = {n: [(o.seconds, max(t.queries)) for t, o in outcomes.items() if t.search == n] for n in sorted(names)}
    return {n: sum(s for s, _ in rows) / sum(q for _, q in rows) for n, rows in spent.items()}


def add_front_seeds(parser: argparse.ArgumentParser) -> None:
    """``--front-seeds`` for each device."""
    parser.add_argument("--front-seeds", type=int, default=5, help="seeds for each device (%(default)s)")


if __name__ == "__main__":
    main("nb201_oracle", bench, __doc__.split("\n")[0], ("numpy", "scipy", "optuna"), seeds=30, more=add_front_seeds)
