"""Vision transformers: published sizes, the slices that networks use, and what runtimes make of the exported model."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from nas.core.arch import Arch, as_archs
from nas.core.errors import InvalidSpec
from nas.core.parent import ParentModel, Preprocessing
from nas.core.ports import ImageShape
from nas.export import to_onnx, to_onnx_for_timing
from nas.models.graph import GraphValue, ModelGraph
from nas.spaces.transformer import TransformerSizes
from nas.testing import check_search_space
from search_spaces.elastic_vit.learngene import stage_sources
from search_spaces.elastic_vit.network import ElasticVitSupernet, VisionTransformer, resized_positions
from search_spaces.elastic_vit.space import PRESETS, ElasticVit, build
from search_spaces.elastic_vit.start import joined
from search_spaces.layers.slices import UnitSlices
from search_spaces.layers.transformer import ElasticTransformerBlock, TransformerBlock
from tests.support.parity import check_parity

IMAGENET = ImageShape(3, 224, 224, 1000)
DIGITS = ImageShape(1, 8, 8, 10)


def space_of(preset: str, shape: ImageShape = DIGITS, **params: Any) -> ElasticVit:
    return build({"preset": preset, **params}, shape)


def arch_of(space: ElasticVit, **choices: float) -> Arch:
    """The largest network, but for the choices of some axes."""
    genes = [d.choices.index(choices[d.axis]) if d.axis in choices else len(d.choices) - 1 for d in space.decisions]
    return as_archs(space.id, space.canonical(np.array([genes])))[0]


def supernet_of(space: ElasticVit) -> ElasticVitSupernet:
    net = space.supernet(0)
    assert isinstance(net, ElasticVitSupernet)
    return net


@pytest.mark.parametrize(
    ("preset", "name", "params_m", "macs_g"),
    [
        ("deit-tiny", "DeiT-tiny", 5.7, 1.26),
        ("deit-small", "DeiT-small", 22.0, 4.6),
        ("autoformer-tiny", "AutoFormer-tiny", 5.7, 1.3),
    ],
)
def test_published_networks_have_their_printed_size(preset: str, name: str, params_m: float, macs_g: float) -> None:
    space = space_of(preset, IMAGENET)
    costs = space.costs(np.array([space.published[name]]))
    assert costs["params"][0] / 1e6 == pytest.approx(params_m, rel=0.02)
    assert costs["macs"][0] / 1e9 == pytest.approx(macs_g, rel=0.02)


def test_the_largest_network_of_a_deit_preset_is_deit() -> None:
    space = space_of("deit-tiny", IMAGENET)
    assert space.published["DeiT-tiny"] == tuple(len(d.choices) - 1 for d in space.decisions)
    assert space_of("digits").published == {}


def test_a_block_computes_what_torchs_own_encoder_layer_computes() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(TransformerSizes(width=12, heads=3, head_dim=4, hidden=20, tokens=5)).eval()
    reference = nn.TransformerEncoderLayer(
        12, 3, 20, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    ).eval()
    names = {
        "self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.", "linear1.": "mlp.fc1.",
        "linear2.": "mlp.fc2.", "norm1.": "norm1.", "norm2.": "norm2.",
    }  # fmt: skip
    weights = block.state_dict()
    reference.load_state_dict({a + k: weights[b + k] for a, b in names.items() for k in ("weight", "bias")})
    x_BNC = torch.randn(2, 5, 12)
    torch.testing.assert_close(block(x_BNC), reference(x_BNC))


def test_slices_between_the_ends_are_the_last_units_if_isolated() -> None:
    nested, isolated = UnitSlices(4, 16), UnitSlices(4, 16, isolated=True)
    assert [nested.of(n) for n in (4, 8, 16)] == [slice(0, 4), slice(0, 8), slice(0, 16)]
    assert [isolated.of(n) for n in (4, 8, 12, 13, 16)] == [
        slice(0, 4), slice(8, 16), slice(4, 16), slice(3, 16), slice(0, 16),
    ]  # fmt: skip


def test_isolated_networks_leave_the_channels_of_the_smallest_alone() -> None:
    space = space_of("digits", widths=[16, 32, 64], heads=[1, 2, 4], ratios=[1.0, 2.0, 3.0], slices="isolated")
    net = supernet_of(space)
    middle = arch_of(space, width=32, heads=2, ratio=2.0)
    net(torch.randn(2, 1, 8, 8), middle).sum().backward()
    block = net.get_submodule("blocks.0")
    assert isinstance(block, ElasticTransformerBlock)
    qkv, fc1, positions = (p.grad for p in (block.qkv_weight, block.fc1_weight, net.positions))
    assert qkv is not None
    assert fc1 is not None
    assert positions is not None
    assert not any(gradient.any() for gradient in (qkv[:, 0], qkv[..., :16], fc1[:16], positions[..., :16]))
    assert all(gradient.any() for gradient in (qkv, fc1, positions))


def test_the_runtime_fuses_attention_and_gelu(tmp_path: Path) -> None:
    """No transposition of keys, no scale, no error function of its own is left."""
    space = space_of("digits", pooling="class")
    arch = arch_of(space)
    model = to_onnx_for_timing(supernet_of(space).eval().subnet(arch), space.input_shape(arch))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    count = Counter(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)
    blocks = space.config.depths[-1]
    assert (count["FusedMatMul"], count["BiasGelu"], count["Softmax"]) == (blocks, blocks, blocks)
    assert not count.keys() & {"Erf", "Div", "Shape", "Squeeze"}


@pytest.mark.parametrize("pooling", ["class", "mean"])
def test_the_exported_model_computes_what_the_network_computes(pooling: str) -> None:
    space = space_of("digits", ImageShape(3, 8, 8, 10), pooling=pooling)
    net = supernet_of(space).eval()
    for arch in (arch_of(space), arch_of(space, resolution=6, depth=2, width=24, heads=1, ratio=1.0)):
        subnet, shape = net.subnet(arch), space.input_shape(arch)
        x_NCHW = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
        assert check_parity(to_onnx(subnet, shape), subnet, x_NCHW) < 1e-4


def test_positions_of_another_resolution_are_interpolated() -> None:
    ramp = torch.arange(4.0).repeat(4, 1)
    positions_1NC = torch.cat([torch.full((1, 1, 1), 9.0), ramp.reshape(1, 16, 1)], dim=1)
    assert torch.equal(resized_positions(positions_1NC, 4, 4), positions_1NC)
    smaller = resized_positions(positions_1NC, 4, 2)
    assert smaller[0, 0, 0] == 9.0
    assert smaller[0, 1:, 0].tolist() == pytest.approx([0.5, 2.5, 0.5, 2.5], abs=0.2)


def test_subnets_have_the_names_of_deit() -> None:
    space = space_of("digits", pooling="class")
    subnet = supernet_of(space).subnet(arch_of(space))
    assert isinstance(subnet, VisionTransformer)
    names = set(subnet.state_dict())
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight", "blocks.3.attn.qkv.bias", "head.weight"} <= names


def parent_of(net: nn.Module, side: int, rename: Callable[[str], str] = str) -> ParentModel:
    """A trained network of a user; ``rename`` gives its parameters other names."""
    arrays = {rename(name): tensor.detach().numpy() for name, tensor in net.state_dict().items()}
    values = tuple(GraphValue(name, array.shape) for name, array in arrays.items())
    graph = ModelGraph((GraphValue("x", (2, 1, side, side)),), values, (), ("x",))
    return ParentModel("mine", graph.to_json(), lambda: arrays, Preprocessing((3.0,), (2.0,)))


@pytest.mark.parametrize("side", [8, 6])
def test_the_supernet_begins_with_a_users_model(side: int) -> None:
    space = space_of("digits", pooling="class")
    genes = (space.config.resolutions.index(side), *(len(d.choices) - 1 for d in space.decisions[1:]))
    user = space.supernet(7).eval().subnet(Arch(space.id, genes))
    started = build({"preset": "digits", "pooling": "class"}, DIGITS, parent_of(user, side))
    assert (started.id, started.pretrained_genes, started.references) == (space.id, genes, {"parent": genes})
    assert started.preprocessing == Preprocessing((3.0,), (2.0,))
    x_BCHW = torch.randn(2, 1, side, side)
    own = started.supernet(0).eval().subnet(Arch(space.id, genes))
    # Positions of smaller images are interpolated to the largest and back.
    torch.testing.assert_close(own(x_BCHW), user(x_BCHW), atol=1e-6 if side == 8 else 0.3, rtol=0)
    own.pos_embed.data.copy_(user.pos_embed)
    torch.testing.assert_close(own(x_BCHW), user(x_BCHW), atol=1e-6, rtol=0)


def test_hugging_faces_names_are_those_of_deit() -> None:
    rng = np.random.default_rng(0)
    parts = {part: rng.normal(size=(4, 6)) for part in ("query", "key", "value")}
    arrays = {f"vit.encoder.layer.3.attention.attention.{part}.weight": array for part, array in parts.items()}
    renamed = {
        "deit.embeddings.position_embeddings": "pos_embed",
        "vit.encoder.layer.0.attention.output.dense.bias": "blocks.0.attn.proj.bias",
        "vit.encoder.layer.0.output.dense.weight": "blocks.0.mlp.fc2.weight",
        "vit.encoder.layer.11.layernorm_after.weight": "blocks.11.norm2.weight",
        "vit.layernorm.bias": "norm.bias",
        "classifier.weight": "head.weight",
        "blocks.0.norm1.weight": "blocks.0.norm1.weight",
    }
    named = joined({**arrays, **{name: np.zeros(1) for name in renamed}})
    assert set(named) == {"blocks.3.attn.qkv.weight", *renamed.values()}
    assert np.array_equal(named["blocks.3.attn.qkv.weight"], np.concatenate(list(parts.values())))


def test_a_model_of_another_size_is_refused() -> None:
    space = space_of("digits", pooling="class")
    smaller = supernet_of(space).subnet(arch_of(space, width=24))
    with pytest.raises(InvalidSpec, match=r"has .* of shape .*24.*, expected .*48"):
        build({"preset": "digits", "pooling": "class"}, DIGITS, parent_of(smaller, 8))
    largest = supernet_of(space).subnet(arch_of(space))
    with pytest.raises(InvalidSpec, match=r"resolutions: expected 4 of the model, got \(6, 8\)"):
        build({"preset": "digits", "pooling": "class"}, DIGITS, parent_of(resized(largest), 4))


def resized(net: nn.Module) -> nn.Module:
    """The network for images of half the side."""
    assert isinstance(net, VisionTransformer)
    net.pos_embed = nn.Parameter(resized_positions(net.pos_embed, 4, 2).detach())
    return net


@pytest.mark.parametrize(
    ("sharing", "params"), [("linear", {"sharing": "linear"}), ("stages", {"sharing": "stages", "shared_stages": 2})]
)
def test_networks_that_share_blocks_start_networks_of_another_depth(sharing: str, params: dict[str, Any]) -> None:
    auxiliary = space_of("digits", pooling="class", **params)
    user = supernet_of(auxiliary).eval().subnet(arch_of(auxiliary))  # 4 blocks
    for depth, equals_user in ((6, False), (4, True)):
        larger: dict[str, Any] = {"preset": "digits", "pooling": "class", "depths": [2, depth], "start": sharing}
        started = build(larger, DIGITS, parent_of(user, 8))
        assert (started.pretrained_genes, started.references) == (None, {})
        net = started.supernet(0).eval().subnet(arch_of(started))
        assert isinstance(net, VisionTransformer)
        x_BCHW = torch.randn(2, 1, 8, 8)
        assert torch.allclose(net(x_BCHW), user(x_BCHW), atol=1e-5) == equals_user
        weights = [block.get_parameter("mlp.fc1.weight") for block in net.blocks]
        if sharing == "linear":  # equal steps
            steps = [after - before for before, after in itertools.pairwise(weights)]
            for step in steps[1:]:
                torch.testing.assert_close(step, steps[0], atol=1e-5, rtol=1e-4)
            assert steps[0].abs().max() > 0.01
        else:
            same = [torch.equal(before, after) for before, after in itertools.pairwise(weights)]
            assert same == [True] * (depth // 2 - 1) + [False] + [True] * (depth // 2 - 1)
            assert len({weight.data_ptr() for weight in weights}) == depth, "they are equal and learn apart"


@pytest.mark.parametrize("params", [{"sharing": "linear"}, {"sharing": "stages", "shared_stages": 2}])
def test_spaces_that_share_blocks_keep_the_contract(params: dict[str, Any]) -> None:
    check_search_space("elastic_vit", {"preset": "digits", **params}, DIGITS)


def test_linear_blocks_are_the_papers_sum() -> None:
    space = space_of("digits", sharing="linear", depths=[2, 4])
    net = supernet_of(space).eval()
    base, slope = net.blocks.stored
    for depth in (2, 4):
        blocks = net.subnet(arch_of(space, depth=depth)).get_submodule("blocks")
        assert isinstance(blocks, nn.Sequential)
        for place, block in enumerate(blocks):
            expected = base.fc1_weight + place / depth * slope.fc1_weight
            torch.testing.assert_close(block.get_parameter("mlp.fc1.weight"), expected)
            expected = base.norm1.weight + place / depth * slope.norm1.weight
            torch.testing.assert_close(block.get_parameter("norm1.weight"), expected)
    assert sum(p.numel() for p in net.blocks.parameters()) == 2 * sum(p.numel() for p in base.parameters())


def test_stages_share_in_order_and_the_first_are_longer() -> None:
    assert stage_sources(5, 12) == (0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4)  # as SWS prints it
    assert stage_sources(5, 5) == (0, 1, 2, 3, 4)
    with pytest.raises(InvalidSpec, match=r"depths: expected at least 5, .*got 4"):
        stage_sources(5, 4)


def test_starts_that_cannot_be_are_refused() -> None:
    space = space_of("digits", pooling="class")
    ordinary = parent_of(supernet_of(space).subnet(arch_of(space)), 8)
    started = build({"preset": "digits", "pooling": "class", "start": "linear"}, DIGITS, ordinary)
    with pytest.raises(InvalidSpec, match="blocks are linear in their depth"):
        started.supernet(0)
    shallow: dict[str, Any] = {"preset": "digits", "pooling": "class", "depths": [1, 2], "start": "stages"}
    with pytest.raises(InvalidSpec, match="depths: expected at least 4"):
        build(shallow, DIGITS, ordinary).supernet(0)
    with pytest.raises(InvalidSpec, match="expected a model to begin with"):
        space_of("digits", start="linear")
    with pytest.raises(InvalidSpec, match="sharing: expected none beside a model"):
        build({"preset": "digits", "pooling": "class", "sharing": "linear"}, DIGITS, ordinary)
    with pytest.raises(InvalidSpec, match="shared_stages: expected a number"):
        space_of("digits", sharing="stages")
    with pytest.raises(InvalidSpec, match="shared_stages: expected at most 2"):
        space_of("digits", sharing="stages", shared_stages=3)


def test_bad_parameters_are_named() -> None:
    with pytest.raises(InvalidSpec, match=r"multiples of the patch, 2, got \(7, 8\)"):
        space_of("digits", resolutions=[7, 8])
    with pytest.raises(InvalidSpec, match="rising"):
        space_of("digits", widths=[48, 32])


def test_presets_never_change_their_meaning() -> None:
    # Stored searches name them. One that is resized would orphan their supernets: make a new preset instead.
    assert {name: space_of(name, ImageShape(3, 32, 32, 10)).id for name in PRESETS} == {
        "digits": "elastic_vit-47c084cd",
        "cifar": "elastic_vit-7ea20ea4",
        "deit-tiny": "elastic_vit-5b1ec4c3",
        "deit-small": "elastic_vit-2c78a98d",
        "autoformer-tiny": "elastic_vit-a6c75a0d",
    }
