"""The contract checks pass on good plug-ins and fail on plug-ins with one fault."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from nas.core import registry
from nas.core.arch import Arch, Floats, Genes
from nas.core.errors import InvalidInput, InvalidSpec
from nas.core.layers import Layer
from nas.core.ports import Dataset, ImageShape, Split
from nas.core.spec import DataSpec
from nas.testing import check_dataset, check_predictor, check_search_space, check_strategy
from nas.testing.errors import assert_raises
from nas.testing.search_spaces import check_canonical, check_costs, check_errors, check_identity
from tests.support import fakes

SHAPE = ImageShape(1, 8, 8, 10)


@pytest.fixture(autouse=True)
def _fake_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.use_plugins(monkeypatch)


def register(monkeypatch: pytest.MonkeyPatch, group: registry.Group, name: str, plugin: object) -> None:
    monkeypatch.setitem(fakes.PLUGINS[group], name, plugin)


def test_assert_raises() -> None:
    def fail() -> None:
        raise InvalidSpec("wrong parameter x")

    assert_raises(InvalidSpec, fail, "parameter x")
    with pytest.raises(AssertionError, match="expected 'y' in the message"):
        assert_raises(InvalidSpec, fail, "y")
    with pytest.raises(AssertionError, match="nothing was raised"):
        assert_raises(InvalidSpec, lambda: None)


def test_space_with_unstable_id_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    check_identity("tiny", {}, SHAPE)

    class Unstable(fakes.TinySpace):
        ids = iter(range(100))

        @property
        def id(self) -> str:
            return f"tiny-{next(self.ids)}"

    register(monkeypatch, "nas.search_spaces", "tiny", replace(fakes.TINY, build=Unstable))
    with pytest.raises(AssertionError):
        check_search_space("tiny", {}, SHAPE)


class CanonicalFeatures(fakes.TinySpace):
    """The tiny space with features and costs of canonical genes, and layers that add up to its costs."""

    def features(self, genes_NG: Genes) -> Floats:
        return super().features(self.canonical(genes_NG))

    def costs(self, genes_NG: Genes) -> dict[str, Floats]:
        return super().costs(self.canonical(genes_NG))

    def layers(self, arch: Arch) -> list[Layer]:
        costs = self.costs(np.array([arch.genes]))
        [layer] = super().layers(arch)
        fields = {**vars(layer), "params": int(costs["params"][0]), "macs": int(costs["macs"][0])}
        return [type(layer)(**{**fields, "in_shape": self.input_shape(arch), "out_shape": (10, 1, 1)})]


def test_canonical_and_costs_accept_a_consistent_space() -> None:
    space = CanonicalFeatures({}, SHAPE)
    check_canonical(space)
    check_costs(space)


def test_features_of_inactive_genes_fail() -> None:
    with pytest.raises(AssertionError):
        check_canonical(fakes.TinySpace({}, SHAPE))


def test_costs_that_differ_from_layers_fail() -> None:
    with pytest.raises(AssertionError):
        check_costs(fakes.TinySpace({}, SHAPE))


def test_space_that_ignores_unknown_parameters_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    careless = replace(fakes.TINY, build=lambda params, shape: fakes.TinySpace({}, shape))
    register(monkeypatch, "nas.search_spaces", "tiny", careless)
    with pytest.raises(AssertionError, match="nothing was raised"):
        check_errors("tiny", {}, SHAPE)


class Ratio(fakes.FlatPredictor):
    """Latency proportional to the sum of the features, with an upper bound a factor above."""

    family = "flat"
    factor = 1.2

    @classmethod
    def fit(cls, features_NF: Floats, latency_ms_N: Floats) -> Ratio:
        if len(latency_ms_N) < 10 or (latency_ms_N <= 0).any():
            raise InvalidInput("expected at least 10 positive latencies")
        return cls(np.full(features_NF.shape[1], latency_ms_N.mean() / features_NF.sum(axis=1).mean()))

    @classmethod
    def from_arrays(cls, arrays: Any) -> Ratio:
        return cls(arrays["weights_F"])

    def predict(self, features_NF: Floats) -> Any:
        mean_ms = features_NF @ self.weights_F
        return type(super().predict(features_NF))(mean_ms, self.factor * mean_ms)


@pytest.mark.parametrize(("factor", "passes"), [(1.2, True), (1.0, False)])
def test_predictor_needs_a_covering_upper_bound(monkeypatch: pytest.MonkeyPatch, factor: float, passes: bool) -> None:
    register(monkeypatch, "nas.predictors", "flat", Ratio)
    monkeypatch.setattr(Ratio, "factor", factor)
    rng = np.random.default_rng(0)
    features = rng.uniform(1.0, 9.0, size=(300, 4))
    latency = 0.1 * features.sum(axis=1) * rng.normal(1.0, 0.03, size=300)
    if passes:
        check_predictor("flat", features, latency)
    else:
        with pytest.raises(AssertionError):
            check_predictor("flat", features, latency)


def test_strategy_with_lax_parameters_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    check_strategy("plain")

    class LaxParams(BaseModel):
        epochs: int = 3

    register(monkeypatch, "nas.strategies", "lax", replace(fakes.PLAIN, name="lax", params_model=LaxParams))
    with pytest.raises(AssertionError, match="nothing was raised"):
        check_strategy("lax")


def test_dataset_that_ignores_its_seed_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, size=(60, 1, 8, 8), dtype=np.uint8)
    labels = np.tile(np.arange(10), 6)

    def load(spec: DataSpec, seed: int) -> Dataset:
        splits = [Split(images[i : i + 20], labels[i : i + 20]) for i in (0, 20, 40)]
        return Dataset("fixed", SHAPE, *splits, tuple("abcdefghij"), "hash")

    register(monkeypatch, "nas.datasets", "blank", replace(fakes.BLANK, describe=lambda spec: SHAPE, load=load))
    with pytest.raises(AssertionError):
        check_dataset(DataSpec(name="blank"))
