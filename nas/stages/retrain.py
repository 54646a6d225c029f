"""Retraining: train networks of the front, each by itself, before they are verified: from scratch or with inherited
weights, with or without a teacher (``nas.stages.trial_training``).

The networks of the search and of its random baseline get the same trials and the same epochs; one on both fronts is
trained once. After each trial, those that others dominate by then get no more (``nas.core.halving``). Accuracy is that
on the validation data by which trials were also chosen; with several seeds, their mean shows how much of the best one's
is chance. When the time limit of the search is reached, trials end after their epoch, and only the first trials of
networks still begin, for one epoch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from nas.core.cost_estimate import DurationRange, StageCost, average_duration, mean_seconds
from nas.core.errors import HwnasError
from nas.core.events import (
    Candidate,
    Checkpoint,
    Evaluated,
    Event,
    SearchState,
    StageFinished,
    Warned,
)
from nas.core.ports import Problem, Resources
from nas.core.references import reference_archs
from nas.core.tasks import Task
from nas.core.tuning import TrialRequest, TrialState, TuningPlan
from nas.sequential import run_sequentially
from nas.stages.cost_estimate import first_images, sample_archs, verified_range
from nas.stages.results import RetrainedNetwork
from nas.stages.retrain_trials import Promising, RetrainTrials, ranking_of
from nas.stages.subnets import trained_supernet
from nas.stages.teachers import report_teacher
from nas.stages.time_limit import out_of_time
from nas.stages.trial_training import (
    Learning,
    begin_training,
    load_sources,
    recipe_of,
    retrain_spec,
    seconds_of_teaching,
)
from nas.stages.verify import COMPARED, ORIGINS, to_verify
from nas.training.standalone import pack, unpack


@dataclass(frozen=True)
class RetrainStage:
    """Trains ``spec.retrain.networks`` networks of each origin; a trial is kept at least every ``checkpoint_s``
    seconds, under a checkpoint of its own."""

    checkpoint_s: float = 30.0
    name: ClassVar[str] = "retrain"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Trials that ended before a restart are not repeated. Raises HwnasError when every training diverges."""
        settings = retrain_spec(problem)
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
            problem.supernet_blob or trained_supernet(state),
        )
        varied = settings.hyperparameters(problem.spec.inherits_weights)
        defaults = {h.name: h.default for h in varied}
        task = problem.spec.task
        trials = RetrainTrials(self._stored_trials(resources, state), task, settings, len(archs))

        promising = Promising(problem, archs_by_origin)
        remaining = [*archs]
        for n in range(settings.trials) if settings.stop_dominated else (settings.trials - 1,):
            requests = [TrialRequest(id_, i, defaults if i == 0 else None) for i in range(n + 1) for id_ in remaining]
            plan = TuningPlan(tuple(requests), varied, settings.epochs, problem.spec.seed)
            yield from self._run(plan, learn, resources, trials)
            if settings.stop_dominated and n + 1 < trials.per_network and not resources.is_out_of_time():
                remaining = [id_ for id_ in remaining if id_ in promising.of(remaining, trials.best(n + 1))]
                if stopped := archs.keys() - trials.stopped - set(remaining):
                    trials.stopped |= stopped
                    yield trials.stop_progress(self.name, len(stopped))
        again = tuple(
            TrialRequest(id_, settings.trials + n, best.trial.values)
            for n in range(settings.seeds - 1)
            for id_, best in trials.best().items()
            if id_ in remaining
        )
        repeats = TuningPlan(again, varied, settings.epochs, problem.spec.seed, reduction=None)
        yield from self._run(repeats, learn, resources, trials)

        if archs:
            yield trials.saved_progress(self.name)
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
        result = replace(
            trials.result(reached),
            start="inherited" if problem.spec.inherits_weights else "scratch",
            ranking=ranking_of(problem, state, reached),
        )
        sources = load_sources(problem, resources.blobs, resources.torch_device, learn.supernet)
        if sources.teacher is not None:
            report = report_teacher(problem, sources.teacher, resources.torch_device)
            result = replace(result, teacher=report.description, teacher_quality=report.quality)
        yield StageFinished(self.name, 0.0, result.to_json())

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """Epochs of the smallest and the largest network and some between. How many trials are stopped early is not
        known: the range goes from all that can be to none."""
        clock, settings = resources.clock, retrain_spec(problem)
        archs, macs = sample_archs(problem.space)
        recipe = recipe_of(problem, {"lr": 0.0, "weight_decay": 0.0, "augmentation": 1.0})
        val, times = first_images(problem.data.val)
        started_at = clock()
        sources = load_sources(
            problem, resources.blobs, resources.torch_device, problem.supernet_blob or trained_supernet(state)
        )
        loaded_s = clock() - started_at  # every trial loads them anew

        def epoch_s(i: int) -> float:
            subnets, trainer = begin_training(
                problem, archs[i], recipe, problem.spec.seed, resources.torch_device, sources
            )
            step_s = mean_seconds(clock, lambda: trainer.step(0, 0))
            started_at = clock()
            subnets.recalibrate(trainer.evaluated, archs[i])
            recalibrated = clock()
            subnets.score(trainer.evaluated, archs[i], val)
            return trainer.per_epoch * step_s + recalibrated - started_at + times * (clock() - recalibrated)

        timed = average_duration(macs.tolist(), epoch_s)
        min_networks, max_networks = verified_range(problem)
        plan = TuningPlan((), (), settings.epochs, 0)
        least = settings.seeds * settings.epochs + (settings.trials - 1) * (plan.rungs or (settings.epochs,))[0]
        if settings.stop_dominated:
            least = (settings.epochs + least) // 2  # every other network has one trial
        all_ = (settings.seeds + settings.trials - 1) * settings.epochs
        devices = max(1, problem.spec.resources.gpus)
        references = len(reference_archs(problem.spec, problem.space))
        trained = len(ORIGINS) * max_networks + references
        total = DurationRange(
            timed.span.low_s * (min_networks + references) * least,  # both origins may have found the same networks
            timed.span.seconds * trained * (least + all_) / 2,
            timed.span.high_s * trained * all_,
        ) * (1 / devices)
        total += DurationRange.exact(loaded_s) * (trained * (settings.trials + settings.seeds - 1) / devices)
        # Networks that are trained one after the other share the answers of their teacher.
        sharing = 1.0 if resources.tuner is None else trained / devices
        steps = max(1, len(problem.data.train) // recipe.batch_size) * all_
        teaching_s = seconds_of_teaching(problem, sources.teacher, recipe.batch_size, resources)
        total += DurationRange.exact(teaching_s) * (steps * sharing)
        note = "how many trials are stopped early is not known beforehand"
        return StageCost.of(self.name, total, trained * all_, timed.count, "epochs", note)

    def _run(self, plan: TuningPlan, learn: Learning, resources: Resources, trials: RetrainTrials) -> Iterator[Event]:
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


def _trained_metrics(task: Task, network: RetrainedNetwork) -> dict[str, float]:
    """The deviation over seeds is a metric in %."""
    metrics = {task.trained: network.trained_quality}
    if network.trained_deviation is not None and task.quality.unit == "%":
        metrics["trained_deviation"] = network.trained_deviation
    return metrics
