"""Gradient search on mobile networks against once-for-all: bounds, what of them is used, accuracy and cost.

On digits and on small images of CIFAR-10, preset ``proxyless`` as shipped searches ``mobilenet_v3`` under each of three
latency bounds, through the product's stages; beside it a once-for-all supernet of the same space is trained once, and
the same stages find its network under the same bounds. Of each front the network of the highest estimated accuracy that
was verified is trained from scratch by one recipe and judged on test images. Latencies are measured on this machine,
which is added as the product adds it and should be left alone meanwhile; ``--planted`` has a made-up device instead,
linear in the features of networks and known without error, for accuracies alone.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks._cifar import small_cifar
from benchmarks._cli import Options, main, shared_file
from benchmarks._device import add_device, timing_export
from benchmarks.small_budget import PlantedLatency
from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.arch import Arch, Genes
from nas.core.device import DeviceProfile, MeasurementProtocol
from nas.core.events import Candidate, SearchState, fold_all
from nas.core.ports import Dataset, Measurer, Problem, RelaxedSpace, Resources, Split, is_relaxed, predict_latency
from nas.core.retraining import RetrainSpec
from nas.core.rng import Stream, rng
from nas.core.spec import BudgetSpec, DataSpec, DeviceSpec, ObjectiveSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.engine import run_search, stages_of
from nas.stages.results import TrainResult
from nas.training.calibration import recalibrate
from nas.training.criterion import Criterion
from nas.training.pipeline import Pipeline
from nas.training.standalone import StandaloneRecipe, StandaloneTrainer
from predictors.measurement.isolated import measure_isolated

QUANTILES = (0.25, 0.5, 0.75)  # of the latency bounds of random networks of the relaxation
DATA = ("digits", "cifar10")


@dataclass(frozen=True)
class MobileSetting:
    """``ofa_epochs`` of the once-for-all supernet, ``epochs`` and ``tune_epochs`` of each search by gradient,
    ``retrain_epochs`` of each network that was found. ``images``, ``validation`` (and as many for the test) and
    ``size`` are those of CIFAR-10. ``samples`` are measured to add the device."""

    ofa_epochs: int = 45
    epochs: int = 20
    tune_epochs: int = 5
    retrain_epochs: int = 30
    images: int = 3_000
    validation: int = 1_000
    size: int = 16
    evaluations: int = 48
    samples: int = 40


def bench(options: Options) -> Mapping[str, Any]:
    """Both data sets, two at a time where latencies are not measured."""
    shrink = float(options.more["share"])
    full = MobileSetting()
    least = {"ofa_epochs": 2, "epochs": 2, "retrain_epochs": 1, "evaluations": 8}
    setting = replace(full, **{name: max(n, round(shrink * getattr(full, name))) for name, n in least.items()})
    planted = bool(options.more["planted"])
    archive = shared_file(options, "data", "cifar10_jpeg.npz")
    work = partial(one_data_set, setting, archive, planted, options.seeds)
    names = [str(name) for name in options.more["data"]]
    with ProcessPoolExecutor(2 if planted else 1, mp_context=get_context("spawn")) as pool:
        rows = [row for of_data in pool.map(work, names) for row in of_data]
    return {**summary(rows), "planted": planted, "setting": asdict(setting), "runs": rows}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All runs together."""
    return {
        "bounds": len(rows),
        "bounds_met": sum(r["met"] for r in rows),
        "used": [r["used"] for r in rows],
        "mean_used": fmean(r["used"] for r in rows),
        "accuracy_gap": fmean(r["ofa_accuracy"] - r["accuracy"] for r in rows),
        "cost_ratio": fmean(r["train_s"] / r["ofa_train_s"] for r in rows),
    }


def one_data_set(setting: MobileSetting, archive: Path, planted: bool, seeds: Sequence[int], name: str) -> list[Any]:
    """A row for each seed and bound."""
    torch.set_num_threads(1)
    data = _dataset(name, archive, setting)
    size = data.shape.height
    space = registry.build_space(
        SpaceSpec(name="mobilenet_v3", params={"preset": "digits", "resolutions": [size], "widths": [1.0]}), data.shape
    )
    assert is_relaxed(space)
    with TemporaryDirectory(prefix="hwnas-mobile-") as folder:
        blobs = FolderBlobs(Path(folder))
        base, measure = _planted(space, data) if planted else _measured(space, data, blobs, setting.samples)
        resources = Resources(blobs, measure, time.monotonic)
        drawn_NG = random_networks(space, 500)
        bounds_ms = np.quantile(predict_latency(base.predictor, space, drawn_NG).upper_ms, QUANTILES).tolist()
        return [row for seed in seeds for row in _one_seed(setting, base, resources, bounds_ms, name, seed)]


def random_networks(space: RelaxedSpace, count: int) -> Genes:
    """Networks that the relaxation holds, shape (N, G)."""
    generator = np.random.default_rng(7)
    return np.stack([space.discretise(generator.gumbel(size=space.relaxation.shape)) for _ in range(count)])


def _dataset(name: str, archive: Path, setting: MobileSetting) -> Dataset:
    if name == "digits":
        return registry.load_dataset("digits").load(DataSpec(), 0)
    data, half = small_cifar(archive, setting.images, 2 * setting.validation, setting.size), setting.validation
    val = Split(data.val.images_NCHW[:half], data.val.labels[:half])
    test = Split(data.val.images_NCHW[half:], data.val.labels[half:])
    return replace(data, val=val, test=test)


def _planted(space: RelaxedSpace, data: Dataset) -> tuple[Problem, Measurer]:
    profile = DeviceProfile("planted", "", "", 1, "planted", "", "", protocol=MeasurementProtocol(version=0))
    return Problem(SearchSpec(), space, data, profile, PlantedLatency.of(space)), lambda *_: iter(())


