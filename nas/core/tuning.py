"""Running many trainings of which the hopeless end early: what is asked, what is known of each, and who does it.

Trials of one group compete among themselves only. A group is a network, so a small network is never given up for being
less accurate than a large one, and every network ends with a trial that was trained to its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

TrialStatus = Literal["running", "finished", "pruned", "failed"]


@dataclass(frozen=True)
class Knob:
    """A hyperparameter between ``low`` and ``high``; ``usual`` is what is tried first, ``log`` its natural scale."""

    name: str
    low: float
    high: float
    usual: float
    log: bool = False


@dataclass(frozen=True)
class Ask:
    """A trial that is wanted, the ``number``-th of its group. Without ``values`` the tuner proposes them."""

    group: str
    number: int
    values: Mapping[str, float] | None = None

    @property
    def id(self) -> str:
        """Identity inside a plan."""
        return f"{self.group}.{self.number}"


@dataclass(frozen=True)
class Trial:
    """One training: the ``number``-th of its group, by these hyperparameters."""

    group: str
    number: int
    values: Mapping[str, float]

    @property
    def id(self) -> str:
        """That of its ``Ask``."""
        return f"{self.group}.{self.number}"


@dataclass(frozen=True)
class TrialState:
    """How far a trial has come: the score after each epoch, more is better. ``blob`` (sha256) is the latest state that
    was kept of it; ``message`` says why it failed."""

    trial: Trial
    scores: tuple[float, ...] = ()
    status: TrialStatus = "running"
    blob: str | None = None
    message: str = ""


@dataclass(frozen=True)
class Plan:
    """What is asked for. Everything random derives from ``seed``.

    After ``rungs`` epochs, a trial of ``epochs`` goes on if it is among the best ``1 / reduction`` of those of its
    group that have come that far (ASHA: Li et al., MLSys 2020, section 3); ``reduction`` None: all go on.
    """

    asks: tuple[Ask, ...]
    knobs: tuple[Knob, ...]
    epochs: int
    seed: int
    reduction: int | None = 3

    @property
    def first_rung(self) -> int:
        """Epochs before which none is stopped."""
        return max(1, self.epochs // 9)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs after which trials are compared, rising, the end not among them."""
        if self.reduction is None:
            return ()
        count = math.ceil(math.log(self.epochs / self.first_rung, self.reduction) - 1e-9)
        return tuple(self.first_rung * self.reduction**i for i in range(count))


@dataclass(frozen=True)
class Lesson:
    """A trial has learned for one more epoch: the scores of all its epochs, and its state where that was kept."""

    scores: tuple[float, ...]
    blob: str | None = None


# Trains a trial from its beginning, or from the state in a blob. Raises Diverged, which ends the trial. May be
# pickled and run elsewhere.
Learner = Callable[[Trial, str | None], Iterator[Lesson]]

# Runs a plan. Yields what is known of a trial whenever that changes. Trials in the mapping (by id) that have ended are
# not run again; those that have not go on from their blobs.
Tuner = Callable[[Plan, Learner, Mapping[str, TrialState]], Iterator[TrialState]]
