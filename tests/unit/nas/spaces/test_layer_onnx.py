"""Single layers as models of their own: what they compute with is what the space counts."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from nas.core import registry
from nas.core.arch import as_archs, sample
from nas.core.errors import InvalidInput
from nas.core.layers import INPUT, ChannelShuffle, Conv2d, CustomLayer, Layer, Skip
from nas.core.ports import ImageShape
from nas.core.token_layers import MapToTokens, PatchEmbedding, TokenLayer, TokenLinear, TokensToMap
from nas.spaces.layer_onnx import empty_to_onnx, layer_to_onnx
from predictors.families.layer_lut import FREE, distinct_layers
from search_spaces.layers import channel_shuffle

SPACES = [
    ("elastic_vit", "digits"),
    ("elastic_vit", "deit-tiny"),
    ("hybrid", "digits"),
    ("mobilenet_v3", "digits"),
    ("mobilenet_v3", "cifar"),
    ("nas_bench_201", "digits"),
    ("attentive_nas", "digits"),
    ("darts_cell", "digits"),
    ("fbnet", "digits"),
    ("resnet", "digits"),
    ("resnet", "ofa-resnet50"),
    ("resnet20_downsampling", "digits"),
]


def layers_of(name: str, preset: str) -> list[Layer]:
    space = registry.load_space(name).build({"preset": preset}, ImageShape(3, 17, 17, 10))
    genes = space.canonical(sample(space.decisions, np.random.default_rng(0), 24))
    return list(distinct_layers(space, as_archs(space.id, genes)).values())


def run(model: bytes) -> list[tuple[int, ...]]:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feed = {i.name: np.ones([2, *i.shape[1:]], dtype=np.float32) for i in session.get_inputs()}
    return [np.asarray(out).shape for out in session.run(None, feed)]


def positions(layer: Layer) -> int:
    """Where a layer's weights are applied."""
    if isinstance(layer, PatchEmbedding):
        return layer.patches
    is_at_each = layer.op in ("dense", "pointwise", "grouped", "depthwise") or isinstance(layer, TokenLinear)
    return prod(layer.out_shape[1:]) if is_at_each else 1


@pytest.mark.parametrize(("name", "preset"), SPACES)
def test_every_layer_of_our_spaces_is_a_model_of_its_shape_weights_and_work(name: str, preset: str) -> None:
    checked = set()
    for layer in layers_of(name, preset):
        kind = (layer.op, layer.detail)
        if layer.op in FREE or kind in checked:
            continue
        checked.add(kind)
        model = layer_to_onnx(layer)
        [shape] = run(model)
        has_tokens = isinstance(layer, PatchEmbedding | MapToTokens | TokenLayer) and not isinstance(layer, TokensToMap)
        channels = shape[-1] if has_tokens else shape[1]
        assert (channels, prod(shape[1:])) == (layer.out_shape[0], prod(layer.out_shape)), layer
        weights = onnx.load_model_from_string(model).graph.initializer
        kernels = [w for w in weights if len(w.dims) in (2, 4)]
        taps = sum(prod(w.dims) for w in kernels)
        biases = sum(prod(w.dims) for w in weights if len(w.dims) in (1, 3) and w.data_type == onnx.TensorProto.FLOAT)
        assert taps <= layer.params <= taps + 2 * biases or layer.op == "norm", layer
        assert layer.op == "attention" or taps * positions(layer) == layer.macs, layer
    assert checked


def test_a_shuffle_takes_the_channels_of_its_groups_in_turn() -> None:
    session = onnxruntime.InferenceSession(
        layer_to_onnx(ChannelShuffle("a", (INPUT,), (6, 1, 1), 2)), providers=["CPUExecutionProvider"]
    )
    x_BCHW = np.arange(6, dtype=np.float32).reshape(1, 6, 1, 1)
    [shuffled] = session.run(None, {"input0": x_BCHW})
    assert np.asarray(shuffled).ravel().tolist() == [0, 3, 1, 4, 2, 5]
    from_torch = channel_shuffle.Shuffle2d(6, 2)(torch.from_numpy(x_BCHW))
    assert torch.equal(from_torch, channel_shuffle.shuffled(torch.from_numpy(x_BCHW), 2))
    assert from_torch.ravel().tolist() == [0, 3, 1, 4, 2, 5]


def test_layers_that_cannot_be_cut_out_are_refused() -> None:
    layer = Conv2d("a", (INPUT,), (4, 8, 8), 8, 3, activation="relu")
    assert run(layer_to_onnx(layer)) == [(2, 8, 8, 8)]
    with pytest.raises(InvalidInput, match="cannot be cut out"):
        layer_to_onnx(CustomLayer("a", (INPUT,), (4, 8, 8), (8, 8, 8), "attention", 300, 300 * 64))
    with pytest.raises(InvalidInput, match="cannot be cut out"):
        layer_to_onnx(Skip("a", (INPUT,), (4, 8, 8)))
    assert layer_to_onnx(layer) == layer_to_onnx(layer)
    assert run(empty_to_onnx()) == [(2, 1, 1, 1)]
