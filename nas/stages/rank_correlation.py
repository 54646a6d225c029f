"""Rank correlation between the estimates of a supernet and networks that are trained from scratch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from nas.core.arch import Arch
from nas.core.cost_estimate import DurationRange, StageCost
from nas.core.events import Checkpoint, Event, Progress, SearchState, StageFinished, Traced, Warned
from nas.core.metrics import kendall_gain_interval
from nas.core.ports import Problem, Resources
from nas.core.rank_correlation import LOW_TAU, Tau, describe_tau, rank_advice
from nas.stages.results import RankCorrelationResult, SubSupernetsResult, TrainResult
from nas.stages.split import held_out_archs
from nas.stages.subnets import Subnets, load_supernet
from nas.stages.time_limit import out_of_time
from nas.training.pipeline import Pipeline
from nas.training.progressive import SupernetRecipe, train
from nas.training.state import TrainState


@dataclass(frozen=True)
class RankCorrelationStage:
    """Trains ``networks`` held-out networks from scratch by ``recipe``, and compares their order with the estimates of
    the supernet, before and after the split if there was one, and of the undivided one that was trained for as long,
    if it was. Nothing of it steers the search."""

    recipe: SupernetRecipe
    networks: int
    name: ClassVar[str] = "rank_correlation"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Warns when tau after the split is low. A network that was trained before a restart is not trained again."""
        if self.networks == 0 or problem.supernet_blob is not None:
            yield StageFinished(self.name, 0.0, RankCorrelationResult().to_json())
            return
        archs = held_out_archs(problem, self.networks)
        truth: list[float] = []
        if (last := state.checkpoints.get(self.name)) is not None:
            truth = json.loads(resources.blobs.get(last.blob))
        for arch in archs[len(truth) :]:
            if resources.is_out_of_time():  # the rest are the largest, so that a tau without them would mislead
                reached = f"{len(truth)} of {len(archs)} networks trained from scratch, which is too few for a tau"
                yield Warned(self.name, out_of_time(problem.spec, reached))
                yield StageFinished(self.name, 0.0, RankCorrelationResult().to_json())
                return
            truth.append(self._standalone_accuracy(problem, resources, arch))
            yield Checkpoint(self.name, len(truth), resources.blobs.put(json.dumps(truth).encode()))
            yield Progress(self.name, len(truth), len(archs), "networks")
        supernets = _supernets(state)
        estimates: dict[str, tuple[float, ...]] = {}
        tau: dict[str, Tau | None] = {}
        for label, blob in supernets.items():
            subnets = Subnets(problem, load_supernet(problem, resources, blob), resources.torch_device)
            estimates[label] = tuple(subnets.score(subnets.cut(a), a, problem.data.val).quality for a in archs)
            tau[label] = Tau.of(np.array(estimates[label]), np.array(truth))
        one_shot, gain = tau.get("one_shot"), None
        if "one_shot" in estimates:
            gain = kendall_gain_interval(np.array(truth), np.array(estimates["one_shot"]), np.array(estimates["after"]))
        advice = rank_advice(tau.get("before"), tau["after"], one_shot, gain)
        yield Traced(self.name, len(archs), {f"tau_{label}": t.value for label, t in tau.items() if t is not None})
        if tau["after"] is None or not tau["after"].conclusive or tau["after"].value < LOW_TAU:
            yield Warned(self.name, describe_tau(tau["after"]))
        intervals = {label: t.interval for label, t in tau.items() if t is not None and t.interval is not None}
        result = RankCorrelationResult(
            networks=len(archs),
            tau_before=_value(tau.get("before")),
            tau_after=_value(tau["after"]),
            tau_one_shot=_value(one_shot),
            intervals=intervals | ({"gain": gain} if gain is not None else {}),
            advice=advice,
            archs=tuple(a.id for a in archs),
            genes=tuple(a.genes for a in archs),
            truth=tuple(truth),
            estimates_before=estimates.get("before"),
            estimates_after=estimates["after"],
            estimates_one_shot=estimates.get("one_shot"),
        )
        yield StageFinished(self.name, 0.0, result.to_json())

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """Trains the network in the middle from scratch for an epoch."""
        if self.networks == 0 or problem.supernet_blob is not None:
            return StageCost.zero(self.name, "no network is trained from scratch")
        archs = held_out_archs(problem, self.networks)
        once = replace(self, recipe=replace(self.recipe, phases=(replace(self.recipe.phases[0], epochs=1),)))
        started_at = resources.clock()
        once._standalone_accuracy(problem, resources, archs[len(archs) // 2])
        seconds = (resources.clock() - started_at) * self.recipe.phases[0].epochs * len(archs)
        return StageCost.of(self.name, DurationRange(seconds / 2, seconds, 2 * seconds), len(archs), 1, "networks")

    def _standalone_accuracy(self, problem: Problem, resources: Resources, arch: Arch) -> float:
        """Validation accuracy in % of a network that shares its weights with no other."""
        net = problem.space.supernet(problem.spec.seed).to(resources.torch_device)
        pipeline = Pipeline.of(problem, resources.torch_device)
        for _ in train(
            net,
            problem.space,
            problem.data,
            pipeline,
            self.recipe,
            problem.spec.seed,
            TrainState(),
            lambda: False,
            lambda space, elastic, rng, n: [arch] * n,
        ):
            pass
        subnets = Subnets(problem, net, resources.torch_device)
        return subnets.score(subnets.cut(arch), arch, problem.data.val).quality


def _supernets(state: SearchState) -> dict[str, str]:
    """The blobs of the supernets to compare."""
    if "warm_up" not in state.finished:
        return {"after": TrainResult.require(state.finished).blob}
    trained = SubSupernetsResult.require(state.finished)
    supernets = {"before": TrainResult.require(state.finished, "warm_up").blob, "after": trained.blob}
    return supernets if trained.one_shot is None else {**supernets, "one_shot": trained.one_shot}


def _value(tau: Tau | None) -> float | None:
    return None if tau is None else tau.value
