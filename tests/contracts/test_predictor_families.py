"""The contract of every family of predictors, on latencies of known structure; and what is built upon them."""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from nas.core import registry
from nas.core.arch import Decision, Floats, Genes, as_archs, one_hot, sample
from nas.core.errors import InvalidInput, StorageError, UnknownName
from nas.core.metrics import mape, spearman
from nas.core.ports import ImageShape, predict_latency
from predictors.families.auto import AutoPredictor
from predictors.families.bayesian_linear import BayesianLinear
from predictors.families.layer_lut import LayerLut, distinct_layers, every_layer, layer_key
from predictors.families.transfer import Transfer
from predictors.onboarding.fitting import fit_networks
from predictors.onboarding.selection import d_optimal, stratified, stratified_and_informative
from predictors.relatives import Relatives, Table
from predictors.storage import dump_predictor, load_predictor
from search_spaces.mobilenet_v3.space import build

DECISIONS = tuple(Decision(f"layer{i}", ("a", "b", "c", "d")) for i in range(6))
X = one_hot(DECISIONS, sample(DECISIONS, np.random.default_rng(0), 1000))
FAMILIES = registry.names("nas.predictors")
families = pytest.mark.parametrize("family", FAMILIES)


def additive(seed: int, noise: float = 0.02) -> Floats:
    """Milliseconds of all networks: a time for each choice, and relative noise."""
    rng = np.random.default_rng(seed)
    clean = 1.0 + X @ rng.gamma(1.0, size=X.shape[1])
    return np.asarray(clean * (1 + noise * rng.standard_normal(len(X))))


@cache
def relatives() -> Relatives:
    return Relatives.learn([Table(X[500:700], additive(100 + d)[500:700]) for d in range(4)])


def fit(family: str, x: Floats, y: Floats) -> Any:
    kind = registry.load_family(family)
    if kind is not Transfer:
        return kind.fit(x, y)
    few = slice(24 if len(x) == len(y) else None)  # a handful is what it is for
    return kind.fit(x[few], y[few], relatives())


@cache
def fitted(family: str) -> Any:
    return fit(family, X[:160], additive(1)[:160])


@families
def test_an_additive_latency_is_recovered(family: str) -> None:
    start_s = time.process_time()
    predicted = fit(family, X[:160], additive(2)[:160]).predict(X[700:])
    assert time.process_time() - start_s < 20
    assert spearman(additive(2)[700:], predicted.mean_ms) > 0.95
    assert mape(additive(2)[700:], predicted.mean_ms) < 6


@families
def test_the_bound_covers_networks_that_were_not_measured(family: str) -> None:
    covered = []
    for seed in range(3, 5):
        y = additive(seed, noise=0.05)
        covered.append((y[700:] <= fit(family, X[:100], y[:100]).predict(X[700:]).upper_ms).mean())
    assert 0.92 <= np.mean(covered) <= 0.999


@families
def test_the_bound_is_above_the_mean_and_in_its_order(family: str) -> None:
    predicted = fitted(family).predict(X)
    order = predicted.mean_ms.argsort(kind="stable")
    assert (predicted.upper_ms >= predicted.mean_ms).all()
    assert (np.diff(predicted.upper_ms[order]) >= 0).all()


@families
def test_noisier_latencies_have_a_wider_bound(family: str) -> None:
    ratios = []
    for noise in (0.01, 0.2):
        predicted = fit(family, X[:120], np.abs(additive(7, noise)[:120])).predict(X[700:])
        ratios.append(np.mean(predicted.upper_ms / predicted.mean_ms))
    assert ratios[1] > ratios[0] + 0.05


@families
def test_a_predictor_is_kept_bit_by_bit(family: str) -> None:
    predictor = fitted(family)
    again: Any = load_predictor(family, dump_predictor(predictor))
    assert type(again) is type(predictor)
    before, after = predictor.predict(X), again.predict(X)
    assert before.mean_ms.tobytes() == after.mean_ms.tobytes()
    assert before.upper_ms.tobytes() == after.upper_ms.tobytes()
    assert (again.is_extrapolation(3 * X) == predictor.is_extrapolation(3 * X)).all()
    assert dump_predictor(again) == dump_predictor(predictor)
    assert all(a.dtype != object for a in predictor.to_arrays().values())
    with pytest.raises(StorageError):
        load_predictor(family, dump_predictor(predictor)[:200])


