"""Spaces in which the precision of each group of layers is decided."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from nas.core import registry
from nas.core.arch import Arch, as_archs, sample
from nas.core.errors import InvalidInput, InvalidSpec
from nas.core.ports import ImageShape
from nas.core.spec import SpaceSpec
from nas.export import open_session, quantise_int8, run_session, to_onnx
from nas.mixed_precision import MixedPrecisionSpace, in_precision_of, int8_mask, mixed_precision_space, weights_space_id
from nas.quantisation import layers_in_order, quantised
from nas.spaces.restricted import RestrictedSpace
from nas.training import samplers
from search_spaces.elastic_vit.space import ELASTIC_VIT

SMALL = {"preset": "digits", "resolutions": [8], "depths": [1, 2]}


def mixed(name: str = "mobilenet_v3", **params: object) -> MixedPrecisionSpace:
    spec = SpaceSpec(name=name, params=params or SMALL if name == "mobilenet_v3" else params)  # type: ignore[arg-type]
    return MixedPrecisionSpace(registry.build_space(spec, ImageShape(3, 8, 8, 10)))


def random_archs(space: MixedPrecisionSpace, n: int) -> list[Arch]:
    return as_archs(space.id, space.canonical(sample(space.decisions, np.random.default_rng(0), n)))


def test_groups_are_the_numbered_parts_and_what_is_around_them() -> None:
    assert [g.name for g in mixed().groups] == ["stem", "stage1", "stage2", "stage3", "head"]
    cells = mixed("darts_cell").groups
    assert len(cells) == 8
    assert cells[1].name.startswith("cell1_to_cell")


def test_transformers_have_groups_of_blocks_whose_dense_layers_are_those_of_torch() -> None:
    space = MixedPrecisionSpace(ELASTIC_VIT.build({"preset": "digits"}, ImageShape(3, 32, 32, 10)))
    names = [g.name for g in space.groups]
    assert (names[0], names[1], names[-1]) == ("stem", "encoder.block1", "head")
    shallow = space.canonical(np.ones((1, len(space.decisions)), dtype=np.int64) * 0)
    [arch] = as_archs(space.id, shallow)
    active = space.active_groups(arch)
    assert not all(active)  # blocks beyond the depth
    module, x = space.supernet(0).eval().subnet(arch).eval(), torch.rand(2, *space.input_shape(arch))
    assert len(layers_in_order(module, x)) == len(space.int8_operators(arch))


@pytest.mark.parametrize("name", ["mobilenet_v3", "resnet", "resnet20_downsampling"])
def test_precisions_meet_the_layers_of_torch_and_of_the_exported_model(name: str) -> None:
    space = mixed(name)
    net = space.supernet(0).eval()
    for arch in random_archs(space, 2):
        in_int8, module, x = (
            space.int8_operators(arch),
            net.subnet(arch).eval(),
            torch.rand(4, *space.input_shape(arch)),
        )
        if space.is_constant(arch) or not in_int8:
            continue
        quantised(module, [x], in_int8)(x)  # raises for another number of layers
        model = quantise_int8(to_onnx(module, space.input_shape(arch)), x.numpy(), in_int8)
        assert (b"QuantizeLinear" in model) == any(in_int8)


def test_equal_networks_have_equal_genes() -> None:
    """A group without convolutions has no precision: in NAS-Bench-201 a stage whose edges are all skips."""
    space = mixed("nas_bench_201")
    assert [d.name for d in space.decisions[-5:]] == [
        f"{g}.precision" for g in ("stem", "stage1", "stage2", "stage3", "head")
    ]
    skips = [d.choices.index("skip_connect") for d in space.inner.decisions]
    genes_1G = space.canonical(np.array([[*skips, 1, 1, 1, 1, 1]]))
    assert genes_1G[0, -5:].tolist() == [1, 0, 1, 1, 1]  # the reductions of later stages have convolutions
    assert np.array_equal(space.canonical(genes_1G), genes_1G)


def test_features_tell_precisions_apart_and_costs_stay_those_of_float32() -> None:
    space = mixed()
    all_int8 = np.zeros((1, len(space.decisions)), dtype=np.int64)
    all_float, one_float = all_int8.copy(), all_int8.copy()
    all_float[:, -5:] = 1
    one_float[:, -2] = 1
    rows = space.features(np.concatenate([all_int8, all_float, one_float]))
    own = space.inner.features(all_int8[:, :-5]).shape[1]
    assert np.array_equal(rows[0, :own], rows[1, :own])
    assert (rows[1, own:] == 0).all()  # nothing is int8, and nothing crosses
    assert rows[0, -1] == 0
    assert rows[2, -1] > 0  # a float island is entered and left
    assert space.costs(all_int8) == space.costs(all_float)


def test_the_supernet_is_that_of_float32_with_the_same_names() -> None:
    space = mixed()
    net, plain = space.supernet(3), space.inner.supernet(3)
    assert {*net.state_dict()} == {*plain.state_dict()}
    net.load_state_dict(plain.state_dict())
    copy.deepcopy(net).load_state_dict(net.state_dict())
    average = torch.optim.swa_utils.AveragedModel(net)
    average.load_state_dict(average.state_dict())
    [arch] = random_archs(space, 1)
    x = torch.rand(2, *space.input_shape(arch))
    assert torch.equal(net.eval()(x, arch), plain.eval()(x, space.arch_of(arch)))
    assert samplers.axes(space.decisions) == samplers.axes(space.inner.decisions)
    assert weights_space_id(space.id) == space.inner.id


def test_wrappers_may_hide_it_and_other_spaces_are_none() -> None:
    space = mixed()
    assert mixed_precision_space(RestrictedSpace(space, ())) is space
    assert in_precision_of(space.inner, "int8") is space.inner
    with pytest.raises(InvalidSpec, match="expected a space of mixed precision"):
        mixed_precision_space(space.inner)
    [arch] = random_archs(space, 1)
    assert int8_mask(space, arch, "mixed") == space.int8_operators(arch)
    assert int8_mask(space, arch, "int8") is int8_mask(space, Arch("another", arch.genes), "mixed") is None


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("in_int8", [(True, False, False), (False, True, False), (False, True, True)])
def test_a_mixture_is_simulated_as_the_runtime_runs_it(in_int8: tuple[bool, ...]) -> None:
    module, x = network(), torch.rand(64, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    float32 = module(x).detach().numpy()
    simulated = quantised(module, [x], in_int8)(x).detach().numpy()
    [runtime] = run_session(open_session(quantise_int8(to_onnx(module, (3, 8, 8)), x.numpy(), in_int8)), x.numpy())
    errors = np.stack([(runtime - float32).ravel(), (simulated - float32).ravel()])
    assert np.corrcoef(errors)[0, 1] > 0.5
    assert 0 < np.abs(runtime - simulated).mean() < np.abs(runtime - float32).mean()


def test_all_in_float32_changes_nothing_and_another_number_of_layers_is_refused() -> None:
    module, x = network(), torch.rand(8, 3, 8, 8)
    model = to_onnx(module, (3, 8, 8))
    assert quantise_int8(model, x.numpy(), (False, False, False)) == model
    assert torch.equal(quantised(module, [x], (False, False, False))(x), module(x))
    for quantise in (lambda: quantise_int8(model, x.numpy(), (True,)), lambda: quantised(module, [x], (True,))):
        with pytest.raises(InvalidInput, match="a precision for each of 3 layers, got 1"):
            quantise()
