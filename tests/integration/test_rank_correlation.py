"""How far a few-shot ranking can be trusted: in words, as a view, and drawn."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas.core.access import LOCAL
from nas.core.arch import Decision
from nas.core.errors import InvalidSpec
from nas.core.events import StageFinished
from nas.core.metrics import kendall, kendall_gain_interval, kendall_interval
from nas.core.rank_correlation import Tau, rank_advice, spans_zero
from nas.core.spec import SearchSpec, SpaceSpec, StrategySpec
from nas.schemas.rank_correlation import RankCorrelationSchema, RankedArchSchema, SpacePartitionSchema
from nas.training.fewshot.partition import split_breadth_first
from server.api.validate import examine
from server.dashboard.charts.rank_correlation import gradient_similarity_chart, ranking_chart, without_outliers
from server.store.rank_correlation import rank_correlation_schema
from server.store.store import open_store
from tests.support import fakes

DECISIONS = (Decision("edge1", ("none", "skip", "conv")), Decision("edge2", ("none", "pool")))
TREE = split_breadth_first([(0, [[0], [1, 2]]), (1, [[0], [1]])], 3)
MATCHING = {
    "decision": "edge1",
    "choices": ["none", "skip", "conv"],
    "similarity": [[1.0, 0.1, -0.3], [0.1, 1.0, 0.8], [-0.3, 0.8, 1.0]],
    "groups": [[0], [1, 2]],
    "score": 0.9,
}
SPLIT: dict[str, Any] = {
    "method": "gradient_matching",
    "subspaces": 3,
    "partition": TREE.as_json(DECISIONS),
    "choices": {d.name: list(d.choices) for d in DECISIONS},
    "shares": [0.25, 0.5, 0.25],
    "matching": [MATCHING],
}
TRUST = {
    "networks": 4,
    "tau_before": 0.0,
    "tau_after": 0.67,
    "tau_one_shot": 0.33,
    "advice": "a sentence",
    "archs": ["a", "b", "c", "d"],
    "truth": [50.0, 60.0, 70.0, 80.0],
    "estimates_before": [20.0, 21.0, 19.0, 22.0],
    "estimates_after": [30.0, 50.0, 40.0, 60.0],
    "estimates_one_shot": [30.0, 45.0, 44.0, 43.0],
}
CELLS = SpaceSpec(name="nas_bench_201", params={"preset": "digits"})
TRAINED = {"steps": 120, "one_shot_steps": 120}


def correlation_of_all() -> RankCorrelationSchema:
    view = rank_correlation_schema(
        json.loads(json.dumps({"split": SPLIT, "train": TRAINED, "rank_correlation": TRUST}))
    )
    assert view is not None
    return view


# Words


@pytest.mark.parametrize(
    ("tau", "words"),
    [
        (Tau(0.2, 500, (0.1, 0.3)), "Do not trust"),
        (Tau(0.5, 12, (0.2, 0.8)), "hardly proven"),
        (Tau(0.6, 500, (0.5, 0.7)), "where networks differ"),
        (Tau(0.8, 500, (0.7, 0.9)), "can be trusted"),
        (Tau(0.67, 4, (-0.3, 1.0)), "too uncertain"),
        (Tau(0.67, 2), "too uncertain"),
    ],
)
def test_advice_goes_by_tau_and_its_interval(tau: Tau, words: str) -> None:
    advice = rank_advice(None, tau)
    assert words in advice
    assert f"{tau.value:.2f} on {tau.networks} networks" in advice
    assert ("trust the order" in advice or "followed" in advice or "fair" in advice or "can be" in advice) == (
        tau.conclusive
    )


def test_a_gain_is_told_from_chance() -> None:
    before, half, high = Tau(0.3, 100, (0.2, 0.4)), Tau(0.5, 100, (0.4, 0.6)), Tau(0.7, 100, (0.6, 0.8))
    assert "ranks better" in rank_advice(before, high, half, (0.1, 0.3))
    assert "ranks worse" in rank_advice(before, half, high, (-0.3, -0.1))
    assert "neither clearly better nor worse" in rank_advice(before, high, half, (-0.1, 0.4))
    assert "neither clearly better nor worse" in rank_advice(before, high, half, None)
    assert "0.30" in rank_advice(before, high)
    assert "no order" in rank_advice(before, None, half)


def test_four_networks_prove_no_order_and_many_do() -> None:
    assert kendall_interval(np.arange(4.0), np.arange(4.0)) is None  # one of 12 orders is as good by chance
    few = kendall_interval(np.arange(6.0), np.array([1.0, 0.0, 4.0, 2.0, 3.0, 5.0]))
    assert few is not None
    assert spans_zero(few)
    x = np.random.default_rng(0).normal(size=60)
    many = kendall_interval(x, x + np.random.default_rng(1).normal(scale=0.5, size=60))
    assert many is not None
    assert not spans_zero(many)
    tau = kendall(x, x + np.random.default_rng(1).normal(scale=0.5, size=60))
    assert many[0] < tau < many[1]
    assert kendall_interval(x[:2], x[:2]) is None
    assert kendall_interval(x, np.zeros(60)) is None


@pytest.mark.long
def test_the_interval_holds_the_true_tau_as_often_as_it_says() -> None:
    """Of Gaussian pairs with correlation r, tau is 2 / pi arcsin(r)."""
    rng, correlation, inside = np.random.default_rng(0), 0.6, 0
    for _ in range(60):
        x = rng.normal(size=30)
        y = correlation * x + math.sqrt(1 - correlation**2) * rng.normal(size=30)
        interval = kendall_interval(x, y, resamples=199)
        assert interval is not None
        inside += interval[0] <= 2 / math.pi * math.asin(correlation) <= interval[1]
    assert inside >= 51


def test_a_gain_over_one_supernet_has_an_interval() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=80)
    better, worse = truth + 0.3 * rng.normal(size=80), truth + 2.0 * rng.normal(size=80)
    gain = kendall_gain_interval(truth, worse, better)
    assert gain is not None
    assert gain[0] > 0
    same = kendall_gain_interval(truth, better, better + 1e-3 * rng.normal(size=80))
    assert same is not None
    assert spans_zero(same)


# The view


def test_a_search_that_divides_nothing_has_no_view() -> None:
    assert rank_correlation_schema({}) is None
    assert rank_correlation_schema({"split": {"reused": True}}) is None


def test_the_view_names_choices_and_numbers_parts_as_the_engine_does() -> None:
    view = correlation_of_all()

    def leaves(node: SpacePartitionSchema) -> list[SpacePartitionSchema]:
        return [leaf for child in node.children for leaf in leaves(child)] if node.decision is not None else [node]

    assert [leaf.subspace for leaf in leaves(view.partition)] == [1, 2, 3]
    assert [leaf.share for leaf in leaves(view.partition)] == SPLIT["shares"]
    allowed = TREE.allowed_choices()
    first, second = view.partition.children
    assert (view.partition.decision, first.decision, second.decision) == ("edge1", "edge2", None)
    assert [child.choices for child in (first, second)] == [["none"], ["skip", "conv"]]
    assert [leaf.choices for leaf in first.children] == [["none"], ["pool"]]
    assert [allowed_choices[0] for allowed_choices in allowed] == [(0,), (0,), (1, 2)]
    assert view.similarities[0].groups == [["none"], ["skip", "conv"]]
    assert [(n.arch, n.standalone, n.one_shot) for n in view.networks][2] == ("c", 70.0, 44.0)


def test_what_is_not_known_yet_is_empty() -> None:
    view = rank_correlation_schema({"split": SPLIT})
    assert view is not None
    assert (view.tau_after, view.networks, view.advice, view.steps) == (None, [], "", None)
    without = {k: v for k, v in TRUST.items() if "one_shot" not in k}
    view = rank_correlation_schema({"split": SPLIT, "train": {"steps": 120}, "rank_correlation": without})
    assert view is not None
    assert (view.tau_one_shot, view.one_shot_steps, view.networks[0].one_shot) == (None, None, None)
    untested = rank_correlation_schema({"split": SPLIT, "train": TRAINED, "rank_correlation": {"networks": 0}})
    assert untested is not None
    assert untested.networks == []


def test_a_search_is_shown_with_it_but_not_in_lists(tmp_path: Path) -> None:
    with open_store(f"sqlite:///{tmp_path / 'test.db'}", str(tmp_path / "blobs")) as store:
        fakes.add_device(store)
        search = fakes.add_search(store)
        lease = store.jobs.claim("worker", 10.0)
        assert lease is not None
        for stage, result in (("split", SPLIT), ("train", TRAINED), ("rank_correlation", TRUST)):
            fakes.append(store, lease, [StageFinished(stage, 1.0, result)])
        assert store.queries.search(search).rank_correlation == correlation_of_all()
        assert store.queries.searches(None, 10, None).items[0].rank_correlation is None


# Drawings


def test_estimates_stand_over_truth_in_a_series_of_their_own() -> None:
    series_by_id = {s["id"]: s for s in ranking_chart(correlation_of_all())["series"]}
    assert list(series_by_id) == [f"ranking.estimated.{name}" for name in ("before", "one_shot", "after")]
    assert len({s["symbol"] for s in series_by_id.values()}) == 3
    assert [d["value"] for d in series_by_id["ranking.estimated.after"]["data"]] == [
        [50, 30],
        [60, 50],
        [70, 40],
        [80, 60],
    ]
    undivided = correlation_of_all().model_copy(
        update={"networks": [n.model_copy(update={"one_shot": None}) for n in correlation_of_all().networks]}
    )
    assert "Undivided, trained as long" not in str(ranking_chart(undivided)["legend"])


def test_a_network_that_learns_nothing_does_not_take_the_room_of_the_others() -> None:
    accuracies = [10.0, 91.0, 92.0, 93.0, 94.0, 95.0]
    networks = [RankedArchSchema(arch=f"n{a:g}", standalone=a, before=a, after=a) for a in accuracies]
    dead = correlation_of_all().model_copy(update={"networks": networks})
    assert [n.standalone for n in without_outliers(dead)] == accuracies[1:]
    assert ranking_chart(dead)["xAxis"]["min"] >= 90
    assert len(without_outliers(correlation_of_all())) == 4
    assert ranking_chart(correlation_of_all())["xAxis"]["min"] < 50


def test_a_matrix_is_drawn_by_groups_with_disagreement_in_another_colour() -> None:
    [similarity] = correlation_of_all().similarities
    grouped = similarity.model_copy(update={"groups": [["skip", "conv"], ["none"]]})
    options = gradient_similarity_chart(grouped)
    assert options["xAxis"]["data"] == options["yAxis"]["data"] == ["skip", "conv", "none"]
    agree, disagree, values = options["series"]
    assert {tuple(d["value"]) for d in disagree["data"]} == {(1, 2, 0.3), (2, 1, 0.3)}
    assert [d["label"]["formatter"] for d in values["data"] if d["value"] == [1, 2]] == ["-0.30"]
    assert len(agree["data"]) == 7
    assert agree["itemStyle"]["color"] != disagree["itemStyle"]["color"]


# Submission


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"decisions": ["edge99.operation"]}, "edge01.operation"),
        ({"split": "exhaustive", "subspaces": 4}, "takes 5 subspaces"),
        ({"subspaces": 1}, "subspaces"),
    ],
)
def test_a_submission_is_checked_against_its_space(params: dict[str, Any], message: str, tmp_path: Path) -> None:
    spec = SearchSpec(space=CELLS, strategy=StrategySpec(name="few_shot", params=params))
    url = f"sqlite:///{tmp_path / 'test.db'}"
    with open_store(url, str(tmp_path / "blobs")) as store, pytest.raises(InvalidSpec, match=message):
        examine(spec, store, LOCAL)


def test_that_check_needs_no_torch() -> None:
    program = """
import sys
from nas.core.ports import ImageShape
from nas.core.spec import SearchSpec, StrategySpec
from nas.strategies.few_shot import FEW_SHOT
from search_spaces.nas_bench_201.space import build
spec = SearchSpec(strategy=StrategySpec(name="few_shot", params={"split": "exhaustive", "subspaces": 5}))
FEW_SHOT.check(spec, build({"preset": "digits"}, ImageShape(1, 8, 8, 10)))
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
