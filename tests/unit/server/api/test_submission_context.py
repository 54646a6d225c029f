"""The check of a submission reads the store in one transaction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import event

from nas.core.access import LOCAL, Principal
from nas.core.errors import InvalidSpec
from nas.core.spec import FleetSpec
from server.api import validate
from server.api.device_check import check_device
from server.store.readers.submissions import StoredPredictor
from server.store.store import Store, open_store
from tests.support import fakes


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    fakes.use_plugins(monkeypatch)
    with open_store(f"sqlite:///{tmp_path}/db", str(tmp_path / "blobs"), fakes.Clock()) as opened:
        fakes.add_device(opened)
        yield opened


def count_transactions(store: Store) -> list[object]:
    """A list that grows by one for each transaction on the store's database."""
    transactions: list[object] = []
    event.listen(store.queries._engine, "begin", transactions.append)
    return transactions


def test_check_of_a_search_takes_one_transaction(store: Store) -> None:
    parent = fakes.add_search(store)
    fleet = FleetSpec(devices=("bench", "board"), front="each").model_dump()
    fakes.add_device(store, fakes.device_spec(name="board"))
    transactions = count_transactions(store)
    for changes in ({}, {"supernet": parent}, {"device": "unknown"}, {"fleet": fleet}):
        transactions.clear()
        validate.examine(fakes.search_spec(**changes), store, LOCAL)
        assert len(transactions) == 1, changes


def test_check_of_a_device_takes_one_transaction(store: Store) -> None:
    transactions = count_transactions(store)
    check_device(fakes.device_spec(), store, LOCAL)
    assert len(transactions) == 1


def test_context_holds_predictors_and_the_parent(store: Store) -> None:
    parent = fakes.add_search(store, by=Principal("ada", frozenset({"submit"})))
    spec = fakes.search_spec(supernet=parent)
    space = validate.space_of(spec.space, spec.data, spec.precision, store)
    context = store.queries.submission_context(spec, space.id)
    assert context.device_names == ("bench",)
    assert context.predictors == {"bench": StoredPredictor("flat", store.blobs.put(fakes.predictor_bytes()))}
    assert context.parent is not None
    assert (context.parent.owner, context.parent.space_id, context.parent.supernet) == ("ada", space.id, None)
    assert context.parent.inherited == 0
    unknown = store.queries.submission_context(fakes.search_spec(device="other", supernet="none"), space.id)
    assert (unknown.predictors, unknown.parent) == ({}, None)


def test_another_owners_supernet_is_reported_as_unknown(store: Store) -> None:
    parent = fakes.add_search(store, by=Principal("ada", frozenset({"submit"})))
    spec = fakes.search_spec(supernet=parent)
    with pytest.raises(InvalidSpec, match=f"supernet: no search '{parent}'"):
        validate.examine(spec, store, Principal("bob", frozenset({"submit"})))
    report = validate.examine(spec, store, Principal("ada", frozenset({"submit"})))
    assert [str(problem) for problem in report.problems] == [f"supernet: search {parent} has not finished its training"]