def _measured(space: RelaxedSpace, data: Dataset, blobs: FolderBlobs, samples: int) -> tuple[Problem, Measurer]:
    device = add_device(DeviceSpec(samples=samples), space, blobs, timing_export(space))
    return Problem(SearchSpec(), space, data, device.profile, device.predictor), measure_isolated


def _one_seed(
    setting: MobileSetting, base: Problem, resources: Resources, bounds_ms: Sequence[float], name: str, seed: int
) -> Iterator[dict[str, Any]]:
    ofa = {"epochs": setting.ofa_epochs, "rank_networks": 0}
    trained, ofa_train_s = _train(_bounded(setting, base, "once_for_all", ofa, None, seed), resources)
    supernet = TrainResult.require(trained.finished).blob
    gradient = {"preset": "proxyless", "epochs": setting.epochs, "tune_epochs": setting.tune_epochs, "rank_networks": 0}
    for bound_ms in bounds_ms:
        peer = replace(_bounded(setting, base, "once_for_all", ofa, bound_ms, seed), supernet_blob=supernet)
        of_once_for_all = _best(_search(peer, resources, SearchState()), bound_ms)
        problem = _bounded(setting, base, "darts", gradient, bound_ms, seed)
        state, train_s = _train(problem, resources)
        of_gradient = _best(_search(problem, resources, state), bound_ms)
        latency_ms = _latency_ms(of_gradient)
        yield {
            "data": name,
            "seed": seed,
            "bound_ms": bound_ms,
            "met": latency_ms <= bound_ms,
            "used": latency_ms / bound_ms,
            "ofa_used": _latency_ms(of_once_for_all) / bound_ms,
            "accuracy": _retrained(base, of_gradient.arch, setting.retrain_epochs, seed),
            "ofa_accuracy": _retrained(base, of_once_for_all.arch, setting.retrain_epochs, seed),
            "train_s": train_s,
            "ofa_train_s": ofa_train_s,
        }


def _bounded(
    setting: MobileSetting, base: Problem, strategy: str, params: Mapping[str, Any], bound_ms: float | None, seed: int
) -> Problem:
    spec = SearchSpec(
        strategy=StrategySpec(name=strategy, params={"checkpoint_s": 1e9, **params}),
        objectives=(ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="latency", bound=bound_ms)),
        budget=BudgetSpec(evaluations=setting.evaluations, verified=8),
        seed=seed,
    )
    return replace(base, spec=spec)


def _train(problem: Problem, resources: Resources) -> tuple[SearchState, float]:
    """The state after training, and its processor seconds."""
    started_at = time.process_time()
    stages = [s for s in stages_of(problem) if s.name in ("estimate", "train")]
    state = fold_all(run_search(problem, stages, resources, SearchState()))
    return state, time.process_time() - started_at


def _search(problem: Problem, resources: Resources, state: SearchState) -> SearchState:
    """The state after verification; nothing is verified on a planted device, where what is predicted is true."""
    last = "explore" if _is_planted(problem) else "verify"
    names = [s.name for s in stages_of(problem)]
    return fold_all(run_search(problem, stages_of(problem)[: names.index(last) + 1], resources, state), state)


def _is_planted(problem: Problem) -> bool:
    return isinstance(problem.predictor, PlantedLatency)


def _best(state: SearchState, bound_ms: float) -> Candidate:
    """The candidate of the highest estimated accuracy whose latency was measured (or planted) within the bound; the
    nearest to it where none is."""
    placed = [p for p in state.of("search") if p.measurement is not None or "verify" not in state.finished]
    if within := [p for p in placed if _latency_ms(p) <= bound_ms]:
        return max(within, key=lambda p: (p.metrics["val_accuracy"], -_latency_ms(p)))
    return min(placed, key=_latency_ms)


def _latency_ms(candidate: Candidate) -> float:
    if candidate.measurement is None:
        return candidate.metrics["predicted_ms"]
    return np.inf if candidate.measurement.median_ms is None else candidate.measurement.median_ms


def _retrained(problem: Problem, arch: Arch, epochs: int, seed: int) -> float:
    """Test accuracy in % after training from scratch, by the same recipe for all."""
    values = {h.name: h.default for h in RetrainSpec(epochs=epochs).hyperparameters(False)}
    recipe = StandaloneRecipe(epochs=epochs, batch_size=64, lr=values["lr"], weight_decay=values["weight_decay"])
    space, pipeline = problem.space, Pipeline(problem.data, "cpu")
    resolution = space.input_shape(arch)[1]
    module = space.supernet(int(rng(seed, Stream.RETRAINING).integers(2**31))).subnet(arch)
    trainer = StandaloneTrainer(module, resolution, problem.data, pipeline, recipe, seed, None)
    for epoch in range(epochs):
        trainer.epoch(epoch)
    recalibrate(trainer.evaluated, (x for x, _ in pipeline.plain(problem.data.train, resolution, batch=256)))
    return (
        Criterion(problem.data, "cpu").score(trainer.evaluated, pipeline.plain(problem.data.test, resolution)).quality
    )


def add_options(parser: argparse.ArgumentParser) -> None:
    """Which device and data, and how much of the training."""
    parser.add_argument("--planted", action="store_true", help="a made-up device instead of this machine")
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA), help="data sets (both)")
    parser.add_argument("--share", type=float, default=1.0, help="of all epochs and evaluations (%(default)s)")


if __name__ == "__main__":
    main("mobile_gradient", bench, __doc__ or "", ("torch", "numpy", "onnxruntime"), seeds=1, more=add_options)
