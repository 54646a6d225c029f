"""The benchmark of differentiable search on NAS-Bench-201: lookup, random search at equal cost, and going on."""

from __future__ import annotations

import io
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import fewshot_rank
from benchmarks import nb201_search as nb
from benchmarks._cifar import small_cifar
from benchmarks._finished_runs import FinishedRuns
from nas.core.arch import as_archs, every
from nas.core.ports import Dataset, ImageShape, Split
from nas.training.gradient.options import DartsParams
from search_spaces.nas_bench_201.cell import OPERATIONS, active_edges, from_string, to_string
from search_spaces.nas_bench_201.space import build

TINY = nb.SearchSetting(64, 8, 4, 1, 1, 16, 2, 1, 0.1)
SPACE = build({"channels": 4, "cells": 1}, ImageShape(3, 8, 8, 10))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> nb.CellTable:
    """In the layout of the real file: operations in another order, rows shuffled; a cell's accuracy tells its genes."""
    path = tmp_path_factory.mktemp("table") / "nb201.npz"
    genes = np.random.default_rng(0).permutation(every(SPACE.decisions))
    names = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
    code = np.array([names.index(name) for name in OPERATIONS])
    key = genes @ (5 ** np.arange(5, -1, -1))
    np.savez(
        path,
        op_names=np.array(names),
        ops=code[genes],
        connected=active_edges(genes).any(axis=1),
        latency_ms=np.stack([-key, key / 1000.0], axis=1),
        latency_device=np.array(["other", nb.DEVICE]),
        **{f"test_acc_200ep_{d}": key / 200.0 + i for i, d in enumerate(nb.DATA_SETS)},
    )
    return nb.read(path)


def data() -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (64, 3, 8, 8), dtype=np.uint8)
    split = Split(images, rng.integers(0, 10, 64))
    return Dataset("noise", SPACE.shape, split, split, split, tuple("abcdefghij"), "")


def test_a_cell_is_looked_up_by_its_operations(table: nb.CellTable) -> None:
    genes = from_string("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|")
    key = int(np.dot(genes, 5 ** np.arange(5, -1, -1)))
    assert table.truth(genes) == {"cifar10": key / 200, "cifar100": key / 200 + 1, "imagenet16": key / 200 + 2}
    bound = np.quantile([k / 1000 for k, c in enumerate(table.connected_K) if c], nb.QUANTILE)
    assert table.bound_ms == pytest.approx(bound)


def test_every_preset_is_run_as_shipped() -> None:
    for setting in (nb.SMALL, nb.FULL):
        for name in nb.NAMES:
            length = {"epochs": setting.epochs, "batch_size": setting.batch, "tune_epochs": 0}
            assert nb.options(name, setting) == DartsParams.model_validate({"preset": name, **length})


def pool(n: int, seconds: float) -> list[dict[str, Any]]:
    """Cells whose validation accuracy grows with their number, and whose true one falls."""
    names = nb.DATA_SETS
    return [{"accuracy": dict.fromkeys(names, 90.0 - i), "val_accuracy": i, "seconds": seconds} for i in range(n)]


def test_random_search_spends_no_more_than_its_budget() -> None:
    for budget, cells in ((0.5, 1), (2.0, 1), (6.0, 3), (7.9, 3), (1e9, 20)):
        options_by_name = nb.at_cost(pool(20, 2.0), budget, 50)
        assert (options_by_name["cells"], options_by_name["seconds"]) == (cells, 2.0 * cells)


def test_random_search_chooses_by_validation_alone() -> None:
    everything = nb.at_cost(pool(20, 1.0), 1e9, 5)
    assert everything["mean"]["cifar10"] == 71.0  # the best by validation is the worst in truth
    assert everything["deviation"]["cifar10"] == 0.0
    one = nb.at_cost(pool(20, 1.0), 1.0, 2000)["mean"]["cifar10"]
    assert one == pytest.approx(np.mean([90.0 - i for i in range(20)]), abs=0.5)


def test_random_cells_are_connected_and_different() -> None:
    cells = nb.random_cells(SPACE, 300)
    assert len({tuple(c) for c in cells}) == 300
    assert active_edges(np.array(cells)).any(axis=1).all()
    assert cells[:50] == nb.random_cells(SPACE, 50)


