"""What holds for the space of every own model: equal to its parent, sliced as cut, counted as exported."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nas.core.arch import Arch, as_archs, sample
from nas.core.errors import InvalidInput, InvalidSpec
from nas.core.parent import Preprocessing
from nas.core.ports import ImageShape
from nas.export import Normalised, footprint, open_session, to_onnx
from nas.models.execution import build_masked
from nas.models.narrowing import element_masks
from nas.testing.search_spaces import check_canonical, check_costs, check_subnets, extremes_and_random
from nas.training.calibration import recalibrate
from search_spaces.own_model.network import OwnModelSupernet
from search_spaces.own_model.space import OwnModel, build
from tests.support.models import CASES, SIDE
from tests.support.parents import FINE, image_shape, own_model, parent_of, read_case


@pytest.fixture(scope="module", params=[case.name for case in CASES])
def space(request: pytest.FixtureRequest) -> OwnModel:
    return own_model(request.param)


@pytest.fixture(scope="module")
def net(space: OwnModel) -> OwnModelSupernet:
    net: OwnModelSupernet = space.supernet(0).eval()
    return net


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


def some_archs(space: OwnModel, n: int) -> list[Arch]:
    return as_archs(space.id, extremes_and_random(space, n))


def test_keeping_everything_equals_the_parent(space: OwnModel, net: OwnModelSupernet, images: torch.Tensor) -> None:
    [arch] = as_archs(space.id, space.parent_genes()[None])
    expected = _run(net.parent, images)
    _assert_equal(_run(net.subnet(arch), images), expected)
    _assert_equal(_run(net, images, arch), expected)
    assert (space.canonical(np.array([arch.genes])) == arch.genes).all()


def test_a_slice_of_the_supernet_equals_the_subnet(
    space: OwnModel, net: OwnModelSupernet, images: torch.Tensor
) -> None:
    for arch in some_archs(space, 6):
        _assert_equal(_run(net.subnet(arch), images), _run(net, images, arch))


def test_a_narrowed_network_equals_its_masked_parent(
    space: OwnModel, net: OwnModelSupernet, images: torch.Tensor
) -> None:
    model = read_case(space.parent.name)
    genes = space.parent_genes()
    genes[1 : 1 + len(space.choices.widths)] = sample(space.decisions, np.random.default_rng(2), 1)[
        0, 1 : 1 + len(space.choices.widths)
    ]
    [arch] = as_archs(space.id, genes[None])
    masks = element_masks(model.graph, space.choices.kept_units(arch, net.unit_order))
    batch = images[: model.graph.batch]
    _assert_equal(_run(net, batch, arch), _run(build_masked(model.graph, model.weights, masks), batch))


def test_random_networks_give_the_same_in_onnxruntime(
    space: OwnModel, net: OwnModelSupernet, images: torch.Tensor
) -> None:
    for arch in some_archs(space, 4)[2:]:
        module = net.subnet(arch)
        onnx_bytes = to_onnx(module, space.input_shape(arch))
        outputs = open_session(onnx_bytes).run(None, {"image": images.numpy()})
        for actual, expected in zip(outputs, _run(module, images), strict=True):
            np.testing.assert_allclose(actual, expected, atol=1e-4 * max(1.0, float(expected.abs().max())))
        kinds = {node.operator.kind for node in space.model.graph.nodes}
        computes_shapes = b"Shape_output" in onnx_bytes  # as exports of class tokens, group norms and sorting do
        assert computes_shapes == bool(kinds & {"expand", "group_norm", "opaque"})


def test_the_contract_of_search_spaces(space: OwnModel) -> None:
    check_canonical(space)
    check_costs(space)
    check_subnets(space, inherits=True)


def test_costs_are_those_of_the_narrowed_graph(space: OwnModel, net: OwnModelSupernet) -> None:
    genes = extremes_and_random(space, 8)
    costs = space.costs(genes)
    for i, arch in enumerate(as_archs(space.id, genes)):
        layers = space.layers(arch)
        module = space.supernet(0).subnet(arch)
        assert (
            costs["params"][i] == sum(layer.params for layer in layers) == sum(p.numel() for p in module.parameters())
        )
        assert costs["macs"][i] == sum(layer.macs for layer in layers)


@pytest.mark.filterwarnings("ignore:Constant folding")
def test_memory_and_weights_are_those_of_the_exported_model(space: OwnModel, net: OwnModelSupernet) -> None:
    genes = extremes_and_random(space, 5)
    costs = space.costs(genes)
    if {node.operator.kind for node in space.model.graph.nodes} & {"expand", "group_norm", "opaque"}:
        assert "peak_bytes" not in costs
        return
    footprints = []
    for arch in as_archs(space.id, genes):
        module = net.subnet(arch)
        generator = torch.Generator().manual_seed(0)
        for tensor in module.state_dict().values():  # the exporter merges equal weights
            if tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5, generator=generator)
        normalised = Normalised(module, [0.5] * 3, [0.25] * 3)
        footprints.append(footprint(to_onnx(normalised, space.input_shape(arch))))
    assert [f.model_bytes for f in footprints] == costs["model_bytes"].tolist()
    assert [f.peak_bytes for f in footprints] == costs["peak_bytes"].tolist()


def _run(module: torch.nn.Module, *inputs: object) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        outputs = module(*inputs)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _assert_equal(outputs: tuple[torch.Tensor, ...], expected_outputs: tuple[torch.Tensor, ...]) -> None:
    for actual, expected in zip(outputs, expected_outputs, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-5 * max(1.0, float(expected.abs().max())), rtol=0.0)


def test_networks_of_lower_resolution_take_smaller_images() -> None:
    space = own_model("mobilenet_v2", resolutions=[8, 12, 16])
    net = space.supernet(0).eval()
    genes = np.stack([space.parent_genes()] * 3)
    genes[:, 0] = [0, 1, 2]
    macs = space.costs(genes)["macs"]
    assert macs[0] < macs[1] < macs[2]
    for arch in as_archs(space.id, genes):
        x_BCHW = torch.randn(2, *space.input_shape(arch), generator=torch.Generator().manual_seed(0))
        _assert_equal(_run(net.subnet(arch), x_BCHW), _run(net.parent, x_BCHW))
        assert sum(layer.macs for layer in space.layers(arch)) == macs[arch.genes[0]]


def test_a_class_token_stays_whole_and_heads_are_removed_whole() -> None:
    space = own_model("vit_fused")
    heads = next(d for d in space.decisions if d.name == "attentions.0.qkv.width")
    assert heads.choices == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"resolutions": [8]}, "16 of model 'unet'"),
        ({"resolutions": [16, 8]}, "rising"),
        ({"resolutions": [13, 16]}, "13 does not fit model 'unet'"),
        ({"width_multiple": 0}, "width_multiple"),
        ({"width_multiple": 64}, "nothing"),
    ],
)
def test_impossible_parameters_are_refused(params: dict[str, object], problem: str) -> None:
    with pytest.raises(InvalidSpec, match=problem):
        own_model("unet", **params)


def test_data_of_other_channels_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="it takes images of 3 channels, got data of 1"):
        build(FINE, ImageShape(1, 16, 16, 5), parent_of("resnet"))


def test_the_space_is_that_of_the_graph_and_its_parameters() -> None:
    assert own_model("resnet").id == own_model("resnet").id
    assert len({own_model("resnet", levels=levels).id for levels in (2, 3)} | {own_model("tied").id}) == 3
    shape, plain = image_shape("resnet"), own_model("resnet")
    other_pixels = build(FINE, shape, parent_of("resnet", Preprocessing((1.0,) * 3, (2.0,) * 3)))
    assert other_pixels.id != plain.id
    assert other_pixels.preprocessing is not None
    assert build(plain.params, shape, plain.parent).id == plain.id


def test_the_order_of_units_is_part_of_the_state() -> None:
    space = own_model("mobilenet_v2")
    arch = some_archs(space, 2)[0]
    net, other = space.supernet(0).eval(), space.supernet(0).eval()
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(2))
    before = _run(net, images, arch)
    net.set_unit_order({name: units[::-1] for name, units in net.unit_order.items()})
    assert not torch.allclose(_run(net, images, arch)[0], before[0])
    _assert_equal(_run(other, images, arch), before)
    other.load_state_dict(net.state_dict())
    assert other.unit_order == net.unit_order
    _assert_equal(_run(other, images, arch), _run(net, images, arch))
    with pytest.raises(InvalidInput, match=r"units 0 to 7, each once"):
        net.set_unit_order({"body.0.0": [0] * 8})
    with pytest.raises(InvalidInput, match="got 'head'"):
        net.set_unit_order({"head": [0]})


def test_sorting_by_norm_keeps_what_trained_networks_compute() -> None:
    space = own_model("resnet")
    net = space.supernet(0).eval()
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    trained = some_archs(space, 3)[2]
    before = _run(net, images, trained)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(torch.rand_like(parameter))
    changed = _run(net, images, trained)
    net.sort_channels([trained])
    _assert_equal(_run(net, images, trained), changed)
    order = net.unit_order
    net.sort_channels()
    assert net.unit_order != order
    assert not torch.allclose(changed[0], before[0])


def test_a_subnet_is_recalibrated_and_trained() -> None:
    space = own_model("efficientnet")
    subnet = space.supernet(0).subnet(some_archs(space, 3)[2])
    images = torch.randn(8, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(4)) * 3
    recalibrate(subnet, [images])
    expected = _run(subnet, images)
    subnet.train()
    norms = [module for module in subnet.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert norms
    torch.testing.assert_close(_run(subnet, images)[0], expected[0], atol=1e-3, rtol=1e-3)
    optimiser = torch.optim.SGD(subnet.parameters(), lr=0.1)
    loss = subnet(images).square().sum()
    loss.backward()
    optimiser.step()
    assert all(parameter.grad is not None for parameter in subnet.parameters())
    assert not torch.allclose(_run(subnet, images)[0], expected[0], atol=1e-2)
