"""Spaces with and without a user's model."""

from __future__ import annotations

import pytest

from nas.core import registry
from nas.core.errors import InvalidInput, InvalidSpec
from nas.core.parent import ParentModel, Preprocessing
from nas.core.plugins import SearchSpaceType
from nas.core.ports import ImageShape
from nas.core.spec import SpaceSpec

SHAPE = ImageShape(1, 8, 8, 10)
PARENT = ParentModel("net", b"{}", dict)


def test_a_space_without_a_model_refuses_one() -> None:
    assert registry.build_space(SpaceSpec(), SHAPE).name == "mobilenet_v3"
    with pytest.raises(InvalidSpec, match=r"space\.model: space 'mobilenet_v3' expects no model, got 'net'"):
        registry.build_space(SpaceSpec(model="net", params={"preset": "digits"}), SHAPE)
    with pytest.raises(InvalidSpec, match=r"expects no model"):
        registry.build_space(SpaceSpec(), SHAPE, PARENT)


def test_a_space_of_models_is_built_from_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    parents = []
    inner = registry.build_space(SpaceSpec(), SHAPE)
    space = SearchSpaceType(
        "of_models", "For a test.", build_from=lambda _p, _s, parent: parents.append(parent) or inner
    )
    monkeypatch.setattr(registry, "load_space", lambda _: space)
    assert registry.build_space(SpaceSpec(name="of_models", model="net"), SHAPE, PARENT) is inner
    assert parents == [PARENT]
    with pytest.raises(InvalidSpec, match=r"space\.model: .*expects the name of a stored model, got none"):
        registry.build_space(SpaceSpec(name="of_models"), SHAPE)


@pytest.mark.parametrize(("mean", "std"), [((1.0,), (1.0, 1.0)), ((1.0,), (0.0,))])
def test_preprocessing_needs_a_mean_and_a_positive_deviation_by_channel(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    with pytest.raises(InvalidInput, match="expected a mean and a positive standard deviation for each channel"):
        Preprocessing(mean, std)
