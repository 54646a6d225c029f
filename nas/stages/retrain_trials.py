"""The trials of retraining: what they have reached, which networks are worth more of them, and how well the search had
ranked them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

import numpy as np

from nas.core.arch import Arch, Floats, as_genes
from nas.core.events import Origin, Progress, SearchState
from nas.core.halving import survivors
from nas.core.metrics import METRICS
from nas.core.ports import Problem
from nas.core.rank_correlation import Tau, retrained_advice
from nas.core.retraining import RetrainSpec
from nas.core.tasks import Task
from nas.core.tuning import TrialState
from nas.objectives import cheap_metrics, losses
from nas.stages.fronts import guiding_metric
from nas.stages.results import RankCorrelationResult, RetrainedNetwork, RetrainResult, TrialSummary
from nas.stages.verify import ORIGINS

MIN_RANKED = 4  # retrained networks whose order says anything of the estimates


@dataclass(frozen=True)
class Promising:
    """Which networks are worth another trial: those of each origin that halving leaves, by what they have reached and
    what they cost; all references."""

    problem: Problem
    archs_by_origin: Mapping[Origin, Sequence[Arch]]

    def of(self, remaining: Sequence[str], best: Mapping[str, TrialState]) -> set[str]:
        """Those of the remaining networks; one of which no trial has ended with a result has another chance."""
        out = {arch.id for arch in self.archs_by_origin["reference"]} | (set(remaining) - best.keys())
        for origin in ORIGINS:
            archs = [a for a in self.archs_by_origin[origin] if a.id in remaining and a.id in best]
            if archs:
                stays_N = survivors(self._losses(archs, best))
                out |= {arch.id for arch, stays in zip(archs, stays_N, strict=True) if stays}
        return out

    def _losses(self, archs: Sequence[Arch], best: Mapping[str, TrialState]) -> Floats:
        """On every front that the search looks for, side by side."""
        quality_N = np.array([-best[arch.id].scores[-1] for arch in archs])
        views = [self.problem if view is None else self.problem.on(view) for view in self.problem.spec.views]
        genes_NG = as_genes(archs)
        columns = [losses(p, cheap_metrics(p, genes_NG), quality_N, maximised=False) for p in views]
        return np.unique(np.concatenate(columns, axis=1), axis=1)


@dataclass
class RetrainTrials:
    """All trials of the stage, by id. ``stopped``: networks that were given up before their last trial."""

    states: dict[str, TrialState]
    task: Task
    settings: RetrainSpec
    networks: int
    stopped: frozenset[str] = frozenset()
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = self.networks * self.per_network * self.settings.epochs

    @property
    def per_network(self) -> int:
        """Trials of a network that is not given up."""
        return self.settings.trials + self.settings.seeds - 1

    @property
    def spared(self) -> int:
        """Trials that networks did not get because they were given up."""
        return sum(self.per_network - self._count(id_) for id_ in self.stopped)

    def _count(self, network: str) -> int:
        return sum(s.trial.group == network for s in self.states.values())

    def best(self, of: int | None = None) -> dict[str, TrialState]:
        """Of each network the most accurate trial of the first ``of``, by default of all that vary hyperparameters, the
        earliest of equals; one that was cut only if none has finished."""
        best: dict[str, TrialState] = {}
        for state in sorted(self._trained(), key=lambda s: (s.status == "cut", -s.scores[-1], s.trial.number)):
            if state.trial.number < (self.settings.trials if of is None else of):
                best.setdefault(state.trial.group, state)
        return best

    def unfinished(self) -> str | None:
        """How far retraining has come, None if every trial has ended by itself."""
        cut = [s for s in self.states.values() if s.status == "cut"]
        planned = self.networks * self.per_network - self.spared
        if not cut and len(self.states) == planned:
            return None
        best = self.best().values()
        text = f"{len(self.states) - len(cut)} of {planned} trainings from scratch"
        if partly := [len(s.scores) for s in best if s.status == "cut"]:
            text += (
                f", so that {len(partly)} of {len(best)} networks were trained for {min(partly)} to {max(partly)} of "
                f"{self.settings.epochs} epochs and their accuracies are no fair comparison"
            )
        return text

    def reached(self) -> dict[str, RetrainedNetwork]:
        """What was reached by network: the mean over seeds, and the weights of the best of them."""
        out: dict[str, RetrainedNetwork] = {}
        for id_, best in self.best().items():
            again = [s for s in self._finished() if s.trial.group == id_ and s.trial.number >= self.settings.trials]
            again = again if best.status == "finished" else []
            runs = sorted([best, *again], key=lambda s: s.trial.number)
            best_run = max(runs, key=lambda s: (s.scores[-1], -s.trial.number))
            qualities = [self.task.merit(s.scores[-1]) for s in runs]
            assert best_run.blob is not None
            deviation = stdev(qualities) if len(runs) > 1 else None
            out[id_] = RetrainedNetwork(best_run.blob, best.trial.values, fmean(qualities), deviation)
        return dict(sorted(out.items()))

    def result(self, reached: Mapping[str, RetrainedNetwork]) -> RetrainResult:
        """Every trial in a line, and how many epochs early stopping has saved."""
        states = sorted(self.states.values(), key=lambda s: (s.trial.group, s.trial.number))
        spent = sum(len(s.scores) for s in states)
        rows = [
            TrialSummary(
                network=s.trial.group,
                trial=s.trial.number + 1,
                status=s.status,
                epochs=len(s.scores),
                quality=self.task.merit(s.scores[-1]) if s.scores else None,
                **s.trial.values,
            )
            for s in states
        ]
        return RetrainResult(
            networks=reached,
            trials=tuple(rows),
            pruned=sum(s.status == "pruned" for s in states),
            failed=sum(s.status == "failed" for s in states),
            epochs=spent,
            epochs_saved=self.epochs_saved,
            stopped=len(self.stopped),
        )

    def failures(self) -> list[str]:
        """Why trials failed."""
        return [s.message for s in self.states.values() if s.status == "failed"]

    def stop_progress(self, stage: str, count: int) -> Progress:
        """That ``count`` networks were given up."""
        message = f"{count} networks get no more trials: others are better and cheaper"
        return Progress(stage, self._done(), self.total, "epochs", message=message)

    def saved_progress(self, stage: str) -> Progress:
        """How much early stopping has saved."""
        spent = sum(len(s.scores) for s in self.states.values())
        message = f"{spent} of {self.total} epochs were trained"
        if saved := self.epochs_saved:
            message += f": early stopping has saved {100.0 * saved / self.total:.0f} %"
        return Progress(stage, self._done(), self.total, "epochs", message=message)

    @property
    def epochs_saved(self) -> int:
        """By trials that were stopped, and by networks that were given up."""
        pruned = [self.settings.epochs - len(s.scores) for s in self.states.values() if s.status == "pruned"]
        return self.spared * self.settings.epochs + sum(pruned)

    def _done(self) -> int:
        """Epochs; a trial that was stopped, or that a network did not get, counts in full."""
        over = sum(s.status != "running" for s in self.states.values()) + self.spared
        return over * self.settings.epochs + sum(len(s.scores) for s in self.states.values() if s.status == "running")

    def progress(self, stage: str, latest: TrialState) -> Progress:
        """How far all have come."""
        over = [s for s in self.states.values() if s.status != "running"]
        values = {
            "trials_finished": float(sum(s.status == "finished" for s in over)),
            "trials_pruned": float(sum(s.status == "pruned" for s in over)),
        }
        if latest.scores:
            values[self.task.trained] = self.task.merit(latest.scores[-1])
        how = {
            "running": f"epoch {len(latest.scores)}",
            "finished": "finished",
            "pruned": f"pruned after epoch {len(latest.scores)}: others of this network were better by then",
            "failed": "diverged",
            "cut": f"cut after epoch {len(latest.scores)} by the time limit",
        }[latest.status]
        message = f"network {latest.trial.group}, trial {latest.trial.number + 1}: {how}"
        return Progress(stage, self._done(), self.total, "epochs", values, message)

    def _finished(self) -> list[TrialState]:
        return [s for s in self.states.values() if s.status == "finished"]

    def _trained(self) -> list[TrialState]:
        return [s for s in self.states.values() if s.status in ("finished", "cut")]


def ranking_of(
    problem: Problem, state: SearchState, reached: Mapping[str, RetrainedNetwork]
) -> RankCorrelationResult | None:
    """How well what the search went by ranks the networks that were then trained; None of fewer than
    ``MIN_RANKED``."""
    task = problem.spec.task
    by = guiding_metric(state.finished) or task.estimated
    sign = 1.0 if METRICS[by].goal == "max" else -1.0
    estimates = {c.arch: c.metrics[by] for c in state.candidates.values() if by in c.metrics}
    ranked = sorted((arch for arch in estimates if arch.id in reached), key=lambda arch: arch.id)
    if len(ranked) < MIN_RANKED:
        return None
    truth_N = np.array([task.merit(reached[arch.id].trained_quality) for arch in ranked])
    tau = Tau.of(sign * np.array([estimates[arch] for arch in ranked]), truth_N)
    return RankCorrelationResult(
        networks=len(ranked),
        tau_after=None if tau is None else tau.value,
        intervals={"after": tau.interval} if tau is not None and tau.interval is not None else {},
        advice=retrained_advice(tau),
        archs=tuple(arch.id for arch in ranked),
        genes=tuple(arch.genes for arch in ranked),
        truth=tuple(reached[arch.id].trained_quality for arch in ranked),
        estimates_after=tuple(estimates[arch] for arch in ranked),
    )
