"""Layers of own models are typed: each runs alone, with the name of its module, and predictors are fitted to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import onnxruntime
import pytest

from nas.core.arch import as_archs, sample
from nas.core.layers import Layer, OperatorLayer
from nas.spaces.layer_onnx import layer_to_onnx
from nas.testing.search_spaces import extremes_and_random
from predictors.families.graph import GraphNetwork
from predictors.families.layer_lut import distinct_layers, table_of, to_measure
from search_spaces.own_model.sizes import shapes_of_one_image
from search_spaces.own_model.space import OwnModel
from tests.support.parents import own_model

EVERY_OPERATOR = (
    *("grouped_resnet", "efficientnet", "shufflenet", "densenet", "unet", "detector", "vit_fused", "vit_masked"),
    *("convnext", "tied", "group_norm_resnet", "audio", "prelu", "super_resolution"),
)


@pytest.mark.parametrize("name", EVERY_OPERATOR)
def test_every_layer_runs_alone_and_gives_its_shape(name: str) -> None:
    space = own_model(name)
    archs = as_archs(space.id, extremes_and_random(space, 3))
    for layer in distinct_layers(space, archs).values():
        assert isinstance(layer, OperatorLayer)
        if layer.op == "reshape":
            continue
        session = onnxruntime.InferenceSession(layer_to_onnx(layer), providers=["CPUExecutionProvider"])
        feeds = {i.name: np.ones(i.shape, dtype=np.float32) for i in session.get_inputs()}
        [output] = session.run(None, feeds)
        assert output.shape == layer.result, layer


def test_layers_have_the_names_of_modules_and_take_up_what_follows() -> None:
    space = own_model("mobilenet_v2")
    layers = space.layers(as_archs(space.id, space.parent_genes()[None])[0])
    names = [layer.name for layer in layers]
    assert names[:3] == ["body.0.0", "body.1.expand.0", "body.1.depthwise.0"]
    assert len(set(names)) == len(names)
    first = layers[0]
    assert isinstance(first, OperatorLayer)
    assert (first.op, first.has_norm, first.detail) == ("dense", True, "3x3, stride 2, relu")
    assert not any(layer.op == "norm" for layer in layers)
    before = {"input", *names}
    assert all(set(layer.inputs) <= before for layer in layers)


def test_an_opaque_layer_cannot_be_timed_alone() -> None:
    space = own_model("opaque")
    parent = as_archs(space.id, space.parent_genes()[None])
    [layer] = [layer for layer in distinct_layers(space, parent).values() if layer.op == "opaque"]
    with pytest.raises(Exception, match=r"an operation 'opaque' \('aten\.sort\.default'\) cannot be cut out"):
        layer_to_onnx(layer)


def _latency_ms(layers: Sequence[Layer]) -> float:
    return sum(0.01 + layer.macs / 1e6 + layer.params / 1e5 for layer in layers if layer.op != "reshape")


def _latencies(space: OwnModel, n: int) -> tuple[np.ndarray, np.ndarray]:
    genes = space.canonical(sample(space.decisions, np.random.default_rng(3), n))
    return genes, np.array([_latency_ms(space.layers(arch)) for arch in as_archs(space.id, genes)])


def test_latencies_are_composed_of_those_of_layers() -> None:
    space = own_model("mobilenet_v2")
    genes, latency_ms = _latencies(space, 60)
    layers = distinct_layers(space, as_archs(space.id, genes))
    singles = [0.02 if layer is None else 0.02 + _latency_ms([layer]) for layer in to_measure(layers)]
    table = table_of(layers, singles)
    np.testing.assert_allclose(table.sum_ms(space, genes), 0.02 + latency_ms)
    model = table.fit_networks(space, genes[:40], latency_ms[:40])
    predicted = model.predict(model.inputs(space, genes[40:])).mean_ms
    np.testing.assert_allclose(predicted, latency_ms[40:], rtol=0.02)


def test_a_graph_predictor_reads_the_layers_as_places() -> None:
    space = own_model("resnet")
    encoding = space.graph_encoding
    assert encoding is not None
    graph = encoding.graph
    genes, latency_ms = _latencies(space, 120)
    columns = encoding.columns(genes)
    assert columns.shape == (120, len(graph.place_C)) == (120, len(graph.operation_C))
    by_kind = columns @ np.eye(len(graph.operations))[list(graph.operation_C)]
    macs = [i for i, operation in enumerate(graph.operations) if operation.endswith(".macs")]
    varying = by_kind[:, macs].sum(axis=1) * 1e6
    expected = space.costs(genes)["macs"]
    np.testing.assert_allclose(varying - varying[0], expected - expected[0], atol=1e-3)
    places = np.array(graph.place_C)
    presence = np.array(graph.presence_C)
    skipped = genes[:, -1] == 0
    in_last_block = [i for i, name in enumerate(graph.places) if name in space.model.blocks[-1].nodes]
    for place in in_last_block:
        present = columns[:, places == place] @ presence[places == place]
        np.testing.assert_array_equal(present, np.where(skipped, 0.0, 1.0))
    fitted = GraphNetwork.fit_networks(space, genes[:90], latency_ms[:90])
    error = np.abs(fitted.predict(fitted.inputs(space, genes[90:])).mean_ms / latency_ms[90:] - 1)
    assert error.mean() < 0.05


@pytest.mark.parametrize("name", ["resnet", "shufflenet", "densenet", "vit_fused", "tied", "super_resolution"])
def test_layers_are_the_operators_of_the_narrowed_graph_at_their_sizes(name: str) -> None:
    space = own_model(name)
    genes_NG = space.canonical(sample(space.decisions, np.random.default_rng(1), 12))
    for arch in as_archs(space.id, genes_NG):
        graph = space.choices.narrowed(arch).graph
        shapes = shapes_of_one_image(graph, space.input_shape(arch)[1])
        layers = space.layers(arch)
        described = Counter((layer.operator, layer.result) for layer in layers if isinstance(layer, OperatorLayer))
        assert described.total() == len(layers)
        assert described <= Counter((node.operator, shapes[node.name]) for node in graph.nodes)
        assert sum(layer.params for layer in layers) == sum(value.size for value in graph.learned)


def test_networks_share_the_descriptions_of_their_layers() -> None:
    space = own_model("resnet")
    first, second = as_archs(space.id, np.stack([space.parent_genes(), space.parent_genes()]))
    assert all(a is b for a, b in zip(space.layers(first), space.layers(second), strict=True))
