"""Latencies of published benchmarks as the product learns from them: networks by their columns, and uploaded tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import Floats, Genes
from nas.core.ports import ImageShape, SearchSpace
from predictors.as_written import measured_space
from predictors.onboarding.tables import FAR, RawTable, check_table
from predictors.relatives import Relatives, Table
from predictors.views import FeatureLayout, network_features
from search_spaces.nas_bench_201.cell import EDGES
from search_spaces.nas_bench_201.space import build as build_cells

Rows = NDArray[np.int64]

CELLS, OFA, HAT, HW_NAS_BENCH = "nb201.npz", "ofa.npz", "hat_latency.npz", "hw_nas_bench.npz"
SOURCE_DEVICES = (
    *("1080ti_1", "1080ti_32", "1080ti_256", "silver_4114", "silver_4210r"),
    *("samsung_a50", "pixel3", "essential_ph_1", "samsung_s7"),
)
MEASURED, TESTED = np.arange(900), np.arange(900, 1900)
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


def measured_cells(data: Path, shape: ImageShape, images: str) -> MeasuredNetworks:
    """Latencies and energies of all cells on one data set, measured as the cells stand."""
    genes_NG, _, _ = load_cells(data / CELLS)
    with np.load(data / HW_NAS_BENCH, allow_pickle=False) as table:
        columns = [str(name) for name in table["column"]]
        used = [c for c, name in enumerate(columns) if name.endswith(("_latency", "_energy"))]
        values_ND = table[images].astype(np.float64)[:, used]
    space = measured_space(build_cells({"preset": "benchmark"}, shape), True)
    values_ND = np.where(values_ND > 0, values_ND, np.nan)
    return MeasuredNetworks.of(space, genes_NG, [columns[c] for c in used], values_ND)


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
