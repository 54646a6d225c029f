"""Contracts over the registry: a space, a predictor or a strategy is tested by being registered.

Data sets have their own in ``test_datasets.py``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from nas.core import registry
from nas.core.arch import Floats, Genes, as_archs, check_genes, choice_counts, sample
from nas.core.errors import HwnasError, InvalidSpec, UnknownName
from nas.core.metrics import mape
from nas.core.ports import ImageShape, SearchSpace
from predictors.storage import dump_predictor, load_predictor

SHAPE = ImageShape(channels=3, height=16, width=16, classes=5)
SPACES: list[tuple[str, str]] = [
    (name, preset)
    for name in registry.names("nas.search_spaces")
    for preset in getattr(registry.load("nas.search_spaces", name), "presets", ())
]
spaces = pytest.mark.parametrize(("name", "preset"), SPACES, ids=[f"{n}-{p}" for n, p in SPACES])
ALONE = [name for name in registry.names("nas.predictors") if name != "transfer"]  # which needs known devices
predictors = pytest.mark.parametrize("family", ALONE)
strategies = pytest.mark.parametrize("strategy", registry.names("nas.strategies"))


def space_of(name: str, preset: str, shape: ImageShape = SHAPE) -> SearchSpace:
    space: SearchSpace = registry.load("nas.search_spaces", name)({"preset": preset}, shape)
    return space


def some(space: SearchSpace, n: int) -> Genes:
    """The smallest network, the largest one, and random ones; canonical."""
    counts = choice_counts(space.decisions)
    ends = np.stack([np.zeros_like(counts), counts - 1])
    return space.canonical(np.concatenate([ends, sample(space.decisions, np.random.default_rng(1), n - 2)]))


def test_every_space_has_a_preset_and_every_plugin_a_summary() -> None:
    assert {name for name, _ in SPACES} == set(registry.names("nas.search_spaces"))
    groups: tuple[registry.Group, ...] = ("nas.search_spaces", "nas.strategies", "nas.predictors", "nas.datasets")
    for group in groups:
        assert registry.names(group)
        for name in registry.names(group):
            assert (registry.load(group, name).__doc__ or "").strip(), f"{group}: {name} has no docstring"


@spaces
def test_a_space_is_named_by_its_content(name: str, preset: str) -> None:
    space = space_of(name, preset)
    assert space.name == name
    assert space.id == space_of(name, preset).id
    assert space.id != space_of(name, preset, ImageShape(3, 16, 16, classes=6)).id
    rebuilt: SearchSpace = registry.load("nas.search_spaces", name)(space.params, SHAPE)
    assert rebuilt.id == space.id  # the parameters say everything
    assert len({d.name for d in space.decisions}) == len(space.decisions)
    for decision in space.decisions:
        assert len(set(decision.choices)) == len(decision.choices) >= 1


@spaces
def test_canonical_is_idempotent_and_keeps_what_a_network_is(name: str, preset: str) -> None:
    space = space_of(name, preset)
    drawn = sample(space.decisions, np.random.default_rng(0), 200)
    canonical = space.canonical(drawn)
    check_genes(space.decisions, canonical)
    assert (space.canonical(canonical) == canonical).all()
    for key, cost in space.costs(drawn).items():
        assert (space.costs(canonical)[key] == cost).all()
    assert (space.features(drawn) == space.features(canonical)).all()
    for a, b in zip(as_archs(space.id, drawn[:10]), as_archs(space.id, canonical[:10]), strict=True):
        assert space.layers(a) == space.layers(b)


@spaces
def test_costs_are_the_sum_over_layers_and_features_are_finite(name: str, preset: str) -> None:
    space = space_of(name, preset)
    genes = some(space, 40)
    costs, features = space.costs(genes), space.features(genes)
    assert features.shape[0] == 40
    assert np.isfinite(features).all()
    for i, arch in enumerate(as_archs(space.id, genes)):
        layers = space.layers(arch)
        assert costs["params"][i] == sum(layer.params for layer in layers) > 0
        assert costs["macs"][i] == sum(layer.macs for layer in layers) > 0
        assert layers[0].in_shape == space.input_shape(arch)
        assert layers[-1].out_shape[0] == SHAPE.classes
        made = [{layer.out_shape[0] for layer in layers[:i]} for i in range(1, len(layers))]
        assert all(layer.in_shape[0] in before for layer, before in zip(layers[1:], made, strict=True))
    assert costs["params"][0] == costs["params"].min() <= costs["params"].max() == costs["params"][1]  # or all equal
    assert costs["macs"][0] == costs["macs"].min() < costs["macs"].max() == costs["macs"][1]


@spaces
def test_a_space_refuses_parameters_that_it_does_not_know(name: str, preset: str) -> None:
    build = registry.load("nas.search_spaces", name)
    with pytest.raises(InvalidSpec, match="no_such_parameter"):
        build({"preset": preset, "no_such_parameter": 1}, SHAPE)
    with pytest.raises(UnknownName):
        build({"preset": f"{preset}x"}, SHAPE)
    with pytest.raises(UnknownName):
        build({"preset": [preset]}, SHAPE)


@pytest.mark.parametrize("name", registry.names("nas.search_spaces"))
def test_a_subnet_is_the_supernet_at_its_architecture(name: str) -> None:
    cheapest = min(
        (space_of(name, preset) for n, preset in SPACES if n == name),
        key=lambda s: float(s.costs(some(s, 2))["params"][1]),
    )
    torch.set_num_threads(1)
    net = cheapest.supernet(seed=3).train()
    for arch in as_archs(cheapest.id, some(cheapest, 6)):
        x_BCHW = torch.randn(4, *cheapest.input_shape(arch), generator=torch.Generator().manual_seed(0))
        module = net.subnet(arch).train()
        assert sum(p.numel() for p in module.parameters()) == cheapest.costs(np.array([arch.genes]))["params"][0]
        with torch.no_grad():
            before, alone, after = _seeded(net, x_BCHW, arch), _seeded(module, x_BCHW), _seeded(net, x_BCHW, arch)
        assert alone.shape == (4, SHAPE.classes)
        torch.testing.assert_close(before, alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(before, after, rtol=0, atol=0)
    other = cheapest.supernet(seed=4).state_dict()
    assert any(not torch.equal(v, other[k]) for k, v in net.state_dict().items())


def _seeded(module: torch.nn.Module, *inputs: Any) -> torch.Tensor:
    torch.manual_seed(0)  # dropout
    out: torch.Tensor = module(*inputs)
    return out


def planted(n: int, seed: int) -> tuple[Floats, Floats]:
    """Features of random networks of the default space, and latencies nearly linear in them."""
    space = space_of("mobilenet_v3", "digits")
    features = space.features(sample(space.decisions, np.random.default_rng(seed), n))
    weights = np.random.default_rng(0).gamma(1.0, size=features.shape[1]) / features.shape[1]
    rng = np.random.default_rng(seed + 1)
    return features, (features / features.mean(axis=0)) @ weights * rng.normal(1.0, 0.03, size=n) + 0.1


@predictors
def test_a_predictor_learns_bounds_and_survives_storage(family: str) -> None:
    features, latency = planted(400, seed=1)
    fitted = registry.load("nas.predictors", family).fit(features[:100], latency[:100])
    assert fitted.family == family
    predicted, truth = fitted.predict(features[100:]), latency[100:]
    guess = np.full(len(truth), np.median(latency[:100]))
    assert mape(truth, predicted.mean_ms) < 0.5 * mape(truth, guess)
    assert (predicted.mean_ms > 0).all()
    assert (predicted.upper_ms >= predicted.mean_ms).all()
    assert (truth <= predicted.upper_ms).mean() >= 0.88  # a 95 % bound, calibrated on 100 networks
    kept = load_predictor(family, dump_predictor(fitted)).predict(features)
    assert kept.mean_ms.tolist() == fitted.predict(features).mean_ms.tolist()
    assert kept.upper_ms.tolist() == fitted.predict(features).upper_ms.tolist()
    again = registry.load("nas.predictors", family).fit(features[:100], latency[:100])
    assert again.predict(features).upper_ms.tolist() == kept.upper_ms.tolist()


@predictors
def test_a_predictor_refuses_too_little(family: str) -> None:
    features, latency = planted(30, seed=2)
    fit = registry.load("nas.predictors", family).fit
    with pytest.raises(HwnasError):
        fit(features[:3], latency[:3])
    with pytest.raises(HwnasError):
        fit(features, -latency)


@strategies
def test_a_strategy_has_strict_parameters_with_defaults(strategy: str) -> None:
    model = registry.load("nas.strategies", strategy).params_model
    assert model().model_dump(mode="json") == model.model_validate(model().model_dump(mode="json")).model_dump()
    with pytest.raises(ValueError, match="no_such_parameter"):
        model(no_such_parameter=1)
