"""Sequential tuning: early stopping, saved epochs, and equal results after an interruption."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from nas.core.errors import Diverged
from nas.core.tuning import EpochResult, Hyperparameter, Trial, TrialRequest, TrialState, TuningPlan
from nas.sequential import run_sequentially, seed_of, survives_rung

HYPERPARAMETERS = (
    Hyperparameter("quality", 1.0, 10.0, default=5.0),
    Hyperparameter("lr", 1e-4, 1.0, default=0.1, log=True),
)


class LinearTrainable:
    """The score grows to ``quality`` over nine epochs; the checkpoint is the number of epochs. Records trained
    epochs."""

    def __init__(self, epochs: int = 9) -> None:
        self.epochs = epochs
        self.trained: list[tuple[str, int]] = []

    def __call__(self, trial: Trial, blob: str | None) -> Iterator[EpochResult]:
        for done in range(int(blob or 0) + 1, self.epochs + 1):
            if trial.values["quality"] < 0:
                raise Diverged("no longer finite")
            self.trained.append((trial.id, done))
            quality = trial.values["quality"]
            yield EpochResult(tuple(quality * i / self.epochs for i in range(1, done + 1)), str(done))


def plan(*qualities: float, groups: str = "a", reduction: int | None = 3) -> TuningPlan:
    requests = tuple(TrialRequest(g, n, {"quality": q, "lr": 0.1}) for n, q in enumerate(qualities) for g in groups)
    return TuningPlan(requests, HYPERPARAMETERS, 9, 0, reduction)


def final_states(states: Iterator[TrialState]) -> dict[str, TrialState]:
    return {state.trial.id: state for state in states}


def test_rungs_are_powers_of_the_reduction_factor() -> None:
    assert TuningPlan((), HYPERPARAMETERS, 9, 0).rungs == (1, 3)
    assert TuningPlan((), HYPERPARAMETERS, 60, 0).rungs == (6, 18, 54)
    assert TuningPlan((), HYPERPARAMETERS, 1, 0).rungs == ()
    assert TuningPlan((), HYPERPARAMETERS, 9, 0, reduction=None).rungs == ()


def test_bad_trial_is_pruned_at_first_rung() -> None:
    trainable = LinearTrainable()
    states = final_states(run_sequentially(plan(5.0, 2.0, 8.0), trainable, {}))
    assert [s.status for s in states.values()] == ["finished", "pruned", "finished"]
    assert len(states["a.1"].scores) == 1
    assert len(trainable.trained) == 9 + 1 + 9
    unstopped = LinearTrainable()
    states = final_states(run_sequentially(plan(5.0, 2.0, 8.0, reduction=None), unstopped, {}))
    assert {s.status for s in states.values()} == {"finished"}
    assert len(unstopped.trained) == 27


def test_groups_do_not_compete() -> None:
    requests = (
        TrialRequest("small", 0, {"quality": 1.0}),
        TrialRequest("large", 0, {"quality": 9.0}),
        TrialRequest("small", 1, {"quality": 2.0}),
    )
    states = final_states(run_sequentially(TuningPlan(requests, HYPERPARAMETERS, 9, 0), LinearTrainable(), {}))
    assert {s.status for s in states.values()} == {"finished"}


@pytest.mark.parametrize("seed", range(5))
def test_best_trial_of_every_group_finishes(seed: int) -> None:
    requests = tuple(TrialRequest(g, n) for n in range(6) for g in "abc")
    states = final_states(run_sequentially(TuningPlan(requests, HYPERPARAMETERS, 9, seed), LinearTrainable(), {}))
    for g in "abc":
        group = [s for s in states.values() if s.trial.group == g]
        best = max(group, key=lambda s: s.trial.values["quality"])
        assert best.status == "finished"
        for s in group:
            assert 1.0 <= s.trial.values["quality"] <= 10.0
            assert 1e-4 <= s.trial.values["lr"] <= 1.0
    assert sum(s.status == "pruned" for s in states.values()) >= 4


def test_diverged_trial_fails_and_remaining_trials_continue() -> None:
    states = final_states(run_sequentially(plan(-1.0, 5.0), LinearTrainable(), {}))
    assert (states["a.0"].status, states["a.0"].message) == ("failed", "no longer finite")
    assert states["a.1"].status == "finished"


def test_interrupted_run_resumes_without_repeating_epochs() -> None:
    tuning_plan = TuningPlan(tuple(TrialRequest(g, n) for n in range(4) for g in "ab"), HYPERPARAMETERS, 9, 3)
    trainable = LinearTrainable()
    updates = list(run_sequentially(tuning_plan, trainable, {}))
    for cut in range(len(updates)):
        previous: Mapping[str, TrialState] = final_states(iter(updates[:cut]))
        again = LinearTrainable()
        after = {**previous, **final_states(run_sequentially(tuning_plan, again, previous))}
        assert after == final_states(iter(updates)), cut
        assert sorted(again.trained) == sorted(set(trainable.trained) - set(trainable.trained[:cut]))


def test_pruned_rivals_count_at_a_rung() -> None:
    tuning_plan = plan(5.0, 2.0)
    rivals = [
        TrialState(Trial("a", n, {}), (float(n),) * 3, status)  # type: ignore[arg-type]
        for n, status in enumerate(["pruned", "finished", "pruned"], start=1)
    ]
    state = TrialState(Trial("a", 9, {}), (0.0, 0.0, 0.0))
    third = replace(state, scores=(0.0, 0.0, 2.4))  # two thirds of the rivals have at most 2.33
    assert survives_rung(tuning_plan, third, rivals)
    assert not survives_rung(tuning_plan, replace(state, scores=(0.0, 0.0, 2.3)), rivals)
    assert survives_rung(tuning_plan, replace(state, scores=(0.0, 0.0)), rivals)  # no rung
    assert survives_rung(tuning_plan, state, [replace(r, trial=Trial("b", 0, {})) for r in rivals])


def test_seeds_differ_by_position() -> None:
    assert len({seed_of(plan(1.0), g, n) for g in "ab" for n in range(10)}) == 20
