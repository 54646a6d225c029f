"""Zero-cost proxies in a search: as its compass until networks are trained, and as hints for an accuracy predictor."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch

from nas.blobs import FolderBlobs
from nas.core.arch import sample
from nas.core.errors import InvalidSpec, UnknownName
from nas.core.events import Checkpoint, Event, decode, encode, fold_all
from nas.core.metrics import METRICS, spearman
from nas.core.ports import ImageShape, Problem, Resources
from nas.core.retraining import RetrainSpec
from nas.core.spec import BudgetSpec, DataSpec, ExportSpec, ObjectiveSpec, ReferenceSpec, SearchSpec, SpaceSpec
from nas.core.spec import StrategySpec as Strategy
from nas.engine import run_search, stage_names, stages_of
from nas.explorers.gaussian_process import WarpedGP
from nas.explorers.gaussian_process import encode as inputs_of
from nas.stages.fronts import front_of
from nas.stages.proxies import ProxyAwareSpace, ProxyStage, Scores
from nas.strategies.zero_cost import ZeroCostParams, check
from search_spaces.mobilenet_v3.space import build
from tests.support.engine import RuleDevice, problem

pytestmark = pytest.mark.usefixtures("one_thread")

SPEC = SearchSpec(
    space=SpaceSpec(name="nas_bench_201", params={"preset": "digits", "channels": 4}),
    data=DataSpec(params={"max_train": 80, "max_val": 60, "max_test": 60}),
    strategy=Strategy(name="zero_cost", params={"sampled": 12, "images": 8}),
    objectives=(ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency"), ObjectiveSpec(name="params")),
    budget=BudgetSpec(evaluations=12, verified=2),
    export=ExportSpec(count=1, int8=False),
    retrain=RetrainSpec(networks=2, epochs=1, batch_size=40, trials=1),
)


def run(folder: Path, p: Problem, events: Sequence[Event] = ()) -> Iterator[Event]:
    ticks = count()
    resources = Resources(FolderBlobs(folder), RuleDevice(), lambda: float(next(ticks)))
    return run_search(p, stages_of(p), resources, fold_all(events))


def test_found_cells_become_networks_of_another_size(tmp_path: Path) -> None:
    """Cells, as genes and as papers print them, are trained from scratch as networks of three times the channels."""
    named = {"networks": ["4,1,0,4,0,1", "|nor_conv_1x1~0|+|none~0|skip_connect~1|+|none~0|none~1|nor_conv_3x3~2|"]}
    larger = {
        "space": SpaceSpec(name="nas_bench_201", params={"preset": "digits", "channels": 12}),
        "strategy": Strategy(name="zero_cost", params={"sampled": 12, "images": 8, **named}),
    }
    p = problem(SPEC.model_copy(update=larger))
    state = fold_all(run(tmp_path, p))
    assert tuple(state.finished) == stage_names(SPEC)
    candidates = state.of("search")
    assert not state.of("baseline")
    assert {c.arch.space for c in candidates} == {p.space.id}
    expected = p.space.canonical(np.array([(4, 1, 0, 4, 0, 1), (3, 0, 1, 0, 0, 4)]))
    assert {c.arch.genes for c in candidates} == {tuple(genes.tolist()) for genes in expected}
    assert all("trained_accuracy" in c.metrics and "measured_ms" in c.metrics for c in candidates)
    assert front_of(p.spec, state).members
    assert len(state.exports) == 1
    costs = p.space.costs(np.array([c.arch.genes for c in candidates]))["params"]
    assert [c.metrics["params"] for c in candidates] == costs.tolist()


def test_given_networks_of_another_space_are_refused() -> None:
    for text in ("1,2,3", "DARTS-V2"):
        wrong = Strategy(name="zero_cost", params={"networks": [text]})
        with pytest.raises((InvalidSpec, UnknownName)):
            check(SPEC.model_copy(update={"strategy": wrong}), problem(SPEC).space)


@pytest.fixture(scope="module")
def finished_search(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Event], Path]:
    folder = tmp_path_factory.mktemp("blobs")
    torch.set_num_threads(1)
    return [decode(json.loads(json.dumps(encode(e)))) for e in run(folder, problem(SPEC))], folder


@pytest.mark.long
def test_a_search_without_a_supernet_ends_with_trained_and_measured_networks(
    finished_search: tuple[list[Event], Path],
) -> None:
    state = fold_all(finished_search[0])
    assert tuple(state.finished) == stage_names(SPEC)
    assert tuple(state.finished) == ("estimate", "proxies", "explore", "retrain", "verify", "refine", "export")
    assert len(state.of("search")) == len(state.of("baseline")) == 12
    assert not any("val_accuracy" in p.metrics for p in state.candidates.values())  # a proxy is no accuracy
    assert all(0.0 <= p.metrics["proxy_score"] <= 100.0 for p in state.candidates.values())
    front = front_of(SPEC, state)
    assert front.metrics == ("test_accuracy", "measured_ms", "params")
    assert front.members
    assert all({"trained_accuracy", "test_accuracy"} <= p.metrics.keys() for p in front.members)
    assert len(state.exports) == 1
    correlations = state.finished["proxies"]["spearman"]
    assert set(correlations) == set(ZeroCostParams().proxies)
    assert all(-1.0 <= r <= 1.0 for ranks in correlations.values() for r in ranks.values())


def test_until_networks_are_trained_the_front_shows_scores_as_scores(finished_search: tuple[list[Event], Path]) -> None:
    events, _ = finished_search
    explored = next(i for i, e in enumerate(events) if e.kind == "stage_finished" and e.stage == "explore")
    state = fold_all(events[: explored + 1])
    front = front_of(SPEC, state)
    assert not front.final
    assert front.metrics[0] == "proxy_score"
    assert METRICS["proxy_score"].label != METRICS["val_accuracy"].label
    assert front.reference[0] == 0.0
    assert 0.0 < (front.hypervolume or 0.0) < 1.0
    # A bound on accuracy is none on scores.
    bounded = SPEC.model_copy(update={"objectives": (ObjectiveSpec(name="accuracy", bound=99.99), SPEC.objectives[1])})
    assert front_of(bounded, state).members


@pytest.mark.parametrize("checkpoint_index", [0, -1])
def test_a_search_that_is_cut_while_it_scores_goes_on_the_same(
    finished_search: tuple[list[Event], Path], checkpoint_index: int
) -> None:
    events, folder = finished_search
    checkpoint_positions = [i for i, e in enumerate(events) if isinstance(e, Checkpoint) and e.stage == "proxies"][
        checkpoint_index
    ]
    state = fold_all(events[: checkpoint_positions + 1])
    for event in run(folder, problem(SPEC), events[: checkpoint_positions + 1]):
        state = fold_all([event], state)
        if state.candidates:
            break
    expected = fold_all(events)
    assert state.finished["proxies"] == expected.finished["proxies"]
    assert all(
        p.metrics["proxy_score"] == expected.candidates[p.key].metrics["proxy_score"] for p in state.candidates.values()
    )


def test_what_would_never_know_an_accuracy_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="retrain"):
        check(SPEC.model_copy(update={"retrain": None}), problem(SPEC).space)
    with pytest.raises(InvalidSpec, match="supernet"):
        check(SPEC.model_copy(update={"supernet": "abc"}), problem(SPEC).space)
    twice = SPEC.model_copy(update={"strategy": Strategy(name="zero_cost", params={"proxies": ["zen", "zen"]})})
    with pytest.raises(InvalidSpec, match="each once"):
        stages_of(problem(twice))
    unknown = SPEC.model_copy(update={"strategy": Strategy(name="zero_cost", params={"proxies": ["magic"]})})
    with pytest.raises(InvalidSpec, match="magic"):
        stages_of(problem(unknown))


def test_scores_survive_and_make_a_scale() -> None:
    genes = np.arange(12).reshape(6, 2)
    scores = np.array([[1.0, -math.inf], [2.0, 5.0], [3.0, 5.0], [4.0, 5.0], [5.0, 5.0], [1e9, 6.0]])
    restored = Scores.load(Scores(("a", "b"), genes, scores).dump())
    assert restored.proxies == ("a", "b")
    assert (restored.genes_NG == genes).all()
    assert (restored.scores_NP == scores).all()
    scale = restored.on_one_scale(scores)
    assert (np.diff(scale) >= 0).all()
    assert scale[0] < scale[1] < scale[4] < scale[5]
    assert ((scale > 0) & (scale < 100)).all()
    assert restored.on_one_scale(np.array([[3.5, 5.0]])) == pytest.approx(50.0)


def test_proxies_help_the_accuracy_predictor_where_they_tell_something() -> None:
    space = build({"preset": "digits"}, ImageShape(1, 8, 8, 10))
    rng = np.random.default_rng(0)

    def sampled_scores(n: int) -> np.ndarray:
        return space.canonical(sample(space.decisions, rng, n))

    weights_G = rng.normal(size=len(space.decisions))

    def truth(genes_NG: np.ndarray) -> np.ndarray:
        return np.asarray(genes_NG @ weights_G + np.log(space.costs(genes_NG)["macs"]))

    scored, evaluated, unseen = sampled_scores(128), sampled_scores(16), sampled_scores(300)
    noisy = truth(scored) + rng.normal(size=128)
    proxy_aware = ProxyAwareSpace(
        space, Scores(("hint", "noise"), scored, np.stack([noisy, rng.normal(size=128)], axis=1))
    )
    assert proxy_aware.id == space.id
    assert spearman(proxy_aware.proxies(unseen)[:, 0], truth(unseen)) > 0.8

    def ranks(values: object) -> float:
        process = WarpedGP.fit(inputs_of(values, evaluated), -truth(evaluated))  # type: ignore[arg-type]
        return spearman(-process.posterior(inputs_of(values, unseen))[0], truth(unseen))  # type: ignore[arg-type]

    assert ranks(proxy_aware) > ranks(space) + 0.05


def test_a_trained_supernet_is_searched_with_hints(tmp_path: Path) -> None:
    params = {"epochs": 1, "batch_size": 40, "explorer": "bayesian", "proxies": ["synflow"], "proxy_networks": 12}
    spec = SPEC.model_copy(
        update={
            "strategy": Strategy(name="once_for_all", params=params),
            "retrain": None,
            "budget": BudgetSpec(evaluations=8, verified=1),
        }
    )
    state = fold_all(run(tmp_path, problem(spec)))
    assert tuple(state.finished) == stage_names(spec)
    assert "proxies" in state.finished
    assert not any("proxy_score" in p.metrics for p in state.candidates.values())
    assert front_of(spec, state).metrics[0] == "test_accuracy"
    with pytest.raises(InvalidSpec, match="bayesian"):
        stages_of(
            problem(
                spec.model_copy(update={"strategy": Strategy(params={"proxies": ["synflow"], "explorer": "nsga2"})})
            )
        )


def test_scoring_has_a_price(tmp_path: Path) -> None:
    ticks = count()
    resources = Resources(FolderBlobs(tmp_path), RuleDevice(), lambda: float(next(ticks)))
    p = problem(SPEC)
    stage = ProxyStage(("synflow",), True, 64, 8)
    costs = [s.estimate_cost(p, resources, fold_all([])) for s in (stage, stages_of(p)[2])]
    assert [c.stage for c in costs] == ["proxies", "explore"]
    assert all(c.seconds is not None and c.seconds > 0 for c in costs)


@pytest.mark.long
def test_references_of_a_search_without_a_supernet_are_retrained_and_measured(tmp_path: Path) -> None:
    spec = SPEC.model_copy(update={"references": (ReferenceSpec(name="mixed", genes=(1, 2, 3, 0, 2, 3)),)})
    state = fold_all(list(run(tmp_path, problem(spec))))
    [reference] = state.of("reference")
    assert "val_accuracy" not in reference.metrics  # nobody knows it without trained weights
    assert {"trained_accuracy", "test_accuracy", "measured_ms"} <= reference.metrics.keys()