@families
def test_the_same_measurements_make_the_same_predictor(family: str) -> None:
    assert dump_predictor(fit(family, X[:160], additive(1)[:160])) == dump_predictor(fitted(family))


@families
def test_networks_unlike_all_measured_ones_are_told(family: str) -> None:
    predictor = fitted(family)
    assert predictor.is_extrapolation(X[700:]).mean() < 0.02
    assert predictor.is_extrapolation(X[700:] * 5).all()
    without = X[X[:, 3] == 0]  # nobody has measured the last choice of the first layer
    y = additive(1)[X[:, 3] == 0]
    if family != "transfer":  # its relatives have
        narrow = fit(family, without[:160], y[:160])
        assert (narrow.is_extrapolation(X[700:]) == (X[700:, 3] == 1)).mean() > 0.98


@families
def test_bad_input_is_refused(family: str) -> None:
    x, y = X[:40], additive(1)[:40]
    with pytest.raises(InvalidInput, match="at least"):
        fit(family, x[:2], y[:2])
    for value, message in ((-1.0, "positive"), (0.0, "positive"), (np.nan, "finite"), (np.inf, "finite")):
        wrong = y.copy()
        wrong[5] = value
        with pytest.raises(InvalidInput, match=message):
            fit(family, x, wrong)
    with pytest.raises(InvalidInput, match="features"):
        fit(family, x[:30], y)
    wrong_x = x.copy()
    wrong_x[3, 3] = np.nan
    with pytest.raises(InvalidInput, match="finite"):
        fit(family, wrong_x, y)
    with pytest.raises(InvalidInput, match="another search space"):
        fitted(family).predict(X[:, :-1])
    with pytest.raises(InvalidInput, match="finite"):
        fitted(family).predict(wrong_x)


def test_a_predictor_from_before_there_were_domains_still_loads() -> None:
    arrays = replace(fitted("bayesian_linear"), domain=None).to_arrays()
    assert set(arrays) == {"weights_F", "scalars"}
    old = BayesianLinear.from_arrays(arrays)
    assert (old.predict(X).mean_ms == fitted("bayesian_linear").predict(X).mean_ms).all()
    assert old.is_extrapolation(X) is None


def test_the_best_is_linear_where_latency_is_and_is_not_where_it_is_not() -> None:
    assert fitted("auto").chosen.family == "bayesian_linear"
    rng = np.random.default_rng(3)
    pairs = np.einsum("nf,ng->nfg", X, X).reshape(len(X), -1)
    bent = 1.0 + pairs @ (rng.gamma(0.3, size=pairs.shape[1]) * (rng.random(pairs.shape[1]) < 0.1))
    best = AutoPredictor.fit(X[:400], bent[:400], folds=4)
    assert best.chosen.family != "bayesian_linear"
    linear = BayesianLinear.fit(X[:400], bent[:400])
    truth = bent[700:]
    assert mape(truth, best.predict(X[700:]).mean_ms) < 0.9 * mape(truth, linear.predict(X[700:]).mean_ms)
    assert best.errors[best.chosen.family] == min(best.errors.values())


def test_what_is_measured_next_tells_more_than_chance() -> None:
    optimal_rows = d_optimal(X[:300], 20)
    assert len(set(optimal_rows.tolist())) == 20
    random = [np.random.default_rng(s).choice(300, 20, replace=False) for s in range(30)]
    assert information(X[:300], optimal_rows) > max(information(X[:300], r) for r in random)
    errors = []
    for seed in range(8):
        y, rows = additive(seed, noise=0.0), random[seed][:10]
        guided = np.concatenate([rows, d_optimal(X[:300], 14, rows)])
        errors.append(
            [mape(y[700:], BayesianLinear.fit(X[r], y[r]).predict(X[700:]).mean_ms) for r in (guided, _at_random(seed))]
        )
    guided_mean, random_mean = np.mean(errors, axis=0)
    assert guided_mean < random_mean
    with pytest.raises(InvalidInput, match="between 1 and 290"):
        d_optimal(X[:300], 291, np.arange(10))


