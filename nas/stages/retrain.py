"""Training the found networks from scratch, each by itself, before they are verified.

The networks of the search and of its random baseline get the same trials and the same epochs; one that both have found
is trained once. What has been reached is known by validation data, on which trials were also chosen; with several
seeds, the mean of the others and of the chosen one tells how much of it was luck. When the time limit of the search is
reached, trials end after their epoch, and only the first trials of networks still begin, for one epoch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import ClassVar

import torch

from nas.core.arch import Arch
from nas.core.cost_estimate import DurationRange, StageCost, average_duration, mean_seconds
from nas.core.errors import HwnasError
from nas.core.events import Candidate, Checkpoint, Evaluated, Event, Progress, SearchState, StageFinished, Warned
from nas.core.ports import BlobStore, Problem, Resources
from nas.core.references import reference_archs
from nas.core.regularisers import regularisers
from nas.core.rng import Stream, derive_seed
from nas.core.spec import RetrainSpec
from nas.core.tasks import Task
from nas.core.tuning import EpochResult, Hyperparameter, Trial, TrialRequest, TrialState, TrialStatus, TuningPlan
from nas.sequential import run_sequentially
from nas.stages.cost_estimate import first_images, sample_archs, verified_range
from nas.stages.results import RetrainedNetwork, RetrainResult, TrialSummary
from nas.stages.subnets import Subnets
from nas.stages.time_limit import out_of_time
from nas.stages.verify import COMPARED, ORIGINS, to_verify
from nas.training.augment import Augmentation
from nas.training.standalone import StandaloneRecipe, StandaloneTrainer, pack, unpack
from nas.training.weights import Weights

HYPERPARAMETERS = (
    Hyperparameter("lr", 0.01, 0.4, default=0.1, log=True),
    Hyperparameter("weight_decay", 3e-6, 3e-3, default=1e-4, log=True),
    Hyperparameter("augmentation", 0.0, 2.0, default=1.0),
)
_DEFAULTS = {h.name: h.default for h in HYPERPARAMETERS}


@dataclass(frozen=True)
class RetrainStage:
    """Trains ``spec.retrain.networks`` networks of each origin; a trial is kept at least every ``checkpoint_s``
    seconds, under a checkpoint of its own."""

    checkpoint_s: float = 30.0
    name: ClassVar[str] = "retrain"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Trials that ended before a restart are not repeated. Raises HwnasError when every training diverges."""
        settings = _retrain_spec(problem)
        verifiable = to_verify(problem, state, settings.networks)
        archs_by_origin = {o: [c.candidate.arch for c in verifiable if c.candidate.origin == o] for o in COMPARED}
        archs = {arch.id: arch for o in COMPARED for arch in archs_by_origin[o]}
        learn = Learning(
            problem,
            archs,
            resources.blobs,
            resources.torch_device,
            self.checkpoint_s,
            resources.clock,
            resources.is_out_of_time,
        )
        task = problem.spec.task
        trials = _Trials(self._stored_trials(resources, state), task, settings, len(archs))

        search = TuningPlan(
            tuple(TrialRequest(id_, n, _DEFAULTS if n == 0 else None) for n in range(settings.trials) for id_ in archs),
            HYPERPARAMETERS,
            settings.epochs,
            problem.spec.seed,
        )
        yield from self._run(search, learn, resources, trials)
        again = tuple(
            TrialRequest(id_, settings.trials + n, best.trial.values)
            for n in range(settings.seeds - 1)
            for id_, best in trials.best().items()
        )
        repeats = TuningPlan(again, HYPERPARAMETERS, settings.epochs, problem.spec.seed, reduction=None)
        yield from self._run(repeats, learn, resources, trials)

        if resources.is_out_of_time() and (unfinished := trials.unfinished()) is not None:
            yield Warned(self.name, out_of_time(problem.spec, unfinished))
        reached = trials.reached()
        if archs and not reached:
            raise HwnasError(f"all trainings of all {len(archs)} networks diverged: {trials.failures()[0]}")
        for id_ in archs.keys() - reached.keys():
            yield Warned(self.name, f"network {id_} is left out: all its trainings diverged")
        metrics = {id_: _trained_metrics(task, network) for id_, network in reached.items()}
        yield Evaluated(
            tuple(Candidate(a, o, metrics[a.id]) for o in COMPARED for a in archs_by_origin[o] if a.id in metrics)
        )
        yield StageFinished(self.name, 0.0, trials.result(reached).to_json())

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """Epochs of the smallest and the largest network and some between. How many trials are stopped early is not
        known: the range goes from all that can be to none."""
        clock, settings = resources.clock, _retrain_spec(problem)
        archs, macs = sample_archs(problem.space)
        recipe = _recipe(problem, {"lr": 0.0, "weight_decay": 0.0, "augmentation": 1.0})
        val, times = first_images(problem.data.val)

        def epoch_s(i: int) -> float:
            subnets, trainer = _begin(problem, archs[i], recipe, problem.spec.seed, resources.torch_device)
            step_s = mean_seconds(clock, lambda: trainer.step(0, 0))
            started_at = clock()
            subnets.recalibrate(trainer.evaluated, archs[i])
            recalibrated = clock()
            subnets.score(trainer.evaluated, archs[i], val)
            return trainer.per_epoch * step_s + recalibrated - started_at + times * (clock() - recalibrated)

        timed = average_duration(macs.tolist(), epoch_s)
        min_networks, max_networks = verified_range(problem)
        plan = TuningPlan((), HYPERPARAMETERS, settings.epochs, 0)
        least = settings.seeds * settings.epochs + (settings.trials - 1) * (plan.rungs or (settings.epochs,))[0]
        all_ = (settings.seeds + settings.trials - 1) * settings.epochs
        devices = max(1, problem.spec.resources.gpus)
        references = len(reference_archs(problem.spec, problem.space))
        trained = len(ORIGINS) * max_networks + references
        total = DurationRange(
            timed.span.low_s * (min_networks + references) * least,  # both origins may have found the same networks
            timed.span.seconds * trained * (least + all_) / 2,
            timed.span.high_s * trained * all_,
        ) * (1 / devices)
        note = "how many trials are stopped early is not known beforehand"
        return StageCost.of(self.name, total, trained * all_, timed.count, "epochs", note)

    def _run(self, plan: TuningPlan, learn: Learning, resources: Resources, trials: _Trials) -> Iterator[Event]:
        for trial_state in (resources.tuner or run_sequentially)(plan, learn, trials.states):
            before = trials.states.get(trial_state.trial.id)
            if trial_state.status in ("pruned", "failed"):  # its weights are of no more use
                trial_state = replace(trial_state, blob=resources.blobs.put(pack(trial_state, None)))
            trials.states[trial_state.trial.id] = trial_state
            if trial_state.status == "failed":
                yield Warned(
                    self.name,
                    f"network {trial_state.trial.group}, trial {trial_state.trial.number + 1}: {trial_state.message}",
                )
            if trial_state.blob is not None and (before is None or trial_state.blob != before.blob):
                yield Checkpoint(f"{self.name}.{trial_state.trial.id}", len(trial_state.scores), trial_state.blob)
            yield trials.progress(self.name, trial_state)

    def _stored_trials(self, resources: Resources, state: SearchState) -> dict[str, TrialState]:
        states = {}
        for stage, checkpoint in state.checkpoints.items():
            if stage.startswith(f"{self.name}."):
                stored, _ = unpack(resources.blobs.get(checkpoint.blob), "cpu")
                states[stored.trial.id] = replace(stored, blob=checkpoint.blob)
        return states


