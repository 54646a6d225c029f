"""What cannot be run in a space is refused when it is submitted, not hours later on a worker."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from nas.core import registry
from nas.core.errors import InvalidSpec
from nas.core.ports import ImageShape
from nas.core.spec import SearchSpec, SpaceSpec, StrategySpec
from server.api.app import create_app
from server.api.data_check import shape_of
from server.api.validate import _supernet_problems
from server.settings import Settings
from server.store.readers.submissions import ParentSearch
from server.store.store import open_store

BENCH = {"name": "nas_bench_201", "params": {"preset": "digits"}}
CELLS = {"name": "darts_cell", "params": {"preset": "digits"}}
RESNETS = {"name": "resnet20_downsampling", "params": {"preset": "digits"}}
MOBILE = {"name": "mobilenet_v3", "params": {"preset": "digits"}}


def strategy(name: str, **params: Any) -> dict[str, Any]:
    return {"name": name, "params": params}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"space": RESNETS, "strategy": strategy("darts")}, ["resnet20_downsampling does not offer", "nas_bench_201"]),
        ({"space": MOBILE, "strategy": strategy("darts", preset="gold")}, ["prune removes", "proxyless"]),
        ({"space": MOBILE, "strategy": strategy("few_shot", search="gdas")}, ["mobilenet_v3 has none", "explore"]),
        (
            {"space": CELLS, "strategy": strategy("darts", preset="pc_darts")},
            ["partial: expected one of 1, 2", "got 4"],
        ),
        ({"space": BENCH, "strategy": strategy("darts", preset="pc_darts", partial=3)}, ["one of 1, 2, 4, 8", "got 3"]),
        ({"space": BENCH, "strategy": strategy("darts", preset="gold", order="first")}, ["one level"]),
        (
            {"space": BENCH, "strategy": strategy("few_shot", search="darts", gradient={"partial": 3})},
            ["partial: expected one of 1, 2, 4, 8", "got 3"],
        ),
        ({"space": BENCH, "strategy": strategy("few_shot", decisions=["edge99.operation"])}, ["edge99", "edge01"]),
        ({"space": BENCH, "strategy": strategy("few_shot", split="exhaustive", subspaces=4)}, ["takes 5 subspaces"]),
        ({"space": MOBILE, "retrain": {"auxiliary": 0.4}}, ["retrain.auxiliary", "they offer: none"]),
        ({"space": BENCH, "retrain": {"auxiliary": 0.4}}, ["retrain.auxiliary", "they offer: drop_path"]),
        ({"space": MOBILE, "retrain": {"drop_path": 0.2}}, ["retrain.drop_path", "mobilenet_v3"]),
    ],
)
def test_impossible_combinations_are_rejected_at_submission(
    changes: dict[str, Any], words: list[str], tmp_path: Path
) -> None:
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", str(tmp_path / "blobs")) as store:
        api = TestClient(create_app(Settings(home=tmp_path), store), "http://127.0.0.1", raise_server_exceptions=False)
        for url in ("/v1/searches", "/v1/searches?dry_run=true"):
            answer = api.post(url, json={"name": "x", **changes})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid_spec"), answer.text
            assert all(word in answer.json()["message"] for word in words), answer.text
        assert store.queries.counts(60.0)[1] == 0  # nothing is queued


def test_differentiable_search_rejects_a_supernet_without_architecture_parameters() -> None:
    spec = SearchSpec.model_validate({"space": BENCH, "strategy": strategy("darts"), "supernet": "abc"})
    space = registry.build_space(spec.space, shape_of(spec.data))
    assert space.shape == ImageShape(1, 8, 8, 10)

    def named(name: str) -> StrategySpec:
        name, _, search = name.partition(":")
        return StrategySpec(name=name, params={"search": search} if search else {})

    def problems(parent: str, child: str) -> list[str]:
        other = spec.model_copy(update={"strategy": named(parent), "supernet": None})
        child_spec = spec.model_copy(update={"strategy": named(child)})
        problems_found = list(
            _supernet_problems(child_spec, space, ParentSearch("local", other, space.id, "0" * 64, 0))
        )
        assert all(isinstance(p, InvalidSpec) for p in problems_found)
        return [str(p) for p in problems_found]

    (why,) = problems("once_for_all", "darts")
    assert "a differentiable search reuses the supernet of a differentiable search" in why
    assert "search abc used strategy once_for_all and has no architecture parameters" in why
    assert problems("once_for_all", "few_shot:gdas")
    assert problems("few_shot", "few_shot:darts")
    assert problems("few_shot:darts", "few_shot:gdas") == problems("few_shot:darts", "darts") == []
    assert problems("darts", "darts") == problems("darts", "once_for_all") == problems("few_shot", "once_for_all") == []


def test_a_supernet_of_one_width_is_refused_where_others_would_be_explored() -> None:
    params: dict[str, Any] = {"preset": "digits", "resolutions": [8]}
    spec = SearchSpec(space=SpaceSpec(params={**params, "widths": [0.5, 1.0]}), supernet="abc")
    gradient = StrategySpec(name="darts", params={"preset": "proxyless"})

    def problems(widths: list[float]) -> list[str]:
        child = spec.model_copy(update={"space": SpaceSpec(params={**params, "widths": widths})})
        parent_spec = child.model_copy(update={"strategy": gradient, "supernet": None})
        space = registry.build_space(child.space, shape_of(child.data))
        parent = ParentSearch("local", parent_spec, space.id, "0" * 64, 0)
        return [str(problem) for problem in _supernet_problems(child, space, parent)]

    (why,) = problems([0.5, 1.0])
    assert "stage1.width, stage2.width, stage3.width" in why
    assert "got once_for_all" in why
    assert problems([1.0]) == []
