"""Latency on an unseen device from 10 or 20 measurements, by the protocol of HELP (Lee et al., NeurIPS 2021).

NAS-Bench-201: 900 cells (0 to 899) measured on each of nine known devices; a draw of n of the same cells measured on
the target; rank correlation on cells 900 to 1899. Of both, the 10 % fastest and slowest on that target are left out.
Test cells take no part in choosing samples, fitting, or calibrating the bound.

The cells go the product's way: an uploaded table of the known devices (``check_table``), and the features of its
networks. The latencies show that the cells were measured with their inactive operations, so these count; ``simplified``
has the figures with the features of canonical cells, as a table without such rows would get them. The constants of
``predictors/families/transfer.py`` were set with the targets' figures in sight. Beside the published protocol: all 27
devices, those of one kind unknown; and once-for-all networks on unseen GPUs, and at unseen batch sizes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks._cli import Options, main, shared_file
from benchmarks._ofa import load_ofa
from nas.core.arch import Floats
from nas.core.metrics import coverage, spearman
from nas.core.ports import ImageShape
from predictors.as_written import measured_space
from predictors.families.transfer import Relatives, Table, Transfer, calibrate, choose
from predictors.onboarding.tables import FAR, RawTable, check_table
from search_spaces.mobilenet_v3.space import build
from search_spaces.nas_bench_201.cell import EDGES
from search_spaces.nas_bench_201.space import build as build_cells

Rows = NDArray[np.int64]

SOURCE_DEVICES = (
    *("1080ti_1", "1080ti_32", "1080ti_256", "silver_4114", "silver_4210r"),
    *("samsung_a50", "pixel3", "essential_ph_1", "samsung_s7"),
)
TARGETS = ("titan_rtx_256", "gold_6226", "pixel2", "raspi4", "eyeriss", "fpga")
SAMPLES = (10, 20)
MEASURED, TESTED = np.arange(900), np.arange(900, 1900)
TRIMMED = 0.1  # of the cells, at either end


@dataclass(frozen=True)
class CellLatencies:
    """N networks by their features, and their latency in ms on D devices."""

    features_NF: Floats
    names: tuple[str, ...]
    latency_ms_ND: Floats

    def latency_ms(self, device: str) -> Floats:
        """Of all networks on one device, shape (N,)."""
        return self.latency_ms_ND[:, self.names.index(device)]

    def relatives(self, devices: Sequence[str]) -> Relatives:
        """What the measured networks of some devices tell."""
        tables = []
        for device in devices:
            latency_ms_M = accepted(self.latency_ms(device)[MEASURED])
            rows = np.isfinite(latency_ms_M)
            tables.append(Table(self.features_NF[MEASURED][rows], latency_ms_M[rows]))
        return Relatives.learn(tables)


@dataclass(frozen=True)
class Draw:
    """Quality on the test networks of one device after one draw of samples."""

    spearman: float
    coverage: float


def bench(options: Options) -> dict[str, Any]:
    """The published protocol first, then the devices that are harder to guess."""
    path = shared_file(options, "data", "nb201.npz")
    ofa = shared_file(options, "data", "ofa.npz")
    with threadpool_limits(limits=1):
        cells, simplified = uploaded_cells(path), uploaded_cells(path, simplified=True)
        return {
            "help": protocol(cells, options.seeds, random_samples),
            "help_chosen_actively": protocol(cells, options.seeds, optimal_samples),
            "simplified": protocol(simplified, options.seeds, random_samples),
            "fit_predict_s": seconds(cells),
            "unseen_kinds": unseen(cells, cell_kinds(cells.names), options.seeds),
            **once_for_all(ofa, options),
            "setting": {"draws": len(options.seeds), "known": SOURCE_DEVICES, "level": 0.95, "threads": 1},
        }


def uploaded_cells(path: Path, simplified: bool = False) -> CellLatencies:
    """All cells with the features that the product learns from once the known devices' table is uploaded;
    ``simplified``: with those of the canonical cells."""
    space = build_cells({"preset": "benchmark"}, ImageShape(3, 32, 32, 10))
    with np.load(path, allow_pickle=False) as table:
        genes_NG = table["ops"].astype(np.int64)
        names = tuple(str(name) for name in table["latency_device"])
        latency_ms_ND = table["latency_ms"].astype(np.float64)
        assert tuple(map(tuple, table["edges"].tolist())) == EDGES
    accepted_MD = accepted(latency_ms_ND[MEASURED])
    empty_or_ms = [[None if np.isnan(ms) else float(ms) for ms in latency_ms_M] for latency_ms_M in accepted_MD.T]
    columns = {f"ms.{d}": empty_or_ms[names.index(d)] for d in SOURCE_DEVICES}
    uploaded = check_table(RawTable({"arch": genes_NG[MEASURED].tolist(), **columns}), space)
    fitted_space = measured_space(space, uploaded.as_written and not simplified)
    return CellLatencies(fitted_space.features(genes_NG), names, latency_ms_ND)


def accepted(latency_ms_MD: Floats) -> Floats:
    """The latencies, NaN for those so far off their device's median that the product refuses them in a table: of cells
    that compute nothing, on phones."""
    ratio_MD = latency_ms_MD / np.median(latency_ms_MD, axis=0)
    return np.where((ratio_MD > FAR) | (ratio_MD < 1 / FAR), np.nan, latency_ms_MD)


def random_samples(cells: CellLatencies, relatives: Relatives, pool: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Samples at random, as published."""
    return rng.choice(pool, n, replace=False)