@dataclass(frozen=True)
class Learning:
    """A ``nas.core.tuning.Trainable``: trains the network that a trial's group names."""

    problem: Problem
    archs: Mapping[str, Arch]
    blobs: BlobStore
    torch_device: str
    checkpoint_s: float
    clock: Callable[[], float] = time.monotonic
    is_out_of_time: Callable[[], bool] = lambda: False

    def __call__(self, trial: Trial, blob: str | None) -> Iterator[EpochResult]:
        """Scores are the merit of the network on the validation images, of which more is better. Raises Diverged.

        When the time of the search is up, the epoch is the last, and a trial that has not begun is not begun; but the
        first of each network has one epoch at least, so that every network is trained."""
        if trial.number > 0 and blob is None and self.is_out_of_time():
            return
        problem, settings, arch = self.problem, _retrain_spec(self.problem), self.archs[trial.group]
        recipe = _recipe(problem, trial.values)
        seed = derive_seed(problem.spec.seed, Stream.RETRAINING, trial.number)
        subnets, trainer = _begin(problem, arch, recipe, seed, self.torch_device)
        state = TrialState(trial)
        if blob is not None:
            state, trained = unpack(self.blobs.get(blob), self.torch_device)
            assert trained is not None
            trainer.load_state_dict(trained)
        saved_at = self.clock()
        for epoch in range(len(state.scores), settings.epochs):
            trainer.epoch(epoch)
            subnets.recalibrate(trainer.evaluated, arch)
            quality = subnets.score(trainer.evaluated, arch, problem.data.val).quality
            finished = epoch + 1 == settings.epochs
            cut = not finished and self.is_out_of_time()
            status: TrialStatus = "finished" if finished else "cut" if cut else "running"
            merit = problem.spec.task.merit(quality)
            state = replace(state, scores=(*state.scores, merit), status=status)
            blob_id = None
            if status != "running" or self.clock() - saved_at >= self.checkpoint_s:
                net: Weights = {"net": trainer.evaluated.state_dict()}
                blob_id = self.blobs.put(pack(state, trainer.state_dict() if status == "running" else net))
                saved_at = self.clock()
            yield EpochResult(state.scores, blob_id, cut)
            if cut:
                return


