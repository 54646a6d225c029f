"""Latency-aware differentiable search on a device that is a table: are bounds met by the table, and at what accuracy?

The device is one of NAS-Bench-201's, of which a thousand random cells were measured; the predictor is fitted to these
as to any uploaded table. The preset ``la_darts`` then searches on real images, small ones, under each of three bounds,
through the engine's own stages; what it derives is verified by looking it up in the whole table, most of which the
predictor has never seen. Its accuracy after 200 epochs is compared with the best of all cells whose latency in the
table is within the bound. Beside it: plain ``darts``, whose cell is only repaired afterwards, and the mean of all cells
within the bound.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks._cifar import small_cifar
from benchmarks._cli import Options, main, shared_file
from nas.core.arch import Floats, Genes, as_archs
from nas.core.device import DeviceProfile, Measurement
from nas.core.events import SearchState, fold_all
from nas.core.ports import Dataset, Problem, Resources, Stage
from nas.core.spec import BudgetSpec, DeviceSpec, ObjectiveSpec, SearchSpec, StrategySpec, TableSpec
from nas.engine import run_search
from nas.strategies.darts import darts
from predictors.figures import onboard_figures
from predictors.storage import load_predictor
from predictors.tables import RawTable
from search_spaces.nas_bench_201.space import NasBench201, build, from_string
from server.store.blobs import FolderBlobs

DEVICE, ROWS = "raspi4", 1_000  # whose latencies, and how many cells were measured
QUANTILES = (0.1, 0.25, 0.5)  # of all cells' latencies: the bounds
IMAGES, VALIDATION, SIZE = 2_000, 250, 16  # training images, validation images, their height and width
SPACE = {"channels": 8, "cells": 1}
SEARCH: Mapping[str, Any] = {"epochs": 20, "tune_epochs": 4, "alpha_lr": 0.02, "latency_samples": 2}


@dataclass(frozen=True)
class Table:
    """Distinct cells: genes (N, 6), latencies (N,) in ms, accuracies (N,) in %; and their rows by the cell's id."""

    genes_NG: Genes
    latency_ms_N: Floats
    accuracy_N: Floats
    row_of: Mapping[str, int]

    @staticmethod
    def of(space: NasBench201, genes_NG: Genes, latency_ms_N: Floats, accuracy_N: Floats) -> Table:
        """Cells of which every edge does something; all others are equal to one of them."""
        own_N = (space.canonical(genes_NG) == genes_NG).all(axis=1)
        genes_NG = genes_NG[own_N]
        rows = {arch.id: i for i, arch in enumerate(as_archs(space.id, genes_NG))}
        return Table(genes_NG, latency_ms_N[own_N], accuracy_N[own_N], rows)

    def measure(
        self, models: Sequence[bytes], profile: DeviceProfile, networks: Sequence[str]
    ) -> Iterator[Measurement]:
        """A ``nas.core.ports.Measurer`` that looks networks up."""
        for name in networks:
            ms = float(self.latency_ms_N[self.row_of[name]])
            yield Measurement(profile.protocol.id, profile.id, ms, ms, ms, 1, 0.0, 1.0)

    def best_within(self, bound_ms: float) -> float:
        """The highest accuracy of a cell whose latency is within the bound."""
        return float(self.accuracy_N[self.latency_ms_N <= bound_ms].max())

    def mean_within(self, bound_ms: float) -> float:
        """The mean accuracy of all cells within the bound."""
        return float(self.accuracy_N[self.latency_ms_N <= bound_ms].mean())


def bench(options: Options) -> dict[str, Any]:
    """Every bound by every seed; accuracies are means over seeds."""
    torch.set_num_threads(1)
    data = small_cifar(shared_file(options, "data", "cifar10_jpeg.npz"), IMAGES, VALIDATION, SIZE)
    space: NasBench201 = build(SPACE, data.shape)
    with np.load(shared_file(options, "data", "nb201.npz"), allow_pickle=False) as arrays:
        genes_NG = np.array([from_string(str(name)) for name in arrays["arch_str"]])
        ms_N = arrays["latency_ms"][:, list(arrays["latency_device"]).index(DEVICE)].astype(np.float64)
        accuracy_N = arrays["test_acc_200ep_cifar10"].astype(np.float64)
    table = Table.of(space, genes_NG, ms_N, accuracy_N)
    bounds_ms = [float(np.quantile(table.latency_ms_N, q)) for q in QUANTILES]
    begun = time.process_time()
    found = compare(space, data, table, bounds_ms, options.seeds, ROWS, SEARCH)
    return {**found, "device": DEVICE, "processor_s": time.process_time() - begun}