def optimal_samples(cells: CellLatencies, relatives: Relatives, pool: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Samples chosen for what they tell, from a random half of the pool, so that draws differ."""
    half = rng.choice(pool, len(pool) // 2, replace=False)
    return half[choose(relatives, cells.features_NF[half], n)]


Sampler = Callable[[CellLatencies, Relatives, Rows, int, np.random.Generator], Rows]


def protocol(cells: CellLatencies, seeds: Sequence[int], sampler: Sampler) -> dict[str, Any]:
    """The published targets, by number of samples."""
    relatives = cells.relatives(SOURCE_DEVICES)
    return {str(n): over_devices(cells, relatives, TARGETS, n, seeds, sampler) for n in SAMPLES}


def over_devices(
    cells: CellLatencies, relatives: Relatives, targets: Sequence[str], n: int, seeds: Sequence[int], sampler: Sampler
) -> dict[str, Any]:
    """Means over draws, by device and over devices."""
    multiple = calibrate(relatives, n)
    draws = {t: [one_draw(cells, relatives, t, n, seed, sampler, multiple) for seed in seeds] for t in targets}
    return summary(draws)


def one_draw(
    cells: CellLatencies, relatives: Relatives, target: str, n: int, seed: int, sampler: Sampler, multiple: float
) -> Draw:
    """Samples, fits, and judges on the test networks."""
    latency_ms_N = cells.latency_ms(target)
    samples = sampler(cells, relatives, trim(latency_ms_N, MEASURED), n, np.random.default_rng((seed, n)))
    predictor = Transfer.fit(cells.features_NF[samples], latency_ms_N[samples], relatives, multiple)
    tested = trim(latency_ms_N, TESTED)
    predicted = predictor.predict(cells.features_NF[tested])
    return Draw(spearman(latency_ms_N[tested], predicted.mean_ms), coverage(latency_ms_N[tested], predicted.upper_ms))


def summary(draws: Mapping[str, Sequence[Draw]]) -> dict[str, Any]:
    """``spearman`` and ``coverage`` by device, their means over devices, and the worst draw of a mean over devices."""
    rank = {name: float(np.mean([d.spearman for d in runs])) for name, runs in draws.items()}
    covered = {name: float(np.mean([d.coverage for d in runs])) for name, runs in draws.items()}
    return {
        "spearman_mean": float(np.mean(list(rank.values()))),
        "spearman_worst_draw": float(np.min(np.mean([[d.spearman for d in runs] for runs in draws.values()], axis=0))),
        "coverage": float(np.mean(list(covered.values()))),
        "spearman": rank,
        "coverage_by_device": covered,
    }


def unseen(cells: CellLatencies, kinds: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> dict[str, Any]:
    """Every kind of device in turn unknown, all others known: the same figures over all devices."""
    result: dict[str, Any] = {}
    for n in SAMPLES:
        draws: dict[str, list[Draw]] = {}
        for kind in kinds.values():
            relatives = cells.relatives([d for d in cells.names if d not in kind])
            multiple = calibrate(relatives, n)
            draws |= {t: [one_draw(cells, relatives, t, n, s, random_samples, multiple) for s in seeds] for t in kind}
        figures = summary(draws)
        by_kind = {k: float(np.mean([figures["spearman"][d] for d in kind])) for k, kind in kinds.items()}
        result[str(n)] = {"by_kind": by_kind, **figures}
    return result


def once_for_all(path: Any, options: Options) -> dict[str, Any]:
    """Unseen GPUs, and unseen batch sizes, on the once-for-all space."""
    space = build({"preset": "imagenet"}, ImageShape(3, 224, 224, 1000))
    genes_NG, names, latency_ms_ND = load_ofa(space, path)
    networks = CellLatencies(space.features(genes_NG), names, latency_ms_ND)
    gpus = group(names, lambda name: name.rpartition("_")[0])
    batches = group(names, lambda name: f"batch {name.rpartition('_')[2]}")
    return {
        "ofa_unseen_gpus": unseen(networks, gpus, options.seeds),
        "ofa_unseen_batch_sizes": unseen(networks, batches, options.seeds),
    }


def cell_kinds(names: Sequence[str]) -> dict[str, list[str]]:
    """The 27 devices by what they are."""
    prefixes = {
        "GPU": ("1080ti", "2080ti", "titan"),
        "server CPU": ("gold", "silver"),
        "phone": ("essential", "pixel", "samsung"),
    }
    return group(names, lambda name: next((k for k, starts in prefixes.items() if name.startswith(starts)), name))


def group(names: Sequence[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    """Names by key, in order."""
    return {k: [n for n in names if key(n) == k] for k in dict.fromkeys(map(key, names))}


def trim(latency_ms_N: Floats, rows: Rows) -> Rows:
    """``rows`` without the fastest and the slowest tenth."""
    cut = int(len(rows) * TRIMMED)
    order = rows[np.argsort(latency_ms_N[rows], kind="stable")]
    return np.sort(order[cut : len(rows) - cut])


def seconds(cells: CellLatencies) -> float:
    """Processor time of calibrating, fitting to 20 measurements and predicting all cells; the median of five. Learning
    from the known devices is not in it: that is done once for all targets."""
    relatives = cells.relatives(SOURCE_DEVICES)
    latency_ms_N = cells.latency_ms(TARGETS[0])
    seconds = []
    for _ in range(5):
        start_s = time.process_time()
        Transfer.fit(cells.features_NF[MEASURED[:20]], latency_ms_N[MEASURED[:20]], relatives).predict(
            cells.features_NF
        )
        seconds.append(time.process_time() - start_s)
    return float(np.median(seconds))


if __name__ == "__main__":
    main("latency_transfer", bench, __doc__.split("\n")[0], ("numpy", "scipy"), seeds=30)
