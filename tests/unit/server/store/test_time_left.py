"""How long a running job will take: the rate of its stage, prices of those that wait, and the measured pace."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from nas.core.access import Principal
from nas.core.cost_estimate import COST_STAGE, CostEstimate, StageCost
from nas.core.events import Event, Progress, StageFinished, StageStarted
from server.dashboard import formatting
from server.store.json_columns import StageBar
from server.store.store import Store, open_store
from server.store.time_left import TimeLeft, time_left
from tests.support import fakes

STAGES = ("estimate", "train", "explore")
WAITING = StageBar("explore", price_s=200.0)
ESTIMATED = StageBar("estimate", "finished", price_s=10.0)
TRAINING = StageBar("train", "running", 10, 100, begun_at=975.0, anchor=(975.0, 0), latest=995.0, price_s=100.0)
NOW = 1000.0


@pytest.fixture
def clock() -> fakes.Clock:
    return fakes.Clock()


@pytest.fixture
def store(tmp_path: Path, clock: fakes.Clock) -> Iterator[Store]:
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", str(tmp_path / "blobs"), clock) as opened:
        fakes.add_device(opened)
        yield opened


def test_waiting_stages_take_their_price_at_the_measured_pace() -> None:
    left = time_left([ESTIMATED, TRAINING, WAITING], {"estimate": 20.0}, NOW)
    # 10 of 100 took 20 s, 5 s ago: 175 s more, 200 in all. A tenth of all prices, 31 s, counts as gone as priced.
    assert left.seconds == pytest.approx(175.0 + 200.0 * (31 + 20 + 200) / (31 + 10 + 100))
    assert left.untimed == ()


def test_stage_without_a_rate_takes_its_price_less_what_it_has_taken() -> None:
    training = StageBar("train", "running", begun_at=990.0, price_s=100.0)
    left = time_left([ESTIMATED, training, WAITING], {"estimate": 20.0}, NOW)
    pace = (31 + 20) / (31 + 10)
    assert left.seconds == pytest.approx(100.0 * pace - 10.0 + 200.0 * pace)


def test_stage_that_takes_longer_than_its_price_has_nothing_left() -> None:
    assert time_left([StageBar("train", "running", begun_at=0.0, price_s=100.0)], {}, NOW) == TimeLeft(0.0, ())


def test_stages_without_a_price_are_named() -> None:
    exporting = StageBar("export")
    assert time_left([TRAINING, WAITING, exporting], {}, NOW).untimed == ("export",)
    assert time_left([TRAINING, exporting], {}, NOW) == TimeLeft(None, ("export",))  # nothing of what waits is known
    assert time_left([TRAINING], {}, NOW) == TimeLeft(175.0, ())
    assert time_left([], {}, NOW) == TimeLeft(None, ())


def _price(store: Store, **changes: object) -> None:
    """Runs and removes a dry run that takes 10 + 100 + 200 s; nothing is known of a fourth stage."""
    costs = [StageCost(name, s, s, s, 1, 1) for name, s in zip(STAGES, (10.0, 100.0, 200.0), strict=True)]
    unknown = StageCost.unknown("export", "an agent measures")
    cost = CostEstimate("here", 310.0, 310.0, 310.0, 0.0, 0.1, 1, 24, "partial", (*costs, unknown))
    dry_run = fakes.add_search(store, fakes.search_spec(**changes), dry_run=True)
    fakes.run_log(store, [StageStarted(COST_STAGE, 0, 1), StageFinished(COST_STAGE, 1.0, asdict(cost))])
    store.jobs.discard(dry_run)


def test_search_is_timed_by_the_dry_run_of_the_same_work(store: Store, clock: fakes.Clock) -> None:
    _price(store, name="dry", seed=3)
    search = fakes.add_search(store, stages=(*STAGES, "export"))
    lease = store.jobs.claim("w", 1000.0)
    assert lease is not None
    assert store.queries.search(search).eta_s == pytest.approx(310.0)
    fakes.append(store, lease, [StageStarted("estimate", 0, 4)], 1000.0)
    clock.pass_(20.0)
    log: list[Event] = [StageFinished("estimate", 20.0), StageStarted("train", 1, 4), Progress("train", 0, 100)]
    fakes.append(store, lease, log, 1000.0)
    clock.pass_(20.0)
    fakes.append(store, lease, [Progress("train", 10, 100)], 1000.0)
    view = store.queries.search(search)
    assert view.eta_s == pytest.approx(180.0 + 200.0 * (31 + 20 + 200) / (31 + 10 + 100))
    assert formatting.time_left(view) == "estimated: about 8 min 56 s left; not counted: export"


def test_other_work_and_other_owners_have_no_price(store: Store) -> None:
    _price(store)
    other_work = fakes.add_search(store, fakes.search_spec(budget={"evaluations": 25}), stages=STAGES)
    ada = Principal("ada", frozenset({"submit"}))
    others = fakes.add_search(store, stages=STAGES, by=ada)
    for _ in range(2):
        assert store.jobs.claim("w", 1000.0) is not None
    assert [store.queries.search(i).eta_s for i in (other_work, others)] == [None, None]


def test_search_is_timed_by_an_earlier_one_that_was_not_interrupted(store: Store) -> None:
    interrupted = fakes.add_search(store, fakes.search_spec(seed=1))
    lease = store.jobs.claim("w", 10.0)
    assert lease is not None
    assert lease.job_id == interrupted
    store.jobs.release(lease)
    fakes.run_log(store, [StageFinished("train", 1.0)])
    fakes.add_search(store, fakes.search_spec(seed=2), stages=STAGES)
    lease = store.jobs.claim("w", 10.0)
    assert lease is not None
    assert store.queries.search(lease.job_id).eta_s is None
    fakes.append(store, lease, [StageFinished(name, s) for name, s in zip(STAGES, (1.0, 2.0, 4.0), strict=True)])
    store.jobs.finish(lease, "succeeded")
    again = fakes.add_search(store, fakes.search_spec(seed=4), stages=STAGES)
    assert store.jobs.claim("w", 10.0) is not None
    assert store.queries.search(again).eta_s == pytest.approx(7.0)