def test_an_interrupted_benchmark_goes_on(table: nb.CellTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two presets with a real search each: cut off in the middle, then to the end; nothing runs twice."""
    b, names, done = nb.SearchBench(TINY, data(), table, "cpu"), ("gdas", "la_darts"), list[str]()
    monkeypatch.setattr(nb.time, "process_time", lambda: 0.0)
    uninterrupted = nb.result(b, FinishedRuns(tmp_path / "whole.json", asdict(TINY)), names, [0])

    class Cut(FinishedRuns):
        left = 3

        def run(self, name: str, work: Any, told: Any) -> dict[str, Any]:
            if name not in self.runs:
                if self.left == 0:
                    raise KeyboardInterrupt
                self.left -= 1
                done.append(name)
            return super().run(name, work, told)

    with pytest.raises(KeyboardInterrupt):
        nb.result(b, Cut(tmp_path / "cut.json", asdict(TINY)), names, [0])
    again = Cut(tmp_path / "cut.json", asdict(TINY))
    assert nb.result(b, again, names, [0]) == uninterrupted
    assert len(done) == len(set(done)) == 6
    assert uninterrupted["presets"]["la_darts"]["runs"][0]["latency_ms"] <= table.bound_ms
    with pytest.raises(SystemExit, match="another setting"):
        FinishedRuns(tmp_path / "cut.json", asdict(nb.SMALL))


def test_images_come_from_all_classes(tmp_path: Path) -> None:
    """The archive is sorted by class: its first images would be of one class only."""
    streams = []
    for label in range(4):
        for shade in range(25):
            stream = io.BytesIO()
            Image.new("RGB", (32, 32), (label * 60, shade, 0)).save(stream, "JPEG")
            streams.append(stream.getvalue())
    np.savez(
        tmp_path / "c.npz",
        jpeg=np.frombuffer(b"".join(streams), dtype=np.uint8),
        offset=np.cumsum([0, *map(len, streams)]),
        label=np.repeat(np.arange(4), 25),
        is_test=np.tile([0, 0, 0, 0, 1], 20),
        class_names=np.array(list("abcd")),
    )
    images = small_cifar(tmp_path / "c.npz", 40, 20, 8)
    assert images.train.images_NCHW.shape == (40, 3, 8, 8)
    for split in (images.train, images.val):
        assert set(split.labels.tolist()) == {0, 1, 2, 3}
        assert (split.images_NCHW[:, 0].mean((1, 2)) / 60).round().tolist() == split.labels.tolist()


@pytest.mark.long
def test_all_ways_of_ranking_cost_as_much_and_none_is_undivided_by_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Few-shot methods go on from one warm-up; without any training of parts, all rank just as it does."""
    rng = np.random.default_rng(0)
    genes = [from_string("|none~0|+|none~0|none~1|+|nor_conv_3x3~0|none~1|none~2|"), *rng.integers(0, 5, (30, 6))]
    names = [to_string(arch) for arch in as_archs(SPACE.id, np.array(genes))]
    np.savez(tmp_path / "table.npz", arch_str=np.array(names), test_acc_200ep_cifar10=rng.uniform(10, 95, len(names)))
    monkeypatch.setattr(fewshot_rank, "small_cifar", lambda *_: data())
    monkeypatch.setattr(fewshot_rank, "CELLS", 8)
    monkeypatch.setattr(fewshot_rank, "BATCHES", 4)
    setting = fewshot_rank.RankingSetting(64, 64, 32, 8, 4, 1, 22, 2, 0.1, 0.05, 32)
    run = fewshot_rank.one_seed(setting, tmp_path, tmp_path / "table.npz", "cpu", 0)
    assert run["steps"] == dict.fromkeys(fewshot_rank.METHODS, 22 * 2)
    assert 1 <= run["parts"].pop("auto") <= 4
    assert run["parts"] == {"random_split": 4, "exhaustive": 5, "gradient_matching": 4}
    assert len(set(run["accuracy"].values())) > 1
    still = fewshot_rank.one_seed(replace(setting, epochs=2), tmp_path, tmp_path / "table.npz", "cpu", 0)
    assert {*still["tau"].values()} == {still["after_warmup"]}
    both = fewshot_rank.result([run, still])
    assert both["gain_over_one_shot"] == pytest.approx(
        np.mean([r["tau"]["gradient_matching"] - r["tau"]["one_shot"] for r in (run, still)])
    )
