"""Results of stages as JSON, in the form of today and in that of version 0.1."""

from __future__ import annotations

import math
from typing import Any

import pytest

from nas.core.errors import InvalidInput
from nas.core.events import SearchState, StageFinished, decode, encode, fold_all
from nas.core.spec import SearchSpec
from nas.stages.fronts import front_context, front_of
from nas.stages.results import (
    RESULTS,
    BilevelResult,
    DiscretizeResult,
    EnsembleResult,
    EstimateResult,
    ExploreResult,
    FrontStatistics,
    RankCorrelationResult,
    RetrainResult,
    SplitResult,
    SubSupernetsResult,
    TrainResult,
    VerifyResult,
)
from tests.support import fakes

BLOB = "0" * 64
RUN = {
    "seed": 0,
    "genes": [1, 0],
    "series": [[0, 0], [1, 0]],
    "val_accuracy": 71.5,
    "signs": ["skips"],
    "supernet": BLOB,
}
# As the stages of version 0.1 wrote them, with a key that no version has read.
OLD: dict[str, dict[str, Any]] = {
    "estimate": {
        "ranges": {"params": [1.0, 9.0], "upper_ms": [0.5, 4.0]},
        "feasible_share": 0.25,
        "reference": {"accuracy": 10.0, "latency": 4.0},
        "sampled": 20000,
        "fleet": {"pi": {"ranges": {}, "feasible_share": 0.5, "reference": {"accuracy": 10.0, "latency": 8.0}}},
        "unread": 1,
    },
    "warm_up": {"supernet": "1" * 64, "reused": False, "steps": 40, "largest_val_accuracy": 80.0},
    "split": {
        "method": "gradient_matching",
        "subspaces": 2,
        "partition": {"decision": "edge", "groups": [[0], [1, 2]], "children": [{}, {}]},
        "choices": {"edge": ["none", "skip", "conv"]},
        "shares": [0.25, 0.75],
        "matching": [
            {
                "decision": "edge",
                "choices": ["a", "b"],
                "similarity": [[1.0, 0.1], [0.1, 1.0]],
                "groups": [[0], [1]],
                "score": 0.9,
            }
        ],
    },
    "train": {
        "supernet": BLOB,
        "reused": False,
        "steps": 80,
        "subspaces": 2,
        "one_shot": "2" * 64,
        "one_shot_steps": 160,
    },
    "rank_correlation": {
        "networks": 2,
        "tau_before": None,
        "tau_after": 0.5,
        "advice": "Follow it.",
        "archs": ["a", "b"],
        "genes": [[0, 1], [1, 1]],
        "truth": [70.0, 71.0],
        "estimates_before": [50.0, 50.0],
        "estimates_after": [60.0, 61.0],
    },
    "discretize": {
        "networks": [[1, 0], [0, 0]],
        "replaced": 1,
        "skip_shares": [0.5, 0.0],
        "seeds": [{"seed": 0, "genes": [1, 0], "val_accuracy": None}],
    },
    "references": {"names": {"abc": "published"}},
    "sensitivity": {
        "supernet": BLOB,
        "importance": "l2",
        "images": 8,
        "distortions": {"width": [0.5, 0.0]},
        "networks": [[0], [1]],
    },
    "allocate_precision": {"members": [[1, 0]], "changes": [{"stem": 0.25}], "networks": [[1, 0], [1, 1]]},
    "proxies": {"steers": True, "networks": 64, "spearman": {"synflow": {"params": 0.9, "macs": None}}},
    "explore": {"evaluations": 48, "inherited": 8, "hypervolume": 0.5, "baseline_hypervolume": 0.4, "front_size": 7},
    "retrain": {
        "networks": {
            "abc": {"weights": BLOB, "values": {"lr": 0.1}, "trained_accuracy": 90.0, "trained_deviation": 0.5}
        },
        "trials": [
            {
                "network": "abc",
                "trial": 1,
                "status": "finished",
                "epochs": 3,
                "accuracy": 90.0,
                "lr": 0.1,
                "weight_decay": 1e-4,
                "augmentation": 1.0,
            }
        ],
        "pruned": 0,
        "failed": 0,
        "epochs": 3,
        "epochs_saved": 0,
    },
    "verify": {
        "measured": True,
        "verified": 3,
        "violated": 1,
        "unverified": 0,
        "front_size": 3,
        "hypervolume": 0.6,
        "baseline_hypervolume": 0.5,
        "fleet": {"pi": {"measured": False}},
    },
    "refine": {"refits": 1, "rounds": 0, "broken": 0, "front_size": 3, "hypervolume": 0.6, "baseline_hypervolume": 0.5},
    "export": {"models": 3},
}


