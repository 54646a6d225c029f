"""Energy as an objective: learned from a table, held to its upper bound, refused where nobody knows it."""

from __future__ import annotations

import pickle
from itertools import product
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from rich.console import Console

from nas.core.device import DeviceProfile, Latency
from nas.core.events import SearchState, Warned
from nas.core.metrics import BOUND_METRIC
from nas.core.ports import ImageShape, PredictorDefaults, Problem
from nas.energy import energy_aware
from nas.objectives import cheap_metrics, losses, violation
from nas.schemas.devices import DeviceSchema
from nas.schemas.dry_runs import DryRunSchema
from nas.stages.estimate import profile_space
from predictors.onboarding.from_table import onboard_from_table
from predictors.storage import load_predictor
from server.cli import render
from server.store.store import Store
from tests.support import fakes
from tests.support.tables import csv_of, table_api, table_plugins, table_store, upload  # noqa: F401  # fixtures

TINY = fakes.TinySpace({}, ImageShape(1, 8, 8, 10))
GENES = np.unique(TINY.canonical(np.array(list(product(range(4), repeat=3)))), axis=0)
ENERGY_MJ = 2.0 + 3.0 * GENES.sum(axis=1)  # and 1 ms + 1 ms for each


def table(energy_mj: Any = ENERGY_MJ) -> bytes:
    rows = [("-".join(map(str, g)), 1.0 + g.sum(), e) for g, e in zip(GENES, energy_mj, strict=True)]
    return csv_of([("arch", "ms", "energy_mj"), *rows])


def added(api: TestClient, store: Store, name: str, data: bytes) -> list[Any]:
    blob = upload(api, data).json()["blob"]
    spec = fakes.device_spec(name=name, source="table", table={"blob": blob}, predictor="bayesian_linear")
    assert api.post("/v1/devices", json=spec.model_dump(mode="json")).status_code == 201
    lease = store.jobs.claim("worker", 10.0)
    assert lease is not None
    device_spec = lease.payload.spec
    events = list(onboard_from_table(device_spec, TINY, store.blobs, SearchState(), fakes.Clock()))
    fakes.append(store, lease, events)
    store.jobs.finish(lease, "succeeded")
    return events


def search(device: str, bound: float | None) -> dict[str, Any]:
    objectives = [{"name": "accuracy"}, {"name": "energy", "bound": bound}]
    return fakes.search_spec(device=device, objectives=objectives).model_dump(mode="json")


def test_a_table_with_energies_makes_energy_an_objective(api: TestClient, store: Store) -> None:
    added(api, store, "phone", table())
    [card] = DeviceSchema.model_validate(api.get("/v1/devices/phone").json()).predictors
    assert card.energy is not None
    assert card.energy.spearman > 0.95
    assert card.energy.mape < 10.0
    assert card.energy.n == len(GENES)
    with (console := Console(width=120)).capture() as told_of:
        console.print(render.card(card))
    assert "energy: error" in told_of.get()
    store.collect(grace_s=-1e12)  # what predicts energy is not collected
    dry_run = DryRunSchema.model_validate(
        api.post("/v1/searches?dry_run=true&measure=false", json=search("phone", 9.0)).json()
    )
    assert dry_run.feasible
    low, high = dry_run.ranges["predicted_mj"]
    assert (low, high) == (pytest.approx(2.0, rel=0.15), pytest.approx(29.0, rel=0.15))
    refused = api.post("/v1/searches", json=search("phone", 0.5))
    assert (refused.status_code, refused.json()["code"]) == (422, "infeasible_bound")
    assert "energy" in refused.json()["message"]
    assert " mJ" in refused.json()["message"]
    assert api.post("/v1/searches", json=search("phone", 9.0)).status_code == 201
    lease = store.jobs.claim("worker", 10.0)
    assert lease is not None
    energy = lease.payload.energy
    predictor = load_predictor(energy.family, store.blobs.get(energy.blob))
    assert predictor.predict(TINY.features(GENES)).mean_ms == pytest.approx(ENERGY_MJ, rel=0.15)


def test_a_device_without_energies_is_refused(api: TestClient, store: Store) -> None:
    fakes.add_device(store, fakes.device_spec(name="bench"))
    refused = api.post("/v1/searches", json=search("bench", None))
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_spec")
    assert "bench" in refused.json()["message"]
    assert "energy_mj" in refused.json()["message"]


def test_energies_of_several_devices_are_left_out_with_a_warning(api: TestClient, store: Store) -> None:
    rows = [("-".join(map(str, g)), 1.0 + g.sum(), 2.0 + g.sum(), 3.0) for g in GENES]
    events = added(api, store, "b", csv_of([("arch", "ms.a", "ms.b", "energy_mj"), *rows]))
    assert any(isinstance(e, Warned) and "energies" in e.message for e in events)
    assert "energy" not in events[-1].result
    events = added(api, store, "same", table(np.full(len(GENES), 3.0)))  # from which nothing can be learned
    assert any(isinstance(e, Warned) and "energies" in e.message for e in events)


class _Rule(PredictorDefaults):
    family = "rule"

    def predict(self, features_NF: Any) -> Latency:
        return Latency(features_NF.sum(axis=1), 2.0 * features_NF.sum(axis=1))

    def to_arrays(self) -> dict[str, Any]:
        return {}


def test_a_search_goes_by_the_prediction_and_keeps_the_bound_by_its_upper_end() -> None:
    spec = fakes.search_spec(objectives=[{"name": "accuracy"}, {"name": "energy", "bound": 8.0}])
    space = energy_aware(TINY, _Rule())
    profile = DeviceProfile("d", "m", "p", 1, "r", "1", "os")
    problem = Problem(spec, space, None, profile, _Rule())  # type: ignore[arg-type]
    cheap = cheap_metrics(problem, GENES)
    assert (losses(problem, cheap, np.zeros(len(GENES)))[:, 1] == GENES.sum(axis=1)).all()
    assert BOUND_METRIC["energy"] == "upper_mj"
    assert ((violation(problem, cheap) == 0) == (2 * GENES.sum(axis=1) <= 8)).all()
    assert profile_space(space, None).lowest["upper_mj"] == 0.0
    again = pickle.loads(pickle.dumps(space))  # as it goes to trials on other machines
    assert again.id == TINY.id
    assert (again.costs(GENES)["predicted_mj"] == cheap["predicted_mj"]).all()
    assert energy_aware(TINY, None) is TINY
