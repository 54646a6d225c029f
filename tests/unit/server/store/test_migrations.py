"""A database with rows goes to the newest schema and back, and loses nothing that both can hold."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import text

from nas.core import registry
from nas.core.access import LOCAL
from nas.core.errors import Conflict
from nas.core.events import Checkpoint, Evaluated, Event, StageFinished, StageStarted, Traced, decode, fold_all
from nas.core.jobs import OnboardingPayload, PredictorBlob, SearchPayload
from nas.core.model_spec import FileSource, ModelSpec
from nas.core.spec import DeviceSpec, SearchSpec, StrategySpec
from predictors.families.auto import AutoPredictor
from predictors.onboarding.results import RefitResult
from server.store.database import connect
from server.store.migrate import alembic_config, head
from server.store.store import Store, open_store
from tests.support import fakes, seeding
from tests.support.paths import ROOT
from tests.support.seeding import candidate, measured, networks


def filled(url: str, folder: Path) -> tuple[str, str]:
    """A database with a device, a search that has ended and one that waits: their ids."""
    with open_store(url, str(folder), fakes.Clock()) as store:
        fakes.add_device(store)
        ended = fakes.add_search(store, key="first")
        fakes.run_log(store, fakes.search_log(store.blobs.put(b"abc")))
        return ended, fakes.add_search(store, key="second")


def to(url: str, revision: str) -> None:
    """Takes the database to an older schema."""
    engine = connect(url)
    with engine.execution_options(hwnas_write=True).begin() as connection:
        command.downgrade(alembic_config(connection), revision)
    engine.dispose()


def execute(url: str, sql: str) -> list[Any]:
    engine = connect(url)
    with engine.execution_options(hwnas_write=True).begin() as connection:
        done = connection.execute(text(sql))
        rows = list(done) if done.returns_rows else []
    engine.dispose()
    return rows


def everything(store: Store, search: str) -> list[Any]:
    """What people see of a search."""
    queries = store.queries
    return [
        queries.search(search),
        queries.candidates(search, None, None, "position", 100, None),
        queries.events(search, 0, 1000),
        queries.artifacts(search),
        queries.device("bench"),
    ]


@pytest.mark.parametrize("old", [f"{number:04}" for number in range(1, int(head()))])
def test_rows_survive_downgrade_and_upgrade(url: str, tmp_path: Path, old: str) -> None:
    blobs = tmp_path / "blobs"
    ended, _ = filled(url, blobs)
    with open_store(url, str(blobs), fakes.Clock()) as store:
        before = everything(store, ended)
    counts = "SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM events), (SELECT count(*) FROM points)"
    rows = execute(url, counts)
    to(url, old)
    assert execute(url, counts) == rows
    assert execute(url, "SELECT version_num FROM alembic_version") == [(old,)]
    with open_store(url, str(blobs), fakes.Clock()) as store:
        assert store.queries.revision() == head()
        assert everything(store, ended) == before


def test_an_older_schema_loses_models_and_nothing_else(url: str, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    ended, _ = filled(url, blobs)
    source = FileSource(blob="0" * 64, filename="mine.pt2")
    spec = ModelSpec(name="mine", source=source)
    with open_store(url, str(blobs), fakes.Clock()) as store:
        store.jobs.submit(spec, None, stages=("read",))
        before = everything(store, ended)
    to(url, "0012")
    assert execute(url, "SELECT DISTINCT kind FROM jobs ORDER BY kind") == [("device",), ("search",)]
    with open_store(url, str(blobs), fakes.Clock()) as store:
        assert store.queries.user_models(LOCAL) == []
        store.jobs.submit(spec, None, stages=("read",))
        assert [model.name for model in store.queries.user_models(LOCAL)] == ["mine"]
        assert everything(store, ended) == before


def test_keys_of_the_first_schema_find_their_searches(url: str, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    _, waiting = filled(url, blobs)
    to(url, "0001")
    assert ("second",) in execute(url, "SELECT idempotency_key FROM jobs")
    with open_store(url, str(blobs), fakes.Clock()) as store:
        assert fakes.add_search(store, key="second") == waiting
        with pytest.raises(Conflict, match="second"):
            fakes.add_search(store, fakes.search_spec(name="another"), key="second")


def test_cancellation_requests_of_the_first_schema_are_cancelled(url: str, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    ended, waiting = filled(url, blobs)
    to(url, "0001")
    execute(url, f"UPDATE jobs SET cancel_requested = true, lease_token = 1 WHERE id = '{waiting}'")
    with open_store(url, str(blobs), fakes.Clock()) as store:
        assert store.queries.search(waiting).status == "cancelled"
        assert store.queries.search(ended).status == "succeeded"
        assert store.jobs.claim("worker", 10.0) is None


def test_devices_belong_to_who_added_them_first(url: str, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    filled(url, blobs)
    to(url, "0005")
    execute(url, "UPDATE jobs SET owner = 'ada' WHERE kind = 'device'")
    with open_store(url, str(blobs), fakes.Clock()) as store:
        assert store.queries.device("bench").owner == "ada"


FEW_SHOT = SearchSpec(
    name="divided",
    strategy=StrategySpec(
        name="few_shot",
        params={"split": "ensemble", "subspaces": 2, "subspace_epochs": 3, "subspace_lr": 0.1, "rank_networks": 4},
    ),
)
OLD_WORDS = ("claim_ms", "trust", "learn", "derive", "mixture", "parts", "part_epochs", "part_lr", "train.part1")
NEW_WORDS = ("promised_ms", "rank_correlation", "refine", "discretize", "ensemble", "subspaces", "train.subspace1")


def few_shot_log() -> list[Event]:
    """Results of every stage whose name or fields were replaced."""
    point = candidate(networks(seeding.default_space(), 1)[0], val_accuracy=90.0, predicted_ms=0.2, upper_ms=0.22)
    run = {"subspace": 0, "genes": [0, 1], "series": [], "val_accuracy": 80.0, "signs": []}
    return [
        StageFinished("split", 1.0, {"method": "ensemble", "subspaces": 2, "partition": {}}),
        StageStarted("train.subspace1", 0, 2),
        Traced("train", 10, {"subspace": 1, "entropy": 0.5}),
        Checkpoint("train.subspace1", 7, "0" * 64),
        StageFinished("train", 2.0, {"supernet": "1" * 64, "subspaces": 2, "runs": [run]}),
        StageFinished("rank_correlation", 3.0, {"networks": 0, "tau_before": 0.5}),
        StageFinished("discretize", 1.0, {"networks": [], "subspaces": [{**run, "subspace": 1}]}),
        Evaluated((point,)),
        measured(point, seeding.PROFILE, 0.21, 0.22),
        StageFinished("refine", 1.0, {"refits": 0}),
    ]


def test_replaced_words_are_rewritten_in_specs_events_and_states(url: str, tmp_path: Path) -> None:
    raw = "SELECT spec, state, stages, (SELECT count(*) FROM points) FROM jobs WHERE kind = 'search'"
    bodies = "SELECT body FROM events ORDER BY job_id, seq"
    with open_store(url, str(tmp_path / "blobs"), fakes.Clock()) as store:
        seeding.add_device(store, "this-machine")
        search = seeding.submit_search(store, FEW_SHOT)
        attempt = seeding.claim(store)
        attempt.append(*few_shot_log())
        attempt.finish()
        before = [store.queries.search(search), store.queries.events(search, 0, 1000)]
        candidates = store.queries.candidates(search, None, None, "position", 100, None)
    new_rows = (execute(url, raw), execute(url, bodies))
    to(url, "0006")
    old_text = str([tuple(row) for query in (raw, bodies) for row in execute(url, query)])
    assert [word for word in OLD_WORDS if word not in old_text] == []
    assert [word for word in NEW_WORDS if word in old_text] == []
    with open_store(url, str(tmp_path / "blobs"), fakes.Clock()) as store:
        assert (execute(url, raw), execute(url, bodies)) == new_rows
        assert [store.queries.search(search), store.queries.events(search, 0, 1000)] == before
        assert store.queries.candidates(search, None, None, "position", 100, None) == candidates
        assert store.queries.search(search).spec == FEW_SHOT


def test_a_home_that_revision_0005_wrote_opens_resumes_and_forks(tmp_path: Path) -> None:
    """Two few-shot searches: one that ended, and one that was interrupted while its first sub-supernet was trained."""
    database = tmp_path / "hwnas.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript((ROOT / "tests" / "data" / "home_0005.sql").read_text())
    with open_store(f"sqlite:///{database}", str(tmp_path / "blobs"), fakes.Clock(2e9)) as store:
        ids = {search.spec.name: search.id for search in store.queries.searches(None, 9, None).items}
        ended = store.queries.search(ids["whole"])
        assert [stage.name for stage in ended.stages][4:] == ["rank_correlation", "explore", "verify", "export"]
        assert ended.spec.strategy.params["subspaces"] == 2
        assert ended.rank_correlation is not None
        assert (ended.rank_correlation.subspaces, len(ended.rank_correlation.networks)) == (2, 4)
        verified = store.queries.candidates(ended.id, None, "violated", "position", 9, None).items
        assert {c.promised_ms is not None and c.measurement is not None for c in verified} == {True}
        assert store.jobs.find(ended.spec, "key-whole") == ended.id

        resumed = store.jobs.claim("worker", 10.0)
        assert resumed is not None
        assert resumed.job_id == ids["cut"]
        state = fold_all(decode(event) for event in resumed.events)
        assert {"warm_up", "split"} <= state.finished.keys()
        assert state.checkpoints["train.subspace2"].stage == "train.subspace2"

        fork = ended.spec.model_copy(update={"name": "fork", "supernet": ended.id})
        seeding.submit_search(store, fork)
        forked = store.jobs.claim("worker", 10.0)
        assert forked is not None
        assert isinstance(forked.payload, SearchPayload)
        assert forked.payload.supernet_blob == ended.stages[3].result["supernet"]
        assert forked.payload.inherited


def test_a_home_that_revision_0011_wrote_opens_resumes_and_forks(tmp_path: Path) -> None:
    """Two onboarded devices, one that waits to be onboarded, and two searches that refitted a predictor: one that
    ended, and one that was interrupted afterwards. All by predictor families of replaced names."""
    database = tmp_path / "hwnas.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript((ROOT / "tests" / "data" / "home_0011.sql").read_text())
    with open_store(f"sqlite:///{database}", str(tmp_path / "blobs"), fakes.Clock(2e9)) as store:
        cards = store.queries.predictors(None)
        assert {(card.device, card.family) for card in cards} == {("this-machine", "auto"), ("layered", "layer_lut")}
        versions = store.queries.versions("this-machine")
        assert {version.family for version in versions} == {"auto"}
        assert [version.networks for version in versions] == [44, 44, 40]
        for device, family in (("this-machine", "auto"), ("layered", "layer_lut")):
            spec = DeviceSpec(name=device, samples=40, predictor=family)
            onboarding = store.queries.onboarding(store.queries.device(device).id)
            assert onboarding.spec == spec
            assert store.jobs.find(spec, f"key-{device}") == onboarding.id

        ids = {search.spec.name: search.id for search in store.queries.searches(None, 9, None).items}
        claimed = [store.jobs.claim("worker", 10.0) for _ in range(2)]
        by_job = {lease.job_id: lease for lease in claimed if lease is not None}
        waiting = next(lease.payload for lease in by_job.values() if isinstance(lease.payload, OnboardingPayload))
        assert waiting.spec == DeviceSpec(name="waiting")
        resumed = by_job[ids["cut"]]
        assert isinstance(resumed.payload, SearchPayload)
        assert [device.predictor.family for device in resumed.payload.devices] == ["auto"]
        assert resumed.payload.energy == PredictorBlob("auto", hashlib.sha256(b"energy").hexdigest())
        assert resumed.payload.refit is not None
        [refit] = fold_all(decode(event) for event in resumed.events).refits
        record = RefitResult.parse(refit.record)
        assert (record.family, record.card.family, record.networks) == ("auto", "auto", 44)
        assert record.measurements_blob is not None

        ended = store.queries.search(ids["whole"])
        seeding.submit_search(store, ended.spec.model_copy(update={"name": "fork", "supernet": ended.id}))
        forked = store.jobs.claim("worker", 10.0)
        assert forked is not None
        assert isinstance(forked.payload, SearchPayload)
        assert forked.payload.devices[0].predictor_id == f"{ids['cut']}-1"  # the newest version
        assert registry.load_family(forked.payload.devices[0].predictor.family) is AutoPredictor
    tables = [execute(f"sqlite:///{database}", f"SELECT * FROM {table}") for table in ("jobs", "events", "predictors")]
    text = str(tables)
    assert [word for word in ("'best'", '"best"', "layer_table", '"known"') if word in text] == []
