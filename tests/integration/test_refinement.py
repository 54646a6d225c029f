"""What is measured is fed back: predictors get versions that are never worse, and a search whose predictor was wrong
somewhere looks again around the hole, without training."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.arch import Arch, Floats, Genes, as_archs, as_genes, sample
from nas.core.data_account import DataAccount
from nas.core.device import DeviceProfile, Measurement
from nas.core.errors import InvalidInput
from nas.core.events import (
    Candidate,
    Evaluated,
    Event,
    Measured,
    Origin,
    Refitted,
    SearchState,
    StageFinished,
    Warned,
    decode,
    encode,
    fold,
    fold_all,
)
from nas.core.jobs import DryRunPayload, SearchPayload
from nas.core.ports import LatencyPredictor, Problem, Resources, Split, Stage, predict_latency
from nas.core.spec import (
    BudgetSpec,
    DataSpec,
    DeviceSpec,
    ExportSpec,
    ObjectiveSpec,
    SearchSpec,
    SpaceSpec,
    StrategySpec,
)
from nas.core.tasks import TaskScores
from nas.engine import run_search
from nas.stages import explore, precision, refine, verify
from nas.stages.estimate import EstimateStage
from nas.stages.explore import ExploreStage
from nas.stages.fronts import front_of
from nas.stages.refine import RefineStage
from nas.stages.verify import VerifyStage
from predictors.families.bayesian_linear import BayesianLinear
from predictors.onboarding.card import make_card
from predictors.onboarding.fitting import fit_family, fit_networks, fit_transfer
from predictors.onboarding.knowledge import NO_KNOWLEDGE, Knowledge, knowledge
from predictors.onboarding.measured import fit_result
from predictors.onboarding.refit import RefitService, can_learn, refitted
from predictors.storage import DeviceMeasurements, dump_predictor, load_measurements
from server.store.store import open_store
from tests.support import fakes
from tests.support.engine import cuts
from workers import runner

SPEC = SearchSpec(
    space=SpaceSpec(params={"preset": "digits"}),
    data=DataSpec(),
    budget=BudgetSpec(evaluations=64, verified=12),
)
PROFILE = DeviceProfile("planted", "m", "p", 1, "r", "1", "os")
DATA = registry.load_dataset("digits").describe(SPEC.data)
SPACE = registry.load_space("mobilenet_v3").build(SPEC.space.params, DATA)
POOL = SPACE.canonical(sample(SPACE.decisions, np.random.default_rng(0), 4000))
EDGE = float(np.quantile(SPACE.costs(POOL)["macs"], 0.3))


def usual_ms(genes_NG: Genes) -> Floats:
    features = SPACE.features(genes_NG)
    return np.asarray(0.05 + features @ (1.0 / np.maximum(SPACE.features(POOL).mean(0), 1e-9)) / features.shape[1])


def planted_ms(genes_NG: Genes) -> Floats:
    """Larger networks leave the cache, which nobody knows beforehand."""
    return np.where(SPACE.costs(genes_NG)["macs"] > EDGE, 1.6, 1.0) * usual_ms(genes_NG)


def onboarded(ms: Any = usual_ms, n: int = 60) -> DeviceMeasurements:
    """As if only small networks had been measured."""
    small = POOL[SPACE.costs(POOL)["macs"] <= EDGE][:n]
    return DeviceMeasurements(small, ms(small), np.arange(n) % 4 == 0)


ONBOARDED_DATA = onboarded()
FIRST = BayesianLinear.fit(SPACE.features(ONBOARDED_DATA.genes_NG), ONBOARDED_DATA.latency_ms_N)
WIDE = replace(FIRST, factor=1.5)  # whose bound nothing breaks


class RecordingDevice:
    """Measures by a rule; knows networks by their ids, once it was told of them."""

    def __init__(self, ms: Any = planted_ms) -> None:
        self.ms, self.known, self.measured = ms, dict[str, Arch](), 0

    def observe(self, event: Event) -> Event:
        if isinstance(event, Evaluated):
            self.known |= {p.arch.id: p.arch for p in event.candidates}
        return event

    def __call__(
        self, models: Sequence[bytes], profile: DeviceProfile, networks: Sequence[str], promised_ms: Any = None
    ) -> Iterator[Any]:
        for network in networks:
            self.measured += 1
            ms = float(self.ms(as_genes([self.known[network]]))[0])
            yield Measurement(profile.protocol.id, profile.id, ms, ms, ms, 9, 0.0, 1.0)


class Scores:
    """Subnets whose accuracy is a rule: larger is better, with a twist of each network's own."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    def cut(self, arch: Arch, origin: Origin = "search") -> Arch:
        return arch

    def with_normalisation(self, module: Any) -> Any:
        return module

    def score(self, module: Any, arch: Arch, split: Any, survives_rung: Any = None) -> Any:
        macs = float(SPACE.costs(as_genes([arch]))["macs"][0])
        twist = int(arch.id[:6], 16) / 0xFFFFFF
        accuracy = 100 - 40 / (1 + macs / EDGE) - 3 * twist
        recall = (accuracy,) * DATA.classes
        return TaskScores(accuracy, {"balanced_accuracy": accuracy}, recall, 1.0)