def compare(
    space: NasBench201,
    data: Dataset,
    table: Table,
    bounds_ms: Sequence[float],
    seeds: Sequence[int],
    rows: int,
    search: Mapping[str, Any],
) -> dict[str, Any]:
    """What ``la_darts`` and repaired ``darts`` derive under every bound, by the table."""
    with tempfile.TemporaryDirectory() as folder:
        blobs = FolderBlobs(Path(folder))
        base, card = _onboarded(space, data, table, rows, blobs)
        runs: list[dict[str, Any]] = []
        for seed in seeds:
            plain = _problem(base, "darts", seed, None, search)
            trained = _run(plain, blobs, table, ("estimate", "train"))
            for bound_ms in bounds_ms:
                state = _run(_problem(base, "la_darts", seed, bound_ms, search), blobs, table, STAGES)
                blind = _problem(base, "darts", seed, bound_ms, search)
                blind = replace(blind, supernet_blob=trained.finished["train"]["supernet"])
                repaired = _run(blind, blobs, table, ("estimate", "train", "derive"))
                runs.append(_told(space, table, seed, bound_ms, state, repaired))
    return {
        "bounds": [_of_bound(table, b, [r for r in runs if r["bound_ms"] == b]) for b in bounds_ms],
        "all_met": all(r["met"] for r in runs),
        "all_verified": all(r["status"] == "verified" for r in runs),
        "gap_to_optimum": float(np.mean([r["optimum"] - r["accuracy"] for r in runs])),
        "gap_of_repaired_darts": float(np.mean([r["optimum"] - r["repaired_accuracy"] for r in runs])),
        "gap_of_mean_cell": float(np.mean([r["optimum"] - table.mean_within(r["bound_ms"]) for r in runs])),
        "predictor": card,
        "runs": runs,
    }


STAGES = ("estimate", "train", "derive", "explore", "verify")


def _onboarded(
    space: NasBench201, data: Dataset, table: Table, rows: int, blobs: FolderBlobs
) -> tuple[Problem, dict[str, Any]]:
    """A problem whose predictor is fitted to some rows of the table, as an uploaded one is; and the predictor's card."""
    some = np.random.default_rng(0).permutation(len(table.genes_NG))[:rows]
    columns = {
        "arch": ["-".join(map(str, g)) for g in table.genes_NG[some].tolist()],
        "ms": table.latency_ms_N[some].tolist(),
    }
    spec = DeviceSpec(name="table", source="table", table=TableSpec(blob=blobs.put(RawTable(columns).dump())))
    state = fold_all(onboard_figures(spec, space, blobs, SearchState(), time.monotonic))
    fit, profile = state.finished["fit"], DeviceProfile.from_json(dict(state.finished["profile"]["profile"]))
    predictor = load_predictor(fit["family"], blobs.get(fit["blob"]))
    # The rest of the table stands for the device itself, on which networks are measured.
    base = Problem(SearchSpec(), space, data, replace(profile, source="worker"), predictor)
    return base, {k: fit["card"][k] for k in ("mape", "spearman", "coverage")} | {"rows": len(some)}


def _problem(base: Problem, preset: str, seed: int, bound_ms: float | None, search: Mapping[str, Any]) -> Problem:
    spec = SearchSpec(
        strategy=StrategySpec(name="darts", params={"preset": preset, "checkpoint_s": 1e9, **search}),
        objectives=(ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=bound_ms)),
        budget=BudgetSpec(evaluations=8, verified=8),
        seed=seed,
    )
    return replace(base, spec=spec)


def _run(problem: Problem, blobs: FolderBlobs, table: Table, names: Sequence[str]) -> SearchState:
    stages: list[Stage] = [stage for stage in darts(problem) if stage.name in names]
    resources = Resources(blobs, table.measure, time.monotonic)
    return fold_all(run_search(problem, stages, resources, SearchState()))


def _told(
    space: NasBench201, table: Table, seed: int, bound_ms: float, state: SearchState, repaired: SearchState
) -> dict[str, Any]:
    (arch,) = as_archs(space.id, np.array(state.finished["derive"]["networks"][:1]))
    (other,) = as_archs(space.id, np.array(repaired.finished["derive"]["networks"][:1]))
    point, row = state.points["search", arch.id], table.row_of[arch.id]
    ms = float(table.latency_ms_N[row])
    return {
        "seed": seed,
        "bound_ms": bound_ms,
        "genes": list(arch.genes),
        "upper_ms": point.metrics["upper_ms"],
        "table_ms": ms,
        "met": ms <= bound_ms,
        "status": point.status,
        "needed_repair": bool(state.finished["derive"]["replaced"]),
        "accuracy": float(table.accuracy_N[row]),
        "optimum": table.best_within(bound_ms),
        "repaired_ms": float(table.latency_ms_N[table.row_of[other.id]]),
        "repaired_accuracy": float(table.accuracy_N[table.row_of[other.id]]),
    }


def _of_bound(table: Table, bound_ms: float, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    def mean(name: str) -> float:
        return float(np.mean([r[name] for r in runs]))

    return {
        "bound_ms": bound_ms,
        "met": sum(r["met"] for r in runs),
        "verified": sum(r["status"] == "verified" for r in runs),
        "seeds": len(runs),
        "table_ms": mean("table_ms"),
        "accuracy": mean("accuracy"),
        "deviation": float(np.std([r["accuracy"] for r in runs])),
        "repaired_darts": mean("repaired_accuracy"),
        "mean_cell": table.mean_within(bound_ms),
        "optimum": table.best_within(bound_ms),
    }


if __name__ == "__main__":
    main("la_darts_bounds", bench, __doc__ or "", ("torch", "numpy", "scikit-learn"), seeds=3)
