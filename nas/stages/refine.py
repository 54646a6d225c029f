"""Refinement: refit the device's predictor to the measurements, and explore again where networks broke their bound.

Searches favour networks whose latency the predictor underestimates, so those that break their bound correct it most.
After verification the predictor is refitted. If networks of the search have broken their bound, the search explores
around the gaps that they leave in the front with the refitted predictor, without training: a few networks near them are
scored with the supernet, and as many random ones for the baseline; those on the front are measured, in a limited number
of rounds. Networks on the front that lie outside the predictor's domain are measured before others, and have a
round even if no bound is broken, since their predictions are not reliable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from nas.core.arch import LISTABLE, Floats, Genes, as_genes, every, neighbours, sample, space_size
from nas.core.cost_estimate import DurationRange, StageCost
from nas.core.device import comparable
from nas.core.events import (
    Candidate,
    Evaluated,
    Event,
    Origin,
    Progress,
    Refitted,
    SearchState,
    StageFinished,
    Warned,
    fold,
)
from nas.core.metrics import METRICS
from nas.core.ports import Problem, Refitter, Resources, SearchSpace, predict_latency
from nas.core.references import is_of_another_space
from nas.core.rng import Stream, rng
from nas.explorers import random
from nas.objectives import cheap_metrics, extrapolated, losses
from nas.stages.cost_estimate import sample_archs, scoring_s, verified_range
from nas.stages.explore import history_of, quality_of, scored_candidates, surrogate_front
from nas.stages.fronts import front_of, front_summary, guiding_metric
from nas.stages.results import RefineResult
from nas.stages.subnets import Subnets, load_subnets
from nas.stages.time_limit import out_of_time
from nas.stages.verify import ORIGINS, measure_and_verify, measured_first, unverified

_SHARE = 8  # a round scores this part of the budget


@dataclass(frozen=True)
class RefineStage:
    """Fits the predictor to what was measured, and explores again around broken bounds, for at most
    ``spec.budget.reexplore`` rounds; none after retraining, or without a supernet, since a new network would have to be
    trained. Over a fleet nothing is learned in the search: what was measured is kept for later ones."""

    population: int = 96
    generations: int = 60
    group: int = 12
    name: ClassVar[str] = "refine"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Every step follows from the latest ``Refitted`` and the events after it, so a restart takes the same one."""
        refit = resources.refit
        if refit is None or problem.fleet or not problem.profile.measurable:
            if problem.profile.measurable and not problem.fleet:
                yield Warned(
                    self.name,
                    f"too little is known of device {problem.spec.device!r} to fit its latency predictor anew with "
                    "what was measured: add the device again, with more samples",
                )
            yield StageFinished(self.name, 0.0, RefineResult().to_json())
            return
        trained = "retrain" in state.finished or guiding_metric(state.finished) is not None
        rounds = 0 if trained else problem.spec.budget.reexplore
        if not state.refits and _usable(problem, state):
            yield Progress(self.name, 0, 0, "networks", message="fitting the predictor")
            event: Event = _fitted(self.name, problem, refit, state)
            state = fold(state, event)
            yield event
        subnets = None
        while state.refits and state.refits[-1].number <= rounds:
            last = state.refits[-1]
            wiser = replace(problem, predictor=refit.load(last.record))
            if not last.broken and not extrapolated_newcomers(wiser, state, last):
                break
            if resources.is_out_of_time():
                yield Warned(self.name, out_of_time(problem.spec, f"refinement {last.number}"))
                break
            subnets = subnets or load_subnets(problem, resources, state)
            for step in (self._explore, self._verify) if last.broken else (self._verify,):
                for event in step(wiser, resources, subnets, state, last):
                    state = fold(state, event)
                    yield event
            if not _measured_since(problem, state):
                break
            yield Progress(self.name, 0, 0, "networks", message="fitting the predictor")
            event = _fitted(self.name, problem, refit, state)
            state = fold(state, event)
            yield event
        result = RefineResult(
            refits=len(state.refits),
            rounds=sum(r.broken > 0 and r.number <= rounds for r in state.refits),
            broken=sum(r.broken for r in state.refits),
            **vars(front_summary(front_of(problem.spec, state))),
        )
        yield StageFinished(self.name, 0.0, result.to_json())

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """One fit to made-up measurements, and one network that is scored. Whether a bound will break is not known."""
        refit, clock = resources.refit, resources.clock
        if refit is None or problem.fleet or not problem.profile.measurable:
            return StageCost.zero(self.name, "over a fleet, and where too little is known, nothing is learned")
        archs, macs = sample_archs(problem.space)
        genes_NG = as_genes(archs[: verified_range(problem)[1]])
        started_at = clock()
        refit.fit(genes_NG, predict_latency(problem.predictor, problem.space, genes_NG).mean_ms)
        fit_s = clock() - started_at
        rounds = 0 if problem.spec.retrain is not None else problem.spec.budget.reexplore
        high_s, note = fit_s, "one fit of the predictor"
        if rounds:
            subnets = load_subnets(problem, resources, state, untrained_will_do=True)
            score_s, _ = scoring_s(subnets, archs[int(macs.argmax())], problem.data.val, clock)
            protocol = problem.profile.protocol
            once_s = protocol.shortest_ms / 1e3
            round_s = _at_once(problem) * score_s + problem.spec.budget.verified * (score_s + once_s)
            high_s += rounds * (fit_s + len(ORIGINS) * round_s)
            note = (
                f"one fit, and up to {rounds} rounds more if measured networks break their bound or members of the "
                "front lie outside the predictor's domain"
            )
        return StageCost.of(self.name, DurationRange(fit_s, fit_s, high_s), 1 + rounds, 1, "fits", note)

    def _explore(
        self, problem: Problem, resources: Resources, subnets: Subnets, state: SearchState, last: Refitted
    ) -> Iterator[Event]:
        """One ``Evaluated`` with both origins, unless it is there already or the space has no networks left."""
        if len(state.of("search")) > last.evaluated:
            return
        round_size = _at_once(problem)
        n = min(round_size, *(_unseen_count(problem.space, state.of(origin), round_size) for origin in ORIGINS))
        if n == 0:
            return
        generator = rng(problem.spec.seed, Stream.REFINEMENT, last.number)
        batch: list[Candidate] = []
        score = quality_of(problem, subnets)
        proposals: tuple[tuple[Origin, Genes], ...] = (
            ("search", self._around(problem, state, generator, n)),
            ("baseline", random.propose(problem.space, history_of(problem, state, "baseline"), generator, n)),
        )
        for origin, genes_NG in proposals:
            for candidate in scored_candidates(problem, score, origin, genes_NG):
                batch.append(candidate)
                if len(batch) % 4 == 0:
                    yield Progress(self.name, len(batch), 2 * n, "subnets", message="exploring around broken bounds")
        yield Evaluated(tuple(batch))

    def _around(self, problem: Problem, state: SearchState, rng: np.random.Generator, n: int) -> Genes:
        """Unseen networks, nearest first to where the broken ones were believed to be: of the front as it is believed
        now, then neighbours of the broken ones that meet the bounds, then random ones."""
        space, candidates = problem.space, state.of("search")
        front, evaluate = surrogate_front(problem, state, rng, self.population, self.generations)
        broken = [p for p in candidates if p.status == "violated"]
        claimed = cheap_metrics(problem, as_genes([p.arch for p in broken]))
        claimed |= {k: np.array([p.metrics[k] for p in broken]) for k in ("predicted_ms", "upper_ms")}
        task = problem.spec.task
        holes_HM = losses(problem, claimed, np.array([p.metrics[task.estimated] for p in broken]), task.maximised)
        near_NG = space.canonical(np.concatenate([neighbours(space.decisions, p.arch.genes) for p in broken]))
        near_NM, violation_N = evaluate(near_NG)
        fits = violation_N == 0
        spread_M = np.ptp(np.concatenate([front.losses_NM, holes_HM]), axis=0)
        scale_M = np.where(spread_M > 0, spread_M, 1.0)
        ordered_NG = np.concatenate(
            [
                front.genes_NG[_nearest(front.losses_NM / scale_M, holes_HM / scale_M)],
                near_NG[fits][_nearest(near_NM[fits] / scale_M, holes_HM / scale_M)],
            ]
        )
        ordered_batches = iter([ordered_NG])

        def draw(size: int) -> Genes:
            return next(ordered_batches, sample(space.decisions, rng, size))

        return random.fresh(space, history_of(problem, state, "search"), rng, n, draw)

    def _verify(
        self, problem: Problem, resources: Resources, subnets: Subnets, state: SearchState, last: Refitted
    ) -> Iterator[Event]:
        if last.broken:
            networks = [p for origin in ORIGINS for p in newcomers(problem, state, last, origin)]
        else:
            networks = extrapolated_newcomers(problem, state, last)
        if not networks:
            return
        updated = ("predicted_ms", "upper_ms")  # other metrics stay as they were when a latency was promised
        yield Evaluated(
            tuple(
                Candidate(p.arch, p.origin, {k: p.metrics[k] for k in updated}, extrapolated=p.extrapolated)
                for p in networks
            )
        )
        now = [
            replace(state.candidates[p.key], metrics={**state.candidates[p.key].metrics, **p.metrics}) for p in networks
        ]
        [device] = problem.targets
        due = {p.key: [device.name] if p.measurement is None else [] for p in now}
        todo = [p for p in now if due[p.key] or problem.spec.task.tested not in p.metrics]
        yield from measure_and_verify(self.name, problem, resources, subnets, todo, due, len(networks), self.group)


