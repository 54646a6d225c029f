"""Contracts over the registry: a space, a predictor or a strategy is tested by being registered.

The checks are those of ``nas.testing``. Data sets have their own tests in ``test_datasets.py``.
"""

from __future__ import annotations

import numpy as np
import pytest

from nas.core import registry
from nas.core.arch import Floats, sample
from nas.core.errors import UnknownName
from nas.core.ports import ImageShape, SearchSpace, is_relaxed
from nas.core.retraining import RetrainSpec
from nas.core.spec import DataSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.engine import stage_names, stages_of
from nas.testing.predictors import check_predictor
from nas.testing.search_spaces import (
    build_space,
    check_canonical,
    check_costs,
    check_errors,
    check_identity,
    check_mixing,
    check_relaxation,
    check_subnets,
    extremes_and_random,
)
from nas.testing.strategies import check_strategy
from predictors.storage import dump_predictor, load_predictor
from tests.support.engine import problem
from tests.support.spaces import WITHOUT_PARENT

SHAPE = ImageShape(channels=3, height=16, width=16, classes=5)
SPACES: list[tuple[str, str]] = [
    (name, preset) for name in WITHOUT_PARENT for preset in registry.load_space(name).presets
]
spaces = pytest.mark.parametrize(("name", "preset"), SPACES, ids=[f"{n}-{p}" for n, p in SPACES])
FROM_FEATURES = [name for name in registry.names("nas.predictors") if name != "transfer"]  # which needs other devices
predictors = pytest.mark.parametrize("family", FROM_FEATURES)


def space_of(name: str, preset: str) -> SearchSpace:
    return build_space(name, {"preset": preset}, SHAPE)


def test_every_space_has_a_preset_and_every_plugin_a_summary() -> None:
    assert {name for name, _ in SPACES} == set(WITHOUT_PARENT)
    values = [
        *((name, registry.load_space(name)) for name in registry.names("nas.search_spaces")),
        *((name, registry.load_strategy(name)) for name in registry.names("nas.strategies")),
        *((name, registry.load_dataset(name)) for name in registry.names("nas.datasets")),
    ]
    for name, plugin in values:
        assert plugin.name == name
        assert plugin.summary.endswith("."), name
    for family in registry.names("nas.predictors"):
        assert (registry.load_family(family).__doc__ or "").strip(), f"{family} has no docstring"


@spaces
def test_space_identity(name: str, preset: str) -> None:
    check_identity(name, {"preset": preset}, SHAPE)


@spaces
def test_space_canonical_genes(name: str, preset: str) -> None:
    check_canonical(space_of(name, preset))


@spaces
def test_space_costs_and_features(name: str, preset: str) -> None:
    check_costs(space_of(name, preset))


@spaces
def test_space_errors(name: str, preset: str) -> None:
    check_errors(name, {"preset": preset}, SHAPE)
    for unknown in (f"{preset}x", [preset]):
        with pytest.raises(UnknownName):
            build_space(name, {"preset": unknown}, SHAPE)


def smallest(name: str) -> SearchSpace:
    built = [space_of(name, preset) for n, preset in SPACES if n == name]
    return min(built, key=lambda s: float(s.costs(extremes_and_random(s, 2))["params"][1]))


@pytest.mark.parametrize("name", WITHOUT_PARENT)
def test_space_subnets(name: str) -> None:
    check_subnets(smallest(name))


@pytest.mark.parametrize("name", registry.relaxed_spaces())
def test_space_relaxation(name: str) -> None:
    space = smallest(name)
    assert is_relaxed(space)
    check_relaxation(space)
    check_mixing(space)


def planted(n: int, seed: int) -> tuple[Floats, Floats]:
    """Features of random networks of the default space, and latencies nearly linear in them."""
    space = space_of("mobilenet_v3", "digits")
    features = space.features(sample(space.decisions, np.random.default_rng(seed), n))
    weights = np.random.default_rng(0).gamma(1.0, size=features.shape[1]) / features.shape[1]
    rng = np.random.default_rng(seed + 1)
    return features, (features / features.mean(axis=0)) @ weights * rng.normal(1.0, 0.03, size=n) + 0.1


@predictors
def test_predictor(family: str) -> None:
    features, latency = planted(400, seed=1)
    check_predictor(family, features, latency)


@predictors
def test_predictor_survives_storage(family: str) -> None:
    features, latency = planted(400, seed=1)
    fitted = registry.load_family(family).fit(features[:100], latency[:100])
    loaded = load_predictor(family, dump_predictor(fitted)).predict(features)
    assert loaded.mean_ms.tolist() == fitted.predict(features).mean_ms.tolist()
    assert loaded.upper_ms.tolist() == fitted.predict(features).upper_ms.tolist()


@pytest.mark.parametrize("strategy", registry.names("nas.strategies"))
def test_strategy(strategy: str) -> None:
    check_strategy(strategy)


ANY_SPACE = [name for name in registry.names("nas.strategies") if not registry.load_strategy(name).model_only]


@pytest.mark.parametrize("retrain", [False, True])
@pytest.mark.parametrize("strategy", ANY_SPACE)
def test_stage_names_are_those_of_the_stages(strategy: str, retrain: bool) -> None:
    spec = SearchSpec(
        space=SpaceSpec(name="nas_bench_201", params={"preset": "digits"}),
        data=DataSpec(params={"max_train": 40}),
        strategy=StrategySpec(name=strategy),
        retrain=RetrainSpec() if retrain or strategy == "zero_cost" else None,
    )
    names = tuple(stage.name for stage in stages_of(problem(spec)))
    assert names == stage_names(spec)
    assert names[0] == "estimate"
    assert names[-3:] == ("verify", "refine", "export")
    assert ("retrain" in names) == (spec.retrain is not None)
