"""The predictors' contract, calibrated bounds, onboarding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.blobs import open_blobs
from nas.core import registry
from nas.core.arch import Arch, Floats, as_archs, sample
from nas.core.device import DeviceProfile, Measurement, MeasurementProtocol
from nas.core.errors import InvalidInput, InvalidSpec, MeasurementRefused
from nas.core.events import Event, SearchState, fold_all
from nas.core.layers import Layer
from nas.core.metrics import mape
from nas.core.ports import ImageShape, SearchSpace, predict_latency
from nas.core.spec import DeviceSpec, parse_spec
from predictors.calibration import upper_factor
from predictors.families.layer_lut import every_layer, to_measure
from predictors.onboarding import measured as onboarding
from predictors.onboarding.measured import onboard
from predictors.onboarding.selection import stratified
from predictors.storage import dump_predictor, load_predictor

PROTOCOL = MeasurementProtocol()


def profile(canary_ms: float | None = 0.2) -> DeviceProfile:
    return DeviceProfile("synthetic", "m", "p", 2, "onnxruntime", "1", "os", PROTOCOL, (0,), canary_ms)


# Calibration


@given(st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_bound_covers_new_networks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    covered = []
    for _ in range(60):
        ratio = rng.lognormal(sigma=0.1, size=61)
        factor = upper_factor(ratio[:60], np.ones(60))
        covered.append(ratio[60] <= factor)
    assert np.mean(covered) > 0.80  # 0.95 expected; 60 draws, five standard deviations


def test_the_bound_at_hand_can_be_trusted() -> None:
    """Of many calibrations, nine in ten yield a factor that covers at least 95 % of all networks."""
    rng = np.random.default_rng(0)
    for n in (45, 120):
        factors = [upper_factor(rng.lognormal(sigma=0.1, size=n), np.ones(n)) for _ in range(500)]
        truly_95 = math.exp(0.1 * 1.6448536)  # 95 % quantile of the ratios
        assert 0.86 <= np.mean(np.array(factors) >= truly_95) <= 0.96


def test_too_few_networks_give_no_bound() -> None:
    with pytest.raises(InvalidInput, match=r"at least 19.*got 10"):
        upper_factor(np.ones(10), np.ones(10))
    assert upper_factor(np.full(19, 0.5), np.ones(19)) == 1.0


# The contract of predictor families


@pytest.fixture(params=[name for name in registry.names("nas.predictors") if name != "transfer"])
def family(request: pytest.FixtureRequest) -> type:
    kind: type = registry.load_family(request.param)
    return kind


@pytest.fixture(scope="module")
def space() -> SearchSpace:
    return registry.load_space("mobilenet_v3").build({"preset": "digits"}, ImageShape(1, 8, 8, 10))


def planted(space: SearchSpace, n: int, noise: float, seed: int = 0) -> tuple[Floats, Floats]:
    """Features and latencies of a device whose latency is a positive sum over layers, with relative noise."""
    genes, _ = stratified(space, n, seed)
    features = space.features(genes)
    rng = np.random.default_rng(99)
    weights = rng.random(features.shape[1]) / features.std(0)
    latency = 0.02 + 0.01 * features @ weights
    return features, latency * (1 + noise * np.random.default_rng(seed).standard_normal(n))


def test_a_predictor_learns_an_additive_device_from_few_networks(family: type, space: SearchSpace) -> None:
    x, y = planted(space, 160, noise=0.01)
    predictor = family.fit(x[:72], y[:72])  # type: ignore[attr-defined]
    latency = predictor.predict(x[72:])
    assert np.mean(np.abs(latency.mean_ms - y[72:]) / y[72:]) < 0.02
    assert 0.85 <= np.mean(y[72:] <= latency.upper_ms) <= 1.0


def test_a_predictor_is_a_value(family: type, space: SearchSpace) -> None:
    x, y = planted(space, 60, noise=0.02)
    predictor = family.fit(x, y)  # type: ignore[attr-defined]
    again = load_predictor(predictor.family, dump_predictor(predictor))
    a, b = predictor.predict(x), again.predict(x)
    assert np.array_equal(a.mean_ms, b.mean_ms)
    assert np.array_equal(a.upper_ms, b.upper_ms)
    one = predictor.predict(x[:1])
    assert one.mean_ms[0] == pytest.approx(a.mean_ms[0])
    assert (a.upper_ms >= a.mean_ms).all()
    assert (predictor.predict(np.zeros_like(x)).mean_ms > 0).all()


def test_units_of_features_do_not_matter(family: type, space: SearchSpace) -> None:
    x, y = planted(space, 60, noise=0.02)
    scale = np.geomspace(1e-3, 1e3, x.shape[1])
    a = family.fit(x, y).predict(x).mean_ms  # type: ignore[attr-defined]
    b = family.fit(x * scale, y).predict(x * scale).mean_ms  # type: ignore[attr-defined]
    trees = registry.load_family("gradient_boosting")  # the last digit decides between equally good splits
    np.testing.assert_allclose(a, b, rtol=0.01 if family is trees else 1e-5)


def test_nonsense_is_refused(family: type, space: SearchSpace) -> None:
    x, y = planted(space, 40, noise=0.0)
    with pytest.raises(InvalidInput, match="at least 20"):
        family.fit(x[:5], y[:5])  # type: ignore[attr-defined]
    with pytest.raises(InvalidInput, match="positive"):
        family.fit(x, -y)  # type: ignore[attr-defined]


# Onboarding


def test_the_sample_is_stratified_and_distinct(space: SearchSpace) -> None:
    genes, held_out = stratified(space, 96, 0)
    assert len(np.unique(genes, axis=0)) == len(genes) == 96
    assert 20 <= held_out.sum() <= 28
    work = np.log(space.costs(genes)["macs"])
    for part in (work[held_out], work[~held_out]):
        counts, _ = np.histogram(part, bins=4, range=(work.min(), work.max()))
        assert counts.min() >= 2
    assert not held_out[[work.argmin(), work.argmax()]].any()


class FakeDevice:
    """Measures by a rule; counts how many networks it measured, and can die after some."""

    def __init__(self, dies_after: int | None = None, refuses: bool = False) -> None:
        self.measured = 0
        self.dies_after = dies_after
        self.refuses = refuses

    def __call__(
        self, models: Sequence[bytes], device: DeviceProfile, networks: Sequence[str], promised_ms: Any = None
    ) -> Iterator[Measurement]:
        for model in models:
            if self.dies_after is not None and self.measured >= self.dies_after:
                raise KeyboardInterrupt
            self.measured += 1
            ms = None if self.refuses else float(model)
            yield Measurement("p", device.id, ms, ms, ms, 9, 0.0, 1.0, refused="restless" if self.refuses else None)


def run_onboarding(
    space: SearchSpace,
    device: FakeDevice,
    folder: Path,
    state: SearchState,
    is_out_of_time: Callable[[], bool] = lambda: False,
) -> Iterator[Event]:
    x, y = planted(space, 200, noise=0.01)
    rule = registry.load_family("bayesian_linear").fit(x, y)

    def export(arch: Arch) -> bytes:
        return repr(float(rule.predict(space.features(np.array([arch.genes]))).mean_ms[0])).encode()

    spec = DeviceSpec(samples=48, max_hours=0.5)
    clock = iter(np.arange(1e6)).__next__
    blobs = open_blobs(str(folder))
    return onboard(
        spec, space, export, device, lambda *_: profile(), blobs, state, clock, is_out_of_time=is_out_of_time
    )


@pytest.mark.long
def test_layers_are_measured_first_where_the_predictor_composes_them(space: SearchSpace, tmp_path: Path) -> None:
    """Of a device on which a network takes half of its layers' times, and a tenth of a millisecond."""
    requested: list[str] = []
    genes: list[tuple[int, ...]] = []

    def layer_ms(layer: Layer | None) -> float:
        return 0.003 if layer is None else 0.003 + 1e-6 * layer.macs / (2 if layer.op == "depthwise" else 5) + 1e-3

    def model_of(arch: Arch) -> bytes:
        genes.append(arch.genes)
        return repr(0.1 + 0.5 * sum(layer_ms(layer) - 0.003 for layer in space.layers(arch))).encode()

    class Device(FakeDevice):
        def __call__(
            self, models: Sequence[bytes], device: DeviceProfile, networks: Sequence[str], promised_ms: Any = None
        ) -> Iterator[Measurement]:
            requested.extend(networks)
            yield from super().__call__(models, device, networks)

    def run(device: FakeDevice, state: SearchState, spec: DeviceSpec, with_layers: bool = True) -> Iterator[Event]:
        clock = iter(np.arange(1e6)).__next__
        blobs = open_blobs(str(tmp_path))
        layers = (lambda layer: repr(layer_ms(layer)).encode()) if with_layers else None
        return onboard(spec, space, model_of, device, lambda *_: profile(), blobs, state, clock, (), layers)

    spec = DeviceSpec(samples=40, predictor="layer_lut")
    layers = to_measure(every_layer(space))
    events: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        events.extend(run(Device(dies_after=100), SearchState(), spec))
    first = list(requested)
    state = fold_all(events)
    state = fold_all(run(Device(), state, spec), state)
    assert len({name for name in requested if name.startswith("layer-")}) == len(layers)
    assert all(name.startswith("layer-") for name in first)
    assert len(genes) == 40
    fit = state.finished["fit"]
    assert (fit["family"], fit["card"]["n"]) == ("layer_lut", 40)
    assert fit["card"]["mape"] < 0.5
    assert state.finished["measure"] == {"measured": 40, "refused": 0, "layers": len(layers), "attempts": 1}
    predictor = load_predictor("layer_lut", open_blobs(str(tmp_path)).get(fit["blob"]))
    test_genes_NG = space.canonical(sample(space.decisions, np.random.default_rng(3), 20))
    truth = [float(model_of(arch)) for arch in as_archs(space.id, test_genes_NG)]
    assert mape(np.array(truth), predict_latency(predictor, space, test_genes_NG).mean_ms) < 0.5

    with pytest.raises(MeasurementRefused, match="could not be measured"):
        list(run(FakeDevice(refuses=True), SearchState(), spec))
    with pytest.raises(InvalidInput, match="models of single layers"):
        list(run(FakeDevice(), SearchState(), spec, with_layers=False))
    with pytest.raises(InvalidSpec, match="measures layers"):
        parse_spec(DeviceSpec, {"predictor": "layer_lut", "source": "table", "table": {"blob": "0" * 64}})