def newcomers(problem: Problem, state: SearchState, last: Refitted, origin: Origin) -> list[Candidate]:
    """The networks of one origin that come to the front as it is predicted since the ``last`` refit, and were not tried
    before; those outside the predictor's domain first. What was measured after it plays no part, so a restart chooses
    the same."""
    tried = set(last.measured)
    candidates = [p for p in state.of(origin) if p.key not in tried or p.measurement is not None]
    genes_NG = as_genes([p.arch for p in candidates])
    cheap, outside = cheap_metrics(problem, genes_NG), extrapolated(problem, genes_NG)
    predicted = []
    for i, p in enumerate(candidates):
        estimates = {k: v for k, v in p.metrics.items() if METRICS[k].kind != "measured"}
        if p.key not in tried:
            latency, flag = {k: float(cheap[k][i]) for k in ("predicted_ms", "upper_ms")}, outside[i]
        elif p.measurement is not None and p.measurement.median_ms is not None:
            latency, flag = dict.fromkeys(("predicted_ms", "upper_ms"), p.measurement.median_ms), False
        else:
            continue
        predicted.append(Candidate(p.arch, p.origin, {**estimates, **latency}, extrapolated=flag))
    front = front_of(problem.spec, SearchState(finished=unverified(state), candidates={p.key: p for p in predicted}))
    members = front.members if origin == "search" else front.baseline
    return list(measured_first([p for p in members if p.key not in tried], problem.spec.budget.verified))


