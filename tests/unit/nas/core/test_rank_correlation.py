"""How many networks a search trains alone to see how well it ranks."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from nas.core.rank_correlation import MAX_NETWORKS, MIN_NETWORKS, rank_networks_of
from nas.core.spec import SearchSpec
from nas.strategies import darts, once_for_all


@pytest.mark.parametrize(
    ("network_epochs", "expected"),
    [
        (0, 0),
        (40 * MIN_NETWORKS - 1, 0),  # an order of fewer shows nothing
        (40 * MIN_NETWORKS, MIN_NETWORKS),
        (40 * (MIN_NETWORKS + 1) + 39, MIN_NETWORKS + 1),
        (40 * MAX_NETWORKS, MAX_NETWORKS),
        (10_000, MAX_NETWORKS),
    ],
)
def test_by_default_they_take_at_most_a_tenth_of_the_training(network_epochs: float, expected: int) -> None:
    networks = rank_networks_of(None, 4, network_epochs)
    assert networks == expected
    assert 4 * networks <= 0.1 * network_epochs


@pytest.mark.parametrize("networks", [0, 4, 100])
def test_what_a_spec_says_is_done(networks: int) -> None:
    assert rank_networks_of(networks, 4, 1.0) == networks


@pytest.mark.parametrize(("strategy", "space"), [("once_for_all", "mobilenet_v3"), ("darts", "nas_bench_201")])
@pytest.mark.parametrize(
    ("epochs", "networks", "ranks"), [(1, None, False), (1, 4, True), (500, None, True), (500, 0, False)]
)
def test_the_stage_is_there_when_networks_are_ranked(
    strategy: str, space: str, epochs: int, networks: int | None, ranks: bool
) -> None:
    stage_names = {"once_for_all": once_for_all, "darts": darts}[strategy].stage_names
    params = {"epochs": epochs, "rank_networks": networks}
    spec = SearchSpec.model_validate({"space": {"name": space}, "strategy": {"name": strategy, "params": params}})
    assert ("rank_correlation" in stage_names(spec)) is ranks


@pytest.mark.parametrize("params", [once_for_all.OnceForAllParams, darts.DartsParams])
def test_too_few_for_an_order_are_refused(params: type[once_for_all.OnceForAllParams | darts.DartsParams]) -> None:
    with pytest.raises(ValidationError, match="rank_networks: expected 0, or at least 4 for a ranking, got 3"):
        params(rank_networks=3)
