"""Latency on an unseen device from 10 or 20 measurements: by the protocol of HELP (Lee et al., NeurIPS 2021), and where
known devices do not resemble the new one.

NAS-Bench-201: 900 cells (0 to 899) measured on each known device; a draw of n of the same cells measured on the target;
rank correlation on cells 900 to 1899. Of both, the 10 % fastest and slowest on that target are left out. Test cells
take no part in choosing samples, fitting, or calibrating the bound.

The cells go the product's way: an uploaded table of the known devices (``check_table``), the views of its networks, and
the choice among options that ``predictors.families.transfer`` makes. The latencies show that the cells were measured
with their inactive operations, so these count; ``simplified`` has the figures with canonical cells.

``unlike``: the known devices are of another kind or batch size than the targets. Beside ours, ``without_relatives`` has
what the same samples give alone, and ``best_cost`` the single cost that, in hindsight, ranks the test cells best.
``chosen_on`` names the devices with whose figures in sight the constants were set; the others are ``held_out``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from benchmarks._cli import Options, main, shared_file
from benchmarks._hat import load_hat
from benchmarks._ofa import load_ofa
from nas.core.arch import Floats, Genes
from nas.core.metrics import coverage, spearman
from nas.core.ports import ImageShape, SearchSpace
from predictors.as_written import measured_space
from predictors.families.transfer import choose, learn
from predictors.layer_times import LayerTimes
from predictors.onboarding.tables import FAR, RawTable, check_table
from predictors.relatives import Relatives, Table
from predictors.storage import DeviceMeasurements
from predictors.views import FeatureLayout, network_features
from search_spaces.mobilenet_v3.space import build as build_mobilenet
from search_spaces.nas_bench_201.cell import EDGES
from search_spaces.nas_bench_201.space import build as build_cells

Rows = NDArray[np.int64]

SOURCE_DEVICES = (
    *("1080ti_1", "1080ti_32", "1080ti_256", "silver_4114", "silver_4210r"),
    *("samsung_a50", "pixel3", "essential_ph_1", "samsung_s7"),
)
TARGETS = ("titan_rtx_256", "gold_6226", "pixel2", "raspi4", "eyeriss", "fpga")
SAMPLES = (10, 20)
SAMPLES_ELSEWHERE = 16  # samples of a device that is known in another space or by other images
MEASURED, TESTED = np.arange(900), np.arange(900, 1900)
TRIMMED = 0.1  # of the cells, at either end
UNLIKE_DRAWS = 4  # of each device of a split
CIFAR10, IMAGENET16 = ImageShape(3, 32, 32, 10), ImageShape(3, 16, 16, 120)


@dataclass(frozen=True)
class MeasuredNetworks:
    """N networks of a space by their columns, and their latency in ms on D devices, NaN where it is not known. Those of
    ``measured`` are known on devices; those of ``tested`` are predicted."""

    features_NF: Floats
    layout: FeatureLayout
    names: tuple[str, ...]
    latency_ms_ND: Floats
    measured: Rows
    tested: Rows

    @staticmethod
    def of(space: SearchSpace, genes_NG: Genes, names: Sequence[str], latency_ms_ND: Floats) -> MeasuredNetworks:
        """The first 900 networks are known, the next 1000 tested."""
        layout, features_NF = FeatureLayout.of(space), network_features(space, genes_NG)
        return MeasuredNetworks(features_NF, layout, tuple(names), latency_ms_ND, MEASURED, TESTED)

    def latency_ms(self, device: str) -> Floats:
        """Of all networks on one device, shape (N,)."""
        return self.latency_ms_ND[:, self.names.index(device)]

    def relatives(self, devices: Sequence[str]) -> Relatives:
        """What the measured networks of some devices tell."""
        tables = []
        for device in devices:
            latency_ms_M = accepted(self.latency_ms(device)[self.measured])
            rows = np.isfinite(latency_ms_M)
            tables.append(Table(self.features_NF[self.measured][rows], latency_ms_M[rows], device))
        return Relatives.learn(tables, self.layout.additive_C)


@dataclass(frozen=True)
class Draw:
    """Quality on the test networks of one device after one draw of samples: rank correlation, and the share below the
    bound."""

    spearman: float
    coverage: float


def bench(options: Options) -> dict[str, Any]:
    """The published protocol first, then the devices that are harder to guess."""
    path = shared_file(options, "data", "nb201.npz")
    ofa = shared_file(options, "data", "ofa.npz")
    with threadpool_limits(limits=1):
        cells, simplified = uploaded_cells(path), uploaded_cells(path, simplified=True)
        unlike = unlike_splits(cells)
        return {
            "help": protocol(cells, options.seeds, random_samples),
            "help_chosen_actively": protocol(cells, options.seeds[:10], optimal_samples),
            "simplified": protocol(simplified, options.seeds[:10], random_samples),
            "unlike": {split: compared(cells, *devices, 20) for split, devices in unlike.items()},
            "unlike_10": {split: compared(cells, *devices, 10) for split, devices in unlike.items()},
            **unseen_kinds(cells, options.seeds[:6]),
            **once_for_all(ofa, options.seeds[:10]),
            "hat": hat(shared_file(options, "data", "hat_latency.npz"), options.seeds[:10]),
            "energy": energy(shared_file(options, "data", "hw_nas_bench.npz"), path, options.seeds[:10]),
            "other_images": other_images(shared_file(options, "data", "hw_nas_bench.npz"), path, options.seeds[:10]),
            "other_space": other_space(path, ofa, options.seeds[:10]),
            "setting": {"draws": len(options.seeds), "known": SOURCE_DEVICES, "level": 0.95, "threads": 1},
        }


def uploaded_cells(path: Path, simplified: bool = False) -> MeasuredNetworks:
    """All cells with the columns that the product learns from once the known devices' table is uploaded;
    ``simplified``: with those of the canonical cells."""
    space = build_cells({"preset": "benchmark"}, CIFAR10)
    genes_NG, names, latency_ms_ND = load_cells(path)
    uploaded = check_table(raw_table(genes_NG[MEASURED], names, latency_ms_ND[MEASURED], SOURCE_DEVICES), space)
    fitted_space = measured_space(space, uploaded.as_written and not simplified)
    return MeasuredNetworks.of(fitted_space, genes_NG, names, latency_ms_ND)


def load_cells(path: Path) -> tuple[Genes, tuple[str, ...], Floats]:
    """Genes of all cells, the devices, and latencies (N, D) in ms."""
    with np.load(path, allow_pickle=False) as table:
        assert tuple(map(tuple, table["edges"].tolist())) == EDGES
        names = tuple(str(name) for name in table["latency_device"])
        return table["ops"].astype(np.int64), names, table["latency_ms"].astype(np.float64)


def raw_table(genes_NG: Genes, names: Sequence[str], latency_ms_ND: Floats, devices: Sequence[str]) -> RawTable:
    """What is uploaded: cells may be empty."""
    columns = {}
    for device in devices:
        column = accepted(latency_ms_ND[:, names.index(device)])
        columns[f"ms.{device}"] = [None if np.isnan(ms) else float(ms) for ms in column]
    return RawTable({"arch": genes_NG.tolist(), **columns})


def accepted(latency_ms_N: Floats) -> Floats:
    """The latencies, NaN for those so far off their device's median that the product refuses them in a table: of cells
    that compute nothing, on phones."""
    ratio_N = latency_ms_N / np.nanmedian(latency_ms_N)
    return np.where((ratio_N > FAR) | (ratio_N < 1 / FAR), np.nan, latency_ms_N)


def random_samples(nets: MeasuredNetworks, relatives: Relatives, pool: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Samples at random, as published."""
    return rng.choice(pool, n, replace=False)


