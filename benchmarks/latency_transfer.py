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
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks._cli import Options, main, shared_file
from benchmarks._hat import load_hat
from benchmarks._latency_tables import (
    CELLS,
    CIFAR10,
    HAT,
    HW_NAS_BENCH,
    IMAGENET16,
    MEASURED,
    OFA,
    SOURCE_DEVICES,
    TESTED,
    MeasuredNetworks,
    Rows,
    cell_kinds,
    group,
    load_cells,
    measured_cells,
    uploaded_cells,
)
from benchmarks._ofa import load_ofa
from nas.core.arch import Floats
from nas.core.metrics import coverage, spearman
from nas.core.ports import ImageShape
from predictors.families.transfer import choose, learn
from predictors.layer_times import LayerTimes
from predictors.relatives import Relatives
from predictors.storage import DeviceMeasurements
from predictors.views import FeatureLayout, network_features
from search_spaces.mobilenet_v3.space import build as build_mobilenet
from search_spaces.nas_bench_201.space import build as build_cells

Part = Callable[[Path, Sequence[int]], dict[str, Any]]  # by the folder of the tables and the seeds

TARGETS = ("titan_rtx_256", "gold_6226", "pixel2", "raspi4", "eyeriss", "fpga")
SAMPLES = (10, 20)
SAMPLES_ELSEWHERE = 16  # samples of a device that is known in another space or by other images
TRIMMED = 0.1  # of the cells, at either end
DRAWS = 3  # of each device beyond the published protocol


@dataclass(frozen=True)
class Draw:
    """Quality on the test networks of one device after one draw of samples: rank correlation, and the share below the
    bound."""

    spearman: float
    coverage: float


def bench(options: Options) -> dict[str, Any]:
    """The published protocol first, then the devices that are harder to guess; two parts at a time."""
    data = shared_file(options, "data")
    for name in (CELLS, OFA, HAT, HW_NAS_BENCH):
        shared_file(options, "data", name)
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        runs = {part.__name__: pool.submit(_on_one_thread, part, data, options.seeds) for part in PARTS}
        parts = {name: run.result() for name, run in runs.items()}
    return {
        **parts.pop("published"),
        **parts.pop("unlike"),
        **parts.pop("unseen_kinds"),
        **parts.pop("once_for_all"),
        **parts,
        "setting": {
            "draws": len(options.seeds),
            "draws_elsewhere": len(_fewer(options.seeds)),
            "known": SOURCE_DEVICES,
            "level": 0.95,
            "threads": 1,
        },
    }


def _on_one_thread(part: Part, data: Path, seeds: Sequence[int]) -> dict[str, Any]:
    with threadpool_limits(limits=1):
        return part(data, seeds)


def _fewer(seeds: Sequence[int]) -> Sequence[int]:
    """Of draws beyond the published protocol, which are many."""
    return seeds[:DRAWS]


