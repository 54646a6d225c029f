"""Trials on Ray Tune: ASHA stops the hopeless, Optuna proposes hyperparameters, both apart for every group.

Tune keeps nothing that counts: what is known of trials comes with the call and goes back to the caller. A trial that is
known already is told to Tune again, so that its rivals are held to it, but not trained again.
"""

from __future__ import annotations

import os
import queue
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import optuna
import ray
import torch
from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from nas.core.errors import Diverged, HwnasError
from nas.core.tuning import Ask, Knob, Learner, Plan, Trial, TrialState, TrialStatus, Tuner
from nas.tuning import seed_of

SCORE, EPOCH = "score", "training_iteration"
RETRIES = 2  # of a trial whose process died
STARTUP = 4  # trials of a group before its proposals are more than random
_PIN = 0.001  # of a node's own resource; it only says where to run


def ray_tuner(cpus: int, gpus: int) -> Tuner:
    """A ``Tuner`` for a job on a Ray worker that holds so many cores and GPUs of its node: as many trials at once, one
    core or one GPU each."""
    return partial(_on_ray, parallel=gpus or cpus, gpus=gpus)


def _on_ray(
    plan: Plan, learn: Learner, known: Mapping[str, TrialState], *, parallel: int, gpus: int
) -> Iterator[TrialState]:
    if all(ask.id in known and known[ask.id].status != "running" for ask in plan.asks):
        return
    if not ray.is_initialized():
        raise HwnasError("trials on Ray Tune run inside of a Ray worker: expected one, got a plain process")
    news: queue.SimpleQueue[TrialState | BaseException | None] = queue.SimpleQueue()
    devices = os.environ.get("CUDA_VISIBLE_DEVICES") if gpus else None
    with tempfile.TemporaryDirectory(prefix="nas-tune-") as folder:
        tuner = _tuner(plan, learn, known, parallel, devices, folder, news)

        def fit() -> None:
            try:
                errors = tuner.fit().errors
                news.put(HwnasError(f"a trial failed {RETRIES + 1} times: {errors[0]}") if errors else None)
            except BaseException as error:  # noqa: BLE001  # it is raised again where it can be seen
                news.put(error)

        # In a thread of its own: Tune blocks, and on the main thread it takes signals that are used otherwise.
        running = threading.Thread(target=fit, name="Ray Tune", daemon=True)
        running.start()
        while (item := news.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
        running.join()


def _tuner(
    plan: Plan,
    learn: Learner,
    known: Mapping[str, TrialState],
    parallel: int,
    devices: str | None,
    folder: str,
    news: queue.SimpleQueue[Any],
) -> tune.Tuner:
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # it would write every result to files
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    pin = {f"node:{ray.util.get_node_ip_address()}": _PIN}  # type: ignore[no-untyped-call]
    trainable = tune.with_resources(
        tune.with_parameters(_train, learn=learn, known=dict(known), devices=devices),
        # The job holds cores and GPUs already; asking for them again would wait for itself.
        PlacementGroupFactory([{"CPU": 0.0, **pin}]),
    )
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=_Proposals(plan, known),
            scheduler=_Apart(plan),
            num_samples=len(plan.asks),
            max_concurrent_trials=parallel,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=folder,
            verbose=0,
            callbacks=[_Tell(plan, known, news)],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        ),
    )


def _train(config: Mapping[str, Any], learn: Learner, known: Mapping[str, TrialState], devices: str | None) -> None:
    """What runs in a trial's process."""
    torch.set_num_threads(1)
    if devices is not None and not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # a process keeps its device for its next trials
        mine = devices.split(",")
        os.environ["CUDA_VISIBLE_DEVICES"] = mine[config["position"] % len(mine)]
    trial = Trial(config["group"], config["number"], config["values"])
    state = known.get(trial.id, TrialState(trial))
    for epochs in range(1, len(state.scores) + 1):
        if state.status == "running" and state.blob is None:
            break
        tune.report({SCORE: state.scores[epochs - 1], "scores": state.scores[:epochs], "blob": state.blob})
    if state.status != "running":
        return
    try:
        for lesson in learn(trial, state.blob):
            tune.report({SCORE: lesson.scores[-1], "scores": lesson.scores, "blob": lesson.blob})
    except Diverged as error:
        tune.report({SCORE: 0.0, "scores": state.scores, "blob": None, "failed": str(error)})


