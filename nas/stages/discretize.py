"""From what a differentiable search has learned to networks, each within the bounds of the spec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import ClassVar

import numpy as np

from nas.core.arch import Arch, Floats, Genes
from nas.core.cost_estimate import DurationRange, StageCost
from nas.core.errors import InvalidSpec, NotFound
from nas.core.events import Event, SearchState, StageFinished, Warned
from nas.core.ports import Problem, Resources, is_relaxed
from nas.core.relaxation import skip_share
from nas.core.rng import Stream, rng
from nas.objectives import cheap_metrics, violation
from nas.stages.conditioned import reread
from nas.stages.gradient_runs import load_runs
from nas.stages.results import DiscretizeResult, SeedNetwork, SubspaceNetwork, TrainResult
from nas.stages.subnets import Subnets, load_supernet
from nas.training.gradient.resource import within_bounds
from nas.training.state import TrainState
from nas.training.weights import Weights


@dataclass(frozen=True)
class DiscretizeStage:
    """Discretises every run's architecture parameters; one that breaks a bound is replaced by the likeliest within. The
    network of every seed is scored on validation images with the weights of its own run, and with several seeds, mean
    and deviation show how much of it is chance. Where the runs are those of a divided space's subspaces, the weights
    are in the supernet of all, and what they found differs for other reasons than luck."""

    name: ClassVar[str] = "discretize"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Raises InfeasibleBound where no network near the architecture parameters meets the bounds, and InvalidSpec
        for a supernet that no differentiable search has trained."""
        space = problem.space
        assert is_relaxed(space)
        blob = problem.supernet_blob or TrainResult.require(state.finished).blob
        weights = _weights(resources, blob)
        if weights is None or "runs" not in weights:
            raise InvalidSpec(
                "expected the supernet of a differentiable search, got one without architecture parameters"
            )

        def broken(genes_NG: Genes) -> Floats:
            return violation(problem, cheap_metrics(problem, genes_NG))

        runs = load_runs(weights["runs"])
        networks: list[list[int]] = []
        seeds: list[SeedNetwork] = []
        subspaces: list[SubspaceNetwork] = []
        mended = 0
        for number, learned in enumerate(runs):
            run = learned
            if learned.conditioned:
                assert learned.supernet is not None
                try:
                    run = reread(problem, learned, _weights(resources, learned.supernet))
                except NotFound:
                    yield Warned(
                        self.name, f"the hypernetwork of seed {run.seed} is gone: its networks are the earlier ones"
                    )
            generator = rng(problem.spec.seed, Stream.DISCRETISATION, number)
            scores = np.array(run.scores)
            favourite = np.array(run.genes, dtype=np.int64)
            genes = favourite if broken(favourite[None])[0] == 0 else within_bounds(space, broken, scores, generator)
            accuracy: float | None = run.val_accuracy
            mended += bool((genes != favourite).any())
            if tuple(genes.tolist()) != learned.genes:
                try:
                    accuracy = _score(problem, resources, run.supernet or blob, genes)
                except NotFound:  # of a search that was deleted
                    accuracy = None
                    yield Warned(self.name, f"the weights of seed {run.seed} are gone, so its network has no score")
            discretised_genes = tuple(genes.tolist())
            if run.subspace is not None:
                subspaces.append(SubspaceNetwork(run.subspace + 1, discretised_genes, accuracy))
            else:
                seeds.append(SeedNetwork(run.seed, discretised_genes, accuracy))
            series = [list(g) for g in run.series if broken(np.array([g]))[0] == 0]
            networks += [g for g in (genes.tolist(), *reversed(series)) if g not in networks]
        if mended:
            yield Warned(self.name, f"{mended} of {len(runs)} found networks broke a bound and were replaced")
        shares = [skip_share(space.relaxation, space.table(np.array(g))) for g in networks]
        mean, deviation = _mean_and_deviation([s.val_accuracy for s in seeds])
        result = DiscretizeResult(
            networks=tuple(tuple(genes) for genes in networks),
            replaced=mended,
            skip_shares=tuple(shares),
            seeds=tuple(seeds) if seeds else None,
            subspaces=tuple(subspaces) if subspaces else None,
            mean_val_accuracy=mean,
            deviation_val_accuracy=deviation,
        )
        yield StageFinished(self.name, 0.0, result.to_json())

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """It looks at a few thousand predictions at most."""
        started_at = resources.clock()
        counts = [len(d.choices) for d in problem.space.decisions]
        genes_NG = np.random.default_rng(0).integers(0, counts, size=(512, len(counts)))
        violation(problem, cheap_metrics(problem, genes_NG))
        bounded = any(o.bound is not None for o in problem.spec.objectives)
        seconds = resources.clock() - started_at
        return StageCost.of(self.name, DurationRange(0.0, seconds, 8 * seconds if bounded else seconds), 1, 1)


def _weights(resources: Resources, blob: str) -> Weights | None:
    return TrainState.from_bytes(resources.blobs.get(blob), "cpu").weights


def _score(problem: Problem, resources: Resources, supernet: str, genes_G: Genes) -> float:
    """Validation accuracy of a network in %, with the weights of a run. Raises NotFound."""
    arch = Arch(problem.space.id, tuple(genes_G.tolist()))
    subnets = Subnets(problem, load_supernet(problem, resources, supernet), resources.torch_device)
    return subnets.score(subnets.cut(arch), arch, problem.data.val).quality


def _mean_and_deviation(accuracies: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the values that are not None; None if there are none."""
    values = [a for a in accuracies if a is not None]
    if not values:
        return None, None
    return fmean(values), stdev(values) if len(values) > 1 else 0.0
