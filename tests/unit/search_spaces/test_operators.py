"""Operators of today's networks: what they compute, by their definitions, and the same in torch, ONNX and counted."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas.core.composed_layer import ComposedLayer
from nas.core.layers import INPUT, MapShape
from nas.core.network import Network
from nas.export import footprint, to_onnx
from nas.mixed_precision import weighted_operators
from nas.spaces.activation_memory import graph_peak
from nas.spaces.exported_graph import lower
from nas.spaces.layer_onnx import layer_to_onnx
from search_spaces.layers.batch_norm import ElasticBatchNorm
from search_spaces.layers.composed import Composed, ElasticComposed
from search_spaces.layers.layer_block import ElasticLayerBlock
from search_spaces.operators.blocks import CONVOLUTIONS, MIXERS, BlockName
from search_spaces.operators.channel_attention import ChannelAttention, kernel_of
from search_spaces.operators.evonorm import EvoNorm
from search_spaces.operators.inception_depthwise import InceptionDepthwise
from search_spaces.operators.large_small_convolution import SmallAggregation
from search_spaces.operators.max_pool_mixer import MaxPoolMixer
from search_spaces.operators.partial_convolution import PartialConvolution
from tests.support.parity import check_parity

SHAPE: MapShape = (32, 5, 6)
KINDS: list[type[ComposedLayer]] = [
    ChannelAttention, EvoNorm, InceptionDepthwise, MaxPoolMixer, PartialConvolution, SmallAggregation,
]  # fmt: skip
SUMS: dict[type[ComposedLayer], int] = {SmallAggregation: 9 * 32 * 30}
"""Products of values by values that are not seen as such in torch."""


def layer_of(kind: type[ComposedLayer], shape: MapShape = SHAPE) -> ComposedLayer:
    inputs = ("x", "y") if kind is SmallAggregation else ("x",)
    return kind("layer", inputs, shape)


def randomised(layer: ComposedLayer) -> ElasticComposed:
    """An elastic layer whose weights and statistics are not the trivial ones, each its own."""
    torch.manual_seed(0)
    elastic = ElasticComposed(layer).eval()
    for tensor in elastic.state_dict().values():
        tensor.uniform_(0.5, 1.5)
    return elastic


def inputs_of(layer: ComposedLayer, images: int = 3) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(images, *shape, generator=generator) for shape in layer.input_shapes]


class Joined(nn.Module):
    """A layer that reads its inputs as the channels of one map."""

    def __init__(self, layer: Composed) -> None:
        super().__init__()
        self.layer, self.sizes = layer, [shape[0] for shape in layer.layer.input_shapes]

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        if len(self.sizes) == 1:
            out: torch.Tensor = self.layer(x_BCHW)
        else:
            out = self.layer(x_BCHW[:, : self.sizes[0]], x_BCHW[:, self.sizes[0] :])
        return out


@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_layer_computes_what_the_layer_computes(kind: type[ComposedLayer]) -> None:
    layer = layer_of(kind)
    plain = Joined(randomised(layer).cut(layer)).eval()
    x_BCHW = torch.cat(inputs_of(layer), dim=1)
    shape = (x_BCHW.shape[1], *SHAPE[1:])
    assert check_parity(to_onnx(plain, shape), plain, x_BCHW.numpy()) < 1e-4


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not SmallAggregation])
def test_memory_and_weights_are_those_of_the_exported_layer(kind: type[ComposedLayer]) -> None:
    layer = layer_of(kind)
    counted = lower([layer], {"x": int(np.prod(SHAPE))})
    exported = footprint(to_onnx(randomised(layer).cut(layer).eval(), SHAPE))
    assert (exported.peak_bytes, exported.model_bytes) == (4 * graph_peak(counted), 4 * counted.weights)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_alone_runs_in_the_runtime_and_has_its_shape(kind: type[ComposedLayer]) -> None:
    layer = layer_of(kind)
    session = onnxruntime.InferenceSession(layer_to_onnx(layer), providers=["CPUExecutionProvider"])
    feed = {i.name: x.numpy() for i, x in zip(session.get_inputs(), inputs_of(layer), strict=True)}
    [output] = session.run(None, feed)
    assert output.shape == (3, *layer.out_shape)


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_and_macs_are_those_of_torch(kind: type[ComposedLayer]) -> None:
    layer = layer_of(kind)
    plain = randomised(layer).cut(layer).eval()
    assert layer.params == sum(p.numel() for p in plain.parameters())
    with FlopCounterMode(display=False) as counter:
        plain(*inputs_of(layer, images=1))
    assert 2 * (layer.macs - SUMS.get(kind, 0)) == counter.get_total_flops()


@pytest.mark.parametrize("kind", KINDS)
def test_a_narrow_layer_is_cut_out_of_a_wide_one(kind: type[ComposedLayer]) -> None:
    elastic = randomised(layer_of(kind))
    narrow = dataclasses.replace(layer_of(kind), in_shape=(16, *SHAPE[1:]))
    inputs = inputs_of(narrow)
    plain = elastic.cut(narrow).eval()
    torch.testing.assert_close(plain(*inputs), elastic(narrow, *inputs))
    before = elastic(narrow, *inputs).detach()
    for parameter in plain.parameters():
        parameter.data.zero_()
    torch.testing.assert_close(elastic(narrow, *inputs), before)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not MaxPoolMixer])
def test_all_weights_of_a_layer_learn(kind: type[ComposedLayer]) -> None:
    layer = layer_of(kind)
    elastic = ElasticComposed(layer).train()
    (elastic(layer, *inputs_of(layer)) ** 2 * torch.randn(SHAPE)).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in elastic.parameters())


def test_a_partial_convolution_leaves_three_quarters_of_the_channels_alone() -> None:
    layer = layer_of(PartialConvolution)
    elastic, [x_BCHW] = randomised(layer), inputs_of(layer)
    y_BCHW = elastic(layer, x_BCHW)
    assert torch.equal(y_BCHW[:, 8:], x_BCHW[:, 8:])
    torch.testing.assert_close(y_BCHW[:, :8], F.conv2d(x_BCHW[:, :8], elastic.weights["weight"], padding=1))
    full = 9 * 32 * 32 * 30
    assert layer.macs * 16 == full


def test_the_inception_convolution_has_its_branches_behind_the_channels_that_pass() -> None:
    assert layer_of(InceptionDepthwise, (64, 7, 7)).params == 272  # 7x7 filters would be 3136
    layer = layer_of(InceptionDepthwise)
    elastic, [x_BCHW] = randomised(layer), inputs_of(layer)
    y_BCHW = elastic(layer, x_BCHW)
    assert torch.equal(y_BCHW[:, :20], x_BCHW[:, :20])
    branches = zip(("3x3", "1x11", "11x1"), ((1, 1), (0, 5), (5, 0)), strict=True)
    for i, (name, padding) in enumerate(branches):
        c = slice(20 + 4 * i, 24 + 4 * i)
        weights = elastic.weights[f"filters{name}"], elastic.weights[f"bias{name}"]
        torch.testing.assert_close(y_BCHW[:, c], F.conv2d(x_BCHW[:, c], *weights, padding=padding, groups=4))


def test_max_pooling_has_no_parameters_and_keeps_negative_numbers() -> None:
    layer = layer_of(MaxPoolMixer)
    assert layer.params == 0
    x_BCHW = -torch.ones(1, *SHAPE)
    assert torch.equal(ElasticComposed(layer)(layer, x_BCHW), x_BCHW)


def test_channel_attention_reads_the_channels_around() -> None:
    assert [kernel_of(c) for c in (64, 128, 256, 512, 2048)] == [3, 5, 5, 5, 7]
    layer = layer_of(ChannelAttention)
    elastic, [x_BCHW] = randomised(layer), inputs_of(layer)
    kernel = elastic.weights["kernel"].flatten()
    assert len(kernel) == 3
    means_BC = F.pad(x_BCHW.mean((2, 3)), (1, 1))
    share_BC = sum(kernel[k] * means_BC[:, k : k + 32] for k in range(3))
    expected = x_BCHW * torch.sigmoid(torch.as_tensor(share_BC))[:, :, None, None]
    torch.testing.assert_close(elastic(layer, x_BCHW), expected)


def test_narrow_channel_attention_has_the_middle_of_the_kernel() -> None:
    wide, narrow = layer_of(ChannelAttention, (128, 2, 2)), layer_of(ChannelAttention, (64, 2, 2))
    elastic = randomised(wide)
    assert elastic.weights["kernel"].shape == (1, 1, 5)
    assert torch.equal(elastic.cut(narrow).weights["kernel"], elastic.weights["kernel"][..., 1:4])


def test_evonorm_is_its_formula_and_does_not_see_the_batch() -> None:
    layer = layer_of(EvoNorm)
    elastic, [x_BCHW] = randomised(layer).train(), inputs_of(layer, images=8)
    v, gamma, beta = (elastic.weights[name].view(-1, 1, 1) for name in ("v", "gamma", "beta"))
    variance_BG = x_BCHW.reshape(8, 4, -1).var(2, unbiased=False)
    deviation = (variance_BG + 1e-5).sqrt().repeat_interleave(8, dim=1)[:, :, None, None]
    expected = x_BCHW * torch.sigmoid(v * x_BCHW) / deviation * gamma + beta
    torch.testing.assert_close(elastic(layer, x_BCHW), expected)
    torch.testing.assert_close(elastic(layer, x_BCHW[:1]), expected[:1])
    assert layer.params == 3 * 32


def test_the_small_aggregation_sums_neighbours_by_dynamic_weights() -> None:
    layer = layer_of(SmallAggregation)
    elastic, (x_BCHW, deciding_BCHW) = randomised(layer), inputs_of(layer)
    weights = elastic.weights
    raw = F.conv2d(deciding_BCHW, weights["filters"], weights["bias"])
    taps = F.group_norm(raw, 4, weights["gamma"], weights["beta"]).reshape(3, 4, 1, 9, 30)
    neighbours = F.unfold(x_BCHW, 3, padding=1).reshape(3, 4, 8, 9, 30)
    summed = (taps * neighbours).sum(3).reshape(3, *SHAPE)
    norm = elastic.norms["norm"]
    assert isinstance(norm, ElasticBatchNorm)
    torch.testing.assert_close(elastic(layer, x_BCHW, deciding_BCHW), norm(summed) + x_BCHW, rtol=1e-4, atol=1e-5)


def test_an_aggregation_of_the_centre_alone_is_the_identity() -> None:
    layer = layer_of(SmallAggregation)
    elastic, (x_BCHW, deciding_BCHW) = ElasticComposed(layer).eval(), inputs_of(layer)
    weights = elastic.weights
    weights["gamma"].data.zero_()
    weights["beta"].data.copy_(torch.eye(9)[4].repeat(4))
    torch.testing.assert_close(elastic(layer, x_BCHW, deciding_BCHW), 2 * x_BCHW, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [*MIXERS, *CONVOLUTIONS])
def test_a_plain_block_computes_what_the_elastic_one_computes(name: BlockName) -> None:
    def layers_of(channels: int) -> Network:
        shape = (channels, 6, 6)
        nodes = (
            MIXERS[name]("stage.b", INPUT, shape, 2) if name in MIXERS else
            CONVOLUTIONS[name]("stage.b", INPUT, shape, channels, 1, 2)
        )  # fmt: skip
        return Network(shape, tuple(nodes))

    torch.manual_seed(0)
    wide, narrow = (layers_of(channels).blocks["stage.b"] for channels in (32, 16))
    block = ElasticLayerBlock(wide).eval()
    for key, tensor in block.state_dict().items():
        if "norm" in key:
            tensor.add_(torch.rand(tensor.shape))
    for layers in (wide, narrow):
        shape = next(iter(layers.values())).in_shape
        plain, x_BCHW = block.cut(layers).eval(), torch.randn(2, *shape)
        torch.testing.assert_close(plain(x_BCHW), block(x_BCHW, layers))
        assert sum(p.numel() for p in plain.parameters()) == sum(layer.params for layer in layers.values())
        assert check_parity(to_onnx(plain, shape), plain, x_BCHW.numpy()) < 1e-4


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_blocks_of_stride_2_halve_the_map(name: BlockName) -> None:
    nodes = CONVOLUTIONS[name]("b", INPUT, (16, 7, 7), 24, 2, 2)
    assert nodes[-1].out_shape == (24, 4, 4)


def test_convolutions_within_an_operator_are_counted_for_mixed_precision() -> None:
    counts = [weighted_operators(layer_of(kind)) for kind in KINDS]
    assert counts == [1, 0, 3, 0, 1, 1]