@pytest.fixture(autouse=True)
def _no_supernet(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (explore, refine, verify):
        monkeypatch.setattr(module, "load_subnets", lambda problem, *_, **__: Scores(problem))
    monkeypatch.setattr(precision, "to_onnx", lambda *_: b"")


def bound_ms() -> float:
    return float(np.quantile(usual_ms(POOL), 0.5))


def problem(reexplore: int = 2, bound: float | None = -1.0) -> Problem:
    bound = bound_ms() if bound == -1.0 else bound
    spec = SPEC.model_copy(
        update={
            "objectives": (ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=bound)),
            "budget": SPEC.budget.model_copy(update={"reexplore": reexplore}),
        }
    )
    test = Split(np.zeros((100, 1, 8, 8), dtype=np.uint8), np.arange(100) % 10)
    data: Any = SimpleNamespace(shape=DATA, val=test, test=test, content_hash="planted", account=DataAccount())
    return Problem(spec, SPACE, data, PROFILE, FIRST)


STAGES: tuple[Stage, ...] = (
    EstimateStage(),
    ExploreStage(rounds=4, population=48, generations=20),
    VerifyStage(group=4),
    RefineStage(population=48, generations=20, group=4),
)


def run(
    folder: Path, p: Problem, events: Sequence[Event] = (), device: RecordingDevice | None = None
) -> Iterator[Event]:
    device = device or RecordingDevice()
    for event in events:
        device.observe(event)
    ticks = count()
    blobs = FolderBlobs(folder)
    refit = RefitService(FIRST, ONBOARDED_DATA, SPACE, PROFILE, blobs)
    resources = Resources(blobs, device, lambda: float(next(ticks)), refit=refit)
    return (device.observe(e) for e in run_search(p, STAGES, resources, fold_all(events)))


def durable(events: Sequence[Event]) -> list[Event]:
    return [decode(json.loads(json.dumps(encode(e)))) for e in events]


@pytest.fixture(scope="module")
def refined_search(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Path]:
    folder = tmp_path_factory.mktemp("blobs")
    with pytest.MonkeyPatch.context() as patch:
        for module in (explore, refine, verify):
            patch.setattr(module, "load_subnets", lambda problem, *_, **__: Scores(problem))
        patch.setattr(precision, "to_onnx", lambda *_: b"")
        return durable(list(run(folder, problem()))), folder


def until_verified(events: Sequence[Event]) -> SearchState:
    state = SearchState()
    for event in events:
        if isinstance(event, Refitted):
            return state
        state = fold(state, event)
    raise AssertionError("the predictor never learned")


def test_a_search_looks_again_around_a_hole_and_keeps_its_bound(refined_search: tuple[list[Event], Path]) -> None:
    events, _ = refined_search
    spec = problem().spec
    before, after = until_verified(events), fold_all(events)
    broken = [p for p in before.of("search") if p.status == "violated"]
    dropped, front = front_of(spec, before), front_of(spec, after)
    assert len(broken) >= 3
    assert all(p.status == "verified" and p.metrics["measured_ms"] <= bound_ms() for p in front.members)
    assert front.hypervolume is not None
    assert dropped.hypervolume is not None
    assert front.hypervolume > dropped.hypervolume
    later = {e.number: e for e in after.refits}
    assert later[1].broken == len(broken)
    assert later[max(later)].broken < len(broken)
    assert len(after.of("search")) == len(after.of("baseline")) > 64  # the baseline was given as much