@dataclass
class _Trials:
    """All trials of the stage, by id."""

    states: dict[str, TrialState]
    task: Task
    settings: RetrainSpec
    networks: int
    total: int = field(init=False)

    def __post_init__(self) -> None:
        self.total = self.networks * (self.settings.trials + self.settings.seeds - 1) * self.settings.epochs

    def best(self) -> dict[str, TrialState]:
        """Of each network the most accurate trial, the earliest of equals; one that was cut only if none has
        finished."""
        best: dict[str, TrialState] = {}
        for state in sorted(self._trained(), key=lambda s: (s.status == "cut", -s.scores[-1], s.trial.number)):
            if state.trial.number < self.settings.trials:
                best.setdefault(state.trial.group, state)
        return best

    def unfinished(self) -> str | None:
        """How far retraining has come, None if every trial has ended by itself."""
        cut = [s for s in self.states.values() if s.status == "cut"]
        planned = self.networks * (self.settings.trials + self.settings.seeds - 1)
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
            epochs_saved=sum(self.settings.epochs - len(s.scores) for s in states if s.status == "pruned"),
        )

    def failures(self) -> list[str]:
        """Why trials failed."""
        return [s.message for s in self.states.values() if s.status == "failed"]

    def progress(self, stage: str, latest: TrialState) -> Progress:
        """How far all have come; a trial that was stopped counts in full."""
        over = [s for s in self.states.values() if s.status != "running"]
        running = [s for s in self.states.values() if s.status == "running"]
        done = len(over) * self.settings.epochs + sum(len(s.scores) for s in running)
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
        return Progress(stage, done, self.total, "epochs", values, message)

    def _finished(self) -> list[TrialState]:
        return [s for s in self.states.values() if s.status == "finished"]

    def _trained(self) -> list[TrialState]:
        return [s for s in self.states.values() if s.status in ("finished", "cut")]


def _trained_metrics(task: Task, network: RetrainedNetwork) -> dict[str, float]:
    """The deviation over seeds is a metric in %."""
    metrics = {task.trained: network.trained_quality}
    if network.trained_deviation is not None and task.quality.unit == "%":
        metrics["trained_deviation"] = network.trained_deviation
    return metrics


def _recipe(problem: Problem, values: Mapping[str, float]) -> StandaloneRecipe:
    """The recipe of the spec with the values of a trial."""
    settings = _retrain_spec(problem)
    strengths = regularisers(settings, problem.space)
    return StandaloneRecipe(
        epochs=settings.epochs,
        batch_size=min(settings.batch_size, len(problem.data.train)),
        lr=values["lr"],
        weight_decay=values["weight_decay"],
        augmentation=Augmentation(values["augmentation"]),
        drop_path=strengths["drop_path"],
        auxiliary=strengths["auxiliary"],
    )


def _begin(
    problem: Problem, arch: Arch, recipe: StandaloneRecipe, seed: int, device: str
) -> tuple[Subnets, StandaloneTrainer]:
    """A network with the first weights that a fresh supernet gives it."""
    subnets = Subnets(problem, problem.space.supernet(seed).to(torch.device(device)), device)
    module = subnets.net.subnet(arch)
    return subnets, StandaloneTrainer(module, subnets.resolution(arch), problem.data, subnets.pipeline, recipe, seed)


def _retrain_spec(problem: Problem) -> RetrainSpec:
    assert problem.spec.retrain is not None
    return problem.spec.retrain
