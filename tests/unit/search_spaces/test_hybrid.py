"""Hybrid networks: where transformer blocks may stand, and what becomes of a block of either kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from nas.core.arch import Arch, as_archs, sample
from nas.core.errors import InvalidSpec
from nas.core.ports import ImageShape
from nas.core.token_layers import Attention
from nas.export import to_onnx
from nas.testing import check_search_space
from predictors.families.layer_lut import every_layer
from search_spaces.hybrid.space import MOST_TOKENS, PRESETS, Hybrid, build
from tests.support.parity import check_parity

DIGITS = ImageShape(1, 8, 8, 10)


def space_of(preset: str, shape: ImageShape = DIGITS, **params: Any) -> Hybrid:
    return build({"preset": preset, **params}, shape)


def arch_of(space: Hybrid, choices: Mapping[str, float | str]) -> Arch:
    """The largest network, but for the choices of some decisions."""
    genes = [d.choices.index(choices[d.name]) if d.name in choices else len(d.choices) - 1 for d in space.decisions]
    return as_archs(space.id, space.canonical(np.array([genes])))[0]


def layout(space: Hybrid, arch: Arch) -> list[str]:
    """The blocks of each stage: C for convolutions, T for transformers."""
    stages: dict[str, str] = {}
    for name, layers in space.network(arch).blocks.items():
        stage, _, block = name.partition(".")
        if block:
            stages[stage] = stages.get(stage, "") + ("T" if "attention" in layers else "C")
    return list(stages.values())


def test_stages_are_convolutions_and_then_transformers_and_later_ones_have_no_smaller_share() -> None:
    space = space_of("imagenet", ImageShape(3, 224, 224, 1000))
    genes_NG = space.canonical(sample(space.decisions, np.random.default_rng(0), 200))
    patterns = set()
    for arch in as_archs(space.id, genes_NG):
        stages = layout(space, arch)
        patterns.add(tuple(stages))
        assert all(stage.startswith("C") and "TC" not in stage for stage in stages)
        shares = [stage.count("T") / len(stage) for stage in stages]
        assert shares[:2] == [0.0, 0.0]
        assert shares[2] <= shares[3]
        attention = [layer for layer in space.layers(arch) if isinstance(layer, Attention)]
        assert all(layer.in_shape[1] <= MOST_TOKENS**2 for layer in attention)
    assert len(patterns) > 20


def test_a_share_that_the_next_stage_lacks_is_cut() -> None:
    space = space_of("cifar", ImageShape(3, 32, 32, 10))
    depths = {"stage2.depth": 4, "stage3.depth": 4}
    assert layout(space, arch_of(space, depths)) == ["CCCC", "CTTT", "CTTT"]
    assert layout(space, arch_of(space, {**depths, "stage3.transformers": 1})) == ["CCCC", "CCCT", "CCCT"]
    assert layout(space, arch_of(space, {**depths, "stage2.transformers": 1})) == ["CCCC", "CCCT", "CTTT"]
    assert layout(space, arch_of(space, {"stage3.depth": 1})) == ["CCCC", "CCCC", "C"]


def test_large_maps_have_no_transformer_blocks() -> None:
    space = space_of("cifar", ImageShape(3, 64, 64, 10), resolutions=[64, 128])
    assert layout(space, arch_of(space, {"resolution": 64})) == ["CCCC", "CTTT", "CTTT"]
    assert layout(space, arch_of(space, {"resolution": 128})) == ["CCCC", "CCCC", "CTTT"]


def test_the_exported_model_computes_what_the_network_computes() -> None:
    space = space_of("digits", ImageShape(3, 8, 8, 10))
    net = space.supernet(0).eval()
    for choices in ({}, {"resolution": 6, "stage2.transformers": 1}, {"stage2.transformers": 0}):
        arch = arch_of(space, choices)
        subnet, shape = net.subnet(arch), space.input_shape(arch)
        x_NCHW = np.random.default_rng(0).normal(size=(5, *shape)).astype(np.float32)
        assert check_parity(to_onnx(subnet, shape), subnet, x_NCHW) < 1e-4


def test_a_place_has_weights_of_its_own_for_either_kind_of_block() -> None:
    space = space_of("digits")
    net = space.supernet(0)
    x_BCHW = torch.randn(4, 1, 8, 8)
    net(x_BCHW, arch_of(space, {})).sum().backward()
    unused = [n for n, p in net.named_parameters() if p.grad is None]
    assert unused
    assert all(name.startswith("convolutions.stage2_block") for name in unused)


def kinds(space: Hybrid, arch: Arch, stage: str) -> list[str]:
    """The blocks of a stage by the first layer that tells their kind."""
    telling = {
        "pool": "pool", "inception": "inception", "eca": "eca", "expand_norm": "evonorm", "partial": "partial",
        "aggregation": "ls", "attention": "T",
    }  # fmt: skip
    blocks = [layers for name, layers in space.network(arch).blocks.items() if name.startswith(f"{stage}.")]
    return [next((kind for part, kind in telling.items() if part in layers), "mbconv") for layers in blocks]


def test_a_stage_has_the_chosen_kind_behind_its_first_block() -> None:
    space = space_of("digits-operators")
    chosen = {"stage2.depth": 3, "stage2.transformers": 1}
    for kind in ("pool", "inception", "partial", "ls"):
        arch = arch_of(space, {**chosen, "stage2.conv": kind})
        assert kinds(space, arch, "stage2") == ["mbconv", kind, "T"]
    eca = arch_of(space, {**chosen, "stage2.conv": "eca", "stage1.conv": "evonorm"})
    assert kinds(space, eca, "stage2") == ["eca", "eca", "T"]
    assert kinds(space, eca, "stage1") == ["evonorm"] * 3


def test_kinds_of_a_single_block_that_are_alike_are_one_network() -> None:
    space = space_of("digits-operators")
    single = [arch_of(space, {"stage2.depth": 1, "stage2.conv": kind}) for kind in ("pool", "partial", "ls", "eca")]
    assert single[0] == single[1] == single[2] != single[3]


def test_every_kind_of_block_has_a_line_in_the_table_of_layers() -> None:
    space = space_of("digits-operators")
    operations = {layer.op for layer in every_layer(space).values()}
    assert {"max_pool", "inception", "eca", "evonorm", "partial", "aggregation"} <= operations


def test_spaces_of_new_operators_keep_the_contract() -> None:
    check_search_space("hybrid", {"preset": "digits-operators"}, DIGITS)


def test_bad_parameters_are_named() -> None:
    with pytest.raises(InvalidSpec, match="expected another conv than 'fused' in a stage with them"):
        space_of("digits", stages=[{"width": 16, "conv": "fused", "transformers": True}])
    with pytest.raises(InvalidSpec, match=r"conv: expected distinct kinds in the order of .*got \('ls', 'pool'\)"):
        space_of("digits", stages=[{"width": 16, "conv": ["ls", "pool"], "transformers": True}])
    with pytest.raises(InvalidSpec, match=r"width: expected a multiple of 8 channels for \('ls',\), got 20"):
        space_of("digits", stages=[{"width": 20, "conv": "ls", "transformers": True}])
    with pytest.raises(InvalidSpec, match="expands: expected"):
        space_of("digits", expands=[2, 6])


def test_presets_never_change_their_meaning() -> None:
    # Stored searches name them. One that is resized would orphan their supernets: make a new preset instead.
    assert {name: space_of(name, ImageShape(3, 32, 32, 10)).id for name in PRESETS} == {
        "digits": "hybrid-6be56d36",
        "cifar": "hybrid-7401a59b",
        "imagenet": "hybrid-c5a29939",
        "digits-operators": "hybrid-dea040d9",
        "cifar-operators": "hybrid-19672593",
    }