@pytest.mark.long
def test_a_search_that_is_cut_anywhere_learns_the_same(refined_search: tuple[list[Event], Path]) -> None:
    events, folder = refined_search
    expected = fold_all(events)
    first = next(i for i, e in enumerate(events) if isinstance(e, Measured))
    refits = [i for i, e in enumerate(events) if isinstance(e, Refitted)]
    for cut in sorted({*cuts(events, first), *range(first, len(events), len(events) // 4), *refits}):
        device = RecordingDevice()
        before = events[: cut + 1]
        state = fold_all(run(folder, problem(), before, device), fold_all(before))
        assert state.candidates == expected.candidates, f"cut after event {cut}: {events[cut]}"
        assert state.refits == expected.refits
        done = sum(isinstance(e, Measured) for e in before)
        assert device.measured == sum(isinstance(e, Measured) for e in events) - done


@pytest.mark.long
def test_how_often_it_looks_again_is_bounded_and_can_be_none(
    refined_search: tuple[list[Event], Path], tmp_path: Path
) -> None:
    events, folder = refined_search
    start = next(i for i, e in enumerate(events) if isinstance(e, Refitted))
    off = fold_all(run(folder, problem(reexplore=0), events[:start]), fold_all(events[:start]))
    assert [r.number for r in off.refits] == [1]
    assert off.finished["refine"]["rounds"] == 0
    assert len(off.of("search")) == 64
    moving = count(2)

    def worse_and_worse(genes_NG: Genes) -> Floats:
        return float(next(moving)) * usual_ms(genes_NG)

    state = fold_all(run(tmp_path, problem(1, bound=None), device=RecordingDevice(worse_and_worse)))
    assert state.finished["refine"]["rounds"] == 1
    assert [r.number for r in state.refits] == [1, 2]


def test_networks_outside_the_domain_are_flagged_and_measured_before_others(
    refined_search: tuple[list[Event], Path],
) -> None:
    """Only small networks were measured at the onboarding; the large ones are extrapolations."""
    events, _ = refined_search
    before = until_verified(events)
    candidates = [*before.candidates.values()]
    outside = FIRST.extrapolations(SPACE, as_genes([p.arch for p in candidates]))
    assert outside is not None
    assert 0 < outside.sum() < len(outside)
    assert [p.extrapolated for p in candidates] == outside.tolist()
    first = next(i for i, event in enumerate(events) if isinstance(event, Measured))
    front = front_of(problem().spec, fold_all(events[:first]))
    flagged = [p for p in front.members if p.extrapolated]
    assert 0 < len(flagged) <= 12
    assert all(before.candidates[p.key].measurement is not None for p in flagged)


def test_networks_outside_the_domain_come_first_whatever_their_rank() -> None:
    points = [Candidate(Arch("s", (i,)), "search", extrapolated=i in (3, 4, 11)) for i in range(12)]
    ranks = [p.arch.genes[0] for p in verify.measured_first(points, 6)]
    assert ranks == [3, 4, 11, 0, 6, 10]
    assert [p.arch.genes[0] for p in verify.measured_first(points, 2)] == [3, 11]
    assert len(verify.measured_first(points, 40)) == 12


@pytest.mark.long
def test_extrapolations_on_the_front_are_measured_in_rounds_even_if_no_bound_breaks(tmp_path: Path) -> None:
    def few_verified(reexplore: int) -> SearchState:
        p = problem(reexplore, bound=None)
        budget = p.spec.budget.model_copy(update={"verified": 3})
        p = replace(p, spec=p.spec.model_copy(update={"budget": budget}), predictor=WIDE)
        ticks, device = count(), RecordingDevice(usual_ms)
        known = replace(ONBOARDED_DATA, held_out_N=np.zeros(len(ONBOARDED_DATA.genes_NG), dtype=bool))
        refit = _KeepsDomain(WIDE, known, SPACE, PROFILE, FolderBlobs(tmp_path))
        resources = Resources(FolderBlobs(tmp_path), device, lambda: float(next(ticks)), refit=refit)
        return fold_all(device.observe(e) for e in run_search(p, STAGES, resources, SearchState()))

    once, often = few_verified(0), few_verified(2)
    assert once.refits[0].broken == often.refits[0].broken == 0

    def measured_outside(state: SearchState) -> int:
        return sum(p.extrapolated is True and p.measurement is not None for p in state.of("search"))

    assert len(once.of("search")) == len(often.of("search"))  # nothing was explored again
    assert measured_outside(often) > measured_outside(once)


class _KeepsDomain(RefitService):
    """Whose refits know the same domain as before, as if they had learned nothing."""

    def load(self, record: Any) -> Any:
        return WIDE


def test_only_what_was_measured_alike_is_learned_from(tmp_path: Path) -> None:
    class Otherwise(RecordingDevice):
        def __call__(
            self, models: Sequence[bytes], profile: DeviceProfile, networks: Sequence[str], promised_ms: Any = None
        ) -> Iterator[Any]:
            for i, m in enumerate(super().__call__(models, profile, networks)):
                refused = replace(m, median_ms=None, low_ms=None, high_ms=None, refused="unsteady")
                yield [replace(m, protocol="another"), replace(m, profile="another"), refused][i % 3]

    state = fold_all(run(tmp_path, problem(), device=Otherwise()))
    assert any(p.measurement is not None for p in state.candidates.values())
    assert state.refits == ()
    assert state.finished["refine"]["refits"] == 0


# Versions of a predictor


def test_a_refit_mends_a_bound_that_was_broken_and_leaves_the_old_version_alone() -> None:
    hole = POOL[SPACE.costs(POOL)["macs"] > EDGE]
    fed, held_out = hole[:30], hole[30:]
    first_arrays = dump_predictor(FIRST)
    version = refitted(FIRST, ONBOARDED_DATA, SPACE, fed, planted_ms(fed))
    before, after = (p.predict(SPACE.features(held_out)).upper_ms for p in (FIRST, version.predictor))
    assert (planted_ms(held_out) <= before).mean() < 0.1
    assert (planted_ms(held_out) <= after).mean() > 0.8
    # The bound is calibrated for networks in the proportion of those fitted to: one in the hole for two beside it.
    small = POOL[SPACE.costs(POOL)["macs"] <= EDGE][len(ONBOARDED_DATA.genes_NG) :][: 2 * len(held_out)]
    mixture = np.concatenate([small, held_out[: len(small) // 2]])
    assert (planted_ms(mixture) <= version.predictor.predict(SPACE.features(mixture)).upper_ms).mean() > 0.9
    assert version.verdict.better, version.verdict.why
    assert dump_predictor(FIRST) == first_arrays
    # Checked on the same networks as the version before, as predicted by a fit without them.
    assert version.fitted.truth_ms_H.tolist() == ONBOARDED_DATA.latency_ms_N[ONBOARDED_DATA.held_out_N].tolist()
    assert version.fitted.n == len(ONBOARDED_DATA.genes_NG) + len(fed)
    again = refitted(version.predictor, version.measurements, SPACE, fed, planted_ms(fed))
    # Measured once more, not twice as weighty.
    assert len(again.measurements.genes_NG) == len(version.measurements.genes_NG)
    back = load_measurements(version.measurements.dump())
    assert back.held_out_N.tolist() == version.measurements.held_out_N.tolist()
    old = io.BytesIO()  # as versions before held-out networks stored them
    np.savez(old, genes=fed, latency_ms=planted_ms(fed))
    assert not load_measurements(old.getvalue()).held_out_N.any()


def test_what_would_make_a_predictor_worse_does_not_take_its_place() -> None:
    fresh = POOL[SPACE.costs(POOL)["macs"] <= EDGE][60:90]
    nonsense = usual_ms(fresh) * np.random.default_rng(0).choice([0.2, 5.0], len(fresh))
    version = refitted(FIRST, ONBOARDED_DATA, SPACE, fresh, nonsense)
    assert not version.verdict.better
    assert "cross-validated error" in version.verdict.why
    noise = np.random.default_rng(0).normal(1.0, 0.02, 90)
    training_data = replace(ONBOARDED_DATA, latency_ms_N=ONBOARDED_DATA.latency_ms_N * noise[:60])
    verdict = refitted(FIRST, training_data, SPACE, fresh, usual_ms(fresh) * noise[60:]).verdict
    assert verdict.better, verdict.why


def test_nonsense_is_not_fed_back() -> None:
    few_genes_NG = POOL[:1]
    with pytest.raises(InvalidInput, match="positive"):
        refitted(FIRST, ONBOARDED_DATA, SPACE, few_genes_NG, np.array([-1.0]))
    with pytest.raises(InvalidInput, match="genes of shape"):
        refitted(FIRST, ONBOARDED_DATA, SPACE, few_genes_NG[:, :-1], np.array([1.0]))


@pytest.mark.long
@pytest.mark.parametrize("family", ["auto", "graph"])
def test_every_family_that_learns_a_device_alone_can_be_fed_back_to(family: str, tmp_path: Path) -> None:
    training_data = onboarded(n=40)
    train = ~training_data.held_out_N
    first = fit_networks(family, SPACE, training_data.genes_NG[train], training_data.latency_ms_N[train])
    refits = RefitService(first, training_data, SPACE, PROFILE, FolderBlobs(tmp_path))
    fed = POOL[SPACE.costs(POOL)["macs"] > EDGE][:8]
    refit = refits.fit(fed, planted_ms(fed))
    assert refit.record["family"] == family
    assert refit.record["networks"] == 48
    loaded = predict_latency(refits.load(refit.record), SPACE, fed)
    assert loaded.upper_ms.tolist() == predict_latency(refit.predictor, SPACE, fed).upper_ms.tolist()


def relative_ms(seed: int) -> Any:
    rng = np.random.default_rng(seed)
    weights = np.exp(0.2 * rng.standard_normal(SPACE.features(POOL[:1]).shape[1]))
    scale = weights / np.maximum(SPACE.features(POOL).mean(0), 1e-9) / len(weights)
    return lambda genes_NG: 0.05 + SPACE.features(genes_NG) @ scale


def relatives(networks: int) -> Knowledge:
    nobody = np.zeros(networks, dtype=bool)
    genes_NG = POOL[:networks]
    return knowledge(SPACE, [DeviceMeasurements(genes_NG, relative_ms(s)(genes_NG), nobody) for s in range(4)], 3)


def beside(kin: Knowledge, data: DeviceMeasurements) -> LatencyPredictor:
    return fit_transfer(kin.tables, SPACE, data.genes_NG, data.latency_ms_N).predictor


@pytest.mark.long
def test_a_device_that_was_learned_from_relatives_learns_beside_them_until_it_can_stand_alone(tmp_path: Path) -> None:
    kin, mine, fed = relatives(networks=34), relative_ms(9), POOL[1000:1120]
    training_data = DeviceMeasurements(POOL[100:110], mine(POOL[100:110]), np.zeros(10, dtype=bool))
    first = beside(kin, training_data)
    assert can_learn(first, 10, 200, kin)
    refits = RefitService(first, training_data, SPACE, PROFILE, FolderBlobs(tmp_path), kin)
    with_kin = refits.fit(fed[:8], mine(fed[:8]))
    assert (with_kin.record["family"], with_kin.record["networks"]) == ("transfer", 18)
    assert with_kin.record["better"], with_kin.record["why"]
    own_fit = refits.fit(fed[:30], mine(fed[:30]))  # more than are known of any relative
    assert (own_fit.record["family"], own_fit.record["networks"]) == ("auto", 40)
    for refit in (with_kin, own_fit):
        guess = predict_latency(refits.load(refit.record), SPACE, fed[30:])
        assert np.abs(guess.mean_ms / mine(fed[30:]) - 1).mean() < 0.1
    # Between 20 and 32 networks it could neither stand alone nor be told from such relatives.
    assert not can_learn(first, 10, 200, relatives(networks=20))
    assert can_learn(first, 10, 15, relatives(networks=20))
    assert can_learn(first, 40, 200, NO_KNOWLEDGE)
    assert not can_learn(first, 3, 5, kin)


@pytest.mark.long
def test_a_handful_of_older_networks_is_enough_to_judge_a_version() -> None:
    few_genes_NG, mine = POOL[200:230], relative_ms(9)
    training_data = DeviceMeasurements(few_genes_NG[:4], mine(few_genes_NG[:4]), np.zeros(4, dtype=bool))
    kin = relatives(networks=60)
    first = beside(kin, training_data)
    assert refitted(first, training_data, SPACE, few_genes_NG[4:], mine(few_genes_NG[4:]), kin).verdict.better


def test_a_predictor_that_cannot_be_fitted_anew_is_said_to_be_so(tmp_path: Path) -> None:
    resources = Resources(FolderBlobs(tmp_path), RecordingDevice(), lambda: 0.0)
    events = list(RefineStage().run(problem(), resources, SearchState()))
    assert [type(e) for e in events] == [Warned, StageFinished]
    assert "too little is known of device" in fold_all(events).warnings[0]


@pytest.mark.long
def test_a_worker_feeds_back_to_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a claim to a new version, with everything in between but the measuring itself."""
    monkeypatch.undo()  # a real supernet, real models
    params = {"preset": "digits", "resolutions": [4, 6], "depths": [1, 2], "final": 32, "hidden": 32}
    data = DataSpec(params={"max_train": 160, "max_val": 60, "max_test": 60})
    spec = SearchSpec(
        space=SpaceSpec(params=params),
        data=data,
        device="planted",
        strategy=StrategySpec(params={"epochs": 1, "batch_size": 40}),
        budget=BudgetSpec(evaluations=8, verified=3, reexplore=1),
        export=ExportSpec(count=1, int8=False),
    )
    space = registry.load_space("mobilenet_v3").build(params, registry.load_dataset("digits").describe(data))
    pool = np.unique(space.canonical(sample(space.decisions, np.random.default_rng(0), 200)), axis=0)[:60]
    ms = 0.01 + 1e-6 * space.costs(pool)["macs"]
    training_data = DeviceMeasurements(pool, ms, np.arange(len(pool)) % 4 == 0)
    fitted = fit_family("bayesian_linear", space, pool, ms, training_data.held_out_N)

    def by_size(
        models: Sequence[bytes], profile: DeviceProfile, networks: Sequence[str], promised_ms: Any = None
    ) -> Any:
        for model in models:
            took = 1e-5 * len(model)
            yield Measurement(profile.protocol.id, profile.id, took, took, took, 9, 0.0, 1.0)

    monkeypatch.setattr(runner, "measure_isolated", by_size)
    url = str(tmp_path / "blobs")
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", url, fakes.Clock()) as store:
        device = DeviceSpec(name="planted", space=spec.space, data=data)
        onboarding = store.jobs.submit(device, None)
        card = make_card(fitted.predictor, PROFILE, space, fitted.n, fitted.truth_ms_H, fitted.guess)
        result = fit_result(fitted.predictor, card, training_data, store.blobs).to_json()
        profiled = StageFinished("profile", 0.0, {"profile": PROFILE.as_json()})
        fakes.run_log(store, [profiled, StageFinished("fit", 0.0, result)])
        search = store.jobs.submit(spec, None, space_id=space.id)
        lease = store.jobs.claim("worker", 1000.0)
        assert lease is not None
        for batch in runner.run_job(lease.payload, url, lease.events):
            assert fakes.append(store, lease, batch, 1000.0) == "continue"
        assert store.jobs.finish(lease, "succeeded")
        *grown, first = store.queries.versions("planted")
        assert (first.id, first.searches) == (onboarding, [search])
        assert grown
        assert all(v.search == search and v.family == "bayesian_linear" for v in grown)
        measured = {
            p.arch for p in store.queries.candidates(search, None, None, "position", 200, None).items if p.measurement
        }
        assert grown[0].networks == len(pool) + len(measured - {a.id for a in as_archs(space.id, pool)})
        stages = {s.name: s for s in store.queries.search(search).stages}
        assert stages["refine"].result["refits"] == len(grown)
        assert len(store.queries.drift("planted").readings) >= len(measured)
        costs = {c["stage"]: c for c in _price(runner, lease.payload, url)}
        assert costs["refine"]["seconds"] > 0
        assert costs["refine"]["high_s"] > costs["refine"]["seconds"]


def _price(runner: Any, search: SearchPayload, url: str) -> list[dict[str, Any]]:
    batches = runner.run_job(DryRunPayload(search), url, [])
    return next(e for batch in batches for e in batch if e["kind"] == "stage_finished")["result"]["stages"]  # type: ignore[no-any-return]