def extrapolated_newcomers(problem: Problem, state: SearchState, last: Refitted) -> list[Candidate]:
    """The ``newcomers`` of the search that lie outside the domain of the refitted predictor."""
    if not any(extrapolated(problem, as_genes([p.arch for p in state.of("search")]))):
        return []
    return [p for p in newcomers(problem, state, last, "search") if p.extrapolated]


def _fitted(stage: str, problem: Problem, refit: Refitter, state: SearchState) -> Refitted:
    """The predictor after one more fit, to all that the search has measured."""
    usable = _usable(problem, state)
    errors = [p.measurement.standard_error or 0.0 for p in usable if p.measurement is not None]
    refitted = refit.fit(
        as_genes([p.arch for p in usable]), np.array([p.metrics["measured_ms"] for p in usable]), np.array(errors)
    )
    before = set(state.refits[-1].measured) if state.refits else set()
    tried = [p for p in state.candidates.values() if p.measurement is not None]
    broken = sum(p.origin == "search" and p.status == "violated" and p.key not in before for p in tried)
    keys = tuple(p.key for p in tried)
    return Refitted(stage, len(state.refits) + 1, keys, len(state.of("search")), broken, refitted.record)


def _usable(problem: Problem, state: SearchState) -> list[Candidate]:
    """What the predictor may learn from: networks of its space that were measured as it expects."""
    candidates = [p for p in state.candidates.values() if not is_of_another_space(problem, p.arch)]
    return [p for p in candidates if p.measurement is not None and comparable(p.measurement, problem.profile)]


def _measured_since(problem: Problem, state: SearchState) -> bool:
    """Whether there is more to learn from than at the latest fit."""
    tried = set(state.refits[-1].measured)
    return any(p.key not in tried for p in _usable(problem, state))


def _at_once(problem: Problem) -> int:
    return max(1, problem.spec.budget.evaluations // _SHARE)


def _unseen_count(space: SearchSpace, candidates: Sequence[Candidate], limit: int) -> int:
    """The number of networks that are not among the ``candidates``, ``most`` at most."""
    if space_size(space.decisions) > LISTABLE:
        return limit
    return len(np.unique(space.canonical(every(space.decisions)), axis=0)) - len(candidates)


def _nearest(losses_NM: Floats, holes_HM: Floats) -> NDArray[np.intp]:
    """Rows in the order of their distance from the nearest hole."""
    away_NH = np.linalg.norm(losses_NM[:, None] - holes_HM[None], axis=2)
    return np.argsort(away_NH.min(axis=1), kind="stable")
