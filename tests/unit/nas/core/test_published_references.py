"""References by the names that networks have in the literature."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from nas.core import registry
from nas.core.arch import Arch
from nas.core.candidates import CandidateTable
from nas.core.errors import InvalidInput, InvalidSpec, UnknownName
from nas.core.events import Candidate
from nas.core.layers import Conv2d
from nas.core.ports import ImageShape
from nas.core.references import named_genes, reference_archs, reference_space
from nas.core.registry import build_space
from nas.core.retraining import RetrainSpec
from nas.core.spec import ReferenceSpec, SearchSpec, SpaceSpec, parse_spec

IMAGES = ImageShape(3, 224, 224, 1000)


def test_mobilenet_v3_large_has_its_published_blocks() -> None:
    space = build_space(SpaceSpec(params={"preset": "imagenet", "expands": [2.3, 2.5, 3, 4, 6]}), IMAGES)
    layers = space.layers(Arch(space.id, space.published["MobileNetV3-Large"]))
    depthwise = [layer for layer in layers if isinstance(layer, Conv2d) and layer.name.endswith(".depthwise")][1:]
    assert [layer.out_channels for layer in depthwise] == [
        *(64, 72, 72, 120, 120, 240, 200, 184, 184, 480, 672, 672, 960, 960),
    ]
    assert [layer.kernel for layer in depthwise] == [3, 3, 5, 5, 5, 3, 3, 3, 3, 3, 3, 5, 5, 5]
    assert layers[0].in_shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("space_name", "preset", "network", "macs"),
    [
        ("fbnet", "imagenet-small", "FBNet-A", 249e6),
        ("fbnet", "imagenet", "FBNet-B", 295e6),
        ("attentive_nas", "imagenet", "AttentiveNAS-A0", 203e6),
        ("attentive_nas", "imagenet", "AttentiveNAS-A1", 279e6),
        ("attentive_nas", "imagenet", "AttentiveNAS-A2", 317e6),
        ("attentive_nas", "imagenet", "AttentiveNAS-A3", 357e6),
        ("attentive_nas", "imagenet", "AttentiveNAS-A4", 444e6),
        ("attentive_nas", "imagenet", "AttentiveNAS-A5", 491e6),
        ("attentive_nas", "imagenet", "AttentiveNAS-A6", 709e6),
    ],
)
def test_published_networks_have_their_printed_macs(space_name: str, preset: str, network: str, macs: float) -> None:
    space = build_space(SpaceSpec(name=space_name, params={"preset": preset}), IMAGES)
    costs = space.costs(np.array([space.published[network]]))
    assert costs["macs"][0] == pytest.approx(macs, rel=0.02)


@pytest.mark.parametrize(
    ("preset", "network", "macs_m", "params_m"),
    [
        ("imagenet-small", "FBNet-A", 249.4, 4.3),
        ("imagenet", "FBNet-B", 295.6, 4.8),
        ("imagenet-small", "FBNet-B1", 286.8, 4.1),
        ("imagenet", "FBNet-C", 383.0, 5.5),
        ("imagenet-small", "FBNet-C1", 374.2, 4.9),
    ],
)
def test_fbnets_have_the_sizes_that_their_authors_print_beside_their_code(
    preset: str, network: str, macs_m: float, params_m: float
) -> None:
    """The paper (Wu et al., table 4) prints 375 million MACs for FBNet-C: those of C1."""
    space = build_space(SpaceSpec(name="fbnet", params={"preset": preset}), IMAGES)
    costs = space.costs(np.array([space.published[network]]))
    assert costs["macs"][0] / 1e6 == pytest.approx(macs_m, rel=0.006)
    assert costs["params"][0] / 1e6 == pytest.approx(params_m, rel=0.02)


def test_a_spec_names_a_published_network() -> None:
    spec = SearchSpec(
        space=SpaceSpec(name="nas_bench_201", params={"preset": "small"}), references=(ReferenceSpec(name="ResNet"),)
    )
    space = build_space(spec.space, ImageShape(3, 32, 32, 10))
    [(name, arch)] = reference_archs(spec, space).items()
    operations = [d.choices[gene] for d, gene in zip(space.decisions, arch.genes, strict=True)]
    assert (name, operations.count("nor_conv_3x3"), operations.count("skip_connect")) == ("ResNet", 2, 2)


def test_a_spec_names_networks_as_papers_print_them() -> None:
    cell = "|nor_conv_3x3~0|+|none~0|nor_conv_3x3~1|+|skip_connect~0|none~1|skip_connect~2|"
    references = (ReferenceSpec(name="ours", network=cell), ReferenceSpec(name="ResNet"))
    spec = SearchSpec(space=SpaceSpec(name="nas_bench_201", params={"preset": "small"}), references=references)
    space = build_space(spec.space, ImageShape(3, 32, 32, 10))
    assert list(reference_archs(spec, space)) == ["ours"]  # which is the residual block
    assert named_genes(" 4,3, 0,1,0,2", space) == (4, 3, 0, 1, 0, 2)
    for wrong, error in (("4,3,0,1,0,9", InvalidSpec), ("|none~0|", InvalidSpec), ("ResNext", UnknownName)):
        with pytest.raises(error):
            named_genes(wrong, space)
    mobile = build_space(SearchSpec().space, ImageShape(1, 8, 8, 10))
    with pytest.raises(InvalidSpec, match="have no notation"):
        named_genes(cell, mobile)
    with pytest.raises(ValidationError, match="got both"):
        ReferenceSpec(name="a", genes=(0,), network=cell)


def test_a_network_that_the_space_does_not_know_is_refused() -> None:
    spec = SearchSpec(references=(ReferenceSpec(name="ResNet-21"),))
    with pytest.raises(UnknownName, match=r"unknown published network 'ResNet-21'.*Did you mean 'ResNet-20'"):
        reference_archs(spec, build_space(spec.space, ImageShape(1, 8, 8, 10)))
    twice = SearchSpec(references=(ReferenceSpec(name="a", genes=(0,)), ReferenceSpec(name="a", genes=(1,))))
    with pytest.raises(InvalidSpec):
        reference_archs(twice, build_space(twice.space, ImageShape(1, 8, 8, 10)))


def test_a_network_of_another_space_is_named_by_its_name_or_by_space_and_genes() -> None:
    small = SpaceSpec(name="resnet20_downsampling", params={"preset": "digits"})
    spec = SearchSpec(
        space=SpaceSpec(name="nas_bench_201", params={"preset": "small"}),
        retrain=RetrainSpec(),
        references=(
            ReferenceSpec(name="MobileNetV3-Large"),
            ReferenceSpec(name="late", space=small, genes=(7, 7)),
            ReferenceSpec(name="ResNet"),
        ),
    )
    space = build_space(spec.space, ImageShape(3, 32, 32, 10))
    archs = reference_archs(spec, space)
    assert archs["ResNet"].space == space.id  # the search's own comes first
    assert reference_space(spec, space, archs["ResNet"]) is space
    spaces = {name: reference_space(spec, space, arch) for name, arch in archs.items()}
    assert [spaces[name].name for name in ("MobileNetV3-Large", "late")] == ["mobilenet_v3", "resnet20_downsampling"]
    assert spaces["MobileNetV3-Large"].input_shape(archs["MobileNetV3-Large"]) == (3, 224, 224)
    assert spaces["late"].id == build_space(small, space.shape).id


@pytest.mark.parametrize(("network", "params"), [("ResNet-18", 11.2e6), ("ResNet-34", 21.3e6), ("ResNet-50", 23.5e6)])
def test_resnets_are_references_of_any_search_for_images_of_its_shape(network: str, params: float) -> None:
    record = {"space": {"name": "mobilenet_v3", "params": {"preset": "cifar"}}, "retrain": {}}
    spec = parse_spec(SearchSpec, {**record, "references": [{"name": network}]})
    space = build_space(spec.space, ImageShape(3, 32, 48, 10))
    [(name, arch)] = reference_archs(spec, space).items()
    own_space = reference_space(spec, space, arch)
    assert (name, own_space.name, own_space.input_shape(arch)) == (network, "resnet", (3, 32, 48))
    assert own_space.costs(np.array([arch.genes]))["params"][0] == pytest.approx(params, rel=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"retrain": None}, "has no weights: expected `retrain`"),
        ({"data": {"task": "segmentation"}}, "segmentation expects networks that give a map of classes"),
        ({"retrain": {"drop_path": 0.2}}, "networks of resnet20_downsampling cannot be trained with it"),
        ({"fleet": {"devices": ["a", "b"]}, "device": "a"}, "expected one device, got a fleet of 2"),
    ],
)
def test_a_network_that_a_search_cannot_train_is_refused(changes: dict[str, object], message: str) -> None:
    record = {"references": [{"name": "ResNet-20"}], "retrain": {}, **changes}
    spec = parse_spec(SearchSpec, record)
    with pytest.raises(InvalidSpec, match=message):
        reference_archs(spec, build_space(SpaceSpec(name="nas_bench_201"), ImageShape(3, 32, 32, 10)))


def test_a_reference_is_no_model_of_a_user() -> None:
    named = SpaceSpec(name="own_model", model="mine")
    spec = SearchSpec(retrain=RetrainSpec(), references=(ReferenceSpec(name="a", space=named, genes=(0,)),))
    with pytest.raises(InvalidSpec, match="expected a space that starts from no model of yours"):
        reference_archs(spec, build_space(spec.space, ImageShape(1, 8, 8, 10)))


def test_references_of_other_spaces_are_rows_without_genes() -> None:
    own, foreign = Arch("a", (1, 2)), Arch("b", (3, 4, 5))
    table = CandidateTable.of([Candidate(own, "search", {"params": 1.0})])
    reference = Candidate(foreign, "reference", {"params": 2.0}, promised_ms=None)
    for together in (
        CandidateTable.of([Candidate(own, "search", {"params": 1.0}), reference]),
        table.updated(np.array([1]), CandidateTable.of([reference])),
    ):
        assert together.space == "a"
        assert together.genes_NG.tolist() == [[1, 2], [0, 0]]
        assert together.metric("params").tolist() == [1.0, 2.0]
    with pytest.raises(InvalidInput, match="expected networks of one space"):
        CandidateTable.of([Candidate(own, "search"), Candidate(foreign, "search")])


@pytest.mark.parametrize("name", registry.names("nas.search_spaces"))
def test_every_network_that_a_kind_of_space_publishes_is_one_of_its_networks(name: str) -> None:
    kind = registry.load_space(name)
    for network, params in kind.published.items():
        space = registry.build_space(SpaceSpec.model_validate({"name": name, "params": dict(params)}), IMAGES)
        assert len(space.published[network]) == len(space.decisions)
