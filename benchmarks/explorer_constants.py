"""The constants of the Bayesian explorer's Gaussian process, chosen with one half of a table and judged on the other.

Each option differs from the shipped constants in one of them. With each, NAS-Bench-201 is searched on every other
device and CIFAR-10 alone (``AccuracyTable.development``); the best option is then compared with the shipped constants
on the devices and the data sets that took no part.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks._accuracy_table import DATA_SETS, DEVELOPMENT_DATA, mean_and_error, read
from benchmarks._cli import Options, main, shared_file
from benchmarks.nb201_oracle import Task, run
from nas.explorers import gaussian_process
from nas.explorers.gaussian_process import PRIORS, Priors

QUERIES = (50, 100)
SHIPPED = "shipped"
OPTIONS: Mapping[str, Priors] = {
    SHIPPED: PRIORS,
    **{f"smoothness {s:g}": replace(PRIORS, smoothness=s) for s in (1.5, 2.5, math.inf) if s != PRIORS.smoothness},
    **{f"scale {s:g}": replace(PRIORS, scale=s) for s in (1.0, 2.0, 4.0, 8.0) if s != PRIORS.scale},
    **{f"noise {n:g}": replace(PRIORS, noise=n) for n in (0.003, 0.01, 0.03, 0.1) if n != PRIORS.noise},
    ("unwarped" if PRIORS.warped else "warped"): replace(PRIORS, warped=not PRIORS.warped),
}


def bench(options: Options) -> dict[str, Any]:
    """Mean shares of the best hypervolume by option, each less that of the shipped constants with the same devices and
    seeds; and the best option, judged."""
    for name in ("nb201.npz", "nb201_oracle.csv"):
        shared_file(options, "data", name)
    table = read(options.shared, DEVELOPMENT_DATA)
    other_devices = [d for d in table.devices if d not in table.development]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:

        def values(names: Sequence[str], data_sets: Sequence[str], devices: Sequence[str]) -> dict[str, list[float]]:
            of = [
                (name, Task("bayesian", *at, QUERIES))
                for name, at in product(names, product(data_sets, devices, options.seeds))
            ]
            jobs = (*zip(*((options.shared, OPTIONS[name], task) for name, task in of), strict=True),)
            by_name: dict[str, list[float]] = {name: [] for name in names}
            for (name, _), value in zip(of, pool.map(_value, *jobs, chunksize=4), strict=True):
                by_name[name].append(value)
            return by_name

        chosen_with = values(list(OPTIONS), [DEVELOPMENT_DATA], table.development)
        best = max(chosen_with, key=lambda name: float(np.mean(chosen_with[name])))
        judged_shares = values(
            list(dict.fromkeys((SHIPPED, best))), [d for d in DATA_SETS if d != DEVELOPMENT_DATA], other_devices
        )
    return {
        "options": {name: _against_shipped(name, chosen_with) for name in OPTIONS},
        "best": best,
        "judged": _against_shipped(best, judged_shares),
        "setting": {"seeds": len(options.seeds), "queries": QUERIES},
    }


def _value(shared: Path, priors: Priors, task: Task) -> float:
    """The mean share of the best hypervolume over the numbers of queries."""
    with patch.object(gaussian_process, "PRIORS", priors):
        return float(np.mean(run(shared, task).values))


def _against_shipped(name: str, values: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    gain = np.subtract(values[name], values[SHIPPED])
    return {"mean": float(np.mean(values[name])), "gain": mean_and_error(gain.tolist())}


if __name__ == "__main__":
    main("explorer_constants", bench, __doc__.split("\n")[0], ("numpy", "scipy"), seeds=3)
