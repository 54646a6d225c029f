"""The final choice: near the best signal where signals are good, better than it where they are noisy."""

from __future__ import annotations

import numpy as np

from nas.core.arch import Floats
from nas.explorers import random
from nas.explorers.final_choice import MIN_SHRUNK, shrunk_losses
from tests.support.explorers import no_history, planted, space_of


def regrets(noise: float, seeds: int = 20) -> tuple[Floats, Floats]:
    """True loss of the choice less the least of all, by the shrunk and by the plain evaluations of 60 networks."""
    rows = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        genes_NG = random.propose(space_of(), no_history(space_of()), rng, 60)
        truth_N = planted(space_of())(genes_NG)[0][:, 0]
        signal_N = truth_N + noise * rng.normal(size=60)
        shrunk_N = shrunk_losses(space_of(), genes_NG, signal_N)
        rows.append([truth_N[shrunk_N.argmin()] - truth_N.min(), truth_N[signal_N.argmin()] - truth_N.min()])
    shrunk, plain = np.array(rows).T
    return shrunk, plain


def test_noisy_signals_are_not_taken_at_their_word() -> None:
    shrunk, plain = regrets(noise=0.3)
    assert shrunk.mean() < plain.mean() - (plain - shrunk).std() / np.sqrt(len(plain))


def test_good_signals_are() -> None:
    shrunk, plain = regrets(noise=0.0)
    assert (plain == 0).all()
    assert shrunk.mean() < 0.005


def test_too_few_evaluations_and_equal_ones_stay_as_they_are() -> None:
    genes_NG = random.propose(space_of(), no_history(space_of()), np.random.default_rng(0), 12)
    few = np.arange(float(MIN_SHRUNK - 1))
    assert (shrunk_losses(space_of(), genes_NG[: len(few)], few) == few).all()
    assert (shrunk_losses(space_of(), genes_NG, np.ones(12)) == 1.0).all()
