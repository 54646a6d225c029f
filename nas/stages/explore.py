"""Exploring: the explorer proposes architectures, the supernet scores them; random search is the baseline.

The first networks are those that exact costs and size speak for (``nas.explorers.initial_design``). After them, a model
of accuracy is fitted in each round to every subnet scored so far and searched together with the latency predictor: by
the Bayesian explorer, which also proposes where the model is uncertain, or, where evaluations are many, by NSGA-II over
a surrogate, whose front's least crowded unseen members are scored with the supernet. The random-search baseline scores
as many subnets of the same supernet in the same round, so both curves share their x axis. In a search by zero-cost
proxies, proxies score architectures in place of the supernet, and no accuracy is estimated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np

from nas.core.arch import Arch, Floats, Genes, as_archs, as_genes, sample
from nas.core.cost_estimate import DurationRange, StageCost, average_duration, mean_seconds
from nas.core.events import (
    Candidate,
    Evaluated,
    Event,
    HypervolumeAt,
    Origin,
    Progress,
    SearchState,
    StageFinished,
    Warned,
    fold,
)
from nas.core.metrics import METRICS
from nas.core.ports import History, Problem, Resources
from nas.core.rng import Stream, rng
from nas.explorers import bayesian, nsga2, random
from nas.explorers.automatic import ExplorerName, chosen_explorer, round_sizes
from nas.explorers.distortion_aware import DistortionAwareSpace
from nas.explorers.initial_design import ExactLosses, initial_design
from nas.explorers.quality_surrogate import QualitySurrogate
from nas.objectives import cheap_metrics, extrapolated, losses, on_devices, violation
from nas.stages.adaptation import Adaptation
from nas.stages.cost_estimate import sample_archs, scoring_s
from nas.stages.derived import around, derived_networks
from nas.stages.fronts import front_of, front_summary, guiding_metric, state_on
from nas.stages.precision import in_precision
from nas.stages.proxies import ProxyAwareSpace, ProxyStage, load_scores
from nas.stages.racing import IMAGES_METRIC, Race, SurvivesRung, always, race_of, scored_share
from nas.stages.results import EstimateResult, ExploreResult
from nas.stages.scores import measured_by
from nas.stages.sensitivity import measured_distortions
from nas.stages.subnets import Subnets, load_subnets, trained_supernet
from nas.stages.time_limit import out_of_time

Score = Callable[[Arch], dict[str, float]]


@dataclass(frozen=True)
class ExploreStage:
    """Scores ``spec.budget.evaluations`` subnets by search and as many by random search, in rounds
    (``nas.explorers.automatic``); ``rounds``: in at most so many.

    Networks that a stage ``derive`` has found are the first that the search scores. ``proxies``: the stage before that
    scored networks by zero-cost proxies, if they steer this one. Where each device of a fleet has a front, they take
    turns in proposing, and what was scored for one is known to all. ``adapt_images``: what networks are trained on
    before they are scored (``nas.stages.adaptation``), 0: they are scored with the weights of the supernet.
    ``rescore``: so are networks that the search inherits, which may have been adapted.
    """

    rounds: int | None = None
    population: int = 96
    generations: int = 60
    explorer: ExplorerName = "auto"
    proxies: ProxyStage | None = None
    adapt_images: int = 0
    rescore: bool = False
    name: ClassVar[str] = "explore"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """One ``Evaluated`` per round holds both origins, so a restart repeats at most one round, and repeats it
        exactly."""
        budget = problem.spec.budget.evaluations
        score = self._score(problem, resources, state)
        guide = _guided(problem, resources, state)
        inherited = len(problem.inherited)
        if inherited and not state.candidates:
            event = Evaluated(tuple(_refresh(problem, problem.inherited, score if self.rescore else None)))
            state = fold(state, event)
            yield event
        inherited_by_origin = {o: len([p for p in problem.inherited if p.origin == o]) for o in ("search", "baseline")}
        sizes = self._round_sizes(problem)
        for number, size in enumerate(sizes):
            done = sum(sizes[:number])
            if len(state.of("search")) - inherited_by_origin["search"] > done:
                continue  # this round was kept before a restart
            if number and resources.is_out_of_time():
                yield Warned(self.name, out_of_time(problem.spec, f"{done} of {budget} evaluations"))
                break
            generator = rng(problem.spec.seed, Stream.EXPLORATION, number, inherited)
            batch: list[Candidate] = []
            scored = state  # the round as far as it has come; it is kept as a whole
            for origin, view, n in self._turns(problem, scored, done, size):
                if origin == "search":
                    genes_NG = self._propose(*_on_view(guide, scored, view), generator, n)
                else:
                    genes_NG = random.propose(problem.space, history_of(problem, scored, origin), generator, n)
                candidates = []
                race = _race(problem, scored, origin, score)
                for candidate in scored_candidates(problem, score, origin, genes_NG, race):
                    candidates.append(candidate)
                    if (len(batch) + len(candidates)) % 4 == 0:
                        yield Progress(self.name, 2 * done + len(batch) + len(candidates), 2 * budget, "subnets")
                scored = fold(scored, Evaluated(tuple(candidates)))
                batch += candidates
            event = Evaluated(tuple(batch))
            state = fold(state, event)
            yield event
            volumes = {}
            for view in problem.spec.views:
                front = front_of(problem.spec, state, device=view)
                assert front.hypervolume is not None
                assert front.baseline_hypervolume is not None
                yield HypervolumeAt(len(state.of("search")), front.hypervolume, front.baseline_hypervolume, view)
                volumes["hypervolume" if view is None else f"hypervolume on {view}"] = front.hypervolume
            yield Progress(self.name, 2 * (done + size), 2 * budget, "subnets", volumes)
        share = scored_share(problem, state)
        if share is not None:
            yield Progress(self.name, 2 * budget, 2 * budget, "subnets", message=_saved(share))
        fronts = {view: front_summary(front_of(problem.spec, state, device=view)) for view in problem.spec.views}
        result = ExploreResult(
            evaluations=len(state.of("search")),
            inherited=inherited_by_origin["search"],
            scored_share=share,
            fleet={name: front for name, front in fronts.items() if name is not None},
            **vars(fronts[problem.spec.views[0]]),
        )
        yield StageFinished(self.name, 0.0, result.to_json())

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """Candidates from the smallest to the largest, and one proposal in the middle of the budget."""
        clock, budget = resources.clock, problem.spec.budget.evaluations
        archs, macs = sample_archs(problem.space)
        started_at = clock()
        if self.proxies is not None:
            scorer = self.proxies.scorer(problem, resources)
            total = DurationRange.exact(clock() - started_at)
            scoring = average_duration(macs.tolist(), lambda i: mean_seconds(clock, lambda: scorer(archs[i])))
        elif self.adapt_images:
            adaptation = Adaptation(problem, resources, problem.supernet_blob, self.adapt_images)
            total = DurationRange.exact(clock() - started_at)
            scoring = average_duration(macs.tolist(), lambda i: adaptation.seconds_of(archs[i], clock))
        else:
            subnets = load_subnets(problem, resources, state, untrained_will_do=True)
            total = DurationRange.exact(clock() - started_at)
            scoring = average_duration(
                macs.tolist(), lambda i: scoring_s(subnets, archs[i], problem.data.val, clock)[0]
            )
        # Where along the front the search will look is not known beforehand; the baseline draws as we did.
        total += (
            DurationRange(scoring.smallest_s, scoring.span.seconds, scoring.largest_s) * budget + scoring.span * budget
        )
        rounds = len(self._round_sizes(problem))
        history = _made_up(problem, min(len(problem.inherited) + budget // 2, 2_000))
        rng = np.random.default_rng(0)
        proposal_size = max(1, budget // rounds // len(problem.spec.views))
        view = problem.spec.views[0]
        propose_s = mean_seconds(clock, lambda: self._propose(*_on_view(problem, history, view), rng, proposal_size))
        proposals = min(budget, len(problem.spec.views) * (rounds if problem.inherited else rounds - 1))
        total += DurationRange.exact(propose_s) * proposals
        return StageCost.of(self.name, total, 2 * budget, scoring.count, "subnets")

    def _explorer(self, problem: Problem) -> Literal["nsga2", "bayesian"]:
        return chosen_explorer(self.explorer, problem.spec.budget.evaluations + len(problem.inherited) // 2)

    def _round_sizes(self, problem: Problem) -> tuple[int, ...]:
        budget = problem.spec.budget.evaluations
        if self.rounds is None:
            return round_sizes(self._explorer(problem), budget)
        return tuple(len(part) for part in np.array_split(np.arange(budget), min(self.rounds, budget)))

    def _turns(
        self, problem: Problem, state: SearchState, done: int, size: int
    ) -> Iterator[tuple[Origin, str | None, int]]:
        """Who proposes how many in a round after ``done`` networks. Without a network scored, the first proposes all:
        nothing is known yet that would differ from device to device."""
        views = problem.spec.views
        turns = [views[i % len(views)] for i in range(done, done + size)]
        if not state.of("search"):
            turns = [views[0]] * size
        for view in dict.fromkeys(turns):
            yield "search", view, turns.count(view)
        yield "baseline", None, size

    def _score(self, problem: Problem, resources: Resources, state: SearchState) -> Score:
        """What is found out of a network, by metric."""
        if self.adapt_images:
            return adapted_quality_of(problem, resources, state, self.adapt_images)
        if self.proxies is None:
            return quality_of(problem, load_subnets(problem, resources, state))
        return proxy_scores(problem, resources, state, self.proxies)

    def _propose(self, problem: Problem, state: SearchState, rng: np.random.Generator, n: int) -> Genes:
        space = problem.space
        candidates = state.of("search")
        history = history_of(problem, state, "search")
        derived_NG = derived_networks(state)
        if len(derived_NG) and not {a.genes for a in as_archs("", derived_NG)} <= {p.arch.genes for p in candidates}:
            return around(space, history, derived_NG, rng, n)
        exact, reference_M = _exact_losses(problem), _reference(problem, state)
        if self._explorer(problem) == "bayesian":
            return bayesian.propose(space, history, rng, n, exact, reference_M)
        if not candidates:
            return initial_design(space, history, rng, n, exact)
        genes_NG = as_genes([p.arch for p in candidates])
        front, evaluate = surrogate_front(problem, state, rng, self.population, self.generations)
        proposed_NG = spread(front.genes_NG, front.losses_NM, genes_NG, n)
        missing = n - len(proposed_NG)
        if missing > 0:
            extended_history = History(
                np.concatenate([history.genes_NG, proposed_NG]),
                np.concatenate([history.losses_NM, evaluate(proposed_NG)[0]])
                if len(proposed_NG)
                else history.losses_NM,
                np.concatenate([history.violation_N, np.zeros(len(proposed_NG))]),
            )
            proposed_NG = np.concatenate([proposed_NG, nsga2.propose(space, extended_history, rng, missing)])
        return proposed_NG


@dataclass(frozen=True)
class NetworkQuality:
    """How good a network is on validation data, with the weights that it has in this search."""

    problem: Problem
    subnets: Subnets
    origin: Origin

    def __call__(self, arch: Arch, survives_rung: SurvivesRung = always) -> dict[str, float]:
        """The metrics of a network, over the first images alone if it does not go on to all."""
        val = self.problem.data.val
        images = len(val)

        def survives(quality: float, so_far: int) -> bool:
            nonlocal images
            if survives_rung(quality, so_far):
                return True
            images = so_far
            return False

        network = in_precision(self.subnets, self.subnets.cut(arch, self.origin), arch)
        scores = self.subnets.score(network, arch, val, None if survives_rung is always else survives)
        metrics = measured_by(self.problem.spec.task, scores, "val")
        return metrics if images == len(val) else {**metrics, IMAGES_METRIC: float(images)}


def quality_of(problem: Problem, subnets: Subnets, origin: Origin = "search") -> NetworkQuality:
    """The quality of networks as they are cut out of a supernet."""
    return NetworkQuality(problem, subnets, origin)


def proxy_scores(problem: Problem, resources: Resources, state: SearchState, proxies: ProxyStage) -> Score:
    """What zero-cost proxies say of a network, on the scale of those that the stage ``proxies`` has scored."""
    scale, scorer = load_scores(resources, state), proxies.scorer(problem, resources)
    assert scale is not None
    return lambda arch: {"proxy_score": float(scale.on_one_scale(np.array([scorer(arch)]))[0])}


def adapted_quality_of(problem: Problem, resources: Resources, state: SearchState, images: int) -> Score:
    """How good a network is on validation data after it was trained on so many ``images``, by ``Adaptation``."""
    supernet = problem.supernet_blob or trained_supernet(state)
    adaptation = Adaptation(problem, resources, supernet, images)
    return lambda arch: measured_by(problem.spec.task, adaptation.scores(arch), "val")


def guide(problem: Problem, state: SearchState) -> str:
    """The metric that the search goes by."""
    return guiding_metric(state.finished) or problem.spec.task.estimated


def surrogate_front(
    problem: Problem, state: SearchState, rng: np.random.Generator, population: int, generations: int
) -> tuple[nsga2.Population, nsga2.Evaluate]:
    """The front of a surrogate of the guiding metric, fitted to the scored networks, with exact and predicted costs;
    and the function that evaluates networks by that surrogate."""
    space, candidates, by = problem.space, state.of("search"), guide(problem, state)
    genes_NG = as_genes([p.arch for p in candidates])
    maximised = METRICS[by].goal == "max"
    surrogate = QualitySurrogate.fit(space, genes_NG, np.array([p.metrics[by] for p in candidates]), maximised)

    def evaluate(candidates_NG: Genes) -> tuple[Floats, Floats]:
        cheap = cheap_metrics(problem, candidates_NG)
        quality_N = surrogate.predict(candidates_NG)
        return losses(problem, cheap, quality_N, maximised), _violation(problem, cheap, quality_N, by)

    front = nsga2.minimise(
        space.decisions,
        space.canonical,
        evaluate,
        rng,
        population=population,
        generations=generations,
        start=genes_NG,
    )
    return front, evaluate


def _reference(problem: Problem, state: SearchState) -> Floats | None:
    """The reference point of hypervolumes as losses, shape (M,), None where the search has not estimated it."""
    profiled = EstimateResult.read(state.finished)
    if profiled is None or profiled.reference is None:
        return None
    by, quality = guide(problem, state), problem.spec.task.objective
    worst = {o: float(value) for o, value in profiled.reference.items()}
    if METRICS[by].goal == "max":
        worst[quality] = 0.0 if by == "proxy_score" else -worst[quality]
    return np.array([worst[o.name] for o in problem.spec.objectives])


def _exact_losses(problem: Problem) -> ExactLosses:
    """All objectives and bounds but those on the quality."""

    def tell(genes_NG: Genes) -> tuple[Floats, Floats]:
        cheap = cheap_metrics(problem, genes_NG)
        return losses(problem, cheap, np.full(len(genes_NG), np.nan)), violation(problem, cheap)

    return tell


def spread(genes_NG: Genes, losses_NM: Floats, seen_NG: Genes, n: int) -> Genes:
    """Up to ``n`` of the candidates that were not seen, evenly spaced along the first cost objective."""
    excluded = {row.tobytes() for row in np.ascontiguousarray(seen_NG)}
    fresh = [i for i, row in enumerate(np.ascontiguousarray(genes_NG)) if row.tobytes() not in excluded]
    order = sorted(fresh, key=lambda i: tuple(losses_NM[i, 1:]))
    if len(order) > n:
        order = [order[i] for i in np.unique(np.linspace(0, len(order) - 1, n).round().astype(int))]
    return genes_NG[order]


def _guided(problem: Problem, resources: Resources, state: SearchState) -> Problem:
    """The problem with measured distortions, or else proxy scores, among the space's accuracy features, unless the
    scores are what is optimised."""
    distortions = measured_distortions(problem.space, state)
    if distortions is not None:
        return replace(problem, space=DistortionAwareSpace(problem.space, distortions))
    scores = load_scores(resources, state)
    if scores is None or guiding_metric(state.finished) is not None:
        return problem
    return replace(problem, space=ProxyAwareSpace(problem.space, scores))


def scored_candidates(
    problem: Problem, score: Score, origin: Origin, genes_NG: Genes, race: Race | None = None
) -> Iterator[Candidate]:
    """Networks with their metrics; in a ``race``, those that are hardly going to win are given up early."""
    cheap, devices = cheap_metrics(problem, genes_NG), on_devices(problem, genes_NG)
    outside, unknown_N = extrapolated(problem, genes_NG), np.full(len(genes_NG), np.nan)
    for i, arch in enumerate(as_archs(problem.space.id, genes_NG)):
        metrics = {name: float(column[i]) for name, column in cheap.items()}
        metrics |= score(arch) if race is None else race.run(arch, losses(problem, cheap, unknown_N)[i])
        yield Candidate(arch, origin, metrics, devices=devices[i], extrapolated=outside[i])


def _race(problem: Problem, state: SearchState, origin: Origin, score: Score) -> Race | None:
    """The race of the next networks, where they are scored by the weights that they are cut out with."""
    if not isinstance(score, NetworkQuality) or guide(problem, state) != problem.spec.task.estimated:
        return None
    return race_of(problem, state, origin, history_of(problem, state, origin), score)


def _saved(share: float) -> str:
    return f"{100 * (1 - share):.0f} % of the scoring was saved: networks far from the front were given up early"


def _made_up(problem: Problem, n: int) -> SearchState:
    """``n`` networks whose quality grows with their MACs, for timing a proposal."""
    archs, macs = sample_archs(problem.space, n)
    cheap, devices = cheap_metrics(problem, as_genes(archs)), on_devices(problem, as_genes(archs))
    share_N = 50.0 + 45.0 * np.argsort(np.argsort(macs)) / len(macs)
    quality_N = share_N if problem.spec.task.maximised else 100.0 - share_N
    candidates = [
        Candidate(
            arch,
            "search",
            {**{k: float(v[i]) for k, v in cheap.items()}, problem.spec.task.estimated: float(quality_N[i])},
            devices=devices[i],
        )
        for i, arch in enumerate(archs)
    ]
    return SearchState(candidates={p.key: p for p in candidates})


def _refresh(problem: Problem, candidates: tuple[Candidate, ...], score: Score | None) -> Iterator[Candidate]:
    """Inherited candidates with their estimated quality, and metrics of the device predicted again. ``score``: tells
    the quality anew."""
    task = problem.spec.task
    inherited = {task.estimated, *(m.metric("val").name for m in task.further), "val_loss", IMAGES_METRIC}
    genes_NG = as_genes([p.arch for p in candidates])
    cheap, devices = cheap_metrics(problem, genes_NG), on_devices(problem, genes_NG)
    outside = extrapolated(problem, genes_NG)
    for i, p in enumerate(candidates):
        estimates = {k: v for k, v in p.metrics.items() if k in inherited} if score is None else score(p.arch)
        metrics = {**{k: float(v[i]) for k, v in cheap.items()}, **estimates}
        yield Candidate(p.arch, p.origin, metrics, devices=devices[i], extrapolated=outside[i])


def _on_view(problem: Problem, state: SearchState, view: str | None) -> tuple[Problem, SearchState]:
    return (problem, state) if view is None else (problem.on(view), state_on(state, view))


def _violation(problem: Problem, cheap: dict[str, Floats], quality_N: Floats, by: str) -> Floats:
    """Violation of the bounds, shape (N,). A bound on the quality does not apply to proxy scores."""
    return violation(problem, cheap, quality_N if by == problem.spec.task.estimated else None)


def history_of(problem: Problem, state: SearchState, origin: Origin) -> History:
    candidates, by = state.of(origin), guide(problem, state)
    width = len(problem.spec.objectives)
    if not candidates:
        empty = sample(problem.space.decisions, np.random.default_rng(0), 0)
        return History(empty, np.zeros((0, width)), np.zeros(0))
    genes = as_genes([p.arch for p in candidates])
    cheap = cheap_metrics(problem, genes)
    quality_N = np.array([p.metrics[by] for p in candidates])
    loss_NM = losses(problem, cheap, quality_N, METRICS[by].goal == "max")
    return History(genes, loss_NM, _violation(problem, cheap, quality_N, by))
