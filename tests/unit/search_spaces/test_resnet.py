"""What is special to the space of elastic ResNets; the contract of all spaces is in ``tests/contracts``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nas.core.arch import Arch, as_archs, choice_counts, sample, space_size
from nas.core.errors import InvalidSpec, UnknownName
from nas.core.layers import Conv2d, Pool2d
from nas.core.ports import ImageShape
from nas.testing.search_spaces import check_subnets
from search_spaces.resnet.space import PRESETS, RESNET, ResNet, build

IMAGENET, CIFAR, DIGITS = ImageShape(3, 224, 224, 1000), ImageShape(3, 32, 32, 10), ImageShape(1, 8, 8, 10)
VARIANTS: list[dict[str, Any]] = [
    {},
    {"block": "bottleneck"},
    {"stem": "7x7", "resolutions": [17]},
    {"block": "bottleneck", "stem": "deep", "shortcut": "pooled", "resolutions": [17]},
    {"stem_width": 32},  # the first block keeps its input where the stem is as wide as the stage
    {"stages": [{"width": 32, "depths": [1, 2], "stride": 1}] * 2},
]


def published(name: str, shape: ImageShape) -> tuple[ResNet, Arch]:
    space = build(RESNET.published[name], shape)
    return space, Arch(space.id, space.published[name])


@pytest.mark.parametrize(
    ("name", "params", "macs"),
    [("ResNet-18", 11_689_512, 1.81e9), ("ResNet-34", 21_797_672, 3.66e9), ("ResNet-50", 25_557_032, 4.09e9)],
)
def test_published_networks_have_their_known_sizes(name: str, params: int, macs: float) -> None:
    """He et al., CVPR 2016, with projections where shapes change; ResNet-50 with its strides in 3x3 convolutions."""
    space, arch = published(name, IMAGENET)
    costs = space.costs(np.array([arch.genes]))
    assert costs["params"][0] == params
    assert costs["macs"][0] == pytest.approx(macs, rel=0.005)
    layers = space.layers(arch)
    convolutions = [layer for layer in layers if isinstance(layer, Conv2d) and not layer.name.endswith(".shortcut")]
    assert len(convolutions) + 1 == int(name.removeprefix("ResNet-"))  # and the classifier
    assert all(layer.kernel == 3 for layer in convolutions[1:] if layer.stride > 1)


@pytest.mark.parametrize("name", ["ResNet-18", "ResNet-34", "ResNet-50"])
def test_published_networks_take_images_of_the_data(name: str) -> None:
    for shape, last_map in ((IMAGENET, (7, 7)), (ImageShape(3, 64, 96, 10), (2, 3)), (CIFAR, (4, 4)), (DIGITS, (1, 1))):
        space, arch = published(name, shape)
        layers = space.layers(arch)
        assert space.input_shape(arch) == (shape.channels, shape.height, shape.width)
        assert layers[-2].in_shape[1:] == last_map
        assert any(isinstance(layer, Pool2d) for layer in layers[:-2]) == (shape.height >= 64)


def test_a_published_network_is_in_the_presets_with_its_stages() -> None:
    """The preset of small images has the stem for small images."""
    in_presets = {
        (preset, block): list(build({"preset": preset, "block": block}, CIFAR).published)
        for preset, by_block in PRESETS.items()
        for block in by_block
    }
    assert {key: names for key, names in in_presets.items() if names} == {
        ("cifar10", "basic"): ["ResNet-18"],
        ("imagenet", "bottleneck"): ["ResNet-50"],
        ("imagenet", "basic"): ["ResNet-18", "ResNet-34"],
    }
    space = build({"preset": "imagenet"}, IMAGENET)
    exact, arch = published("ResNet-50", IMAGENET)
    assert space.layers(Arch(space.id, space.published["ResNet-50"])) == exact.layers(arch)


def test_the_space_of_once_for_all_has_its_choices() -> None:
    """Stages of 2 to 4, 2 to 4, 4 to 6 and 2 to 4 bottlenecks; three widths of each stage, of the stem and of its first
    convolutions; three expansions of each block; a convolution of the stem that may be missing."""
    space = build({"preset": "ofa-resnet50"}, IMAGENET)
    assert space_size(space.decisions) == 4 * 3**2 * 2 * 3**4 * 3**4 * 3**18
    counts = choice_counts(space.decisions)
    smallest, largest = (space.layers(arch) for arch in as_archs(space.id, np.stack([0 * counts, counts - 1])))
    for layers, depths, widths, inner, stem in (
        (smallest, (2, 2, 4, 2), (168, 336, 664, 1328), (32, 64, 136, 264), (24, 40)),
        (largest, (4, 4, 6, 4), (256, 512, 1024, 2048), (88, 176, 360, 720), (32, 32, 64)),
    ):
        last = [layer for layer in layers if layer.name.endswith("block1.conv3")]
        assert tuple(layer.out_shape[0] for layer in last) == widths
        assert tuple(layer.in_shape[0] for layer in last) == inner
        names = [layer.name for layer in layers]
        assert (
            tuple(sum(n.startswith(f"stage{s}.") and n.endswith("conv3") for n in names) for s in range(1, 5)) == depths
        )
        assert tuple(layer.out_shape[0] for layer in layers if layer.name.startswith("stem.conv")) == stem
        shortcuts = [layer for layer in layers if layer.name.endswith("shortcut") and isinstance(layer, Conv2d)]
        assert [layer.stride for layer in shortcuts] == [1] * 4
        assert sum(name.endswith(".pool") for name in names) == 4


def test_a_block_projects_its_input_only_where_the_shape_changes() -> None:
    space = build({"preset": "digits", "stem_width": 32}, DIGITS)
    positions = [[d.name for d in space.decisions].index(name) for name in ("stem.width", "stage1.width")]
    for stem, stage in ((0, 0), (0, 1), (1, 0), (1, 1)):
        genes = np.zeros(len(space.decisions), dtype=np.int64)
        genes[positions] = stem, stage
        names = {layer.name for layer in space.layers(as_archs(space.id, genes[None])[0])}
        assert ("stage1.block1.shortcut" in names) == (stem != stage)


@pytest.mark.parametrize("variant", VARIANTS)
def test_subnets_of_every_variant_compute_what_the_supernet_computes(variant: dict[str, Any]) -> None:
    check_subnets(build({"preset": "digits", **variant}, ImageShape(3, 8, 12, 10)))


@pytest.mark.parametrize("variant", VARIANTS)
def test_sorting_channels_keeps_trained_networks_and_orders_the_others(variant: dict[str, Any]) -> None:
    space = build({"preset": "digits", **variant}, DIGITS)
    net = space.supernet(0).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, tensor in [*net.named_buffers(), *net.named_parameters()]:
            if "norm" in name:
                tensor.add_(torch.rand(tensor.shape, generator=generator))
    counts = choice_counts(space.decisions)
    archs = as_archs(space.id, np.concatenate([counts[None] - 1, sample(space.decisions, np.random.default_rng(2), 4)]))
    inputs = [torch.randn(2, *space.input_shape(arch), generator=generator) for arch in archs]
    before = [net(x, arch) for x, arch in zip(inputs, archs, strict=True)]
    net.sort_channels(archs)
    for x, arch, expected in zip(inputs, archs, before, strict=True):
        torch.testing.assert_close(net(x, arch), expected, rtol=1e-4, atol=1e-4)
    net.sort_channels()
    torch.testing.assert_close(net(inputs[0], archs[0]), before[0], rtol=1e-4, atol=1e-4)
    reader = net.blocks["stage1_block1"].parts["conv2"].conv.weight
    importance = reader.abs().sum((0, 2, 3))
    assert (importance.diff() <= 1e-5).all()


def test_bad_parameters_are_named() -> None:
    with pytest.raises(UnknownName, match=r"imagenets.*Did you mean 'imagenet'"):
        build({"preset": "imagenets"}, IMAGENET)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"block": "wide"}, "block"),
        ({"block": ["basic"]}, "block"),
        ({"stages": [{"width": 64, "depths": [2, 1]}]}, "rising"),
        ({"widths": [0.9, 1.0], "stem_width": 16}, r"widths.*16 channels become \(16, 16\)"),
        ({"expands": [0.95, 1.0]}, r"expands.*different multiples"),
        ({"expands": []}, "expands.*1 to 64 choices"),
        ({"resolutions": [2, 4]}, "at least 4 pixels"),
    ]
    for params, message in wrong:
        with pytest.raises(InvalidSpec, match=message):
            build({"preset": "digits", **params}, DIGITS)


def test_presets_never_change_their_meaning() -> None:
    # Stored searches name them. One that is resized would orphan their supernets: make a new preset instead.
    assert {
        (name, block): build({"preset": name, "block": block}, CIFAR).id
        for name, by_block in PRESETS.items()
        for block in by_block
    } == {
        ("digits", "basic"): "resnet-61c4ca0d",
        ("digits", "bottleneck"): "resnet-1e011ceb",
        ("cifar10", "basic"): "resnet-f4db883f",
        ("cifar10", "bottleneck"): "resnet-dd07543e",
        ("imagenet", "bottleneck"): "resnet-9d06f9ab",
        ("imagenet", "basic"): "resnet-51e2be4a",
        ("ofa-resnet50", "bottleneck"): "resnet-b14cc942",
    }
    assert all(build({"preset": name}, CIFAR).config.block == next(iter(PRESETS[name])) for name in PRESETS)