class _Tell(tune.Callback):
    """Says what becomes of trials."""

    def __init__(self, plan: Plan, known: Mapping[str, TrialState], news: queue.SimpleQueue[Any]) -> None:
        self._plan, self._news = plan, news
        self._states = dict(known)

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
        state = self._of(trial)
        if state.status != "running":
            return
        if "failed" in result:
            state = replace(state, status="failed", message=result["failed"])
        elif len(result["scores"]) > len(state.scores):
            status: TrialStatus = "finished" if len(result["scores"]) == self._plan.epochs else "running"
            state = replace(state, scores=tuple(result["scores"]), blob=result["blob"] or state.blob, status=status)
        else:
            return
        self._say(state)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
        state = self._of(trial)
        if state.status == "running":
            self._say(replace(state, status="pruned"))

    def __getstate__(self) -> dict[str, Any]:
        """Tune writes itself to a file that nobody reads; a queue cannot go there."""
        return {**self.__dict__, "_news": None}

    def _of(self, trial: Any) -> TrialState:
        found = Trial(trial.config["group"], trial.config["number"], trial.config["values"])
        return self._states.get(found.id, TrialState(found))

    def _say(self, state: TrialState) -> None:
        self._states[state.trial.id] = state
        self._news.put(state)


class _Apart(FIFOScheduler):
    """ASHA for every group by itself; all go on where the plan says so."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        groups = dict.fromkeys(ask.group for ask in plan.asks)
        self._groups = {group: FIFOScheduler() if plan.reduction is None else _asha(plan) for group in groups}  # type: ignore[no-untyped-call]

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        action: str = self._of(trial).on_trial_result(tune_controller, trial, result)
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_remove(tune_controller, trial)

    def _of(self, trial: Any) -> Any:
        return self._groups[trial.config["group"]]


def _asha(plan: Plan) -> ASHAScheduler:
    assert plan.reduction is not None
    return ASHAScheduler(
        time_attr=EPOCH,
        metric=SCORE,
        mode="max",
        max_t=plan.epochs,
        grace_period=plan.first_rung,
        reduction_factor=plan.reduction,
    )


class _Proposals(Searcher):
    """The trials of a plan in order, each group's hyperparameters by an Optuna study of its own."""

    def __init__(self, plan: Plan, known: Mapping[str, TrialState]) -> None:
        super().__init__(metric=SCORE, mode="max")
        self._asks = plan.asks
        self._given = {ask.id: dict(ask.values) for ask in plan.asks if ask.values is not None}
        self._given |= {id_: dict(state.trial.values) for id_, state in known.items()}
        self._asked: dict[str, Ask] = {}
        space = {knob.name: _distribution(knob) for knob in plan.knobs}
        self._studies = {
            group: OptunaSearch(
                space,
                metric=SCORE,
                mode="max",
                sampler=optuna.samplers.TPESampler(n_startup_trials=STARTUP, seed=seed_of(plan, group)),
            )
            for group in dict.fromkeys(ask.group for ask in plan.asks)
        }

    def suggest(self, trial_id: str) -> dict[str, Any]:
        position = len(self._asked)
        ask = self._asked[trial_id] = self._asks[position]
        values = self._given.get(ask.id) or self._studies[ask.group].suggest(trial_id)
        return {"group": ask.group, "number": ask.number, "values": values, "position": position}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        ask = self._asked[trial_id]
        study = self._studies[ask.group]
        if ask.id not in self._given:
            study.on_trial_complete(trial_id, result, error)
        elif result is not None and SCORE in result:
            study.add_evaluated_point(self._given[ask.id], result[SCORE])

    def save(self, checkpoint_path: str) -> None:
        """Nothing: a plan is begun anew with what is known."""

    def restore(self, checkpoint_path: str) -> None:
        """See ``save``."""


def _distribution(knob: Knob) -> optuna.distributions.BaseDistribution:
    return optuna.distributions.FloatDistribution(knob.low, knob.high, log=knob.log)
