"""Latency-aware differentiable search on a device that is a table: are bounds met by the table, and at what accuracy?

The device is one of NAS-Bench-201's, every cell of which was measured: its predictor looks cells up, and so does what
measures them for verification. The preset ``la_darts`` searches on real images, small ones, under each of three bounds,
through the engine's own stages. The accuracy after 200 epochs of what it derives is compared with the best of all cells
whose latency in the table is within the bound. Beside it: plain ``darts``, whose cell is only repaired afterwards, and
the mean of all cells within the bound.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from benchmarks._cifar import small_cifar
from benchmarks._cli import Options, main, shared_file
from nas.blobs import FolderBlobs
from nas.core.arch import Floats, Genes, as_archs
from nas.core.device import DeviceProfile, Latency, Measurement, MeasurementProtocol
from nas.core.events import SearchState, fold_all
from nas.core.ports import Dataset, PredictorDefaults, Problem, Resources, Stage
from nas.core.spec import BudgetSpec, ObjectiveSpec, SearchSpec, StrategySpec
from nas.engine import run_search
from nas.stages.explore import ExploreStage
from nas.stages.results import DiscretizeResult, TrainResult
from nas.strategies.darts import DARTS
from search_spaces.nas_bench_201.cell import EDGES, OPERATIONS, from_string
from search_spaces.nas_bench_201.space import NasBench201, build

DEVICE = "raspi4"  # whose latencies
QUANTILES = (0.1, 0.25, 0.5)  # of all cells' latencies: the bounds
IMAGES, VALIDATION, SIZE = 2_000, 250, 16  # training images, validation images, their height and width
SPACE = {"channels": 8, "cells": 1}
SEARCH: Mapping[str, Any] = {"epochs": 8, "tune_epochs": 1, "alpha_lr": 0.03}
_DIGITS = len(OPERATIONS) ** np.arange(len(EDGES))


@dataclass(frozen=True)
class LatencyTable(PredictorDefaults):
    """Distinct cells: latencies (N,) in ms and accuracies (N,) in %, and their rows by the cell's id and by its key.

    It is both a ``nas.core.ports.LatencyPredictor`` and, by ``measure``, a ``Measurer``."""

    family: ClassVar[str] = "table"
    latency_ms_N: Floats
    accuracy_N: Floats
    row_of: Mapping[str, int]
    row_by_key: Genes

    @staticmethod
    def of(space: NasBench201, genes_NG: Genes, latency_ms_N: Floats, accuracy_N: Floats) -> LatencyTable:
        """Cells of which every edge does something; all others are equal to one of them."""
        own_N = (space.canonical(genes_NG) == genes_NG).all(axis=1)
        genes_NG = genes_NG[own_N]
        rows = {arch.id: i for i, arch in enumerate(as_archs(space.id, genes_NG))}
        by_key = np.full(len(OPERATIONS) ** len(EDGES), -1)
        by_key[genes_NG @ _DIGITS] = np.arange(len(genes_NG))
        return LatencyTable(latency_ms_N[own_N], accuracy_N[own_N], rows, by_key)

    def predict(self, features_NF: Floats) -> Latency:
        """Latencies by the operations on the edges, which are what features begin with; each is its own bound."""
        one_hot_NEO = features_NF[:, : len(EDGES) * len(OPERATIONS)].reshape(-1, len(EDGES), len(OPERATIONS))
        ms_N = self.latency_ms_N[self.row_by_key[one_hot_NEO.argmax(axis=2) @ _DIGITS]]
        return Latency(ms_N, ms_N)

    def to_arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """It is not kept."""
        return {}

    def measure(
        self,
        models: Sequence[bytes],
        profile: DeviceProfile,
        networks: Sequence[str],
        promised_ms: Sequence[float] | None = None,
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
    table = LatencyTable.of(space, genes_NG, ms_N, accuracy_N)
    bounds_ms = [float(np.quantile(table.latency_ms_N, q)) for q in QUANTILES]
    start_s = time.process_time()
    rows = compare(space, data, table, bounds_ms, options.seeds, SEARCH)
    return {**rows, "device": DEVICE, "processor_s": time.process_time() - start_s}


def compare(
    space: NasBench201,
    data: Dataset,
    table: LatencyTable,
    bounds_ms: Sequence[float],
    seeds: Sequence[int],
    search: Mapping[str, Any],
) -> dict[str, Any]:
    """What ``la_darts`` and repaired ``darts`` derive under every bound, by the table."""
    with tempfile.TemporaryDirectory() as folder:
        blobs = FolderBlobs(Path(folder))
        unknown = MeasurementProtocol(version=0)
        profile = DeviceProfile("table", "", "a table", 1, "table", "1", "", protocol=unknown)
        base = Problem(SearchSpec(), space, data, profile, table)
        runs: list[dict[str, Any]] = []
        for seed in seeds:
            plain = _problem(base, "darts", seed, None, search)
            trained = _run(plain, blobs, table, ("estimate", "train"))
            for bound_ms in bounds_ms:
                state = _run(_problem(base, "la_darts", seed, bound_ms, search), blobs, table, STAGES)
                blind = _problem(base, "darts", seed, bound_ms, search)
                blind = replace(blind, supernet_blob=TrainResult.require(trained.finished).blob)
                repaired = _run(blind, blobs, table, ("estimate", "train", "discretize"))
                runs.append(_report(space, table, seed, bound_ms, state, repaired))
    return summary(table, bounds_ms, runs)


def summary(table: LatencyTable, bounds_ms: Sequence[float], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All runs together, by bound and one by one."""
    return {
        "bounds": [_of_bound(table, b, [r for r in runs if r["bound_ms"] == b]) for b in bounds_ms],
        "all_met": all(r["met"] for r in runs),
        "all_verified": all(r["status"] == "verified" for r in runs),
        "gap_to_optimum": float(np.mean([r["optimum"] - r["accuracy"] for r in runs])),
        "gap_of_repaired_darts": float(np.mean([r["optimum"] - r["repaired_accuracy"] for r in runs])),
        "gap_of_mean_cell": float(np.mean([r["optimum"] - table.mean_within(r["bound_ms"]) for r in runs])),
        "runs": list(runs),
    }


