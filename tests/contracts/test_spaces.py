"""The contract every search space must keep, over the registry, and what is special to mobilenet_v3."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from nas.core import registry
from nas.core.arch import Arch, as_archs, choice_counts, sample, space_size
from nas.core.errors import InvalidSpec, UnknownName
from nas.core.network import layers_of
from nas.core.ports import ImageShape, SearchSpace
from nas.supernet import Supernet
from nas.training.calibration import recalibrate
from search_spaces.layers.depthwise import ElasticDepthwise, depthwise_by_matmul
from search_spaces.mobilenet_v3.space import PRESETS, MobileNetV3, SpaceParams, StageParams, build, inverted_residual
from tests.support.spaces import WITHOUT_PARENT

PRESET = dict.fromkeys(WITHOUT_PARENT, "digits")
SHAPE = ImageShape(1, 8, 8, 10)


@pytest.fixture(params=WITHOUT_PARENT)
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return registry.load_space(request.param).build({"preset": PRESET[request.param]}, SHAPE)


def some_archs(space: SearchSpace, n: int) -> list[Arch]:
    counts = choice_counts(space.decisions)
    ends = np.stack([np.zeros_like(counts), counts - 1])
    genes = np.concatenate([ends, sample(space.decisions, np.random.default_rng(0), n)])
    return as_archs(space.id, space.canonical(genes))


def randomised(space: SearchSpace) -> Supernet:
    """A supernet whose batch-norm statistics and scales are not the trivial ones."""
    net: Supernet = space.supernet(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*net.named_buffers(), *net.named_parameters()]:
            if "norm" in name:
                tensor.add_(torch.rand(tensor.shape, generator=generator))
    return net.eval()


def test_canonical_is_idempotent_and_keeps_the_network(space: SearchSpace) -> None:
    genes = sample(space.decisions, np.random.default_rng(1), 500)
    canonical = space.canonical(genes)
    assert np.array_equal(space.canonical(canonical), canonical)
    assert np.array_equal(space.features(genes), space.features(canonical))
    assert space.costs(genes)["macs"].tolist() == space.costs(canonical)["macs"].tolist()


def test_costs_equal_the_sum_over_layers_and_the_torch_network(space: SearchSpace) -> None:
    archs = some_archs(space, 20)
    costs = space.costs(np.array([a.genes for a in archs]))
    net = space.supernet(0)
    for i, arch in enumerate(archs):
        layers = space.layers(arch)
        assert costs["params"][i] == sum(layer.params for layer in layers)
        assert costs["macs"][i] == sum(layer.macs for layer in layers)
        assert costs["params"][i] == sum(p.numel() for p in net.subnet(arch).parameters())


def test_macs_equal_what_torch_multiplies(space: SearchSpace) -> None:
    net = space.supernet(0)
    for arch in some_archs(space, 4):
        module, x_BCHW = net.subnet(arch).eval(), torch.zeros(1, *space.input_shape(arch))
        with FlopCounterMode(display=False) as counter:
            module(x_BCHW)
        assert 2 * space.costs(np.array([arch.genes]))["macs"][0] == counter.get_total_flops()


def test_a_subnet_computes_what_the_supernet_computes(space: SearchSpace) -> None:
    net = randomised(space)
    generator = torch.Generator().manual_seed(1)
    for arch in some_archs(space, 20):
        x = torch.randn(3, *space.input_shape(arch), generator=generator)
        torch.testing.assert_close(net.subnet(arch)(x), net(x, arch), atol=1e-5, rtol=1e-4)


def test_threads_with_different_architectures_do_not_disturb_each_other(space: SearchSpace) -> None:
    net = randomised(space)
    archs = some_archs(space, 6)
    inputs = [torch.randn(2, *space.input_shape(a), generator=torch.Generator().manual_seed(2)) for a in archs]
    sequential_outputs = [net(x, a) for x, a in zip(inputs, archs, strict=True)]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(5):
            if not torch.equal(net(inputs[i], archs[i]), sequential_outputs[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(archs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert wrong == []


def test_training_mode_leaves_no_trace(space: SearchSpace) -> None:
    net = space.supernet(0).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    for arch in some_archs(space, 3):
        net(torch.randn(4, *space.input_shape(arch)), arch)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())


def test_sorting_channels_keeps_the_largest_networks_function(space: SearchSpace) -> None:
    net = randomised(space)
    top = some_archs(space, 0)[1]
    x = torch.randn(3, *space.input_shape(top), generator=torch.Generator().manual_seed(3))
    before = net(x, top)
    weights = [p.clone() for p in net.parameters()]
    net.sort_channels()
    torch.testing.assert_close(net(x, top), before, atol=1e-5, rtol=1e-4)
    sorts = type(net).sort_channels is not Supernet.sort_channels
    assert any(not torch.equal(a, b) for a, b in zip(weights, net.parameters(), strict=True)) == sorts


def test_the_same_seed_gives_the_same_weights_and_leaves_the_global_generator_alone(space: SearchSpace) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = space.supernet(5).state_dict()
    assert torch.equal(torch.rand(1), expected)
    second = space.supernet(5).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)


# mobilenet_v3


def imagenet() -> MobileNetV3:
    return build({"preset": "imagenet"}, ImageShape(3, 224, 224, 1000))


def test_the_published_size_of_the_space() -> None:
    """Once-for-all, section 3.2: ((3*3)^2 + (3*3)^3 + (3*3)^4)^5 networks per resolution."""
    space = imagenet()
    per_stage = sum(9**d for d in (2, 3, 4))
    assert per_stage**5 == pytest.approx(2.18e19, rel=0.01)
    assert space_size(space.decisions) == 25 * (3 * 9**4) ** 5  # gene vectors, inactive genes included


def test_the_published_parameters_of_the_largest_network() -> None:
    """Once-for-all, section 3.2: all weights of the space are held by a network of 7.7 million parameters."""
    space = imagenet()
    largest = np.array([[len(d.choices) - 1 for d in space.decisions]])
    assert round(float(space.costs(largest)["params"][0]) / 1e6, 1) == 7.7
    assert sum(p.numel() for n, p in space.supernet(0).named_parameters() if "transforms" not in n) == 7_664_760


def test_mobilenet_v3_large_from_the_same_blocks_has_its_published_size() -> None:
    """MobileNetV3 (Howard et al., 2019), table 1: 219 million MACs and 5.4 million parameters at width 1.0."""
    rows = [  # kernel, inner width, output width, squeeze-excite, h-swish, stride
        (3, 16, 16, False, False, 1),
        (3, 64, 24, False, False, 2),
        (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2),
        (5, 120, 40, True, False, 1),
        (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2),
        (3, 200, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 480, 112, True, True, 1),
        (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2),
        (5, 960, 160, True, True, 1),
        (5, 960, 160, True, True, 1),
    ]
    stem = build({"preset": "imagenet", "resolutions": [224]}, ImageShape(3, 224, 224, 1000))
    smallest = stem.layers(Arch("", (0,) * len(stem.decisions)))
    layers = [smallest[0]]
    shape = (16, 112, 112)
    for i, (kernel, inner, c_out, se, hswish, stride) in enumerate(rows):
        stage = StageParams(width=c_out, stride=1 if stride == 1 else 2, act="hswish" if hswish else "relu", se=se)
        block = layers_of(inverted_residual(f"b{i}", "x", shape, c_out, stride, kernel, inner / shape[0], stage))
        layers += block if inner != shape[0] else block[1:]
        shape = block[-1].out_shape
    layers += smallest[-4:]
    assert shape[0] == 160
    assert sum(x.macs for x in layers) / 1e6 == pytest.approx(219, rel=0.02)
    assert sum(x.params for x in layers) / 1e6 == pytest.approx(5.4, rel=0.02)


def test_kernels_start_as_centre_crops_and_shrink_in_a_chain() -> None:
    layer = ElasticDepthwise(4, (3, 5, 7), stride=1)
    full = layer.weight
    assert torch.equal(layer.kernel(7, 4), full)
    assert torch.equal(layer.kernel(5, 4), full[:, :, 1:6, 1:6])
    assert torch.equal(layer.kernel(3, 4), full[:, :, 2:5, 2:5])
    with torch.no_grad():
        layer.transforms[0].mul_(2.0)  # 7 -> 5 doubles; 3 is made from 5, so it doubles too
    assert torch.equal(layer.kernel(3, 4), 2 * full[:, :, 2:5, 2:5])


@pytest.mark.parametrize(("size", "kernel", "stride"), [(1, 5, 1), (2, 3, 1), (3, 5, 2), (4, 7, 2), (6, 5, 1)])
def test_depthwise_by_matmul_equals_the_convolution(size: int, kernel: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 1, kernel, kernel, generator=generator, dtype=torch.float64, requires_grad=True)
    by_matmul = depthwise_by_matmul(x, weight, stride)
    reference = torch.nn.functional.conv2d(x, weight, stride=stride, padding=kernel // 2, groups=3)
    torch.testing.assert_close(by_matmul, reference)
    output_gradient = torch.randn(by_matmul.shape, generator=generator, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(by_matmul, (x, weight), output_gradient),
        torch.autograd.grad(reference, (x, weight), output_gradient),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_depth_keeps_the_first_blocks() -> None:
    space = build({"preset": "digits"}, SHAPE)
    genes = list(space.canonical(np.array([[len(d.choices) - 1 for d in space.decisions]]))[0])
    position = next(i for i, d in enumerate(space.decisions) if d.name == "stage2.depth")
    genes[position] = 0
    [shallow] = as_archs(space.id, space.canonical(np.array([genes])))
    names = {layer.name.rpartition(".")[0] for layer in space.layers(shallow)}
    assert "stage2.block1" in names
    assert "stage2.block2" not in names


def test_recalibration_is_the_plain_mean_and_forgets_what_was_there() -> None:
    space = build({"preset": "digits"}, SHAPE)
    net = randomised(space)
    arch = some_archs(space, 1)[2]
    batches = [torch.randn(16, *space.input_shape(arch), generator=torch.Generator().manual_seed(i)) for i in (1, 2, 3)]
    first, second = net.subnet(arch), space.supernet(0).subnet(arch)
    second.load_state_dict({k: v for k, v in first.state_dict().items() if "running" not in k}, strict=False)
    recalibrate(first, batches)
    recalibrate(second, batches)
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))
    stem = [first.get_submodule("stem")(b) for b in batches]
    norm = first.get_submodule("stem_norm")
    torch.testing.assert_close(norm.running_mean, torch.stack([s.mean((0, 2, 3)) for s in stem]).mean(0))
    torch.testing.assert_close(
        norm.running_var, torch.stack([s.var((0, 2, 3), correction=0) for s in stem]).mean(0), rtol=1e-4, atol=1e-5
    )


def test_bad_parameters_are_named() -> None:
    with pytest.raises(UnknownName, match=r"digit.*Did you mean 'digits'"):
        build({"preset": "digit"}, SHAPE)
    with pytest.raises(InvalidSpec, match=r"dephts.*depths"):
        build({"preset": "digits", "dephts": [1]}, SHAPE)
    with pytest.raises(InvalidSpec, match=r"kernels.*odd"):
        build({"preset": "digits", "kernels": [4]}, SHAPE)
    with pytest.raises(InvalidSpec, match="rising"):
        build({"preset": "digits", "depths": [3, 1]}, SHAPE)


def test_the_id_tells_spaces_apart() -> None:
    plain = build({"preset": "digits"}, SHAPE)
    assert plain.id == build({"preset": "digits"}, SHAPE).id
    assert plain.id == build(SpaceParams.model_dump(plain.config), SHAPE).id
    assert plain.id != build({"preset": "digits", "final": 64}, SHAPE).id
    assert plain.id != build({"preset": "digits"}, ImageShape(1, 8, 8, 11)).id


def test_presets_never_change_their_meaning() -> None:
    # Stored searches name them. One that is resized would orphan their supernets: make a new preset instead.
    assert {name: build({"preset": name}, ImageShape(3, 32, 32, 10)).id for name in PRESETS} == {
        "digits": "mobilenet_v3-84fc9e4b",
        "cifar": "mobilenet_v3-be497eb1",
        "imagenet": "mobilenet_v3-9a2381ab",
        "imagenet-w1.2": "mobilenet_v3-24171fc1",
    }
