"""What is special to the space of downsampling places; the contract of all spaces is in ``tests/contracts``."""

from __future__ import annotations

from itertools import product
from math import comb

import numpy as np
import pytest

from nas.core.arch import Arch, every, space_size
from nas.core.errors import InvalidInput, InvalidSpec, UnknownName
from nas.core.ports import ImageShape
from search_spaces.resnet20_downsampling.space import PRESETS, build

CIFAR = ImageShape(3, 32, 32, 10)


def test_there_are_as_many_networks_as_published() -> None:
    """Two places among nine (Javan et al., 2023, section 4.1), each at least once among the gene vectors."""
    space = build({}, CIFAR)
    networks = np.unique(space.canonical(every(space.decisions)), axis=0)
    assert space_size(space.decisions) == 64
    assert len(networks) == comb(9, 2) == 36
    counts = {space.counts(Arch(space.id, tuple(row))) for row in networks.tolist()}
    assert counts == {c for c in product(range(1, 9), repeat=3) if sum(c) == 10}
    assert {(4, 3, 3), (5, 3, 2), (7, 1, 2)} <= counts  # the usual one, the published find and the published best
    assert all(space.counts(space.from_counts(c)) == c for c in counts)


def test_the_usual_network_is_resnet_20() -> None:
    """He et al., CVPR 2016: 0.27 million parameters and 41 million multiplications; shortcuts by projection."""
    space = build({}, CIFAR)
    usual = space.from_counts((4, 3, 3))
    costs = space.costs(np.array([usual.genes]))
    assert costs["params"][0] == 272_474
    assert costs["macs"][0] == 40_813_184
    assert [layer.out_shape for layer in space.layers(usual) if layer.name.endswith("conv2")] == [
        *[(16, 32, 32)] * 3,
        *[(32, 16, 16)] * 3,
        *[(64, 8, 8)] * 3,
    ]


def test_all_networks_have_the_same_weights_and_later_places_cost_more() -> None:
    space = build({}, CIFAR)
    costs = space.costs(every(space.decisions))
    assert set(costs["params"]) == {272_474}
    least, largest_macs = (
        space.costs(np.array([space.from_counts(c).genes]))["macs"][0] for c in ((1, 1, 8), (8, 1, 1))
    )
    assert least == costs["macs"].min()
    assert largest_macs == costs["macs"].max()


def test_genes_in_the_wrong_order_mean_the_same_places() -> None:
    space = build({}, CIFAR)
    # (units before the first, units before the second), as choices rather than genes
    pairs = [((3, 7), (3, 7)), ((7, 3), (3, 7)), ((5, 5), (5, 6)), ((8, 8), (8, 9)), ((2, 2), (2, 3))]
    for units, meant in pairs:
        genes = np.array([[units[0] - 1, units[1] - 2]])
        assert (space.canonical(genes)[0] + [1, 2]).tolist() == list(meant)


def test_features_tell_all_networks_apart_and_add_up() -> None:
    space = build({}, CIFAR)
    networks = np.unique(space.canonical(every(space.decisions)), axis=0)
    features = space.features(networks)
    assert features.shape == (36, 45)
    assert len(np.unique(features, axis=0)) == 36
    assert (features.sum(axis=1) == 9).all()
    macs = space.costs(networks)["macs"]
    solution, *_ = np.linalg.lstsq(features, macs, rcond=None)
    np.testing.assert_allclose(features @ solution, macs, rtol=1e-9)


def test_bad_input_is_refused() -> None:
    with pytest.raises(UnknownName, match="resnet20"):
        build({"preset": "resnet2"}, CIFAR)
    with pytest.raises(InvalidSpec, match="blocks"):
        build({"blocks": 0}, CIFAR)
    for counts in ((3, 3, 3), (0, 5, 5), (9, 1, 1)):
        with pytest.raises(InvalidInput, match="sum to 10"):
            build({}, CIFAR).from_counts(counts)


def test_presets_never_change_their_meaning() -> None:
    assert {name: build({"preset": name}, CIFAR).params["channels"] for name in PRESETS} == {
        "digits": 4,
        "small": 8,
        "resnet20": 16,
    }
