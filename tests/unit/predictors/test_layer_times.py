"""What a device takes for layers, carried from one space to another, and to other images."""

from __future__ import annotations

import numpy as np
import pytest

from nas.core.arch import Floats, Genes, as_archs, sample
from nas.core.metrics import mape, spearman
from nas.core.ports import ImageShape, SearchSpace, predict_latency
from nas.spaces.layer_work import WORK, layer_kind, layer_work
from predictors.layer_times import LayerTimes, MeasuredWork
from predictors.onboarding.fitting import fit_transfer
from predictors.onboarding.knowledge import Knowledge, informative, knowledge
from predictors.storage import DeviceMeasurements, dump_predictor, load_measurements, load_predictor
from search_spaces.mobilenet_v3.space import build as build_mobilenet
from search_spaces.nas_bench_201.space import build as build_cells

SMALL, LARGE = ImageShape(3, 8, 8, 10), ImageShape(3, 16, 16, 10)
CHAIN = build_mobilenet({"preset": "digits"}, SMALL)
CELLS = build_cells({"preset": "digits"}, SMALL)
MS = {"layers": 0.02, "macs": 3.0, "moved": 0.004}


def distinct(space: SearchSpace, n: int, seed: int) -> Genes:
    genes = space.canonical(sample(space.decisions, np.random.default_rng(seed), 2 * n))
    return genes[np.sort(np.unique(genes, axis=0, return_index=True)[1])][:n]


def device_ms(space: SearchSpace, genes_NG: Genes) -> Floats:
    """Layers that take so much for being measurements, for arithmetic and for what they move; pools twice as much."""
    per_work = np.array([MS.get(name, 0.0) for name in WORK])

    def milliseconds(layer: object) -> float:
        return float(layer_work(layer) @ per_work) * (2.0 if layer_kind(layer) == "pool" else 1.0)  # type: ignore[arg-type]

    archs = as_archs(space.id, genes_NG)
    rng = np.random.default_rng(len(genes_NG))
    clean = [0.1 + sum(milliseconds(la) for la in space.layers(arch) if la.op != "skip") for arch in archs]
    return np.array(clean) * (1 + 0.02 * rng.standard_normal(len(archs)))


def measured(space: SearchSpace, n: int, seed: int = 0) -> DeviceMeasurements:
    genes = distinct(space, n, seed)
    return DeviceMeasurements.of("mine", space, genes, device_ms(space, genes), np.zeros(n, dtype=bool))


@pytest.fixture(scope="module")
def chain_knowledge() -> Knowledge:
    """What networks of the chain of blocks tell of those of cells."""
    return knowledge(CELLS, [load_measurements(measured(CHAIN, 80).dump())], 12)


def test_layers_of_one_space_tell_the_latencies_of_another(chain_knowledge: Knowledge) -> None:
    assert chain_knowledge.tables == ()
    assert chain_knowledge.layers is not None
    genes = distinct(CELLS, 150, seed=5)
    expected_ms = chain_knowledge.layers.by_kind(CELLS, genes)[:, 0]
    assert spearman(device_ms(CELLS, genes), expected_ms) > 0.9


def test_a_new_space_needs_a_dozen_measurements(chain_knowledge: Knowledge) -> None:
    pool, tested = distinct(CELLS, 200, seed=1), distinct(CELLS, 200, seed=2)
    genes = informative(CELLS, chain_knowledge, pool, 12)
    fitted = fit_transfer(chain_knowledge.tables, CELLS, genes, device_ms(CELLS, genes), layers=chain_knowledge.layers)
    assert fitted.choice is not None
    assert any("layers" in option.name and option.weight > 0.05 for option in fitted.choice.options)
    predictor = load_predictor("transfer", dump_predictor(fitted.predictor))
    guess = predict_latency(predictor, CELLS, tested)
    truth = device_ms(CELLS, tested)
    assert spearman(truth, guess.mean_ms) > 0.95
    assert mape(truth, guess.mean_ms) < 10.0
    assert np.mean(truth <= guess.upper_ms) > 0.9


def test_other_images_are_told_by_the_same_networks() -> None:
    measurements = measured(CELLS, 120)
    larger = build_cells({"preset": "digits"}, LARGE)
    chain_knowledge = knowledge(larger, [measurements], 12)
    assert [len(table.latency_ms_N) for table in chain_knowledge.tables] == [120]
    assert chain_knowledge.layers is None
    genes, tested = distinct(larger, 12, seed=7), distinct(larger, 150, seed=8)
    fitted = fit_transfer(chain_knowledge.tables, larger, genes, device_ms(larger, genes))
    guess = predict_latency(fitted.predictor, larger, tested)
    assert spearman(device_ms(larger, tested), guess.mean_ms) > 0.95


def test_kinds_that_nobody_has_measured_take_what_others_do() -> None:
    genes = distinct(CELLS, 40, seed=3)
    work = MeasuredWork.of_networks(CELLS, genes, device_ms(CELLS, genes))
    times = LayerTimes.learn([work])
    assert (times.ms_KW >= 0).all()
    assert "depthwise3" not in times.kinds
    chain = distinct(CHAIN, 60, seed=4)
    by_kind_NK = times.by_kind(CHAIN, chain)
    assert (by_kind_NK[:, -1] > 0).all()  # of depthwise convolutions
    assert by_kind_NK[:, 0] == pytest.approx(times.base_ms + by_kind_NK[:, 1:].sum(axis=1))


def test_measurements_of_earlier_versions_say_nothing_of_layers() -> None:
    measurements = measured(CELLS, 40)
    old = DeviceMeasurements(measurements.genes_NG, measurements.latency_ms_N, measurements.held_out_N)
    assert load_measurements(old.dump()).work is None
    assert len(knowledge(CELLS, [old], 12).tables) == 1