def information(features_NF: Floats, rows: Any) -> float:
    """What measuring the ``rows`` tells of a linear model over the candidates, in nats."""
    spread_F = features_NF.std(0)
    x_NF = (features_NF - features_NF.mean(0)) / np.where(spread_F > 0, spread_F, np.inf)
    x_KP = np.hstack([x_NF / np.sqrt(max(1, int((spread_F > 0).sum()))), np.ones((len(x_NF), 1))])[rows]
    return 0.5 * float(np.linalg.slogdet(np.eye(len(rows)) + x_KP @ x_KP.T / 0.1)[1])


def _at_random(seed: int) -> Any:
    return np.random.default_rng(50 + seed).choice(300, 24, replace=False)


def test_half_of_what_an_onboarding_fits_to_is_chosen_for_what_it_tells() -> None:
    genes, held_out = stratified_and_informative(SPACE, 48, 0)
    plain, plain_held_out = stratified(SPACE, 48, 0)
    assert len(np.unique(genes, axis=0)) == 48
    assert (held_out == plain_held_out).all()
    assert (genes[held_out] == plain[held_out]).all()
    assert 15 <= (genes != plain).any(1).sum() <= 18
    macs, plain_macs = SPACE.costs(genes)["macs"], SPACE.costs(plain)["macs"]
    assert (macs.min(), macs.max()) == (plain_macs.min(), plain_macs.max())
    both = SPACE.features(np.concatenate([genes, plain]))
    fitted = np.flatnonzero(~held_out)
    assert information(both, fitted) > information(both, 48 + fitted)
    assert (stratified_and_informative(SPACE, 48, 0)[0] == genes).all()


SPACE = build({"preset": "digits"}, ImageShape(1, 8, 8, 10))
GENES: Genes = SPACE.canonical(sample(SPACE.decisions, np.random.default_rng(0), 160))


def layer_ms(key: str) -> float:
    return 0.001 * (1 + sum(key.encode()) % 97)


def test_layers_add_up_and_whole_networks_correct_them() -> None:
    archs = as_archs(SPACE.id, GENES)
    table = LayerLut.of({key: layer_ms(key) for key in distinct_layers(SPACE, archs)})
    sums = table.by_kind(SPACE, archs)
    expected = [sum(layer_ms(layer_key(la)) for la in SPACE.layers(a)) for a in archs]
    np.testing.assert_allclose(sums.sum(1), expected, rtol=1e-9)
    taste = np.linspace(0.4, 1.3, len(table.kinds))
    whole_ms = 0.05 + sums @ taste
    predictor = table.fit_networks(SPACE, GENES[:60], whole_ms[:60])
    again = load_predictor("layer_lut", dump_predictor(predictor))
    assert mape(whole_ms[60:], predict_latency(again, SPACE, GENES[60:]).mean_ms) < 1
    assert again.table == table  # type: ignore[attr-defined]
    refit = fit_networks(again, SPACE, GENES[:40], 2 * whole_ms[:40])
    assert mape(2 * whole_ms[60:], predict_latency(refit, SPACE, GENES[60:]).mean_ms) < 1
    with pytest.raises(InvalidInput, match="with a table of layers"):
        predict_latency(fitted("layer_lut"), SPACE, GENES)
    assert mape(whole_ms[60:], sums[60:].sum(1)) > 5
    key = next(iter(table.latency_ms))
    partial = LayerLut.of({k: v for k, v in table.latency_ms.items() if k != key})
    with pytest.raises(UnknownName, match="layer"):
        partial.by_kind(SPACE, archs)
    with pytest.raises(InvalidInput, match="milliseconds"):
        LayerLut.of({key: float("nan")})


def test_all_layers_of_a_space_are_found() -> None:
    layers = every_layer(SPACE)
    random_genes_NG = SPACE.canonical(sample(SPACE.decisions, np.random.default_rng(77), 1500))
    assert distinct_layers(SPACE, as_archs(SPACE.id, random_genes_NG)).keys() <= layers.keys()
    assert list(layers) == sorted(layers) == list(every_layer(SPACE))
    large = build({"preset": "imagenet", "widths": [0.5, 0.75, 1.0]}, ImageShape(3, 224, 224, 1000))
    with pytest.raises(InvalidInput, match="at most 2500 different layers"):
        every_layer(large)
