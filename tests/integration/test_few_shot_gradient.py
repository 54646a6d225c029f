"""Differentiable search and progressive shrinking inside the parts of a divided space."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.arch import Arch, Decision, Floats, Genes, one_hot, sample
from nas.core.errors import InvalidSpec
from nas.core.events import Checkpoint, Event, Traced, Warned, fold_all
from nas.core.ports import Dataset, ImageShape, Split
from nas.core.relaxation import Relaxation
from nas.core.spec import BudgetSpec, DataSpec, ExportSpec, ObjectiveSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.spaces.base import SpaceDefaults
from nas.stages.fronts import front_of
from nas.stages.gradient_sub_supernet import discretise_inside
from nas.strategies.few_shot import FEW_SHOT
from nas.supernet import RelaxedSupernet
from nas.training.fewshot.allowed import allowed_operations, edges_by_decision
from nas.training.fewshot.halving import better_half, rung_epochs, trained_share
from nas.training.fewshot.partition import SpacePartition, sample_subspace, split_breadth_first, subspace_extremes
from nas.training.gradient import operation_weights
from nas.training.gradient.loop import GradientSearch, run_gradient_search
from nas.training.gradient.options import DartsParams
from nas.training.pipeline import Pipeline
from nas.training.state import TrainState
from tests.support.engine import estimate_cost, problem, run, stored
from tests.support.few_shot import MOBILE
from tests.support.few_shot import PARAMS as FEW_SHOT_PARAMS

pytestmark = pytest.mark.usefixtures("one_thread")

SEARCHES = ["darts", "gdas", "snas", "proxyless"]


# Subspaces as tables of operations


def test_decisions_that_can_split_a_relaxation_belong_to_one_edge() -> None:
    shape = ImageShape(3, 16, 16, 5)
    cells = registry.load_space("nas_bench_201").build({"preset": "digits"}, shape)
    assert edges_by_decision(cells) == {e: (e, (0, 1, 2, 3, 4)) for e in range(6)}
    darts = registry.load_space("darts_cell").build({"preset": "digits"}, shape)
    decisions_by_edge = edges_by_decision(darts)
    # Later nodes choose which two of their inputs they keep, so their operations have no edge of their own.
    assert {darts.decisions[g].name for g in decisions_by_edge} == {
        f"{kind}.node0.{operand}.operation" for kind in ("normal", "reduce") for operand in ("first", "second")
    }
    edges = {darts.relaxation.edges[edge] for edge, _ in decisions_by_edge.values()}
    assert len(edges) == 4
    assert all(operations == (1, 2, 3, 4, 5, 6, 7) for _, operations in decisions_by_edge.values())


def test_subspaces_have_disjoint_and_complete_operations() -> None:
    space = registry.load_space("nas_bench_201").build({"preset": "digits"}, ImageShape(3, 16, 16, 5))
    partition = split_breadth_first([(0, [[0, 1], [2, 3, 4]]), (3, [[0, 4], [1, 2, 3]])], 4)
    tables = [allowed_operations(space, partition, part) for part in range(4)]
    assert [t[0].nonzero()[0].tolist() for t in tables] == [[0, 1], [0, 1], [2, 3, 4], [2, 3, 4]]
    assert (tables[0][3] ^ tables[1][3]).all()
    assert all(t[[1, 2, 4, 5]].all() for t in tables)
    genes = space.canonical(sample(space.decisions, np.random.default_rng(0), 300))
    for genes_G, part in zip(genes, partition.route(genes), strict=True):
        assert tables[part][np.arange(6), genes_G].all()


def test_what_is_found_for_a_part_lies_in_it() -> None:
    space = registry.load_space("nas_bench_201").build({"preset": "digits"}, ImageShape(3, 16, 16, 5))
    partition = split_breadth_first([(0, [[0, 1], [2, 3, 4]])], 2)
    scores = np.full((6, 5), 0.1)
    scores[0] = [0, 0, 0.2, 0.2, 0.6]
    scores[[2, 4], 0] = 0.9  # both ways on from the divided edge are cut, so that it counts as cut itself
    assert partition.route(space.discretise(scores)[None])[0] == 0
    genes = discretise_inside(space, partition, 1, scores, np.random.default_rng(0))
    assert partition.route(genes[None])[0] == 1
    assert genes[0] == 4


# Binary gates


def test_two_paths_compare_themselves_and_leave_the_others_as_likely() -> None:
    generator = torch.Generator().manual_seed(0)
    alphas = torch.randn(4, 5, generator=generator).requires_grad_()
    mask = torch.ones(4, 5, dtype=torch.bool)
    mask[3, 1:] = False  # a single operation is left
    noise = [operation_weights.gumbel_noise(alphas.detach(), generator) for _ in range(2)]
    pair = operation_weights.drawn_paths(alphas, mask, noise[0], 2)
    assert pair.sum(dim=1).tolist() == [2, 2, 2, 1]
    gates = operation_weights.binary_gates(alphas, pair, noise[1])
    assert ((gates == 0) | (gates == 1)).all()
    assert (gates.sum(dim=1) == 1).all()
    assert (gates[~pair] == 0).all()
    values = torch.randn(4, 5, generator=generator)
    (gates * values).sum().backward()
    assert alphas.grad is not None
    for e in range(3):
        i, j = pair[e].nonzero().flatten().tolist()
        p = float(torch.sigmoid(alphas[e, i] - alphas[e, j]).detach())
        slope = p * (1 - p) * float(values[e, i] - values[e, j])
        assert alphas.grad[e, [i, j]].tolist() == pytest.approx([slope, -slope], abs=1e-6)
    assert (alphas.grad[~pair] == 0).all()
    assert (alphas.grad[3] == 0).all()
    before = alphas.detach()
    after = operation_weights.rescaled(before, before + torch.randn(4, 5, generator=generator), pair)
    torch.testing.assert_close(after.softmax(1)[~pair], before.softmax(1)[~pair])
    assert not torch.equal(after[:3], before[:3])


def test_paths_and_gates_are_drawn_by_the_relaxation() -> None:
    generator = torch.Generator().manual_seed(0)
    alphas = torch.tensor([[1.0, 0.0, -1.0, 0.5]]).expand(20_000, -1)
    mask = torch.ones_like(alphas, dtype=torch.bool)
    p = alphas[0].softmax(0)
    one = operation_weights.drawn_paths(alphas, mask, operation_weights.gumbel_noise(alphas, generator), 1)
    torch.testing.assert_close(one.double().mean(0).float(), p, atol=0.015, rtol=0)
    pair = torch.tensor([[True, False, True, False]]).expand_as(alphas)
    gates = operation_weights.binary_gates(alphas, pair, operation_weights.gumbel_noise(alphas, generator))
    torch.testing.assert_close(gates.mean(0)[[0, 2]], (p[[0, 2]] / p[[0, 2]].sum()), atol=0.015, rtol=0)


@pytest.mark.parametrize(
    ("changes", "message"), [({"order": "second"}, "order first"), ({"temperature": "linear"}, "temperature constant")]
)
def test_binary_gates_refuse_what_they_have_no_use_for(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DartsParams.model_validate({"preset": "proxyless", **changes})


# A planted space: how well an image is seen depends on the operations

QUALITY = np.array([[0.0, 0.8, 0.2, 1.2], [0.0, 0.3, 1.0, 0.1]])


class SeenSpace(SpaceDefaults):
    name = id = "seen"
    partials = (1,)
    shape = ImageShape(1, 4, 4, 2)
    decisions = tuple(Decision(f"edge{e}.operation", ("none", "a", "b", "c")) for e in range(2))
    relaxation = Relaxation(("edge0", "edge1"), ("none", "a", "b", "c"), (1, 2), none=0, skip=1, parameter_free=(0,))

    def canonical(self, genes_NG: Genes) -> Genes:
        return genes_NG

    def input_shape(self, arch: Arch) -> tuple[int, int, int]:
        return (1, 4, 4)

    def discretise(self, scores_EO: Floats) -> Genes:
        return scores_EO.argmax(axis=1)

    def table(self, genes_G: Genes) -> Floats:
        return one_hot(self.decisions, genes_G[None]).reshape(2, 4)


class RecordingRelaxedSupernet(RelaxedSupernet):
    """Logits are those of a line, larger by what the operations are worth."""

    def __init__(self) -> None:
        super().__init__()
        line = torch.zeros(2, 16)
        line[0, :8], line[1, 8:] = 0.2, 0.2
        self.line = nn.Parameter(line)

    def forward(self, x_BCHW: torch.Tensor, arch: Arch) -> torch.Tensor:
        return self.mix(x_BCHW, torch.eye(4)[list(arch.genes)])

    def mix(
        self,
        x_BCHW: torch.Tensor,
        weights_EO: torch.Tensor,
        *,
        active_EO: torch.Tensor | None = None,
        edges_E: torch.Tensor | None = None,
        partial: int = 1,
        entangled: bool = False,
    ) -> torch.Tensor:
        assert active_EO is None or (weights_EO[~active_EO.bool()] == 0).all()
        worth = (weights_EO * torch.from_numpy(QUALITY).to(weights_EO)).sum()
        return worth * x_BCHW.flatten(1) @ self.line.T

    def subnet(self, arch: Arch) -> nn.Module:
        raise NotImplementedError


def halves(n: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    images = rng.integers(0, 100, (n, 1, 4, 4))
    images[:, 0, :2] += 30 * (1 - labels)[:, None, None]
    images[:, 0, 2:] += 30 * labels[:, None, None]
    return Split(images.astype(np.uint8), labels.astype(np.int64))


HALVES = Dataset("halves", SeenSpace.shape, halves(160, 0), halves(40, 1), halves(10, 2), ("up", "down"), "x")


@pytest.mark.parametrize("preset", SEARCHES)
def test_each_subspace_selects_its_best_operations(preset: str) -> None:
    space: Any = SeenSpace()
    halved = SpacePartition(1, ((0, 1), (2, 3)), (SpacePartition(), SpacePartition()))
    partition = SpacePartition(0, ((0, 1, 2), (3,)), (halved, SpacePartition()))
    best = [[1, 1], [1, 2], [3, 2]]
    options = DartsParams.model_validate(
        {"preset": preset, "epochs": 10, "tune_epochs": 0, "alpha_lr": 0.1, "lr": 0.01, "batch_size": 16}
    )
    for part in range(3):
        allowed_EO = allowed_operations(space, partition, part)
        learning = GradientSearch(
            RecordingRelaxedSupernet(), space, HALVES, Pipeline(HALVES, "cpu"), options, part, None, allowed_EO
        )
        for _ in run_gradient_search(learning, TrainState(), lambda: False):
            pass
        assert (learning.scores()[~allowed_EO] == 0).all()
        assert learning.discretised.tolist() == best[part], f"part {part}"


# Whole searches

PARAMS: dict[str, Any] = {**FEW_SHOT_PARAMS, "warmup_epochs": 1, "rank_networks": 0, "gradient": {"tune_epochs": 1}}
PUBLISHED = {"lr": 0.025, "alpha_lr": 3e-4, "alpha_warmup": 0}  # finds networks that are not the smallest
SPEC = SearchSpec(
    space=SpaceSpec(name="nas_bench_201", params={"preset": "digits", "channels": 4}),
    data=DataSpec(params={"max_train": 120, "max_val": 60, "max_test": 60}),
    strategy=StrategySpec(
        name="few_shot",
        params={**PARAMS, "gradient": {**PARAMS["gradient"], **PUBLISHED}, "search": "darts", "checkpoint_s": 1e-9},
    ),
    budget=BudgetSpec(evaluations=8, verified=2),
    export=ExportSpec(count=1, int8=False),
)


def with_params(**changes: Any) -> SearchSpec:
    return SPEC.model_copy(update={"strategy": StrategySpec(name="few_shot", params={**PARAMS, **changes})})


def until(stream: Iterator[Event], stage: str) -> Iterator[Event]:
    for event in stream:
        yield event
        if event.kind == "stage_finished" and event.stage == stage:  # type: ignore[union-attr]
            return


@pytest.mark.long
def test_parts_that_are_searched_by_gradient_give_the_first_candidates(tmp_path: Path) -> None:
    events = stored(list(run(tmp_path, problem(SPEC))))
    state = fold_all(events)
    assert tuple(state.finished) == FEW_SHOT.stage_names(SPEC)
    assert "discretize" in state.finished
    assert front_of(SPEC, state).final
    assert len(state.exports) == 1
    space = problem(SPEC).space
    partition = SpacePartition.from_json(state.finished["split"]["partition"], space.decisions)
    runs = state.finished["train"]["runs"]
    assert [r["subspace"] for r in runs] == [0, 1]
    assert [partition.route(np.array([r["genes"]]))[0] for r in runs] == [0, 1]
    networks = state.finished["discretize"]["networks"]
    assert networks == [r["genes"] for r in runs]
    first_points = {p.arch.genes: p for p in state.of("search")[:2]}  # from the middle of their sizes outwards
    assert first_points.keys() == {tuple(genes) for genes in networks}
    for run_result in runs:  # scored with the weights of their own part
        point = first_points[tuple(run_result["genes"])]
        assert point.metrics["val_accuracy"] == pytest.approx(run_result["val_accuracy"])
    traces = [e for e in events if isinstance(e, Traced) and e.stage == "train"]
    tables = {int(t.values["subspace"]): np.array(t.table) for t in traces}
    for part in (0, 1):
        allowed_EO = allowed_operations(space, partition, part)  # type: ignore[arg-type]
        assert (tables[part + 1][~allowed_EO] == 0).all()
        assert (tables[part + 1][allowed_EO] > 0).all()
    weights = TrainState.from_bytes(FolderBlobs(tmp_path).get(state.finished["train"]["supernet"]), "cpu").weights
    assert weights is not None
    assert len(json.loads(weights["runs"])) == 2

    of_parts = [(i, e.stage) for i, e in enumerate(events) if isinstance(e, Checkpoint) and "train.subspace" in e.stage]
    first = of_parts[0][1]  # the part that is trained first has more MACs
    marks = [i for i, stage in of_parts if stage != first]
    for cut in (marks[0], marks[-1]):
        before = events[: cut + 1]
        later_events = list(until(run(tmp_path, problem(SPEC), before), "discretize"))
        again = fold_all(later_events, fold_all(before)).finished
        assert again["train"] == state.finished["train"]
        assert again["discretize"] == state.finished["discretize"]
        assert not any(isinstance(e, Checkpoint) and e.stage == first for e in later_events)

    supernet = state.finished["train"]["supernet"]
    reused = fold_all(until(run(tmp_path, problem(SPEC, supernet, state)), "discretize"))
    assert reused.finished["discretize"]["networks"] == networks

    costs = space.costs(np.array(networks))["macs"]
    objectives = (ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="macs", bound=float(costs.min()) - 1))
    tight = problem(SPEC.model_copy(update={"objectives": objectives}), supernet, state)
    bounded = fold_all(until(run(tmp_path, tight), "discretize")).finished["discretize"]
    assert bounded["replaced"] == 2
    assert (space.costs(np.array(bounded["networks"]))["macs"] < costs.min()).all()
    assert [p["subspace"] for p in bounded["subspaces"]] == [1, 2]
    assert all(0 <= p["val_accuracy"] <= 100 for p in bounded["subspaces"])  # with the weights of all parts


@pytest.mark.parametrize("search", ["gdas", "snas", "proxyless"])
def test_other_searches_by_gradient_reach_their_networks(search: str, tmp_path: Path) -> None:
    spec = with_params(search=search, split="random")
    state = fold_all(until(run(tmp_path, problem(spec)), "discretize"))
    assert len(state.finished["discretize"]["networks"]) == 2
    assert all(0 <= r["val_accuracy"] <= 100 for r in state.finished["train"]["runs"])


@pytest.mark.parametrize(
    ("subspaces", "rungs", "share"),
    [(2, [6], 18 / 24), (4, [4, 8], (4 * 4 + 2 * 4 + 4) / 48), (5, [3, 6, 9], (5 * 3 + 3 * 3 + 2 * 3 + 3) / 60)],
)
def test_the_worse_half_of_the_subspaces_is_trained_no_further(subspaces: int, rungs: list[int], share: float) -> None:
    assert rung_epochs(subspaces, 12) == rungs
    assert trained_share(subspaces, 12) == pytest.approx(share)
    assert rung_epochs(1, 12) == []


def test_of_equal_subspaces_the_earlier_go_on() -> None:
    assert better_half([1.0, 3.0, 2.0, 3.0]) == [1, 3]
    assert better_half([1.0, 1.0, 1.0]) == [0, 1]


@pytest.mark.slow
def test_halved_subspaces_end_when_they_lose_and_alike_after_a_restart(tmp_path: Path) -> None:
    params = {"search": "darts", "split": "random", "subspaces": 4, "subspace_epochs": 3, "halving": True}
    spec = with_params(**params, checkpoint_s=1e9)
    events = stored(list(until(run(tmp_path, problem(spec)), "discretize")))
    traces = [int(e.values["subspace"]) for e in events if isinstance(e, Traced) and e.stage == "train"]
    epochs_of = Counter(traces)
    assert sorted(epochs_of.values()) == [1, 1, 2, 3]
    [first, second] = [e.message for e in events if isinstance(e, Warned) and "trained no further" in e.message]
    for subspace, epochs in epochs_of.items():
        named = [str(subspace) in message.partition("subspaces")[2].partition(" are")[0] for message in (first, second)]
        assert named == [epochs == 1, epochs == 2]
    finished = fold_all(events).finished
    assert [r["subspace"] for r in finished["train"]["runs"]] == [0, 1, 2, 3]
    assert len(finished["discretize"]["networks"]) == 4
    rungs = [i for i, e in enumerate(events) if isinstance(e, Checkpoint) and ".rung" in e.stage]
    assert len(rungs) == 4 + 2
    for cut in (rungs[1], rungs[4]):
        before = events[: cut + 1]
        again = fold_all(until(run(tmp_path, problem(spec), before), "discretize"), fold_all(before)).finished
        assert again["train"] == finished["train"]


def test_a_search_by_gradient_has_a_price(tmp_path: Path) -> None:
    cost = estimate_cost(tmp_path, problem(SPEC), FEW_SHOT.stages(problem(SPEC))[3:4])
    assert cost.stages[0].seconds is not None
    assert cost.stages[0].seconds > 0


# Once-for-all inside parts


def test_the_ends_of_a_part_lie_in_it_and_shrinking_begins_at_its_largest() -> None:
    space = registry.load_space("mobilenet_v3").build(MOBILE, ImageShape(3, 16, 16, 5))
    gene = next(i for i, d in enumerate(space.decisions) if d.name == "stage1.depth")
    kernel = next(i for i, d in enumerate(space.decisions) if d.name == "stage1.block2.kernel")
    top = len(space.decisions[kernel].choices) - 1
    partition = split_breadth_first([(gene, [[0], [1]]), (kernel, [list(range(top)), [top]])], 4)
    for part in range(partition.size):
        if part == 1:  # a block that is not there has the first kernel
            with pytest.raises(InvalidSpec, match="no networks"):
                subspace_extremes(partition, part, space)
            continue
        smallest, largest = subspace_extremes(partition, part, space)
        macs = space.costs(np.array([smallest.genes, largest.genes]))["macs"]
        assert partition.route(np.array([smallest.genes, largest.genes])).tolist() == [part, part]
        only = sample_subspace(partition, part, space, {"resolution": 9}, np.random.default_rng(0), 8)
        assert all(a.genes[gene] == largest.genes[gene] and a.genes[kernel] == largest.genes[kernel] for a in only)
        everything = {d.axis: 9 for d in space.decisions}
        sampled_genes_NG = sample_subspace(partition, part, space, everything, np.random.default_rng(0), 64)
        inside = space.costs(np.array([a.genes for a in sampled_genes_NG]))["macs"]
        assert macs[0] <= inside.min() < inside.max() <= macs[1]


@pytest.mark.parametrize("schedule", ["progressive", "sandwich"])
def test_parts_are_trained_as_once_for_all_trains(schedule: str, tmp_path: Path) -> None:
    params = {**FEW_SHOT_PARAMS, "split": "exhaustive", "schedule": schedule, "rank_networks": 0, "warmup_epochs": 1}
    params |= {"decisions": ["stage1.depth"], "subspace_epochs": 1}
    data = DataSpec(params={"max_train": 80, "max_val": 40, "max_test": 40})
    changes = {"space": SpaceSpec(params=MOBILE), "data": data}
    spec = SPEC.model_copy(update={**changes, "strategy": StrategySpec(name="few_shot", params=params)})
    state = fold_all(until(run(tmp_path, problem(spec)), "train"))
    assert state.finished["train"]["subspaces"] == 2
    assert state.finished["train"]["steps"] > 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"gradient": {"tune_epochs": 1}, "search": "explore"}, "gradient"),
        ({"search": "darts", "schedule": "progressive"}, "schedule progressive"),
        ({"search": "darts", "gradient": {"epochs": 3}}, r"gradient\.epochs"),
        ({"search": "darts", "gradient": {"epoch": 3}}, "epoch"),
        ({"search": "darts", "split": "ensemble"}, "split ensemble"),
        ({"search": "explore", "halving": True}, "searches by gradient"),
        ({"search": "darts", "halving": True, "subspaces": 8, "subspace_epochs": 3}, "more than 3 subspace_epochs"),
        ({"search": "enas"}, "proxyless"),
    ],
)
def test_parameters_that_contradict_each_other_are_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        FEW_SHOT.stages(problem(with_params(**{"search": "darts", **params})))


def test_a_space_without_relaxations_is_not_searched_by_gradient() -> None:
    params = {**PARAMS, "search": "darts"}
    spec = SPEC.model_copy(
        update={"space": SpaceSpec(params=MOBILE), "strategy": StrategySpec(name="few_shot", params=params)}
    )
    with pytest.raises(InvalidSpec, match="expected search explore"):
        FEW_SHOT.stages(problem(spec))
    cells = SPEC.model_copy(
        update={
            "space": SpaceSpec(name="darts_cell", params={"preset": "digits"}),
            "strategy": StrategySpec(name="few_shot", params={**params, "decisions": ["normal.node2.first.operation"]}),
        }
    )
    with pytest.raises(InvalidSpec, match=r"normal\.node0\.first\.operation"):
        FEW_SHOT.stages(problem(cells))
