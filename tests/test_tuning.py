"""Trials: who is stopped, what that saves, and that a cut run ends as one that was not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import pytest

from nas.core.errors import Diverged
from nas.core.tuning import Ask, Knob, Lesson, Plan, Trial, TrialState
from nas.tuning import goes_on, in_turn, seed_of

KNOBS = (Knob("quality", 1.0, 10.0, usual=5.0), Knob("lr", 1e-4, 1.0, usual=0.1, log=True))


class Learns:
    """The score grows to ``quality`` over nine epochs; its state is the number of epochs. Counts what it trains."""

    def __init__(self, epochs: int = 9) -> None:
        self.epochs = epochs
        self.trained: list[tuple[str, int]] = []

    def __call__(self, trial: Trial, blob: str | None) -> Iterator[Lesson]:
        for done in range(int(blob or 0) + 1, self.epochs + 1):
            if trial.values["quality"] < 0:
                raise Diverged("no longer finite")
            self.trained.append((trial.id, done))
            quality = trial.values["quality"]
            yield Lesson(tuple(quality * i / self.epochs for i in range(1, done + 1)), str(done))


def plan(*qualities: float, groups: str = "a", reduction: int | None = 3) -> Plan:
    asks = tuple(Ask(g, n, {"quality": q, "lr": 0.1}) for n, q in enumerate(qualities) for g in groups)
    return Plan(asks, KNOBS, 9, 0, reduction)


def ends(states: Iterator[TrialState]) -> dict[str, TrialState]:
    return {state.trial.id: state for state in states}


def test_rungs_are_powers_of_the_reduction_below_the_end() -> None:
    assert Plan((), KNOBS, 9, 0).rungs == (1, 3)
    assert Plan((), KNOBS, 60, 0).rungs == (6, 18, 54)
    assert Plan((), KNOBS, 1, 0).rungs == ()
    assert Plan((), KNOBS, 9, 0, reduction=None).rungs == ()


def test_a_bad_trial_is_stopped_at_the_first_rung_and_saves_its_epochs() -> None:
    learns = Learns()
    found = ends(in_turn(plan(5.0, 2.0, 8.0), learns, {}))
    assert [s.status for s in found.values()] == ["finished", "pruned", "finished"]
    assert len(found["a.1"].scores) == 1
    assert len(learns.trained) == 9 + 1 + 9
    everyone = Learns()
    assert {s.status for s in ends(in_turn(plan(5.0, 2.0, 8.0, reduction=None), everyone, {})).values()} == {"finished"}
    assert len(everyone.trained) == 27


def test_groups_do_not_compete() -> None:
    asks = (Ask("small", 0, {"quality": 1.0}), Ask("large", 0, {"quality": 9.0}), Ask("small", 1, {"quality": 2.0}))
    found = ends(in_turn(Plan(asks, KNOBS, 9, 0), Learns(), {}))
    assert {s.status for s in found.values()} == {"finished"}


@pytest.mark.parametrize("seed", range(5))
def test_every_group_ends_with_its_best_trained_to_the_end(seed: int) -> None:
    asks = tuple(Ask(g, n) for n in range(6) for g in "abc")
    found = ends(in_turn(Plan(asks, KNOBS, 9, seed), Learns(), {}))
    for g in "abc":
        group = [s for s in found.values() if s.trial.group == g]
        best = max(group, key=lambda s: s.trial.values["quality"])
        assert best.status == "finished"
        for s in group:
            assert 1.0 <= s.trial.values["quality"] <= 10.0
            assert 1e-4 <= s.trial.values["lr"] <= 1.0
    assert sum(s.status == "pruned" for s in found.values()) >= 4


def test_what_diverges_failed_and_the_others_go_on() -> None:
    found = ends(in_turn(plan(-1.0, 5.0), Learns(), {}))
    assert (found["a.0"].status, found["a.0"].message) == ("failed", "no longer finite")
    assert found["a.1"].status == "finished"


def test_a_run_that_is_cut_anywhere_ends_the_same_and_repeats_nothing() -> None:
    wanted = Plan(tuple(Ask(g, n) for n in range(4) for g in "ab"), KNOBS, 9, 3)
    learns = Learns()
    news = list(in_turn(wanted, learns, {}))
    for cut in range(len(news)):
        known: Mapping[str, TrialState] = ends(iter(news[:cut]))
        again = Learns()
        after = {**known, **ends(in_turn(wanted, again, known))}
        assert after == ends(iter(news)), cut
        assert sorted(again.trained) == sorted(set(learns.trained) - set(learns.trained[:cut]))


def test_rivals_that_were_stopped_count() -> None:
    wanted = plan(5.0, 2.0)
    rivals = [
        TrialState(Trial("a", n, {}), (float(n),) * 3, status)  # type: ignore[arg-type]
        for n, status in enumerate(["pruned", "finished", "pruned"], start=1)
    ]
    state = TrialState(Trial("a", 9, {}), (0.0, 0.0, 0.0))
    third = replace(state, scores=(0.0, 0.0, 2.4))  # two thirds of the rivals have at most 2.33
    assert goes_on(wanted, third, rivals)
    assert not goes_on(wanted, replace(state, scores=(0.0, 0.0, 2.3)), rivals)
    assert goes_on(wanted, replace(state, scores=(0.0, 0.0)), rivals)  # no rung
    assert goes_on(wanted, state, [replace(r, trial=Trial("b", 0, {})) for r in rivals])


def test_seeds_differ_by_position() -> None:
    assert len({seed_of(plan(1.0), g, n) for g in "ab" for n in range(10)}) == 20
