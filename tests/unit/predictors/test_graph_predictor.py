"""Graphs of networks, and the graph network that learns latency from them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nas.core import registry
from nas.core.arch import Floats, Genes, sample
from nas.core.device import Latency
from nas.core.errors import InvalidInput
from nas.core.graph import Graph, GraphEncoding
from nas.core.metrics import mape, spearman
from nas.core.ports import ImageShape, LatencyPredictor, PredictorDefaults, SearchSpace, predict_latency
from predictors.families.auto import AutoPredictor
from predictors.families.bayesian_linear import BayesianLinear
from predictors.families.graph import GraphNetwork, Wiring
from predictors.onboarding.fitting import fit_networks
from predictors.onboarding.refit import refitted
from predictors.storage import DeviceMeasurements, dump_predictor, load_predictor
from search_spaces.nas_bench_201.cell import EDGES, NODES, active_edges
from tests.support.spaces import WITHOUT_PARENT

SHAPE = ImageShape(1, 8, 8, 10)
SPACES = [
    n for n in WITHOUT_PARENT if registry.load_space(n).build({"preset": "digits"}, SHAPE).graph_encoding is not None
]
spaces = pytest.mark.parametrize("name", SPACES)


def space_of(name: str) -> SearchSpace:
    return registry.load_space(name).build({"preset": "digits"}, SHAPE)


def encoding_of(space: SearchSpace) -> GraphEncoding:
    encoding = space.graph_encoding
    assert encoding is not None
    return encoding


def random_genes(space: SearchSpace, n: int, seed: int = 0) -> Genes:
    return space.canonical(sample(space.decisions, np.random.default_rng(seed), n))


CELLS = space_of("nas_bench_201")
GENES = np.unique(random_genes(CELLS, 700), axis=0)


def longest_way_ms(genes_NG: Genes) -> Floats:
    """Of a device that computes parallel edges at once: the dearest way through the cell."""
    cost_O = np.array([-np.inf, 0.02, 0.3, 0.6, 1.0])  # none leads nowhere
    reached_NV = np.full((len(genes_NG), NODES), -np.inf)
    reached_NV[:, 0] = 0.0
    for e, (a, b) in enumerate(EDGES):
        reached_NV[:, b] = np.maximum(reached_NV[:, b], reached_NV[:, a] + cost_O[genes_NG[:, e]])
    return np.asarray(1.0 + np.maximum(reached_NV[:, -1], 0.0))


@pytest.fixture(scope="module")
def fitted() -> LatencyPredictor:
    """Fitted to the first 40 networks: a fit takes seconds."""
    return fit_networks("graph", CELLS, GENES[:40], longest_way_ms(GENES[:40]))


def test_our_spaces_tell_their_graphs() -> None:
    assert {"darts_cell", "mobilenet_v3", "nas_bench_201"} <= set(SPACES)


@spaces
def test_a_graph_is_well_made(name: str) -> None:
    space, graph = space_of(name), encoding_of(space_of(name)).graph
    sampled = sample(space.decisions, np.random.default_rng(0), 50)
    columns = encoding_of(space).columns(sampled)
    assert columns.shape == (50, len(graph.place_C)) == (50, len(graph.operation_C)) == (50, len(graph.presence_C))
    assert (columns == encoding_of(space).columns(space.canonical(sampled))).all()
    assert set(graph.place_C) == set(range(len(graph.places)))
    assert set(graph.operation_C) == set(range(len(graph.operations)))
    assert len(set(zip(graph.place_C, graph.operation_C, strict=True))) == len(graph.place_C)
    feeds = np.zeros((len(graph.places),) * 2, dtype=int)
    feeds[tuple(np.array(graph.edges).T)] = 1
    assert not np.linalg.matrix_power(feeds, len(graph.places)).any()  # no circle
    present_edges = Wiring.of(graph).present(columns)
    assert (np.abs(present_edges * (1 - present_edges)) < 1e-9).all()
    assert (present_edges[-1] == 1).all()


def test_a_cell_of_the_graph_is_that_of_the_space() -> None:
    present_edges = Wiring.of(encoding_of(CELLS).graph).present(encoding_of(CELLS).columns(GENES))
    assert (active_edges(GENES) == present_edges[: len(EDGES)].T).all()
    darts = space_of("darts_cell")
    present_edges = Wiring.of(encoding_of(darts).graph).present(encoding_of(darts).columns(random_genes(darts, 40)))
    edges = [i for i, place in enumerate(encoding_of(darts).graph.places) if "node" in place]
    assert (present_edges[edges].sum(0) == 16).all()  # two operations for each of four nodes of two cells
    for genes in random_genes(darts, 40):
        operations = darts.table(genes)[:, 1:]  # type: ignore[attr-defined]
        encoded = encoding_of(darts).columns(genes[None])[0]
        of_edges = [c for c, place in enumerate(encoding_of(darts).graph.place_C) if place in edges]
        assert (encoded[of_edges].reshape(operations.shape) == operations).all()


def test_a_layered_network_is_a_chain_whose_work_adds_up() -> None:
    space = space_of("mobilenet_v3")
    genes = random_genes(space, 60)
    wiring, columns = Wiring.of(encoding_of(space).graph), encoding_of(space).columns(genes)
    np.testing.assert_allclose(wiring.sums(columns), space.features(genes), rtol=1e-12)
    blocks = wiring.present(columns)[1:-2].reshape(3, 4, 60).sum(1).T
    depths = [[c for d, c in zip(space.decisions, row, strict=True) if d.name.endswith("depth")] for row in genes]
    assert (blocks == np.array(depths) + 1).all()


def test_the_graph_tells_what_operations_alone_do_not() -> None:
    y = longest_way_ms(GENES) * (1 + 0.02 * np.random.default_rng(0).standard_normal(len(GENES)))
    predictor = fit_networks("graph", CELLS, GENES[:150], y[:150])
    guess = predict_latency(predictor, CELLS, GENES[150:])
    columns = encoding_of(CELLS).columns(GENES)
    by_operations = BayesianLinear.fit(columns[:150], y[:150]).predict(columns[150:])
    assert mape(y[150:], guess.mean_ms) < 0.6 * mape(y[150:], by_operations.mean_ms)
    assert spearman(y[150:], guess.mean_ms) > spearman(y[150:], by_operations.mean_ms) + 0.03
    assert 0.9 <= (y[150:] <= guess.upper_ms).mean() <= 1.0


@pytest.mark.long
def test_the_best_tries_graphs_where_there_are_any(fitted: LatencyPredictor) -> None:
    y = longest_way_ms(GENES)
    tried = fit_networks("auto", CELLS, GENES[:64], y[:64])
    assert isinstance(tried, AutoPredictor)
    assert "graph" in tried.errors
    assert "graph" not in AutoPredictor.fit(CELLS.features(GENES[:64]), y[:64]).errors
    best = AutoPredictor(fitted, tried.errors)  # type: ignore[arg-type]
    again = load_predictor("auto", dump_predictor(best))
    selected_ms, read, own = (predict_latency(p, CELLS, GENES[64:]).mean_ms for p in (best, again, best.chosen))
    assert (selected_ms == read).all()
    assert (selected_ms == own).all()


def test_the_order_of_places_plays_no_part() -> None:
    y, columns = longest_way_ms(GENES), encoding_of(CELLS).columns(GENES)
    graph = encoding_of(CELLS).graph
    order = np.random.default_rng(1).permutation(len(graph.places))
    new = np.argsort(order)
    renamed = replace(
        graph,
        places=tuple(graph.places[i] for i in order),
        edges=tuple((int(new[a]), int(new[b])) for a, b in graph.edges),
        place_C=tuple(int(new[v]) for v in graph.place_C),
    )
    one = _point(columns[:80], y[:80], graph).predict(columns[80:]).mean_ms
    trained = _point(columns[:80], y[:80], graph)
    other = replace(trained, wiring=Wiring.of(renamed)).predict(columns[80:]).mean_ms
    np.testing.assert_allclose(one, other, rtol=1e-9)


def _point(x: Floats, y: Floats, graph: Graph) -> GraphNetwork:
    return GraphNetwork.fit_mean(x, y, 0, Wiring.of(graph))


def test_a_refit_reads_graphs_again_and_other_spaces_are_refused(fitted: LatencyPredictor) -> None:
    y = longest_way_ms(GENES)
    training_data = DeviceMeasurements(GENES[:40], y[:40], np.arange(40) % 4 == 0)
    second = refitted(fitted, training_data, CELLS, GENES[40:60], y[40:60])
    assert isinstance(second.predictor, GraphNetwork)
    assert len(second.measurements.latency_ms_N) == 60
    chain = space_of("mobilenet_v3")
    with pytest.raises(InvalidInput, match="another search space"):
        predict_latency(second.predictor, chain, random_genes(chain, 3))


def test_a_predictor_with_defaults_reads_features_and_has_no_domain() -> None:
    class Plain(PredictorDefaults):
        family = "plain"

        def predict(self, features_NF: Floats) -> Latency:
            assert features_NF.shape == CELLS.features(GENES).shape
            return Latency(features_NF[:, 0], features_NF[:, 0])

        def to_arrays(self) -> dict[str, Floats]:
            return {}

    assert len(predict_latency(Plain(), CELLS, GENES).mean_ms) == len(GENES)
    assert Plain().extrapolations(CELLS, GENES) is None


def test_predicting_needs_no_torch(tmp_path: Path, fitted: LatencyPredictor) -> None:
    """A server predicts with what a worker has fitted."""
    (tmp_path / "stored").write_bytes(dump_predictor(fitted))
    columns = encoding_of(CELLS).columns(GENES[:3])
    code = (
        "import sys, numpy as np; from pathlib import Path; from predictors.storage import load_predictor; "
        "predictor = load_predictor('graph', Path(sys.argv[1]).read_bytes()); "
        "print(*predictor.predict(np.array(eval(sys.argv[2]))).mean_ms); assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "stored"), str(columns.tolist())]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    np.testing.assert_allclose([*map(float, out.stdout.split())], fitted.predict(columns).mean_ms, rtol=1e-12)