def optimal_samples(nets: MeasuredNetworks, relatives: Relatives, pool: Rows, n: int, rng: np.random.Generator) -> Rows:
    """Samples chosen for what they tell, from a random half of the pool, so that draws differ."""
    half = rng.choice(pool, len(pool) // 2, replace=False)
    return half[choose(relatives, nets.features_NF[half], n)]


Sampler = Callable[[MeasuredNetworks, Relatives, Rows, int, np.random.Generator], Rows]


def protocol(nets: MeasuredNetworks, seeds: Sequence[int], sampler: Sampler) -> dict[str, Any]:
    """The published targets, by number of samples."""
    relatives = nets.relatives(SOURCE_DEVICES)
    return {str(n): over_devices(nets, relatives, TARGETS, n, seeds, sampler) for n in SAMPLES}


def over_devices(
    nets: MeasuredNetworks,
    relatives: Relatives | None,
    targets: Sequence[str],
    n: int,
    seeds: Sequence[int],
    sampler: Sampler,
) -> dict[str, Any]:
    """Means over draws, by device and over devices."""
    return summary({t: [one_draw(nets, relatives, t, n, seed, sampler) for seed in seeds] for t in targets})


def one_draw(
    nets: MeasuredNetworks, relatives: Relatives | None, target: str, n: int, seed: int, sampler: Sampler
) -> Draw:
    """Samples, learns, and judges on the test networks."""
    latency_ms_N = nets.latency_ms(target)
    rng = np.random.default_rng((seed, n))
    pool, tested = trim(latency_ms_N, nets.measured), trim(latency_ms_N, nets.tested)
    samples = rng.choice(pool, n, replace=False) if relatives is None else sampler(nets, relatives, pool, n, rng)
    learned = learn(nets.features_NF[samples], latency_ms_N[samples], relatives, layout=nets.layout)
    predicted = learned.of_columns.predict(nets.features_NF[tested])
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


def unlike_splits(nets: MeasuredNetworks) -> dict[str, tuple[Sequence[str], Sequence[str]]]:
    """Known devices and targets that do not resemble them."""
    kinds = cell_kinds(nets.names)
    gpus, cpus, phones = kinds["GPU"], kinds["server CPU"], kinds["phone"]
    edge = [*kinds["raspi4"], *kinds["eyeriss"], *kinds["fpga"]]
    batch = {size: [name for name in gpus if name.endswith(f"_{size}")] for size in (1, 32, 256)}
    return {
        "GPUs known, phones new": (gpus, phones),
        "GPUs known, server CPUs new": (gpus, cpus),
        "GPUs known, edge devices new": (gpus, edge),
        "phones known, edge devices new": (phones, edge),
        "phones and CPUs known, GPUs at batch 256 new": ([*phones, *cpus], batch[256]),
        "phones, CPUs and edge devices known, GPUs at batch 32 new": ([*phones, *cpus, *edge], batch[32]),
        "edge devices known, GPUs at batch 1 new": (edge, batch[1]),
        "batch 1 known, batch 256 new": (batch[1], batch[256]),
        "batch 256 known, batch 1 new": (batch[256], batch[1]),
        "batch 1 known, batch 32 new": (batch[1], batch[32]),
    }


def compared(nets: MeasuredNetworks, known_devices: Sequence[str], targets: Sequence[str], n: int) -> dict[str, Any]:
    """Ours, the same samples without relatives, and the best cost: over all targets, and by half of the devices."""
    seeds = range(UNLIKE_DRAWS)
    with_relatives = over_devices(nets, nets.relatives(known_devices), targets, n, seeds, random_samples)
    without_relatives = over_devices(nets, None, targets, n, seeds, random_samples)
    cost = {target: best_cost(nets, target) for target in targets}

    def means(devices: Sequence[str]) -> dict[str, float]:
        figures = {
            "ours": with_relatives["spearman"],
            "without_relatives": without_relatives["spearman"],
            "best_cost": cost,
        }
        out = {name: float(np.mean([by_device[d] for d in devices])) for name, by_device in figures.items()}
        covered = float(np.mean([with_relatives["coverage_by_device"][d] for d in devices]))
        return {**out, "margin": out["ours"] - max(out["without_relatives"], out["best_cost"]), "coverage": covered}

    held_out = [device for device in targets if device not in chosen_on(nets.names)]
    return {**means(targets), "held_out": means(held_out), "by_device": with_relatives["spearman"]}


def chosen_on(names: Sequence[str]) -> list[str]:
    """The devices that constants were set by: every other one, by name."""
    return sorted(names)[::2]


def best_cost(nets: MeasuredNetworks, target: str) -> float:
    """The highest rank correlation of a single cost on the test networks."""
    latency_ms_N = nets.latency_ms(target)
    tested = trim(latency_ms_N, nets.tested)
    columns = [nets.features_NF[tested, column] for column in nets.layout.costs.values()]
    return max(spearman(latency_ms_N[tested], column) for column in columns)


def unseen_kinds(nets: MeasuredNetworks, seeds: Sequence[int]) -> dict[str, Any]:
    """Every kind of device in turn unknown, all others known; and the coverage of the bound by kind."""
    figures = unseen(nets, cell_kinds(nets.names), seeds)
    return {"unseen_kinds": figures, "coverage": {n: part["coverage_by_kind"] for n, part in figures.items()}}


def unseen(nets: MeasuredNetworks, kinds: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> dict[str, Any]:
    """Every kind in turn unknown, all others known: the same figures over all devices."""
    relatives = {kind: nets.relatives([d for d in nets.names if d not in members]) for kind, members in kinds.items()}
    result: dict[str, Any] = {}
    for n in SAMPLES:
        draws: dict[str, list[Draw]] = {}
        for kind, members in kinds.items():
            draws |= {t: [one_draw(nets, relatives[kind], t, n, s, random_samples) for s in seeds] for t in members}
        figures = summary(draws)
        by_kind = {
            f"{name}by_kind": {k: float(np.mean([figures[values][d] for d in kind])) for k, kind in kinds.items()}
            for name, values in (("", "spearman"), ("coverage_", "coverage_by_device"))
        }
        result[str(n)] = {**by_kind, **figures}
    return result


def once_for_all(path: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Unseen batch sizes (``ofa``) and unseen GPUs on the once-for-all space."""
    space = build_mobilenet({"preset": "imagenet"}, ImageShape(3, 224, 224, 1000))
    nets = MeasuredNetworks.of(space, *load_ofa(space, path))
    gpus = group(nets.names, lambda name: name.rpartition("_")[0])
    batches = group(nets.names, lambda name: f"batch {name.rpartition('_')[2]}")
    return {"ofa": unseen(nets, batches, seeds), "ofa_unseen_gpus": unseen(nets, gpus, seeds)}


def hat(path: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """One device of HAT new, for each of its tasks with 20 samples, the other devices known for all tasks."""
    space, genes_NG, latency = load_hat(path)
    names = tuple(latency)
    nets = MeasuredNetworks.of(space, genes_NG, names, np.stack(list(latency.values()), axis=1))
    devices = group(names, lambda name: name.rpartition("_")[2])
    draws: dict[str, list[Draw]] = {}
    for members in devices.values():
        everything = replace(nets, measured=np.arange(len(genes_NG)))
        relatives = everything.relatives([name for name in names if name not in members])
        for name in members:
            half = np.array_split(np.random.default_rng(0).permutation(np.flatnonzero(np.isfinite(latency[name]))), 2)
            own = replace(nets, measured=half[0], tested=half[1])
            draws[name] = [one_draw(own, relatives, name, 20, seed, random_samples) for seed in seeds]
    figures = summary(draws)
    by_kind = {kind: float(np.mean([figures["spearman"][d] for d in members])) for kind, members in devices.items()}
    return {"by_kind": by_kind, **figures}


def energy(path: Path, cells: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Energy of a cell in mJ from 20 cells, beside the energies of the two other devices and all latencies."""
    nets = measured_cells(path, cells, CIFAR10, "cifar10")
    targets = [name for name in nets.names if name.endswith("_energy")]
    figures: dict[str, Any] = {}
    for target in targets:
        relatives = nets.relatives([name for name in nets.names if name != target])
        with_relatives = over_devices(nets, relatives, [target], 20, seeds, random_samples)
        without_relatives = over_devices(nets, None, [target], 20, seeds, random_samples)
        figures[target.removesuffix("_energy")] = {
            "spearman": with_relatives["spearman_mean"],
            "coverage": with_relatives["coverage"],
            "without_relatives": without_relatives["spearman_mean"],
            "best_cost": best_cost(nets, target),
        }
    return figures


def measured_cells(path: Path, cells: Path, shape: ImageShape, data: str) -> MeasuredNetworks:
    """Latencies and energies of all cells on one data set, measured as the cells stand."""
    genes_NG, _, _ = load_cells(cells)
    with np.load(path, allow_pickle=False) as table:
        columns = [str(name) for name in table["column"]]
        used = [c for c, name in enumerate(columns) if name.endswith(("_latency", "_energy"))]
        values_ND = table[data].astype(np.float64)[:, used]
    space = measured_space(build_cells({"preset": "benchmark"}, shape), True)
    values_ND = np.where(values_ND > 0, values_ND, np.nan)
    return MeasuredNetworks.of(space, genes_NG, [columns[c] for c in used], values_ND)


def other_images(path: Path, cells: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """A device that is known by images of 32 x 32 pixels, from 16 samples with images of 16 x 16."""
    before = measured_cells(path, cells, CIFAR10, "cifar10")
    nets = measured_cells(path, cells, IMAGENET16, "imagenet16")
    relatives = {name: replace(nets, latency_ms_ND=before.latency_ms_ND).relatives([name]) for name in nets.names}
    with_relatives = {
        n: over_devices(nets, relatives[n], [n], SAMPLES_ELSEWHERE, seeds, random_samples)["spearman_mean"]
        for n in nets.names
    }
    without_relatives = {
        n: over_devices(nets, None, [n], SAMPLES_ELSEWHERE, seeds, random_samples)["spearman_mean"] for n in nets.names
    }
    cost = {name: best_cost(nets, name) for name in nets.names}
    return {"ours": with_relatives, "without_relatives": without_relatives, "best_cost": cost}


def other_space(cells: Path, ofa: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """GPUs that are known by the layers of cells, from 16 once-for-all networks: with and without those layers."""
    cell_space = build_cells({"preset": "benchmark"}, CIFAR10)
    genes_NG, names, latency_ms_ND = load_cells(cells)
    space = build_mobilenet({"preset": "imagenet"}, ImageShape(3, 224, 224, 1000))
    ofa_NG, ofa_names, ofa_ms_ND = load_ofa(space, ofa)
    ofa_NG, ofa_ms_ND = ofa_NG[: TESTED[-1] + 1], ofa_ms_ND[: TESTED[-1] + 1]
    plain_nets = MeasuredNetworks.of(space, ofa_NG, ofa_names, ofa_ms_ND)
    result: dict[str, dict[str, float]] = {}
    for name in [name for name in ofa_names if name.replace("titan_xp", "titanxp") in names]:
        latency_ms_N = latency_ms_ND[MEASURED, names.index(name.replace("titan_xp", "titanxp"))]
        nobody = np.zeros(len(MEASURED), dtype=bool)
        measurements = DeviceMeasurements.of(
            name, cell_space, genes_NG[MEASURED], latency_ms_N, nobody, as_written=True
        )
        assert measurements.work is not None
        layers = LayerTimes.learn([measurements.work])
        layout, features_NF = FeatureLayout.of(space, layers), network_features(space, ofa_NG, layers)
        nets = replace(plain_nets, features_NF=features_NF, layout=layout)
        result[name] = {
            "ours": over_devices(nets, None, [name], SAMPLES_ELSEWHERE, seeds, random_samples)["spearman_mean"],
            "without_layers": over_devices(plain_nets, None, [name], SAMPLES_ELSEWHERE, seeds, random_samples)[
                "spearman_mean"
            ],
            "best_cost": best_cost(plain_nets, name),
        }
    return result


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
    """``rows`` that were measured, without the fastest and the slowest tenth."""
    rows = rows[np.isfinite(latency_ms_N[rows])]
    cut = int(len(rows) * TRIMMED)
    order = rows[np.argsort(latency_ms_N[rows], kind="stable")]
    return np.sort(order[cut : len(rows) - cut])


if __name__ == "__main__":
    main("latency_transfer", bench, __doc__.split("\n")[0], ("numpy", "scipy"), seeds=10)