def published(data: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """The protocol of HELP; also with samples that were chosen, and with canonical cells."""
    cells, simplified = uploaded_cells(data / CELLS), uploaded_cells(data / CELLS, simplified=True)
    return {
        "help": protocol(cells, seeds, random_samples),
        "help_chosen_actively": protocol(cells, _fewer(seeds), optimal_samples),
        "simplified": protocol(simplified, _fewer(seeds), random_samples),
    }


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


def unlike(data: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Known devices of another kind than the targets, from 20 samples and from 10."""
    cells = uploaded_cells(data / CELLS)
    splits = unlike_splits(cells)
    return {
        name: {split: compared(cells, *devices, n, _fewer(seeds)) for split, devices in splits.items()}
        for name, n in (("unlike", 20), ("unlike_10", 10))
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


def compared(
    nets: MeasuredNetworks, known_devices: Sequence[str], targets: Sequence[str], n: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """Ours, the same samples without relatives, and the best cost: over all targets, and by half of the devices."""
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


def unseen_kinds(data: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Every kind of device in turn unknown, all others known; and the coverage of the bound by kind, over all devices
    and over those that the bound was not set with."""
    nets = uploaded_cells(data / CELLS)
    kinds = cell_kinds(nets.names)
    figures = unseen(nets, kinds, _fewer(seeds))
    held_out = {kind: [m for m in members if m not in chosen_on(nets.names)] for kind, members in kinds.items()}
    return {
        "unseen_kinds": figures,
        "coverage": {n: part["coverage_by_kind"] for n, part in figures.items()},
        "coverage_held_out": {n: by_kind(part["coverage_by_device"], held_out) for n, part in figures.items()},
    }


def by_kind(values: Mapping[str, float], kinds: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Means over the devices of each kind that has any."""
    return {kind: float(np.mean([values[d] for d in members])) for kind, members in kinds.items() if members}


def unseen(nets: MeasuredNetworks, kinds: Mapping[str, Sequence[str]], seeds: Sequence[int]) -> dict[str, Any]:
    """Every kind in turn unknown, all others known: the same figures over all devices."""
    relatives = {kind: nets.relatives([d for d in nets.names if d not in members]) for kind, members in kinds.items()}
    result: dict[str, Any] = {}
    for n in SAMPLES:
        draws: dict[str, list[Draw]] = {}
        for kind, members in kinds.items():
            draws |= {t: [one_draw(nets, relatives[kind], t, n, s, random_samples) for s in seeds] for t in members}
        figures = summary(draws)
        result[str(n)] = {
            "by_kind": by_kind(figures["spearman"], kinds),
            "coverage_by_kind": by_kind(figures["coverage_by_device"], kinds),
            **figures,
        }
    return result


def once_for_all(data: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Unseen batch sizes (``ofa``) and unseen GPUs on the once-for-all space."""
    space = build_mobilenet({"preset": "imagenet"}, ImageShape(3, 224, 224, 1000))
    nets, seeds = MeasuredNetworks.of(space, *load_ofa(space, data / OFA)), _fewer(seeds)
    gpus = group(nets.names, lambda name: name.rpartition("_")[0])
    batches = group(nets.names, lambda name: f"batch {name.rpartition('_')[2]}")
    return {"ofa": unseen(nets, batches, seeds), "ofa_unseen_gpus": unseen(nets, gpus, seeds)}


def hat(data: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """One device of HAT new, for each of its tasks with 20 samples, the other devices known for all tasks."""
    space, genes_NG, latency = load_hat(data / HAT)
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
            draws[name] = [one_draw(own, relatives, name, 20, seed, random_samples) for seed in _fewer(seeds)]
    figures = summary(draws)
    return {"by_kind": by_kind(figures["spearman"], devices), **figures}


def energy(data: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Energy of a cell in mJ from 20 cells, beside the energies of the two other devices and all latencies."""
    nets, seeds = measured_cells(data, CIFAR10, "cifar10"), _fewer(seeds)
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


def other_images(data: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """A device that is known by images of 32 x 32 pixels, from 16 samples with images of 16 x 16."""
    before, seeds = measured_cells(data, CIFAR10, "cifar10"), _fewer(seeds)
    nets = measured_cells(data, IMAGENET16, "imagenet16")
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


def other_space(data: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """GPUs that are known by the layers of cells, from 16 once-for-all networks: with and without those layers."""
    cell_space, seeds = build_cells({"preset": "benchmark"}, CIFAR10), _fewer(seeds)
    genes_NG, names, latency_ms_ND = load_cells(data / CELLS)
    space = build_mobilenet({"preset": "imagenet"}, ImageShape(3, 224, 224, 1000))
    ofa_NG, ofa_names, ofa_ms_ND = load_ofa(space, data / OFA)
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


def trim(latency_ms_N: Floats, rows: Rows) -> Rows:
    """``rows`` that were measured, without the fastest and the slowest tenth."""
    rows = rows[np.isfinite(latency_ms_N[rows])]
    cut = int(len(rows) * TRIMMED)
    order = rows[np.argsort(latency_ms_N[rows], kind="stable")]
    return np.sort(order[cut : len(rows) - cut])


# Those that take longest first.
PARTS: tuple[Part, ...] = (once_for_all, unlike, unseen_kinds, published, other_images, other_space, hat, energy)


if __name__ == "__main__":
    main("latency_transfer", bench, __doc__.split("\n")[0], ("numpy", "scipy"))