def test_onboarding_goes_on_without_measuring_twice(space: SearchSpace, tmp_path: Path) -> None:
    events: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        events.extend(run_onboarding(space, FakeDevice(dies_after=35), tmp_path, SearchState()))
    state = fold_all(events)
    step = state.checkpoints["measure"].step
    assert 0 < step <= 35
    fresh = FakeDevice()
    state = fold_all(run_onboarding(space, fresh, tmp_path, state), state)
    assert fresh.measured == 48 - step
    card = state.finished["fit"]["card"]
    assert card["n"] == 48
    assert card["mape"] < 2.0
    assert card["spearman"] > 0.97
    undisturbed = fold_all(run_onboarding(space, FakeDevice(), tmp_path, SearchState()))
    assert undisturbed.finished["fit"]["blob"] == state.finished["fit"]["blob"]


def test_measurements_stay_with_their_networks_if_a_later_version_chooses_others(
    space: SearchSpace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    with pytest.raises(KeyboardInterrupt):
        events.extend(run_onboarding(space, FakeDevice(dies_after=35), tmp_path, SearchState()))
    state = fold_all(events)
    undisturbed = fold_all(run_onboarding(space, FakeDevice(), tmp_path, SearchState()))
    monkeypatch.setattr(onboarding, "stratified_and_informative", lambda space, n, seed: stratified(space, n, seed + 1))
    later = fold_all(run_onboarding(space, FakeDevice(), tmp_path, state), state)
    assert later.finished["fit"]["blob"] == undisturbed.finished["fit"]["blob"]


def test_an_unsteady_machine_keeps_what_was_good_and_measures_the_rest_later(
    space: SearchSpace, tmp_path: Path
) -> None:
    class UnsteadyDevice(FakeDevice):
        """Refuses all but every tenth network."""

        def __call__(self, models: Sequence[bytes], *more: Any) -> Iterator[Measurement]:
            for i, measurement in enumerate(super().__call__(models, *more)):
                yield measurement if i % 10 == 0 else replace(measurement, median_ms=None, refused="restless")

    events: list[Event] = []
    with pytest.raises(MeasurementRefused, match="expected at least 28 measured networks"):
        events.extend(run_onboarding(space, UnsteadyDevice(), tmp_path, SearchState()))
    state = fold_all(events)
    refused = state.finished["measure"]["refused"]
    calm = FakeDevice()
    state = fold_all(run_onboarding(space, calm, tmp_path, state), state)
    assert calm.measured == refused < 48
    assert state.finished["measure"] == {"measured": 48, "refused": 0, "attempts": 2}
    assert state.finished["fit"]["card"]["n"] == 48


def test_onboarding_out_of_time_learns_from_what_was_measured(space: SearchSpace, tmp_path: Path) -> None:
    device = FakeDevice()
    events = list(run_onboarding(space, device, tmp_path, SearchState(), lambda: device.measured >= 17))
    state = fold_all(events)
    assert device.measured == 32  # of 48, in groups of 16: the one that was begun is measured to its end
    assert state.warnings == ("16 of 48 networks were left out: the time limit of the onboarding, 0.5 h, was reached",)
    assert state.finished["measure"] == {"measured": 32, "refused": 16, "attempts": 1}
    assert state.finished["fit"]["card"]["n"] == 32
    with pytest.raises(MeasurementRefused, match=r"got 16 of 48.*time limit of the onboarding"):
        list(run_onboarding(space, device := FakeDevice(), tmp_path, SearchState(), lambda: device.measured >= 1))


def test_a_machine_where_nothing_can_be_measured_is_refused(space: SearchSpace, tmp_path: Path) -> None:
    with pytest.raises(MeasurementRefused, match="expected at least 28 measured networks on this-machine, got 0 of 48"):
        list(run_onboarding(space, FakeDevice(refuses=True), tmp_path, SearchState()))
