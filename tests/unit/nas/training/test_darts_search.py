"""The loop of differentiable search on a tiny space: every preset runs, resumes bit by bit, and does what it says."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from nas.core.ports import Dataset
from nas.core.spec import DataSpec
from nas.datasets import digits
from nas.training.gradient import loop, monitors
from nas.training.gradient.hypernetwork import ConditionedDevice
from nas.training.gradient.loop import EpochReport, GradientSearch, GradientStep, run_gradient_search
from nas.training.gradient.options import PRESETS, DartsParams
from nas.training.gradient.progress import GradientProgress, uses_earlier_streams
from nas.training.gradient.rates import published_rates
from nas.training.gradient.steps import DroppedPaths, LatencyCost, StepResult, Steps
from nas.training.pipeline import Pipeline
from nas.training.state import TrainState
from search_spaces.darts_cell import space as darts_cell
from search_spaces.nas_bench_201.cell import CONV3, NONE, SKIP
from search_spaces.nas_bench_201.space import build

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = {"epochs": 2, "tune_epochs": 1, "batch_size": 20, "select_epochs": 1}


@pytest.fixture(scope="module")
def data() -> Dataset:
    return digits.load(DataSpec(params={"max_train": 80, "max_val": 40, "max_test": 40}), 0)


def begin(data: Dataset, seed: int = 0, **changes: Any) -> GradientSearch:
    space = build({"preset": "digits", "channels": 4}, data.shape)
    options = DartsParams.model_validate({**TINY, **changes})
    latency = LatencyCost(lambda g: space.costs(g)["macs"] / 1e5, 2.0) if options.latency_weight else None
    net = space.supernet(seed).to(memory_format=torch.channels_last)
    devices = [ConditionedDevice.of(space, "macs", lambda g: space.costs(g)["macs"])] if options.hypernetwork else []
    return GradientSearch(net, space, data, Pipeline(data, "cpu"), options, seed, latency, devices=devices)


def finish(learning: GradientSearch, start: TrainState | None = None) -> list[EpochReport]:
    return [
        n for n in run_gradient_search(learning, start or TrainState(), lambda: False) if isinstance(n, EpochReport)
    ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


CASES: dict[str, dict[str, Any]] = {name: {"preset": name} for name in PRESETS} | {
    "sd_darts": {"preset": "sd_darts", "teacher_warmup": 1},
    "pc_darts": {"preset": "pc_darts", "alpha_warmup": 1, "partial": 2},
    "rdarts": {"preset": "rdarts", "epochs": 9},
    "gold": {"preset": "gold", "prune_weight": 0.05},
    "gdas_all_paths": {"preset": "gdas", "all_paths": True},
    "entropy": {"preset": "small_temperature", "temperature": "entropy"},
    "dropped_paths": {"drop_path": 0.5},
    "roll_back": {"preset": "rdarts", "epochs": 9, "roll_backs": 1},
    "regularise": {"collapse": "regularise", "skip_limit": 0.01},
}


@pytest.mark.parametrize("case", CASES)
def test_resuming_anywhere_gives_bitwise_equal_results(data: Dataset, case: str) -> None:
    uninterrupted = begin(data, **CASES[case])
    states: list[bytes] = []
    update = []
    for item in run_gradient_search(uninterrupted, TrainState(), lambda: True):
        if isinstance(item, TrainState):
            states.append(item.to_bytes())
        else:
            update.append(item)
    expected = TrainState.from_bytes(states[-1], "cpu").weights
    for blob in (states[len(states) // 2], states[-2]):
        resumed = begin(data, **CASES[case])
        finish(resumed, TrainState.from_bytes(blob, "cpu"))
        assert same(resumed.state(len(resumed.kinds), 0).weights, expected)
    steps = [n for n in update if isinstance(n, GradientStep)]
    assert all(np.isfinite(s.loss) for s in steps)
    assert steps[-1].done == steps[-1].total
    genes = uninterrupted.discretised
    assert np.array_equal(uninterrupted.space.canonical(genes[None])[0], genes)


def flat(state: TrainState) -> TrainState:
    """A checkpoint as earlier versions wrote it: with the progress beside the tensors, and without rates."""
    assert state.weights is not None
    weights = {k: v for k, v in state.weights.items() if k not in ("progress", "rates", "entangled")}
    p = state.weights["progress"]
    earlier = {
        "weight_decay": p["weight_decay"],
        "temperature": p["temperature"],
        "teachers": p["teachers"],
        "pressure": [p["pressure"][k] for k in ("weight", "step", "quiet")],
        "series": p["series"],
        "eigenvalues": [tuple(pair) for pair in p["eigenvalues"]],
        "past": p["alphas_by_epoch"],
        "healthy": p["healthy_epoch"],
        "told": p["reported"],
        "signs": p["signs"],
        "ended": p["ended_epoch"],
        "decided": p["decided"],
        "cost": [p["costs"][k] for k in ("expected_ms", "discretised_ms", "steps")],
        "multiplier": p["multiplier"]["value"] if p["multiplier"] is not None else None,
    }
    return TrainState(state.phase, state.step, {**weights, **earlier})


@pytest.mark.parametrize("case", ["sd_darts", "gold", "la_darts", "rdarts", "darts_pt"])
def test_checkpoints_of_earlier_versions_are_resumed(data: Dataset, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as earlier_version:
        earlier_version.setattr(loop, "rates", lambda options, *_: published_rates(options))
        uninterrupted = begin(data, **CASES[case])
    assert uninterrupted.rates != begin(data, **CASES[case]).rates
    uninterrupted.restore(flat(TrainState.from_bytes(uninterrupted.state(0, 0).to_bytes(), "cpu")).weights or {})
    blobs = [
        n.to_bytes()
        for n in run_gradient_search(uninterrupted, TrainState(), lambda: True)
        if isinstance(n, TrainState)
    ]
    assert not uses_earlier_streams(begin(data, **CASES[case]).state(0, 0).weights or {})
    state = TrainState.from_bytes(blobs[len(blobs) // 2], "cpu")
    assert uses_earlier_streams(state.weights or {})
    assert uses_earlier_streams(flat(state).weights or {})
    blob = flat(state).to_bytes()
    resumed = begin(data, **CASES[case])
    finish(resumed, TrainState.from_bytes(blob, "cpu"))
    half = resumed.batches.rows["weights"]
    earlier = np.random.default_rng((0, 5)).permutation(len(data.train))
    assert half.tolist() == earlier[: len(half)].tolist()  # weights never see images that were held out before
    expected = TrainState.from_bytes(blobs[-1], "cpu").weights
    result = resumed.state(len(resumed.kinds), 0).weights
    assert expected is not None
    assert result is not None
    edges, all_edges = (w["progress"].pop("betas_by_epoch") for w in (result, expected))
    assert same(edges, all_edges[len(all_edges) - len(edges) :])  # earlier versions kept none
    assert same(result, expected)


def test_alpha_steps_leave_weights_unchanged_and_weight_steps_alphas(data: Dataset) -> None:
    for order in ("first", "second"):
        learning = begin(data, order=order, lr=0.1)
        rng = np.random.default_rng(0)
        images, held_out = (learning.batches.batch(h, 0, 0, rng) for h in ("weights", "alphas"))
        noise = learning.model.noise(0)
        before = {k: v.clone() for k, v in learning.net.state_dict().items()}
        alphas = learning.model.alphas.detach().clone()
        learning.trainer.train_alphas(learning.progress, images, held_out, noise, rng, 0)
        assert same(before, dict(learning.net.state_dict()))
        assert not torch.equal(alphas, learning.model.alphas)
        alphas = learning.model.alphas.detach().clone()
        learning.trainer.train_weights(learning.progress, images, noise)
        assert torch.equal(alphas, learning.model.alphas)
        assert not same(before, dict(learning.net.state_dict()))


def test_weights_and_alphas_never_see_the_same_image_unless_at_one_level(data: Dataset) -> None:
    learning = begin(data)
    a, b = learning.batches.rows["weights"], learning.batches.rows["alphas"]
    assert not set(a) & set(b)
    assert len(a) + len(b) == len(data.train)
    assert sorted(a) != list(range(len(a)))  # shuffled before it is split
    assert len(begin(data, preset="snas").batches.rows["weights"]) == len(data.train)


@pytest.mark.parametrize(
    "changes",
    [
        {"relaxation": "sparse_noisy", "temperature": "exponential"},
        {"preset": "sd_darts", "teacher_weight": 0.0, "teacher_warmup": 1},
        {"preset": "la_darts", "latency_weight": 0.0},
        {"probe_every": 2},
    ],
)
def test_an_option_without_strength_is_bit_by_bit_the_base(data: Dataset, changes: dict[str, Any]) -> None:
    base, other = begin(data), begin(data, **changes, partial=1)
    finish(base)
    finish(other)
    assert torch.equal(base.model.alphas, other.model.alphas)
    assert same(dict(base.net.state_dict()), dict(other.net.state_dict()))


@pytest.mark.long
def test_seeds_differ_and_teachers_learn_nothing(data: Dataset) -> None:
    first, second = begin(data, seed=0), begin(data, seed=1)
    finish(first)
    finish(second)
    assert not torch.equal(first.model.alphas, second.model.alphas)
    taught = begin(data, preset="sd_darts", teacher_warmup=1, teachers=2, tune_epochs=0, epochs=4)
    steps_so_far: list[int] = []
    for update in run_gradient_search(taught, TrainState(), lambda: False):
        if isinstance(update, GradientStep):
            steps_so_far.append(len(taught.trainer.teachers))
            for net, _ in taught.trainer.teachers:
                assert all(p.grad is None and not p.requires_grad for p in net.parameters())
    assert sorted(set(steps_so_far)) == [0, 1, 2]
    assert steps_so_far[-1] == 2


def test_epoch_reports_hold_temperatures_eigenvalues_and_scores(data: Dataset) -> None:
    learning = begin(
        data,
        preset="gdas",
        temperature_end=0.1,
        alpha_warmup=0,
        partial=1,
        probe_every=1,
        tune_epochs=0,
        batch_size=40,
    )
    readings = finish(learning)
    assert [r.values["temperature"] for r in readings] == pytest.approx([10.0, 0.1])
    assert all({"entropy", "skip_share", "eigenvalue"} <= set(r.values) for r in readings)
    np.testing.assert_allclose(readings[-1].p_EO, learning.scores())
    np.testing.assert_allclose(learning.scores().sum(1), 1.0, rtol=1e-6)


def push_identities(learning: GradientSearch) -> None:
    with torch.no_grad():
        learning.model.alphas.zero_()
        learning.model.alphas[:, SKIP] = 1.0


@pytest.mark.parametrize("answer", ["warn", "regularise", "stop"])
def test_collapse_is_reported_and_responded_to(data: Dataset, answer: str) -> None:
    learning = begin(data, collapse=answer, epochs=4, alpha_lr=1e-6, tune_epochs=0, batch_size=40)
    with torch.no_grad():
        learning.model.alphas[:, CONV3] = 0.1
    warnings: list[str] = []
    epochs = 0
    for update in run_gradient_search(learning, TrainState(), lambda: False):
        if isinstance(update, EpochReport):
            epochs += 1
            warnings += update.warnings
            if update.epoch == 1:
                push_identities(learning)
    assert any("identities" in w for w in warnings)
    if answer == "warn":
        assert len(warnings) == 1  # said once
        assert epochs == 4
        assert learning.signs
    elif answer == "regularise":
        assert learning.progress.weight_decay == pytest.approx(0.03)
        assert epochs == 4
    else:
        assert epochs == 3
        assert learning.discretised.tolist() == [CONV3] * 6  # that of the last healthy epoch
        assert "epoch 2" in warnings[0]


def test_untrained_alphas_are_neither_collapsed_nor_restored(data: Dataset) -> None:
    learning = begin(
        data, collapse="stop", epochs=4, alpha_warmup=2, alpha_lr=1e-6, tune_epochs=0, batch_size=40, probe_every=0
    )
    push_identities(learning)
    readings = finish(learning)
    assert [bool(r.warnings) for r in readings] == [False, False, True]
    assert "those of the last epoch" in readings[-1].warnings[0]
    assert learning.discretised.tolist() == [SKIP] * 6


@pytest.mark.parametrize("preset", ["darts", "pc_darts"])
def test_undecided_alphas_are_reported(data: Dataset, preset: str) -> None:
    learning = begin(data, preset=preset, epochs=3, tune_epochs=0, batch_size=40, alpha_lr=1e-6)
    *_, last = finish(learning)
    assert sum("undecided" in w for w in last.warnings) == 1
    assert "of at most 1.6094 nats" in last.warnings[-1]
    assert any("undecided" in sign for sign in learning.signs)
    decided = begin(data, preset=preset, epochs=3, tune_epochs=0, batch_size=40, alpha_lr=1e-6)
    with torch.no_grad():
        decided.model.alphas[:, CONV3] = 1.0
    *_, last = finish(decided)
    assert not any("undecided" in w for w in last.warnings)


def test_pc_darts_trains_alphas_in_a_short_search(data: Dataset) -> None:
    """Its 15 epochs of warm-up were more than a search of 10 epochs had."""
    learning = begin(data, preset="pc_darts", partial=2, epochs=10, tune_epochs=0, batch_size=40)
    before = learning.model.alphas.detach().clone()
    finish(learning)
    assert learning.rates.alpha_warmup == 3
    assert float((learning.model.alphas.detach() - before).abs().max()) > 1e-3


@pytest.mark.long
def test_sd_darts_differs_from_darts_in_a_short_search(data: Dataset) -> None:
    base, taught = (begin(data, preset=p, epochs=5, tune_epochs=0, batch_size=40) for p in ("darts", "sd_darts"))
    finish(base)
    finish(taught)
    assert not torch.equal(base.model.alphas, taught.model.alphas)


def test_early_stopping_restores_earlier_alphas(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    learning = begin(data, preset="rdarts", epochs=40, tune_epochs=0, batch_size=40)
    sharpness = iter([0.2] * 10 + [2.0 * 2**i for i in range(10)])
    monkeypatch.setattr(monitors, "held_out_eigenvalue", lambda *_: next(sharpness))
    monkeypatch.setattr(Steps, "search", lambda *_: StepResult(1.0))
    past: list[tuple[torch.Tensor, torch.Tensor]] = []
    for update in run_gradient_search(learning, TrainState(), lambda: False):
        if isinstance(update, EpochReport):
            past.append((learning.model.alphas.detach().clone(), learning.model.betas.detach().clone()))
            if not update.warnings:
                generator = torch.Generator().manual_seed(update.epoch)
                with torch.no_grad():
                    learning.model.alphas.add_(torch.randn(6, 5, generator=generator))
                    learning.model.betas.add_(torch.randn(6, generator=generator))
    assert len(past) < 40
    alphas, betas = past[learning.progress.ended_epoch or 0]
    assert torch.equal(learning.model.alphas, alphas)
    assert torch.equal(learning.model.betas, betas)


def test_perturbation_scores_each_operation_of_each_edge(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    learning = begin(data, preset="darts_pt", select_epochs=1, tune_epochs=0, epochs=1)
    trials = 0
    score = monitors.held_out_score

    def counted(*args: Any) -> Any:
        nonlocal trials
        trials += 1
        return score(*args)

    monkeypatch.setattr(monitors, "held_out_score", counted)
    finish(learning)
    assert trials == 6 * 4
    assert (learning.model.mask.sum(1) == 1).all()
    assert learning.kinds == ["search"] + ["select"] * 6
    operations = learning.model.mask.long().argmax(1).tolist()
    assert NONE not in operations
    assert learning.discretised.tolist() == learning.space.canonical(np.array([operations]))[0].tolist()


def test_pruning_only_removes_operations(data: Dataset) -> None:
    learning = begin(data, preset="gold", epochs=24, prune_weight=2e-3, prune_until=0.1, tune_epochs=0, batch_size=80)
    alive, pressures = [], []
    masks = [learning.model.mask]
    for update in run_gradient_search(learning, TrainState(), lambda: False):
        if isinstance(update, EpochReport):
            alive.append(update.values["alive"])
            pressures.append(update.values["pressure"])
            masks.append(learning.model.mask)
    assert alive == sorted(alive, reverse=True)
    assert alive[-1] < alive[0]
    assert all(bool((b <= a).all()) for a, b in pairwise(masks))
    assert max(pressures) > 2e-3
    assert not (learning.scores()[:, NONE] > 0).any()


def test_nothing_is_pruned_before_the_architecture_parameters_learn(data: Dataset) -> None:
    options: dict[str, Any] = {"preset": "gold", "epochs": 5, "alpha_warmup": 3, "tune_epochs": 0, "batch_size": 80}
    reports = [
        update.values
        for update in run_gradient_search(begin(data, **options), TrainState(), lambda: False)
        if isinstance(update, EpochReport)
    ]
    pressures = [values["pressure"] for values in reports]
    assert pressures[:3] == [0.0] * 3
    assert pressures[3] > 0
    assert [values["died"] for values in reports[:3]] == [0.0] * 3


def test_a_series_has_ever_fewer_operations_and_macs(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """One edge after the other fades while the others hold; whatever lasts for long enough is one of the series."""
    options: dict[str, Any] = {"preset": "gold", "epochs": 40, "prune_until": 0.05, "tune_epochs": 0, "batch_size": 80}
    learning = begin(data, alpha_warmup=0, **options)
    fades = {6: [0, 1], 14: [2], 22: [4], 30: [5]}  # by epoch: edges that lose all their operations
    emitted: list[tuple[float, int]] = []

    def step(self: Steps, _progress: GradientProgress, epoch: int, _step: int) -> StepResult:
        with torch.no_grad():
            if epoch == 0:
                self.model.alphas.fill_(1.0)
                self.model.alphas[:, CONV3] = 2.0
            for edge in fades.get(epoch, []):
                self.model.alphas[edge] -= 22.0
        return StepResult(1.0)

    monkeypatch.setattr(Steps, "search", step)
    alive = float(learning.model.mask.sum())
    for update in run_gradient_search(learning, TrainState(), lambda: False):
        if isinstance(update, EpochReport):
            if len(learning.series) > len(emitted):
                emitted.append((alive, len(emitted)))  # those that lasted, before what then died
            alive = update.values["alive"]
    series = np.array(learning.series)
    macs = learning.space.costs(series)["macs"]
    operation_counts = (series != NONE).sum(axis=1)
    assert len(series) >= 3
    assert all(b < a for a, b in pairwise(macs.tolist()))
    assert all(b < a for a, b in pairwise(operation_counts.tolist()))
    assert all(b < a for (a, _), (b, _) in pairwise(emitted))
    tables = [learning.space.table(g)[:, 1:] for g in series]
    assert all(bool((later <= earlier).all()) for earlier, later in pairwise(tables))  # each within the one before


def test_the_latency_loss_lowers_latency(data: Dataset) -> None:
    """With the bound well below what the relaxation would take, the multiplier rises and expected latency falls."""
    options: dict[str, Any] = {"epochs": 8, "alpha_lr": 0.1, "tune_epochs": 0, "batch_size": 40}
    options |= {"alpha_warmup": 0, "partial": 1}
    learning = begin(data, preset="la_darts", latency_weight=1.0, **options)
    free = begin(data, **options)
    readings = finish(learning)
    finish(free)
    assert readings[-1].values["latency_ms"] < readings[0].values["latency_ms"]
    assert readings[-1].values["multiplier"] > 1.0 or readings[-1].values["latency_ms"] <= 2.0
    macs = [float(s.space.costs(s.discretised[None])["macs"][0]) for s in (learning, free)]
    assert macs[0] <= macs[1]


def test_training_loss_decreases(data: Dataset) -> None:
    learning = begin(data, epochs=8, lr=0.1, tune_epochs=0)
    losses = [n.loss for n in run_gradient_search(learning, TrainState(), lambda: False) if isinstance(n, GradientStep)]
    assert np.mean(losses[-4:]) < 0.9 * np.mean(losses[:4])


def test_partial_channels_leave_the_others_alone(data: Dataset) -> None:
    learning = begin(data, preset="pc_darts", partial=2, alpha_warmup=0, tune_epochs=0)
    finish(learning)
    fresh = learning.space.supernet(0).state_dict()
    for name, tensor in learning.net.state_dict().items():
        if "conv3" in name and "conv.weight" in name:
            part = tensor.shape[0] // 2
            torch.testing.assert_close(tensor[part:], fresh[name][part:], rtol=1e-3, atol=0)  # it only decays
            assert not torch.allclose(tensor[:part, :part], fresh[name][:part, :part], rtol=1e-3, atol=0)


@pytest.mark.long
@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "gdas"},
        {"preset": "pc_darts", "partial": 2, "alpha_warmup": 0},
        {"preset": "gold"},
        {"preset": "darts_pt", "select_epochs": 0},
        {"preset": "la_darts", "latency_samples": 1},
    ],
    ids=lambda g: g["preset"],
)
def test_cells_of_two_kinds_are_searched_by_the_same_loop(data: Dataset, changes: dict[str, Any]) -> None:
    space = darts_cell.build({"preset": "digits"}, data.shape)
    options = DartsParams.model_validate({**TINY, "epochs": 1, "batch_size": 40, **changes})
    latency = LatencyCost(lambda g: space.costs(g)["macs"] / 1e5, 2.0) if options.latency_weight else None
    learning = GradientSearch(space.supernet(0), space, data, Pipeline(data, "cpu"), options, 0, latency)
    finish(learning)
    table = space.table(learning.discretised)
    assert table.sum() == 16
    assert not table[:, space.relaxation.none].any()
    if options.selection == "perturbation":
        assert learning.model.mask.sum() == 16  # one operation on two edges of every node
        np.testing.assert_array_equal(table, learning.model.mask.numpy())


@pytest.mark.parametrize("partial", [1, 2])
@pytest.mark.parametrize("cells", ["nas_bench_201", "darts_cell"])
def test_a_dropped_path_is_missing_for_its_image_alone(cells: str, partial: int, data: Dataset) -> None:
    """The same edges for all images are those of a relaxation without them; cells of a network drop other paths."""
    build_space = build if cells == "nas_bench_201" else darts_cell.build
    space = build_space({"preset": "digits", "channels": 4}, data.shape)
    net, relaxation = space.supernet(0).eval(), space.relaxation
    x_BCHW = torch.from_numpy(data.val.images_NCHW[:8]).float() / 255
    weights_EO = torch.rand(relaxation.shape, generator=torch.Generator().manual_seed(0))
    keeps_E = (torch.arange(len(weights_EO)) % 3 != 0).float()

    def logits(edges_E: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            mixed: torch.Tensor = net.mix(x_BCHW, weights_EO, edges_E=edges_E, partial=partial)
        return mixed

    of_all_images = logits(keeps_E[:, None].expand(-1, 8))
    torch.testing.assert_close(of_all_images, logits(keeps_E), rtol=1e-4, atol=1e-5)
    if cells == "darts_cell":  # whose mixtures are normalised by their batch
        return
    one_more = keeps_E[:, None].repeat(1, 8)
    one_more[0, 5] = 1.0
    differs_B = ~torch.isclose(logits(one_more), of_all_images).all(dim=1)
    assert differs_B.tolist() == [False] * 5 + [True] * 3  # in the first cell for image 5, then 6 and 7


def test_paths_are_dropped_ever_more_often(data: Dataset) -> None:
    options = DartsParams(drop_path=0.6, epochs=4)
    probabilities = [DroppedPaths.of(options, epoch, np.random.default_rng(0)).probability for epoch in range(4)]
    assert probabilities == pytest.approx([0.0, 0.2, 0.4, 0.6])
    learning = begin(data, drop_path=0.6)
    kept_EB = DroppedPaths(0.3, 1).drop(learning.model.plain_weights(), 4000, 0).edges_E
    assert kept_EB is not None
    assert float((kept_EB == 0).double().mean()) == pytest.approx(0.3, abs=0.02)
    assert float(kept_EB.mean()) == pytest.approx(1.0, abs=0.03)


def test_a_search_goes_back_and_on_with_more_weight_decay(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """DARTS-ADA: eigenvalues that grow twice are answered twice; the third time, weight decay is as high as it may be
    and the search ends with what it had before the growth."""
    grown = iter([*[0.2] * 6, *[2.0] * 30])
    monkeypatch.setattr(monitors, "held_out_eigenvalue", lambda *_: next(grown))
    options: dict[str, Any] = {"early_stop": True, "probe_every": 1, "epochs": 16, "roll_backs": 2, "alpha_warmup": 0}
    learning = begin(data, **options, weight_decay=1e-3, batch_size=40)
    warnings: list[str] = []
    decays, dones, epochs = [], [], []
    for update in run_gradient_search(learning, TrainState(), lambda: True):
        match update:
            case GradientStep():
                dones.append(update.done)
            case EpochReport():
                warnings += update.warnings
                decays.append(learning.progress.weight_decay)
                epochs.append(update.epoch)
    back = [b - a for a, b in pairwise(epochs)]
    assert [step for step in back if step != 1] == [-5, -5]  # six probes back, and the next epoch is the one after it
    assert sorted(set(decays)) == pytest.approx([1e-3, 1e-2, 0.03])
    assert ["back to epoch" in w for w in warnings if "eigenvalue" in w][:2] == [True, True]
    assert all(b > a for a, b in pairwise(dones))
    assert learning.progress.repeated_epochs == 12
    assert learning.progress.ended_epoch is not None


def test_going_back_restores_weights_alphas_and_optimisers(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([*[0.2] * 6, *[2.0] * 30])
    monkeypatch.setattr(monitors, "held_out_eigenvalue", lambda *_: next(values))
    options: dict[str, Any] = {"early_stop": True, "probe_every": 1, "epochs": 16, "roll_backs": 1, "alpha_warmup": 0}
    learning = begin(data, **options, batch_size=40)
    before: dict[int, Any] = {}
    after = None
    for update in run_gradient_search(learning, TrainState(), lambda: True):
        if isinstance(update, TrainState) and update.step == 0 and after is None:
            tensors = copy.deepcopy(update.weights)
            assert tensors is not None
            if learning.progress.roll_backs:
                after = update.phase, tensors
            before.setdefault(update.phase, tensors)
    assert after is not None
    epoch, tensors = after
    for name in ("net", "alphas", "alpha_optimiser"):
        assert same(tensors[name], before[epoch][name]), name
