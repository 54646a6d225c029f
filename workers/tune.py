"""Trials on Ray Tune: ASHA stops trials early, Optuna proposes hyperparameters, separately for every group.

Tune holds no durable state: the state of trials comes with the call and is returned to the caller. The scores of a
trial that ran before are reported to Tune again, so that ASHA compares its rivals with them, but it is not trained
again.
"""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypedDict, cast

import optuna
import ray
import torch
from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from nas.core.errors import Diverged, HwnasError
from nas.core.tuning import Hyperparameter, Trainable, Trial, TrialRequest, TrialState, TrialStatus, Tuner, TuningPlan
from nas.sequential import seed_of

SCORE, EPOCH = "score", "training_iteration"


class TrialConfig(TypedDict):
    """The configuration of a Tune trial: the ``number``-th trial of a ``group``, at a ``position`` of the plan."""

    group: str
    number: int
    values: Mapping[str, float]
    position: int


class TuneReport(TypedDict, total=False):
    """What a trial reports after an epoch: its ``scores`` so far, the last as ``score``, the ``blob`` of a checkpoint,
    why it has ``failed``, if it has, and whether the time limit has ``cut`` it."""

    score: float
    scores: Sequence[float]
    blob: str | None
    failed: str
    cut: bool


RETRIES = 2  # of a trial whose process died
STARTUP = 4  # trials of a group before its proposals are more than random
_PIN = 0.001  # of a node's own resource; it only says where to run


def ray_tuner(cpus: int, gpus: int) -> Tuner:
    """Return a ``Tuner`` for a job that holds ``cpus`` cores and ``gpus`` GPUs of its node: as many concurrent trials,
    with one core or one GPU each."""
    return partial(_run_plan, parallel=gpus or cpus, gpus=gpus)


def _run_plan(
    plan: TuningPlan, train: Trainable, previous: Mapping[str, TrialState], *, parallel: int, gpus: int
) -> Iterator[TrialState]:
    if all(request.id in previous and previous[request.id].status != "running" for request in plan.requests):
        return
    if not ray.is_initialized():
        raise HwnasError("trials on Ray Tune run inside of a Ray worker: expected one, got a plain process")
    updates: queue.SimpleQueue[TrialState | BaseException | None] = queue.SimpleQueue()
    devices = os.environ.get("CUDA_VISIBLE_DEVICES") if gpus else None
    with tempfile.TemporaryDirectory(prefix="nas-tune-") as folder:
        tuner = _tuner(plan, train, previous, parallel, devices, folder, updates)

        def fit() -> None:
            try:
                errors = tuner.fit().errors
                updates.put(HwnasError(f"a trial failed {RETRIES + 1} times: {errors[0]}") if errors else None)
            except BaseException as error:  # noqa: BLE001  # raised again in the consuming thread
                updates.put(error)

        # In a separate thread: Tune blocks, and on the main thread it would install signal handlers.
        running = threading.Thread(target=fit, name="Ray Tune", daemon=True)
        running.start()
        while (item := updates.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
        running.join()


def _tuner(
    plan: TuningPlan,
    train: Trainable,
    previous: Mapping[str, TrialState],
    parallel: int,
    devices: str | None,
    folder: str,
    updates: queue.SimpleQueue[Any],
) -> tune.Tuner:
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # Tune would write every result to files
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pin = {f"node:{ray.util.get_node_ip_address()}": _PIN}  # type: ignore[no-untyped-call]
    trainable = tune.with_resources(
        tune.with_parameters(_run_trial, train=train, previous=dict(previous), devices=devices),
        # The job already holds its cores and GPUs; requesting them again would deadlock.
        PlacementGroupFactory([{"CPU": 0.0, **pin}]),
    )
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_GroupedOptunaSearch(plan, previous),
            scheduler=_GroupedASHA(plan),
            num_samples=len(plan.requests),
            max_concurrent_trials=parallel,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=folder,
            verbose=0,
            callbacks=[_StateReporter(plan, previous, updates)],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )


def _run_trial(config: TrialConfig, train: Trainable, previous: Mapping[str, TrialState], devices: str | None) -> None:
    """Train one trial in a Tune worker process and report its epochs."""
    torch.set_num_threads(1)
    if devices is not None and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # a process reuses its device for later trials
        gpus = devices.split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[config["position"] % len(gpus)]
    trial = Trial(config["group"], config["number"], config["values"])
    state = previous.get(trial.id, TrialState(trial))
    for epochs in range(1, len(state.scores) + 1):
        if state.status == "running" and state.blob is None:
            break
        tune.report({SCORE: state.scores[epochs - 1], "scores": state.scores[:epochs], "blob": state.blob})
    if state.status != "running":
        return
    has_result = bool(state.scores)
    try:
        for epoch in train(trial, state.blob):
            has_result = True
            tune.report({SCORE: epoch.scores[-1], "scores": epoch.scores, "blob": epoch.blob, "cut": epoch.cut})
        if not has_result:  # Tune requires a result of every trial
            tune.report({SCORE: 0.0, "scores": (), "blob": None})
    except Diverged as error:
        tune.report({SCORE: 0.0, "scores": state.scores, "blob": None, "failed": str(error)})