def old_state() -> SearchState:
    log = [encode(StageFinished(stage, 1.0, result)) for stage, result in OLD.items()]
    return fold_all(decode(record) for record in log)


def test_results_of_an_old_log_are_read() -> None:
    finished = old_state().finished
    assert TrainResult.require(finished, "warm_up").blob == "1" * 64
    assert SubSupernetsResult.require(finished).one_shot_steps == 160
    split = SplitResult.require(finished)
    assert split.matching is not None
    assert (split.tree["decision"], split.shares, split.matching[0].groups) == ("edge", (0.25, 0.75), ((0,), (1,)))
    ranked = RankCorrelationResult.require(finished)
    assert (ranked.tau_before, ranked.tau_after, ranked.estimates_one_shot) == (None, 0.5, None)
    derived = DiscretizeResult.require(finished)
    assert derived.seeds is not None
    assert (derived.networks, derived.seeds[0].val_accuracy) == (((1, 0), (0, 0)), None)
    network = RetrainResult.require(finished).networks["abc"]
    assert (network.weights, network.trained_deviation) == (BLOB, 0.5)
    for cls in RESULTS.values():
        assert isinstance(cls.require(finished), cls)


def test_fronts_read_an_old_log() -> None:
    context = front_context(old_state().finished)
    assert (context.guiding_metric, context.verified, context.measured) == ("proxy_score", True, True)
    assert context.reference == {"accuracy": 10.0, "latency": 4.0}
    assert context.on("pi").reference == {"accuracy": 10.0, "latency": 8.0}
    assert (context.on("pi").verified, context.on("pi").measured) == (True, False)
    assert context.on("other") == context


def test_the_front_of_an_old_log_is_that_of_the_new() -> None:
    log = fakes.search_log()
    old = [encode(event) for event in log]
    for record in old:
        if "candidates" in record:
            record["points"] = record.pop("candidates")
    spec = SearchSpec(name="old")
    front = front_of(spec, fold_all(decode(record) for record in old))
    assert front == front_of(spec, fold_all(log))
    assert front.members
    assert front.final


@pytest.mark.parametrize("stage", OLD)
def test_results_round_trip_through_json(stage: str) -> None:
    cls = {"warm_up": TrainResult, "train": SubSupernetsResult}.get(stage) or RESULTS[stage]
    result = cls.require(OLD, stage)
    record = {k: v for k, v in result.to_json().items() if k in OLD[stage] or v != []}  # lists that are new are empty
    assert record == {k: v for k, v in OLD[stage].items() if v is not None and k != "unread"}
    assert cls.require({stage: record}, stage) == result


def test_every_kind_of_training_reads_as_a_trained_supernet() -> None:
    runs = {"supernet": BLOB, "reused": False, "steps": 8, "runs": [RUN], "mean_val_accuracy": 71.5}
    bilevel = BilevelResult.require({"train": runs})
    assert bilevel.runs is not None
    assert bilevel.runs[0].series == ((0, 0), (1, 0))
    ensemble = EnsembleResult(supernet=BLOB, steps=8, subspaces=2, assignment={"decisions": ["a"]}, shares=(0.5, 0.5))
    for result in (bilevel, ensemble):
        read = TrainResult.require({"train": result.to_json()})
        assert (read.blob, read.steps) == (BLOB, 8)
    assert TrainResult.reuse(BLOB).to_json() == {"supernet": BLOB, "reused": True, "steps": 0}


def test_summaries_by_device_are_written_beside_the_first() -> None:
    first = FrontStatistics(3, 0.5, 0.4)
    result = ExploreResult(evaluations=8, inherited=0, fleet={"pi": first}, **vars(first))
    assert result.to_json()["fleet"] == {"pi": {"front_size": 3, "hypervolume": 0.5, "baseline_hypervolume": 0.4}}
    assert ExploreResult.require({"explore": result.to_json()}) == result


def test_missing_and_malformed_results_are_named() -> None:
    assert VerifyResult.read({}) is None
    with pytest.raises(InvalidInput, match="expected a finished stage 'split', got estimate"):
        SplitResult.require({"estimate": {}})
    with pytest.raises(InvalidInput, match=r"result of stage 'explore'.*evaluations"):
        ExploreResult.read({"explore": {"evaluations": "many"}})
    with pytest.raises(InvalidInput, match="without"):
        _ = TrainResult().blob
    with pytest.raises(InvalidInput, match="divided"):
        _ = SplitResult(reused=True).tree


def test_infinite_values_stay_infinite() -> None:
    record = EstimateResult(ranges={"upper_ms": (1.0, math.inf)}).to_json()
    assert record["ranges"]["upper_ms"] == [1.0, math.inf]
