"""Hyperparameter tuning with early stopping (ASHA): the plan, the state of each trial, and the tuner interface.

Trials compete within their group only. A group is one architecture, so a small architecture is never stopped for being
less accurate than a large one, and every architecture ends with a trial that was trained to the last epoch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

TrialStatus = Literal["running", "finished", "pruned", "failed", "cut"]  # cut: by the time limit of the search


@dataclass(frozen=True)
class Hyperparameter:
    """A hyperparameter between ``low`` and ``high``. ``default`` is the first value tried; ``log``: sample on a
    logarithmic scale."""

    name: str
    low: float
    high: float
    default: float
    log: bool = False

    def fixed(self, value: float) -> Hyperparameter:
        """The same with one value, which all trials have."""
        return Hyperparameter(self.name, value, value, value)


@dataclass(frozen=True)
class TrialRequest:
    """A requested trial, the ``number``-th of its group. Without ``values`` the tuner proposes them."""

    group: str
    number: int
    values: Mapping[str, float] | None = None

    @property
    def id(self) -> str:
        """Identity within a plan."""
        return f"{self.group}.{self.number}"


@dataclass(frozen=True)
class Trial:
    """One training run: the ``number``-th of its group, with these hyperparameter values."""

    group: str
    number: int
    values: Mapping[str, float]

    @property
    def id(self) -> str:
        """The id of its ``TrialRequest``."""
        return f"{self.group}.{self.number}"


@dataclass(frozen=True)
class TrialState:
    """Progress of a trial: the score after each epoch, higher is better. ``blob`` is the sha256 of its latest
    checkpoint; ``message`` says why it failed."""

    trial: Trial
    scores: tuple[float, ...] = ()
    status: TrialStatus = "running"
    blob: str | None = None
    message: str = ""


@dataclass(frozen=True)
class TuningPlan:
    """The requested trials. All randomness derives from ``seed``.

    After each rung, a trial of ``epochs`` continues if it is among the best ``1 / reduction`` of the trials of its
    group that reached this rung (ASHA: Li et al., MLSys 2020, section 3). ``reduction`` None: no trial is stopped.
    """

    requests: tuple[TrialRequest, ...]
    hyperparameters: tuple[Hyperparameter, ...]
    epochs: int
    seed: int
    reduction: int | None = 3

    @property
    def first_rung(self) -> int:
        """Epochs before which no trial is stopped."""
        return max(1, self.epochs // 9)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs after which trials are compared, ascending, without the last epoch."""
        if self.reduction is None:
            return ()
        count = math.ceil(math.log(self.epochs / self.first_rung, self.reduction) - 1e-9)
        return tuple(self.first_rung * self.reduction**i for i in range(count))


@dataclass(frozen=True)
class EpochResult:
    """One more trained epoch of a trial: the scores of all its epochs, and the sha256 of a checkpoint if it made
    one. ``cut``: the last for now, because the time limit of the search was reached."""

    scores: tuple[float, ...]
    blob: str | None = None
    cut: bool = False


# Trains a trial from scratch, or from the checkpoint in a blob. Raises Diverged, which ends the trial. May be pickled
# and run in another process. Yields nothing for a trial that does not begin any more, which then has no state.
Trainable = Callable[[Trial, str | None], Iterator[EpochResult]]

# Runs a plan and yields the state of a trial whenever it changes. Ended trials in the mapping (by id) are not run
# again; unfinished ones continue from their blobs.
Tuner = Callable[[TuningPlan, Trainable, Mapping[str, TrialState]], Iterator[TrialState]]