class _StateReporter(tune.Callback):
    """Puts the state of a trial into a queue whenever it changes."""

    def __init__(self, plan: TuningPlan, previous: Mapping[str, TrialState], updates: queue.SimpleQueue[Any]) -> None:
        self._plan, self._updates = plan, updates
        self._states = dict(previous)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, object], **_: Any
    ) -> None:
        state, report = self._state_of(trial), cast(TuneReport, result)
        if state.status != "running":
            return
        if "failed" in report:
            state = replace(state, status="failed", message=report["failed"])
        elif len(report["scores"]) > len(state.scores):
            status: TrialStatus = "cut" if report.get("cut") else "running"
            if len(report["scores"]) == self._plan.epochs:
                status = "finished"
            state = replace(state, scores=tuple(report["scores"]), blob=report["blob"] or state.blob, status=status)
        else:
            return
        self._report(state)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        state = self._state_of(trial)
        if state.status == "running" and state.scores:  # without, it did not begin: the time was up
            self._report(replace(state, status="pruned"))

    def __getstate__(self) -> dict[str, object]:
        """Leave out the queue: Tune pickles its callbacks into a file, and a queue cannot be pickled."""
        return {**self.__dict__, "_updates": None}

    def _state_of(self, tune_trial: Any) -> TrialState:
        config = tune_trial.config
        trial = Trial(config["group"], config["number"], config["values"])
        return self._states.get(trial.id, TrialState(trial))

    def _report(self, state: TrialState) -> None:
        self._states[state.trial.id] = state
        self._updates.put(state)


class _GroupedASHA(FIFOScheduler):
    """One ASHA scheduler for each group; no early stopping if the plan has no reduction factor."""

    def __init__(self, plan: TuningPlan) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        groups = dict.fromkeys(request.group for request in plan.requests)
        self._groups = {group: FIFOScheduler() if plan.reduction is None else _asha(plan) for group in groups}  # type: ignore[no-untyped-call]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._scheduler_of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, object]) -> str:
        action: str = self._scheduler_of(trial).on_trial_result(tune_controller, trial, result)
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, object]) -> None:
        self._scheduler_of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._scheduler_of(trial).on_trial_remove(tune_controller, trial)

    def _scheduler_of(self, trial: Any) -> Any:
        return self._groups[trial.config["group"]]


def _asha(plan: TuningPlan) -> ASHAScheduler:
    assert plan.reduction is not None
    return ASHAScheduler(
        time_attr=EPOCH,
        metric=SCORE,
        mode="max",
        max_t=plan.epochs,
        grace_period=plan.first_rung,
        reduction_factor=plan.reduction,
    )


class _GroupedOptunaSearch(Searcher):
    """The trials of a plan in order; one Optuna study for each group proposes its hyperparameters."""

    def __init__(self, plan: TuningPlan, previous: Mapping[str, TrialState]) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._requests = plan.requests
        self._fixed_values = {r.id: dict(r.values) for r in plan.requests if r.values is not None}
        self._fixed_values |= {id_: dict(state.trial.values) for id_, state in previous.items()}
        self._suggested: dict[str, TrialRequest] = {}
        space = {h.name: _distribution(h) for h in plan.hyperparameters}
        self._studies = {
            group: OptunaSearch(
                space,
                metric=SCORE,
                mode="max",
                sampler=optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=seed_of(plan, group)),
            )
            for group in dict.fromkeys(request.group for request in plan.requests)
        }

    def suggest(self, trial_id: str) -> dict[str, object]:
        position = len(self._suggested)
        request = self._suggested[trial_id] = self._requests[position]
        values = self._fixed_values.get(request.id) or self._studies[request.group].suggest(trial_id)
        return {"group": request.group, "number": request.number, "values": values, "position": position}

    def on_trial_complete(self, trial_id: str, result: dict[str, float] | None = None, error: bool = False) -> None:
        request = self._suggested[trial_id]
        study = self._studies[request.group]
        if request.id not in self._fixed_values:
            study.on_trial_complete(trial_id, result, error)
        elif result is not None and SCORE in result:
            study.add_evaluated_point(self._fixed_values[request.id], result[SCORE])

    def save(self, checkpoint_path: str) -> None:
        """Do nothing: a restarted plan begins with the previous trial states."""

    def restore(self, checkpoint_path: str) -> None:
        """Do nothing, see ``save``."""


def _distribution(hyperparameter: Hyperparameter) -> optuna.distributions.BaseDistribution:
    return optuna.distributions.FloatDistribution(hyperparameter.low, hyperparameter.high, log=hyperparameter.log)
