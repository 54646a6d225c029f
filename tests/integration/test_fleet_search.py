"""Whole searches over two devices, on real data: by rules in one process, and as the service runs them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient

from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.device import DeviceProfile, Latency, Measurement, NotMeasuredYet
from nas.core.errors import InfeasibleBound
from nas.core.events import Event, Measured, fold_all
from nas.core.ports import PredictorDefaults, Problem, Resources, TargetDevice
from nas.core.spec import DeviceSpec, FleetSpec, RooflineSpec, SearchSpec
from nas.engine import run_search
from nas.fleet import FleetPredictor
from nas.schemas.candidates import FrontSchema
from nas.schemas.searches import SearchSchema
from nas.stages.fronts import front_of
from server.api.app import create_app
from server.settings import Settings
from server.store.store import Store, open_store
from tests.support import fakes
from tests.support.engine import SPEC, RuleDevice, stored
from workers.runner import run_job

pytestmark = pytest.mark.usefixtures("one_thread")

WIDE, DEEP = "wide", "deep"


class HalfSumPredictor(PredictorDefaults):
    """The sum of a half of the features, in 1e-4 ms: two devices do not agree which networks are fast."""

    family = "rule"

    def __init__(self, part: slice, factor: float) -> None:
        self.part, self.factor = part, factor

    def predict(self, features_NF: np.ndarray) -> Latency:
        mean = self.factor * (0.01 + features_NF[:, self.part].sum(axis=1) * 1e-4)
        return Latency(mean, 1.1 * mean)

    def to_arrays(self) -> dict[str, np.ndarray]:
        return {}


class RuleFleet:
    """Measures as each device's rule says; the second may be elsewhere, and has then to be asked."""

    def __init__(self, away: bool = False) -> None:
        self.away = away
        self.asked: list[tuple[str, str]] = []
        self.rules = {WIDE: RuleDevice(), DEEP: RuleDevice()}

    def __call__(
        self, models: Sequence[bytes], profile: DeviceProfile, networks: Sequence[str], promised_ms: Any = None
    ) -> Iterator[Measurement]:
        if self.away and profile.name == DEEP:
            raise NotMeasuredYet(profile, dict.fromkeys(networks, "0" * 64))
        self.asked += [(profile.name, network) for network in networks]
        factor = 3.0 if profile.name == DEEP else 1.0
        for m in self.rules[profile.name](models, profile, networks):
            assert m.median_ms is not None
            yield replace(m, median_ms=factor * m.median_ms, low_ms=factor * m.median_ms, high_ms=factor * m.median_ms)


def problem(fleet: FleetSpec) -> Problem:
    record = SPEC.model_dump(mode="json") | {"fleet": fleet.model_dump(mode="json"), "device": fleet.devices[0]}
    spec = SearchSpec.model_validate(record)
    data = registry.load_dataset(spec.data.name).load(spec.data, spec.data.seed)
    space = registry.load_space(spec.space.name).build(spec.space.params, data.shape)
    rules = {WIDE: HalfSumPredictor(slice(None, None, 2), 1.0), DEEP: HalfSumPredictor(slice(1, None, 2), 3.0)}
    members = tuple(TargetDevice(n, DeviceProfile(n, "m", "p", 1, "r", "1", "os"), rules[n]) for n in spec.devices)
    predictor = FleetPredictor.of(spec, {m.name: m.predictor for m in members})
    return Problem(spec, space, data, members[0].profile, predictor, fleet=members)


def run(folder: Path, p: Problem, before: Sequence[Event] = (), fleet: RuleFleet | None = None) -> Iterator[Event]:
    ticks = count()
    resources = Resources(FolderBlobs(folder), fleet or RuleFleet(), lambda: float(next(ticks)))
    stages = registry.load_strategy(p.spec.strategy.name).stages(p)
    return run_search(p, stages, resources, fold_all(before))


def trained(events: Sequence[Event]) -> list[Event]:
    """The part of a log up to the end of its training, which is the same for every fleet."""
    end = next(i for i, e in enumerate(events) if getattr(e, "stage", None) == "explore")
    return [e for e in events[:end] if getattr(e, "stage", None) != "estimate"]


