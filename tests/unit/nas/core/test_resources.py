"""What a search may reserve: nothing that its strategy leaves idle."""

from __future__ import annotations

import pytest

from nas.core import registry
from nas.core.errors import InvalidSpec
from nas.core.plugins import check_resources
from nas.core.spec import ResourceSpec, SearchSpec, StrategySpec, parse_spec


def spec_of(strategy: str, resources: dict[str, int], **params: object) -> SearchSpec:
    return SearchSpec(
        strategy=StrategySpec(name=strategy, params=params),  # type: ignore[arg-type]
        resources=ResourceSpec(**resources),  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    ("strategy", "params"),
    [("darts", {}), ("few_shot", {"split": "ensemble"}), ("compress", {"preset": "no_training"})],
)
def test_gpus_that_would_be_idle_are_refused(strategy: str, params: dict[str, object]) -> None:
    plugin = registry.load_strategy(strategy)
    with pytest.raises(
        InvalidSpec, match=r"resources\.gpus: .*at most 1, got 8, of which 7 would be reserved and idle"
    ):
        check_resources(spec_of(strategy, {"gpus": 8}, **params), plugin)
    with pytest.raises(InvalidSpec, match=r"resources\.ranks: .*expected 1, got 2"):
        check_resources(spec_of(strategy, {"cpus": 2, "ranks": 2}, **params), plugin)
    check_resources(spec_of(strategy, {"gpus": 1}, **params), plugin)


@pytest.mark.parametrize(
    ("strategy", "params"), [("once_for_all", {}), ("few_shot", {}), ("compress", {"fine_tune_epochs": 4})]
)
def test_strategies_that_train_on_ranks_take_several_gpus(strategy: str, params: dict[str, object]) -> None:
    plugin = registry.load_strategy(strategy)
    check_resources(spec_of(strategy, {"gpus": 8}, **params), plugin)
    check_resources(spec_of(strategy, {"cpus": 4, "ranks": 4}, **params), plugin)


def test_ranks_need_a_core_or_a_gpu_each() -> None:
    for resources, devices, available in (({"cpus": 2, "ranks": 3}, "cpus", 2), ({"gpus": 2, "ranks": 3}, "gpus", 2)):
        with pytest.raises(
            InvalidSpec, match=rf"at most one for each of {devices}, of which there are {available}, got 3"
        ):
            parse_spec(SearchSpec, {"resources": resources})
    assert ResourceSpec(gpus=4).training_ranks == 4
    assert ResourceSpec(cpus=4).training_ranks == 1
    assert ResourceSpec(gpus=4, ranks=2).training_ranks == 2
