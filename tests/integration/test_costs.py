"""Exact costs: memory and model size as the exported graph has them, as objectives with bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from nas.core import registry
from nas.core.arch import as_archs, choice_counts, sample
from nas.core.errors import InfeasibleBound, InvalidSpec
from nas.core.events import SearchState, fold_all
from nas.core.ports import ImageShape, SearchSpace
from nas.core.spec import BudgetSpec, ExportSpec, ObjectiveSpec, StrategySpec
from nas.export import Footprint, Normalised, footprint, to_onnx
from nas.spaces.activation_memory import PopulationTrace, peak
from nas.spaces.costs import COSTS, network_costs
from nas.stages.estimate import EstimateStage, profile_space, unsupported_objectives
from nas.stages.fronts import front_of
from tests.support import fakes
from tests.support.engine import SPEC, problem, run
from tests.support.spaces import WITHOUT_PARENT

pytestmark = pytest.mark.usefixtures("one_thread")

# Odd maps too: halving them takes a border.
SPACES: list[tuple[str, dict[str, Any], ImageShape]] = [
    ("elastic_vit", {"preset": "digits"}, ImageShape(1, 8, 8, 10)),
    ("elastic_vit", {"preset": "digits", "pooling": "class", "slices": "isolated"}, ImageShape(3, 8, 8, 5)),
    ("hybrid", {"preset": "digits"}, ImageShape(1, 8, 8, 10)),
    ("hybrid", {"preset": "digits-operators"}, ImageShape(1, 8, 8, 10)),
    ("hybrid", {"preset": "digits", "resolutions": [7, 8], "stem_stride": 2}, ImageShape(3, 8, 8, 5)),
    ("mobilenet_v3", {"preset": "digits"}, ImageShape(1, 8, 8, 10)),
    (
        "mobilenet_v3",
        {"preset": "digits", "resolutions": [5, 7], "stem_stride": 2, "depths": [1, 2]},
        ImageShape(3, 8, 8, 7),
    ),
    ("nas_bench_201", {"preset": "digits"}, ImageShape(3, 9, 9, 10)),
    ("nas_bench_201", {"channels": 4, "cells": 2}, ImageShape(1, 8, 8, 10)),
    ("darts_cell", {"preset": "digits"}, ImageShape(1, 9, 9, 10)),
    ("darts_cell", {"channels": 4, "cells": 5, "evaluation": True}, ImageShape(3, 16, 16, 5)),
    ("free_cell", {"preset": "digits"}, ImageShape(1, 9, 9, 10)),
    ("free_cell", {"preset": "snas", "channels": 4, "cells": 5, "evaluation": True}, ImageShape(3, 16, 16, 5)),
    ("attentive_nas", {"preset": "digits"}, ImageShape(1, 8, 8, 10)),
    ("attentive_nas", {"preset": "digits", "resolutions": [5, 7], "stem_stride": 2}, ImageShape(3, 8, 8, 7)),
    ("fbnet", {"preset": "digits"}, ImageShape(1, 8, 8, 10)),
    ("fbnet", {"preset": "digits", "resolution": 9, "stem_stride": 2}, ImageShape(3, 8, 8, 7)),
    ("resnet", {"preset": "digits"}, ImageShape(1, 8, 8, 10)),
    ("resnet", {"preset": "digits", "resolutions": [17, 19], "stem": "7x7"}, ImageShape(3, 9, 15, 7)),
    (
        "resnet",
        {"preset": "digits", "resolutions": [17], "block": "bottleneck", "shortcut": "pooled", "stem": "deep"},
        ImageShape(3, 16, 16, 5),
    ),
    ("resnet20_downsampling", {"preset": "digits"}, ImageShape(1, 8, 8, 10)),
    ("resnet20_downsampling", {"channels": 4, "blocks": 2}, ImageShape(3, 9, 7, 5)),
    ("mobilenet_v3", {"preset": "digits", "resolutions": [5, 7], "depths": [1, 2]}, ImageShape(3, 10, 16, 7)),
    ("attentive_nas", {"preset": "digits", "resolutions": [5, 7], "stem_stride": 2}, ImageShape(3, 12, 9, 7)),
    ("fbnet", {"preset": "digits", "resolution": 9, "stem_stride": 2}, ImageShape(3, 9, 15, 7)),
    ("nas_bench_201", {"preset": "digits"}, ImageShape(3, 9, 14, 10)),
    ("darts_cell", {"preset": "digits"}, ImageShape(1, 9, 14, 10)),
]


TINY = fakes.TinySpace({}, ImageShape(1, 8, 8, 10))  # counts parameters and MACs only


def exported(space: SearchSpace, net: Any, arch: Any) -> bytes:
    """As it is measured and shipped. Every weight is its own: the exporter merges equal ones."""
    module = net.subnet(arch)
    generator = torch.Generator().manual_seed(0)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1.5, generator=generator)
    c = space.shape.channels
    return to_onnx(Normalised(module, [0.5] * c, [0.25] * c), space.input_shape(arch))


def test_every_space_has_a_case() -> None:
    assert {name for name, _, _ in SPACES} == set(WITHOUT_PARENT)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Constant folding")
@pytest.mark.parametrize(("name", "params", "shape"), SPACES, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(SPACES)])
def test_costs_are_those_of_the_exported_graph(name: str, params: dict[str, Any], shape: ImageShape) -> None:
    space = registry.load_space(name).build(params, shape)
    net = space.supernet(0).eval()
    counts = choice_counts(space.decisions)
    random_NG = sample(space.decisions, np.random.default_rng(7), 3)
    if (
        name == "nas_bench_201"
    ):  # equal operations on equal tensors; a convolution, and an identity, before the last batch norm
        random_NG = np.concatenate(
            [random_NG, [[1, 4, 0, 0, 4, 0], [2, 2, 0, 1, 1, 1], [1, 1, 0, 3, 1, 1], [0, 0, 0, 1, 0, 0]]]
        )
    genes_NG = space.canonical(np.concatenate([random_NG, [0 * counts, counts - 1]]))
    costs = space.costs(genes_NG)
    footprints = [footprint(exported(space, net, arch)) for arch in as_archs(space.id, genes_NG)]
    assert [f.peak_bytes for f in footprints] == costs["peak_bytes"].tolist()
    assert [f.model_bytes for f in footprints] == costs["model_bytes"].tolist()
    one_by_one = [float(space.costs(genes_G[None])["peak_bytes"][0]) for genes_G in genes_NG]
    assert one_by_one == costs["peak_bytes"].tolist()


@pytest.mark.parametrize(("name", "params", "shape"), SPACES, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(SPACES)])
def test_tables_agree_with_the_description(name: str, params: dict[str, Any], shape: ImageShape) -> None:
    space: Any = registry.load_space(name).build(params, shape)
    genes_NG = sample(space.decisions, np.random.default_rng(8), 150)
    costs = space.costs(genes_NG)
    for i, arch in enumerate(as_archs(space.id, genes_NG)):
        network = space.network(arch)
        network.check()
        assert network.input_shape == space.input_shape(arch)
        assert network.layers == space.layers(arch)
        assert network_costs(network) == tuple(costs[key][i] for key in COSTS)


def graph() -> bytes:
    """image (4) -> a (4) -> b (8 numbers, twice a) -> c = b + b; d = relu(image) is read last, with c."""
    two = numpy_helper.from_array(np.array([1, 2], dtype=np.int64), "axes")
    weight = numpy_helper.from_array(np.ones((1, 1, 1, 1), dtype=np.float32), "weight")
    nodes = [
        helper.make_node("Relu", ["image"], ["d"]),
        helper.make_node("Conv", ["image", "weight"], ["a"]),
        helper.make_node("Concat", ["a", "a"], ["b"], axis=1),
        helper.make_node("Add", ["b", "b"], ["c"]),
        helper.make_node("ReduceSum", ["c", "axes"], ["e"]),
        helper.make_node("Mul", ["e", "d"], ["logits"]),
    ]
    graph_proto = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 2, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [two, weight],
    )
    return bytes(
        helper.make_model(graph_proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


def test_the_footprint_of_a_graph_by_hand() -> None:
    # While c is made, b (8), c (8) and d (4) live: 20 numbers. The indices are no float weights.
    assert footprint(graph()) == Footprint(peak_bytes=80, model_bytes=4)
    assert onnx.load_model_from_string(graph()).graph.node[3].op_type == "Add"


def test_the_peak_is_the_largest_sum_over_steps() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        t = int(rng.integers(1, 12))
        size_NT = rng.integers(0, 9, size=(3, t)).astype(float)
        last_NT = np.array([[rng.integers(i, t) for i in range(t)] for _ in range(3)])
        for n in range(3):
            alive = [sum(size_NT[n, i] for i in range(s + 1) if last_NT[n, i] >= s) for s in range(t)]
            assert peak(size_NT, last_NT)[n] == max(alive)


def test_a_trace_repeats_nothing_and_skips_what_is_not_there() -> None:
    trace = PopulationTrace(2, 5)
    x = trace.add_input(1.0)
    a = trace.step(np.array([1, 0]), [x], 2.0)  # only the first network has it
    b = trace.step(np.array([1, 1]), [x], 2.0)  # which the first has already
    assert a.tolist() == [1, 0]
    assert b.tolist() == [1, 2]
    trace.step(trace.own(), [a, b], 4.0)
    assert trace.peak().tolist() == [2.0 + 4.0, 1.0 + 2.0 + 4.0]


def bounded(**bounds: float | None) -> Any:
    objectives = tuple(ObjectiveSpec(name=name, bound=bound) for name, bound in {"accuracy": None, **bounds}.items())  # type: ignore[arg-type]
    brief = StrategySpec(params={"epochs": 1, "batch_size": 80})
    return SPEC.model_copy(
        update={"objectives": objectives, "strategy": brief, "export": ExportSpec(count=1, int8=False)}
    )


@pytest.mark.long
def test_a_search_keeps_a_bound_on_memory(tmp_path: Path) -> None:
    ranges = profile_space(problem().space, None).values
    bound = float(np.quantile(ranges["peak_bytes"], 0.3))
    spec = bounded(peak_memory=bound, model_bytes=None)
    spec = spec.model_copy(update={"budget": BudgetSpec(evaluations=24, verified=2)})
    state = fold_all(run(tmp_path, problem(spec)))
    front = front_of(spec, state)
    assert front.final
    assert front.metrics == ("test_accuracy", "peak_bytes", "model_bytes")
    assert front.members
    assert all(p.metrics["peak_bytes"] <= bound for p in front.members)
    share = np.mean([p.metrics["peak_bytes"] <= bound for p in state.of("search")])
    assert share > np.mean([p.metrics["peak_bytes"] <= bound for p in state.of("baseline")])
    assert 0.0 < (front.baseline_hypervolume or 0.0) < 1.0
    # Axes that nobody had asked for when the search began, and which thinning by the usual ones would have lost.
    for axis in ("peak_memory", "model_bytes"):
        assert front_of(spec, state, ("accuracy", axis)).members


def test_bounds_out_of_reach_name_the_lowest_value() -> None:
    p = problem(bounded(peak_memory=100.0))
    lowest = profile_space(p.space, None).lowest["peak_bytes"]
    with pytest.raises(InfeasibleBound, match=rf"peak_memory.*{lowest:g} B"):
        list(EstimateStage().run(p, None, SearchState()))  # type: ignore[arg-type]


def test_a_space_that_does_not_tell_is_refused() -> None:
    spec = bounded(peak_memory=None)
    (refusal,) = unsupported_objectives(spec, profile_space(TINY, None))
    assert isinstance(refusal, InvalidSpec)
    assert "peak_bytes" in str(refusal)
    assert unsupported_objectives(bounded(latency=1.0), profile_space(TINY, None)) == []