@pytest.fixture(scope="module")
def search_for_each(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Path]:
    """A search for a front on each device, without a break."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("blobs")
    return stored(list(run(folder, problem(FleetSpec(devices=(WIDE, DEEP), front="each"))))), folder


@pytest.mark.long
def test_one_training_gives_each_device_a_front_of_its_own(search_for_each: tuple[list[Event], Path]) -> None:
    events, _ = search_for_each
    state = fold_all(events)
    spec = problem(FleetSpec(devices=(WIDE, DEEP), front="each")).spec
    assert len(state.of("search")) == len(state.of("baseline")) == 16
    assert [h.device for h in state.hypervolume].count(WIDE) == [h.device for h in state.hypervolume].count(DEEP) == 8
    for device in (WIDE, DEEP):
        front = front_of(spec, state, device=device)
        assert front.final
        assert front.metrics == ("test_accuracy", "measured_ms")
        assert front.members
        assert front.baseline
        assert all(p.measurement is not None and p.measurement == p.devices[device].measurement for p in front.members)
        result = state.finished["verify"]["fleet"][device]
        assert result["front_size"] == len(front.members)
        assert result["hypervolume"] == pytest.approx(front.hypervolume)
    assert {e.arch.id for e in state.exports} <= {p.arch.id for p in state.of("search")}
    assert state.exports


@pytest.mark.long
def test_a_search_for_each_that_is_cut_ends_the_same(search_for_each: tuple[list[Event], Path]) -> None:
    events, folder = search_for_each
    complete = fold_all(events)
    p = problem(FleetSpec(devices=(WIDE, DEEP), front="each"))
    middle = next(i for i, e in enumerate(events) if isinstance(e, Measured)) + 3
    fleet = RuleFleet()
    ended = fold_all(run(folder, p, events[:middle], fleet), fold_all(events[:middle]))
    assert ended.candidates == complete.candidates
    done = [(e.device, e.arch.id) for e in events[:middle] if isinstance(e, Measured)]
    assert len(fleet.asked) == sum(isinstance(e, Measured) for e in events) - len(done)


@pytest.mark.long
def test_the_worst_case_is_verified_everywhere_and_within_every_bound(
    search_for_each: tuple[list[Event], Path],
) -> None:
    """On the supernet of the search above. A device that is elsewhere is asked once the other has measured."""
    events, folder = search_for_each
    ranges = {n: r["ranges"]["upper_ms"] for n, r in fold_all(events).finished["estimate"]["fleet"].items()}
    metrics_by_device = {
        n: sorted(e.measurement.median_ms or 0 for e in events if isinstance(e, Measured) and e.device == n)
        for n in ranges
    }
    bounds_ms = {
        n: max(sum(ranges[n]) / 2, metrics_by_device[n][len(metrics_by_device[n]) // 2]) for n in ranges
    }  # some keep them
    p = problem(FleetSpec(devices=(WIDE, DEEP), bounds_ms=bounds_ms))
    log = trained(events)
    away = RuleFleet(away=True)
    events_so_far: list[Event] = []
    with pytest.raises(NotMeasuredYet) as missing:
        events_so_far.extend(run(folder, p, log, away))  # keeps what came before the end
    assert missing.value.profile.name == DEEP
    assert {name for name, _ in away.asked} == {WIDE}
    assert set(missing.value.networks) == {network for _, network in away.asked}
    state = fold_all([*log, *events_so_far])
    assert not any(q.status == "verified" for q in state.candidates.values())
    state = fold_all(run(folder, p, [*log, *events_so_far]), state)
    front = front_of(p.spec, state)
    assert front.metrics == ("test_accuracy", "measured_share")
    assert front.members
    for q in front.members:
        latencies = {name: on.measured_ms for name, on in q.devices.items()}
        assert all(latencies[name] is not None and latencies[name] <= bounds_ms[name] for name in bounds_ms)  # type: ignore[operator]
        assert q.metrics["measured_share"] == pytest.approx(
            100 * max(ms / bounds_ms[name] for name, ms in latencies.items() if ms is not None)
        )
        assert q.status == "verified"
        assert [on.status for on in q.devices.values()] == ["verified", "verified"]


def test_bounds_that_no_network_meets_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InfeasibleBound, match="on deep is"):
        list(run(tmp_path, problem(FleetSpec(devices=(WIDE, DEEP), bounds_ms={WIDE: 1e3, DEEP: 1e-4}))))


# As the service runs it


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", str(tmp_path / "blobs"), fakes.Clock()) as opened:
        yield opened


def work(store: Store, folder: Path) -> None:
    """A worker runs the next job to its end."""
    lease = store.jobs.claim("worker", 100.0)
    assert lease is not None
    for batch in run_job(lease.payload, str(folder / "blobs"), lease.events):
        assert fakes.append(store, lease, batch, 100.0) == "continue"
    assert store.jobs.finish(lease, "succeeded")


@pytest.mark.long
def test_two_virtual_devices_from_their_figures_to_their_fronts(store: Store, tmp_path: Path) -> None:
    """Each has a front of one search; then the worst case over both goes on from it, without any training."""
    api = TestClient(create_app(Settings(home=tmp_path), store), "http://127.0.0.1")
    figures = {"chip": (1e9, 1e12), "cache": (1e12, 1e8)}  # one is short of arithmetic, the other of memory
    for name, (flops, traffic) in figures.items():
        spec = DeviceSpec(
            name=name,
            source="roofline",
            roofline=RooflineSpec(flops_per_s=flops, bytes_per_s=traffic),
            space=SPEC.space,
            data=SPEC.data,
            predictor="bayesian_linear",
            samples=60,
        )
        assert api.post("/v1/devices", json=spec.model_dump(mode="json")).status_code == 201
        work(store, tmp_path)
    record = SPEC.model_dump(mode="json", exclude={"device"})
    record |= {"export": {"count": 1, "int8": False}, "fleet": {"devices": list(figures), "front": "each"}}
    answer = api.post("/v1/searches", json=record)
    assert answer.status_code == 201, answer.text
    parent = answer.json()["id"]
    work(store, tmp_path)
    worst = {"evaluations": 8, "fleet": {"devices": list(figures)}}
    child = api.post(f"/v1/searches/{parent}/extend", json=worst).json()["id"]
    work(store, tmp_path)
    for search in (parent, child):
        view = SearchSchema.model_validate(api.get(f"/v1/searches/{search}").json())
        assert view.status == "succeeded"
        assert [m.device for m in view.fleet] == list(figures)
        assert any("'cache'" in w for w in view.warnings)
        for name in figures:
            front = FrontSchema.model_validate(api.get(f"/v1/searches/{search}/front?device={name}").json())
            assert (front.device, front.final) == (name, True)
            assert front.members
            assert front.baseline
            assert 0 < (front.hypervolume or 0) < 1
            for p in front.members:
                assert set(p.devices) == set(figures)
                assert p.metrics["predicted_ms"].value == p.devices[name].metrics["predicted_ms"].value
                assert p.metrics["predicted_ms"].kind == "estimated"
                assert p.status == "unverified"
    assert view.stages[1].result["steps"] == 0
    complete = FrontSchema.model_validate(api.get(f"/v1/searches/{child}/front").json())
    assert complete.device is None
    assert complete.members
    for p in complete.members:
        on = [d.metrics["predicted_ms"].value for d in p.devices.values()]
        assert p.metrics["predicted_ms"].value == pytest.approx(max(on))
    assert FrontSchema.model_validate(api.get(f"/v1/searches/{parent}/front").json()).device == "chip"
    [artifact, *_] = api.get(f"/v1/searches/{child}/artifacts").json()
    with zipfile.ZipFile(io.BytesIO(api.get(artifact["url"]).content)) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert "| cache |" in archive.read("model_card.md").decode()
    assert [on["status"] for on in manifest["fleet"].values()] == ["unverified"] * 2
    assert manifest["measurement"] is None
