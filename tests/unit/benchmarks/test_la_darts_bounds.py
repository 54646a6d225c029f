"""The benchmark of bounded search on a planted table: what it reports is what the table says."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.la_darts_bounds import LatencyTable, compare
from nas.core.arch import every
from nas.core.device import DeviceProfile, Latency
from nas.core.spec import DataSpec
from nas.datasets import digits
from search_spaces.nas_bench_201.space import NasBench201, build

TINY: dict[str, Any] = {"epochs": 2, "tune_epochs": 0, "alpha_lr": 0.2, "batch_size": 20, "latency_samples": 1}
COSTS = np.array([0.0, 0.0, 0.5, 1.0, 3.0])  # ms, and accuracy in %, of an operation on an edge


@pytest.fixture
def planted() -> tuple[NasBench201, LatencyTable]:
    torch.set_num_threads(1)
    space = build({"preset": "digits", "channels": 4}, digits.load(DataSpec(), 0).shape)
    genes_NG = every(space.decisions)
    ms_N = 1.0 + COSTS[genes_NG].sum(axis=1)
    return space, LatencyTable.of(space, genes_NG, ms_N, 50.0 + 2 * (ms_N - 1.0))


def test_the_table_tells_every_cell_by_its_features_and_by_its_id(planted: tuple[NasBench201, LatencyTable]) -> None:
    space, table = planted
    genes_NG = every(space.decisions)[::97]
    truth_N = 1.0 + COSTS[space.canonical(genes_NG)].sum(axis=1)
    latency: Latency = table.predict(space.features(genes_NG))
    np.testing.assert_allclose(latency.mean_ms, truth_N)
    np.testing.assert_array_equal(latency.mean_ms, latency.upper_ms)
    assert table.best_within(7.0) == 62.0
    assert table.mean_within(1.0) == 50.0
    profile = DeviceProfile("t", "", "", 1, "table", "1", "")
    few_cells = list(table.row_of)[:5]
    measured = [m.median_ms for m in table.measure([b""] * 5, profile, few_cells)]
    assert measured == [table.latency_ms_N[table.row_of[name]] for name in few_cells]


@pytest.mark.long
def test_derived_cells_meet_their_bounds_by_the_table_and_are_verified(
    planted: tuple[NasBench201, LatencyTable],
) -> None:
    space, table = planted
    data = digits.load(DataSpec(params={"max_train": 80, "max_val": 40, "max_test": 40}), 0)
    result = compare(space, data, table, [3.0, 8.0], (0,), TINY)
    assert result["all_met"]
    assert result["all_verified"]
    assert [b["optimum"] for b in result["bounds"]] == [54.0, 64.0]  # two accuracy points for every millisecond
    for run in result["runs"]:
        assert run["table_ms"] <= run["bound_ms"]
        assert run["repaired_ms"] <= run["bound_ms"]
        assert run["upper_ms"] == run["table_ms"]
        assert run["accuracy"] == pytest.approx(50.0 + 2 * (run["table_ms"] - 1.0))
        assert run["accuracy"] <= run["optimum"]
