"""How often a table of layers has a space describe its networks, which takes milliseconds each."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from nas.core.arch import Arch, Decision, Genes, as_archs, every
from nas.core.errors import UnknownName
from nas.core.layers import Layer, Linear
from nas.core.ports import SearchSpace
from nas.spaces.base import SpaceDefaults
from predictors.families.layer_lut import LayerLut, every_layer, layer_key


class TwoWidths(SpaceDefaults):
    """Nine networks of two linear layers, with nine different layers in all; ``described`` counts the calls."""

    id = name = "two_widths"
    decisions = (Decision("first", (1, 2, 3)), Decision("second", (1, 2, 3)))

    def __init__(self) -> None:
        self.described = Counter[Arch]()

    def canonical(self, genes_NG: Genes) -> Genes:
        return genes_NG

    def layers(self, arch: Arch) -> list[Layer]:
        self.described[arch] += 1
        first, second = (gene + 1 for gene in arch.genes)
        return [Linear("a", ("input",), (4, 1, 1), first), Linear("b", ("a",), (first, 1, 1), second)]


@pytest.fixture
def space() -> SearchSpace:
    return TwoWidths()  # type: ignore[return-value]


def described(space: SearchSpace) -> Counter[Arch]:
    assert isinstance(space, TwoWidths)
    return space.described


def test_each_network_is_described_once_to_find_all_layers(space: SearchSpace) -> None:
    layers = every_layer(space)
    assert len(layers) == 3 + 9  # 4 to 1, 2 or 3, and each of these to each
    assert set(described(space).values()) == {1}
    assert len(described(space)) == 9


def test_sums_are_of_each_network_described_once(space: SearchSpace) -> None:
    table = LayerLut.of({key: float(layer.params) for key, layer in every_layer(space).items()}, empty_ms=0.5)
    described(space).clear()
    archs = as_archs(space.id, every(space.decisions))
    rows = [archs[0], archs[8], archs[0]]
    sums_NK = table.by_kind(space, rows)
    expected = [sum(layer.params for layer in space.layers(arch)) for arch in rows]
    described(space).clear()
    assert sums_NK.tolist() == [[float(total)] for total in expected]
    np.testing.assert_array_equal(table.by_kind(space, rows), sums_NK)
    assert described(space) == Counter()
    assert table.by_kind(space, []).shape == (0, 1)


def test_a_layer_that_was_not_measured_is_never_free(space: SearchSpace) -> None:
    known = {layer_key(layer): 1.0 for layer in space.layers(Arch(space.id, (0, 0)))}
    with pytest.raises(UnknownName):
        LayerLut.of(known).by_kind(space, [Arch(space.id, (2, 2))])