STAGES = ("estimate", "train", "discretize", "explore", "verify")


def _problem(base: Problem, preset: str, seed: int, bound_ms: float | None, search: Mapping[str, Any]) -> Problem:
    spec = SearchSpec(
        strategy=StrategySpec(name="darts", params={"preset": preset, "checkpoint_s": 1e9, **search}),
        objectives=(ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=bound_ms)),
        budget=BudgetSpec(evaluations=8, verified=8),
        seed=seed,
    )
    return replace(base, spec=spec)


def _run(problem: Problem, blobs: FolderBlobs, table: LatencyTable, names: Sequence[str]) -> SearchState:
    explore = ExploreStage(rounds=1)  # what was derived and its neighbours
    stages: list[Stage] = [explore if s.name == explore.name else s for s in DARTS.stages(problem) if s.name in names]
    resources = Resources(blobs, table.measure, time.monotonic)
    return fold_all(run_search(problem, stages, resources, SearchState()))


def _report(
    space: NasBench201, table: LatencyTable, seed: int, bound_ms: float, state: SearchState, repaired: SearchState
) -> dict[str, Any]:
    (arch,) = as_archs(space.id, np.array(DiscretizeResult.require(state.finished).networks[:1]))
    (other,) = as_archs(space.id, np.array(DiscretizeResult.require(repaired.finished).networks[:1]))
    point, row = state.candidates["search", arch.id], table.row_of[arch.id]
    ms = float(table.latency_ms_N[row])
    return {
        "seed": seed,
        "bound_ms": bound_ms,
        "genes": list(arch.genes),
        "upper_ms": point.metrics["upper_ms"],
        "table_ms": ms,
        "met": ms <= bound_ms,
        "status": point.status,
        "needed_repair": bool(DiscretizeResult.require(state.finished).replaced),
        "accuracy": float(table.accuracy_N[row]),
        "optimum": table.best_within(bound_ms),
        "repaired_ms": float(table.latency_ms_N[table.row_of[other.id]]),
        "repaired_accuracy": float(table.accuracy_N[table.row_of[other.id]]),
    }


def _of_bound(table: LatencyTable, bound_ms: float, runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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
    main("la_darts_bounds", bench, __doc__ or "", ("torch", "numpy"), seeds=3)
