"""Score networks by zero-cost proxies, without training.

The scores are features of an accuracy predictor, or, on one scale, the metric that a search optimises until networks
are trained. They are never reported as accuracy.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from scipy.special import ndtr

from nas.core.arch import Arch, Floats, Genes, as_archs, as_genes, one_hot
from nas.core.cost_estimate import StageCost, average_duration, mean_seconds
from nas.core.events import Checkpoint, Event, Progress, SearchState, StageFinished, Warned
from nas.core.metrics import spearman
from nas.core.ports import Problem, Resources, SearchSpace
from nas.core.rng import Stream, rng
from nas.proxies import score
from nas.spaces.wrapper import SpaceWrapper
from nas.stages.cost_estimate import sample_archs
from nas.stages.results import ProxiesResult
from nas.stages.time_limit import out_of_time
from nas.supernet import Supernet
from nas.training.criterion import Criterion
from nas.training.pipeline import Pipeline

FAR = 10.0  # deviations: a score further away, or infinite, says no more than that
COUNTED = ("params", "macs")  # which rank networks as well as many proxies do, and belong among them
_BATCH = 8  # networks between two checkpoints


class ProxyScorer:
    """Proxies of freshly initialised networks on one batch of training images; the same network scores the same."""

    def __init__(self, problem: Problem, device: str, proxies: tuple[str, ...], images: int) -> None:
        self.problem, self.proxies = problem, proxies
        net: Supernet = problem.space.supernet(problem.spec.seed)
        self._net = net.to(torch.device(device))
        self._pipeline = Pipeline.of(problem, device)
        self._criterion = Criterion(problem.data, device, self._pipeline.value_scale)
        size = len(problem.data.train)
        self._rows = rng(problem.spec.data.seed, Stream.PROXY_IMAGES).permutation(size)[:images]

    def __call__(self, arch: Arch) -> list[float]:
        """One score per proxy, larger is better; -inf where a proxy gives a network up."""
        costs = self.problem.space.costs(np.array([arch.genes]))
        resolution = self.problem.space.input_shape(arch)[1:]
        ((x_BCHW, y),) = self._pipeline.rows(self.problem.data.train, self._rows, resolution, len(self._rows))
        module = self._net.subnet(arch)
        scores = [
            float(costs[name][0]) if name in COUNTED else score(name, module, x_BCHW, y, self._criterion.loss)
            for name in self.proxies
        ]
        return [-math.inf if math.isnan(s) else s for s in scores]


@dataclass(frozen=True)
class Scores:
    """What proxies say of ``genes_NG``: ``scores_NP``, -inf where one gives a network up."""

    proxies: tuple[str, ...]
    genes_NG: Genes
    scores_NP: Floats

    @property
    def centre_P(self) -> Floats:
        """Median of the finite scores of each proxy, shape (P,)."""
        return np.array([np.median(s) if len(s := c[np.isfinite(c)]) else 0.0 for c in self.scores_NP.T])

    @property
    def spread_P(self) -> Floats:
        """Robust standard deviation of each proxy, from the quartiles of its finite scores, shape (P,)."""
        finite = [c[np.isfinite(c)] for c in self.scores_NP.T]
        spread = [float(np.subtract(*np.quantile(s, (0.75, 0.25)))) / 1.349 if len(s) else 0.0 for s in finite]
        return np.where(np.array(spread) > 0, spread, 1.0)

    def standard(self, scores_NP: Floats) -> Floats:
        """Scores in deviations from the centre, ``FAR`` at most, shape (N, P)."""
        return np.asarray(np.clip((scores_NP - self.centre_P) / self.spread_P, -FAR, FAR))

    def on_one_scale(self, scores_NP: Floats) -> Floats:
        """One score of all proxies, from 0 to 100, where 50 is a usual network, shape (N,): the geometric mean of the
        shares of these networks that each score exceeds, so that no proxy may be low (as the sum of log ranks of Lee
        and Ham, AZ-NAS, CVPR 2024; shares are those of a Gaussian, so that they tell the best apart)."""
        shares_NP = np.maximum(ndtr(self.standard(scores_NP)), 1.0 / (len(self.genes_NG) + 1))
        return np.asarray(100.0 * np.exp(np.log(shares_NP).mean(axis=1)))

    def dump(self) -> bytes:
        """As JSON, which has no infinities."""
        rows = [[s if math.isfinite(s) else None for s in row] for row in self.scores_NP.tolist()]
        return json.dumps({"proxies": self.proxies, "genes": self.genes_NG.tolist(), "scores": rows}).encode()

    @staticmethod
    def load(data: bytes) -> Scores:
        """Inverse of ``dump``."""
        record = json.loads(data)
        rows = [[-math.inf if s is None else s for s in row] for row in record["scores"]]
        return Scores(tuple(record["proxies"]), np.array(record["genes"], dtype=np.int64), np.array(rows, dtype=float))


@dataclass(frozen=True)
class ProxyStage:
    """Scores ``sampled`` random networks by ``proxies``. ``steers``: the search optimises their mean, standardised by
    these networks; otherwise the scores are features of its accuracy predictor."""

    proxies: tuple[str, ...]
    steers: bool
    sampled: int
    images: int
    name: ClassVar[str] = "proxies"

    def run(self, problem: Problem, resources: Resources, state: SearchState) -> Iterator[Event]:
        """Networks that were scored before a restart are not scored again."""
        archs = as_archs(problem.space.id, np.unique(as_genes(sample_archs(problem.space, self.sampled)[0]), axis=0))
        scorer = self.scorer(problem, resources)
        rows: list[list[float]] = []
        if (last := state.checkpoints.get(self.name)) is not None:
            rows = Scores.load(resources.blobs.get(last.blob)).scores_NP.tolist()
        while len(rows) < len(archs) and not (rows and resources.is_out_of_time()):
            rows += [scorer(arch) for arch in archs[len(rows) : len(rows) + _BATCH]]
            partial_scores = Scores(self.proxies, as_genes(archs[: len(rows)]), np.array(rows))
            yield Checkpoint(self.name, len(rows), resources.blobs.put(partial_scores.dump()))
            yield Progress(self.name, len(rows), len(archs), "networks")
        if len(rows) < len(archs):
            yield Warned(self.name, out_of_time(problem.spec, f"{len(rows)} of {len(archs)} networks"))
        scores = Scores(self.proxies, as_genes(archs[: len(rows)]), np.array(rows))
        result = ProxiesResult(self.steers, len(rows), _rank_correlations(problem, scores))
        yield StageFinished(self.name, 0.0, result.to_json())

    def scorer(self, problem: Problem, resources: Resources) -> ProxyScorer:
        """What scores a network."""
        return ProxyScorer(problem, resources.torch_device, self.proxies, self.images)

    def estimate_cost(self, problem: Problem, resources: Resources, state: SearchState) -> StageCost:
        """Networks from the smallest to the largest."""
        archs, macs = sample_archs(problem.space)
        scorer = self.scorer(problem, resources)
        timed = average_duration(macs.tolist(), lambda i: mean_seconds(resources.clock, lambda: scorer(archs[i])))
        return StageCost.of(self.name, timed.span * self.sampled, self.sampled, timed.count, "networks")


def load_scores(resources: Resources, state: SearchState) -> Scores | None:
    """The scores of the stage; None before its first checkpoint."""
    last = state.checkpoints.get(ProxyStage.name)
    return Scores.load(resources.blobs.get(last.blob)) if last is not None else None


class ProxyAwareSpace(SpaceWrapper):
    """A search space whose accuracy features include predicted proxy scores.

    Scores are predicted from the scored networks by ridge regression on genes and logarithmic costs, since an accuracy
    predictor evaluates thousands of networks. Everything else delegates to the space.
    """

    def __init__(self, inner: SearchSpace, scores: Scores, ridge: float = 1.0) -> None:
        super().__init__(inner)
        x_NF = self._plain(scores.genes_NG)
        self._centre_F, self._spread_F = x_NF.mean(axis=0), np.maximum(x_NF.std(axis=0), 1e-9)
        x_NF = (x_NF - self._centre_F) / self._spread_F
        y_NP = scores.standard(scores.scores_NP)
        self._offset_P = y_NP.mean(axis=0)
        gram_FF = x_NF.T @ x_NF + ridge * np.eye(x_NF.shape[1])
        self._weights_FP = np.linalg.solve(gram_FF, x_NF.T @ (y_NP - self._offset_P))

    def proxies(self, genes_NG: Genes) -> Floats:
        """Predicted proxy scores, standardised, shape (N, P)."""
        x_NF = (self._plain(genes_NG) - self._centre_F) / self._spread_F
        return np.asarray(x_NF @ self._weights_FP + self._offset_P)

    @property
    def accuracy_features(self) -> Callable[[Genes], Floats]:
        """The space's accuracy features, or its genes and costs, and predicted proxy scores."""
        return self._accuracy_features

    def _accuracy_features(self, genes_NG: Genes) -> Floats:
        own = self.inner.accuracy_features
        if own is not None:
            return np.concatenate([own(genes_NG), self.proxies(genes_NG)], axis=1)
        x_NF = self._plain(genes_NG)
        x_NF[:, -2:] = (x_NF[:, -2:] - self._centre_F[-2:]) / self._spread_F[-2:]
        return np.concatenate([x_NF, self.proxies(genes_NG)], axis=1)

    def _plain(self, genes_NG: Genes) -> Floats:
        genes_NG = self.inner.canonical(genes_NG)
        costs = self.inner.costs(genes_NG)
        logs_N2 = np.log(np.stack([costs["params"], costs["macs"]], axis=1) + 1.0)
        return np.concatenate([one_hot(self.inner.decisions, genes_NG), logs_N2], axis=1)


def _rank_correlations(problem: Problem, scores: Scores) -> dict[str, dict[str, float | None]]:
    """How each proxy ranks networks, beside parameters and MACs; a correlation near 1 adds no information."""
    costs = problem.space.costs(scores.genes_NG)
    out: dict[str, dict[str, float | None]] = {}
    for p, name in enumerate(scores.proxies):
        score_N = scores.standard(scores.scores_NP)[:, p]
        ranks = {cost: spearman(score_N, costs[cost]) for cost in ("params", "macs")}
        out[name] = {cost: rank if math.isfinite(rank) else None for cost, rank in ranks.items()}
    return out
