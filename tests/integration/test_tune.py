"""Trials on a real Ray Tune, inside a job on a Ray worker that holds every core of its node."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("ray")

from nas.blobs import FolderBlobs
from nas.core.events import decode, encode, fold_all
from nas.core.jobs import Lease
from nas.core.ports import Resources
from nas.core.retraining import RetrainSpec
from nas.core.spec import BudgetSpec, ResourceSpec
from nas.core.tuning import EpochResult, Hyperparameter, Trial, TrialRequest, TrialState, TuningPlan
from nas.stages.retrain import RetrainStage
from tests.support.engine import SPEC, RuleDevice, problem, two_candidates
from workers.attempt import AttemptOutcome
from workers.ray_cluster import RayCluster, ray_cluster
from workers.tune import ray_tuner

pytestmark = pytest.mark.slow

SECONDS = 240.0
HYPERPARAMETERS = (Hyperparameter("quality", 1.0, 10.0, default=5.0),)
SPEC_OF_TWO = SPEC.model_copy(
    update={
        "retrain": RetrainSpec(networks=1, epochs=2, trials=2, batch_size=40),
        "budget": BudgetSpec(evaluations=8, verified=1),
    }
)


def train_linearly(trial: Trial, blob: str | None) -> Iterator[EpochResult]:
    """Scores grow to ``quality`` in nine epochs; the checkpoint is the number of epochs."""
    for done in range(int(blob or 0) + 1, 10):
        yield EpochResult(tuple(trial.values["quality"] * i / 9 for i in range(1, done + 1)), str(done))


def run_plan(
    job: Mapping[str, Any], blobs_url: str, events: Sequence[Mapping[str, Any]]
) -> Iterator[list[dict[str, Any]]]:
    """Job: a good, a bad and a proposed trial; then the same plan again with the states of the first two."""
    requests = (
        TrialRequest("a", 0, {"quality": 5.0}),
        TrialRequest("a", 1, {"quality": 2.0}),
        TrialRequest("b", 0, {"quality": 1.0}),
        TrialRequest("a", 2),
    )
    plan = TuningPlan(requests, HYPERPARAMETERS, 9, 0)
    previous: dict[str, TrialState] = {}
    for part in ("first", "again"):
        for state in ray_tuner(1, 0)(plan, train_linearly, previous):
            yield [{"kind": part, "id": state.trial.id, **asdict(state)}]
            if part == "first" and state.trial.id in ("a.0", "a.1"):
                previous[state.trial.id] = state


def train_until_time_is_up(trial: Trial, blob: str | None) -> Iterator[EpochResult]:
    """The first trial of a group is cut after two epochs, no other begins."""
    if trial.number == 0:
        yield EpochResult((1.0,))
        yield EpochResult((1.0, 2.0), "two", cut=True)


def run_cut_plan(
    job: Mapping[str, Any], blobs_url: str, events: Sequence[Mapping[str, Any]]
) -> Iterator[list[dict[str, Any]]]:
    """Job: three trials of which only the first begins."""
    plan = TuningPlan(tuple(TrialRequest("a", n) for n in range(3)), HYPERPARAMETERS, 9, 0)
    for state in ray_tuner(1, 0)(plan, train_until_time_is_up, {}):
        yield [{"kind": "cut", "id": state.trial.id, **asdict(state)}]


def run_stage(
    job: Mapping[str, Any], blobs_url: str, events: Sequence[Mapping[str, Any]]
) -> Iterator[list[dict[str, Any]]]:
    """Job: the stage on the digits, one network with two trials."""
    torch.set_num_threads(1)
    p = problem(SPEC_OF_TWO)
    resources = Resources(FolderBlobs(Path(blobs_url)), RuleDevice(), lambda: 0.0, tuner=ray_tuner(1, 0))
    for event in RetrainStage().run(p, resources, fold_all(decode(e) for e in events)):
        yield [encode(event)]


def run_job(
    job: Mapping[str, Any], blobs_url: str, events: Sequence[Mapping[str, Any]]
) -> Iterator[list[dict[str, Any]]]:
    """The job that ``job`` names."""
    yield from {"plan": run_plan, "cut": run_cut_plan, "stage": run_stage}[job["run"]](job, blobs_url, events)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCluster]:
    folder = tmp_path_factory.mktemp("cluster")
    blobs = str(folder / "blobs")
    with ray_cluster(
        None, folder / "ray", blobs_url=blobs, cpus=1, run_job="tests.integration.test_tune:run_job"
    ) as ray:
        yield ray
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves sockets and processes to the collector
        gc.collect()


def run(cluster: RayCluster, job: str, events: Sequence[Mapping[str, Any]] = ()) -> list[dict[str, Any]]:
    """All records of a job that takes the only core."""
    records: list[dict[str, Any]] = []
    task = cluster.start(Lease(job, 1, 0.0, {"run": job}, tuple(events)), ResourceSpec(), cluster.nodes()[0])
    while not isinstance(outcome := task.poll(SECONDS), AttemptOutcome):
        assert outcome is not None, task.dump_stacks()
        records += outcome
    assert outcome.status == "succeeded", outcome.message
    return records


@pytest.mark.long
def test_bad_trial_is_pruned_and_ended_trials_are_not_repeated(cluster: RayCluster) -> None:
    records = run(cluster, "plan")
    first = {r["id"]: r for r in records if r["kind"] == "first"}
    assert {id_: (r["status"], len(r["scores"])) for id_, r in first.items() if id_ != "a.2"} == {
        "a.0": ("finished", 9),
        "a.1": ("pruned", 1),
        "b.0": ("finished", 9),  # of another group
    }
    proposed = first["a.2"]["trial"]["values"]["quality"]
    assert 1.0 <= proposed <= 10.0
    assert first["a.2"]["status"] == ("finished" if proposed >= 5.0 else "pruned")
    again = {r["id"]: r for r in records if r["kind"] == "again"}
    assert set(again) == {"b.0", "a.2"}
    assert again["b.0"]["scores"] == first["b.0"]["scores"]


@pytest.mark.long
def test_trials_end_and_others_do_not_begin_when_time_is_up(cluster: RayCluster) -> None:
    records = run(cluster, "cut")
    assert [(r["id"], r["status"], len(r["scores"]), r["blob"]) for r in records] == [
        ("a.0", "running", 1, None),
        ("a.0", "cut", 2, "two"),
    ]


@pytest.mark.long
def test_retrain_stage_runs_its_trials_on_ray(cluster: RayCluster) -> None:
    before = [encode(event) for event in two_candidates(problem(SPEC_OF_TWO))]
    state = fold_all(decode(r) for r in [*before, *run(cluster, "stage", before)])
    result = state.finished["retrain"]
    [arch_id] = result["networks"]
    first, second = result["trials"]
    assert (first["lr"], first["status"], first["epochs"]) == (0.1, "finished", 2)
    assert (second["status"], second["epochs"]) in {("finished", 2), ("pruned", 1)}
    assert second["lr"] != 0.1
    trained = [p for p in state.candidates.values() if "trained_accuracy" in p.metrics]
    assert [(p.origin, p.arch.id) for p in trained] == [("search", arch_id), ("baseline", arch_id)]
    assert {p.metrics["trained_accuracy"] for p in trained} == {result["networks"][arch_id]["trained_accuracy"]}
