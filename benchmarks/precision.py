"""Is it worth searching in the precision that is deployed? Fronts that were searched in float32 and quantised to int8
afterwards, against fronts that were searched in int8 and in mixed precision, on digits and on small CIFAR-10.

All share one supernet for each data set, and this machine is a device of each precision, measured by the product's own
protocol; it should be left alone meanwhile. Every front is judged by the measured latency and the test accuracy of the
exported quantised models, by the hypervolume up to one reference for each data set. Interrupted, it goes on.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import numpy as np
import torch

from benchmarks._cifar import small_cifar
from benchmarks._cli import ROOT, Options, main, shared_file
from benchmarks._device import add_device
from benchmarks._finished_runs import FinishedRuns
from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.arch import Arch
from nas.core.device import DeviceProfile
from nas.core.events import Exported, SearchState, fold
from nas.core.pareto import hypervolume
from nas.core.ports import Dataset, LatencyPredictor, Problem, Resources, SearchSpace, Split
from nas.core.runtimes import Precision
from nas.core.spec import BudgetSpec, DataSpec, DeviceSpec, ExportSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.engine import run_search, stages_of
from nas.export import converted_for_timing, to_onnx_for_timing
from nas.mixed_precision import in_precision_of, int8_mask
from nas.stages.results import TrainResult
from predictors.measurement.isolated import measure_isolated
from predictors.storage import load_predictor

DATA_SETS = ("digits", "cifar10")
PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "mixed")
METHOD: Mapping[Precision, str] = {"float32": "float32_then_int8", "int8": "int8", "mixed": "mixed"}
CIFAR = {"images": 3000, "validation": 500, "test": 1000, "size": 16}
SPACE = {"preset": "digits", "resolutions": [8, 12, 16], "depths": [1, 2, 3]}
JudgedModel = tuple[float, float]  # latency in ms and test accuracy in %


@dataclass(frozen=True)
class Setting:
    """How much is spent: ``samples`` networks are measured to learn a device, and a search scores ``evaluations`` and
    verifies ``verified`` at most. ``epochs`` by data set."""

    samples: int
    evaluations: int
    verified: int
    epochs: Mapping[str, int]


@dataclass(frozen=True)
class PrecisionBench:
    """One data set with what all of its searches share. ``shared``: the folder of data."""

    name: str
    setting: Setting
    runs: FinishedRuns
    blobs: FolderBlobs
    options: Options

    @cached_property
    def data(self) -> Dataset:
        """Digits as the product has them, or small CIFAR-10 images, of which validation and test are apart."""
        if self.name == "digits":
            return registry.load_dataset("digits").load(DataSpec(), 0)
        held_out = CIFAR["validation"] + CIFAR["test"]
        archive = shared_file(self.options, "data", "cifar10_jpeg.npz")
        cifar10 = small_cifar(archive, CIFAR["images"], held_out, CIFAR["size"])
        images_NCHW, labels = cifar10.val.array_NCHW, cifar10.val.labels
        n = CIFAR["validation"]
        return replace(cifar10, val=Split(images_NCHW[:n], labels[:n]), test=Split(images_NCHW[n:], labels[n:]))

    @cached_property
    def spec(self) -> SearchSpec:
        """A search in float32, of which the others differ in precision and seed."""
        params = {"preset": "digits"} if self.name == "digits" else SPACE
        setting = self.setting
        return SearchSpec(
            name=self.name,
            space=SpaceSpec(name="mobilenet_v3", params=dict(params)),
            strategy=StrategySpec(params={"epochs": setting.epochs[self.name], "rank_networks": 0}),
            budget=BudgetSpec(evaluations=setting.evaluations, verified=setting.verified),
            export=ExportSpec(count=None, int8=True),
        )

    def space(self, precision: Precision) -> SearchSpace:
        """The space of searches in a precision."""
        return in_precision_of(registry.build_space(self.spec.space, self.data.shape), precision)

    def device(self, precision: Precision) -> tuple[DeviceProfile, LatencyPredictor]:
        """This machine as a device of networks in a precision."""
        record = self.runs.run(
            f"{self.name}, device {precision}",
            lambda: self._onboard(precision),
            lambda run: f"{run['onboarding_s']:.0f} s, mean error {run['mape']:.1f} %",
        )
        profile = DeviceProfile.from_json(record["profile"])
        return profile, load_predictor(record["family"], self.blobs.get(record["predictor"]))

    def _onboard(self, precision: Precision) -> dict[str, Any]:
        space = self.space(precision)
        net = space.supernet(0).eval()

        def export(arch: Arch) -> bytes:
            shape = space.input_shape(arch)
            model = to_onnx_for_timing(net.subnet(arch), shape)
            return converted_for_timing(model, precision, shape, int8_mask(space, arch, precision))

        device = add_device(DeviceSpec(samples=self.setting.samples, precision=precision), space, self.blobs, export)
        return {
            "profile": device.profile.as_json(),
            "family": device.fitted.family,
            "predictor": device.fitted.blob,
            "mape": device.fitted.card.mape or float("nan"),
            "onboarding_s": device.seconds,
        }

    def supernet(self) -> str:
        """The blob of the supernet, trained once."""

        def train() -> dict[str, Any]:
            problem = self._problem("float32", 0, None)
            stages = [s for s in stages_of(problem) if s.name in ("estimate", "train")]
            return {"supernet": TrainResult.require(self._searched(problem, stages).finished).blob}

        return str(self.runs.run(f"{self.name}, supernet", train, lambda run: "trained")["supernet"])

    def front(self, precision: Precision, seed: int) -> list[JudgedModel]:
        """The quantised models of the front of one search, as measured and tested."""

        def search() -> dict[str, Any]:
            problem = self._problem(precision, seed, self.supernet())
            state = self._searched(problem, stages_of(problem))
            points = [point for e in state.exports if (point := _point(state, e, precision)) is not None]
            return {"points": points}

        run = self.runs.run(
            f"{self.name}, {precision}, seed {seed}", search, lambda run: f"{len(run['points'])} quantised networks"
        )
        return [(float(ms), float(accuracy)) for ms, accuracy in run["points"]]

    def _problem(self, precision: Precision, seed: int, supernet: str | None) -> Problem:
        profile, predictor = self.device(precision)
        spec = self.spec.model_copy(update={"precision": precision, "seed": seed})
        return Problem(spec, self.space(precision), self.data, profile, predictor, supernet)

    def _searched(self, problem: Problem, stages: Sequence[Any]) -> SearchState:
        resources, state = Resources(self.blobs, measure_isolated, time.monotonic), SearchState()
        for event in run_search(problem, stages, resources, state):
            state = fold(state, event)
        return state


def _point(state: SearchState, exported: Exported, precision: Precision) -> JudgedModel | None:
    """Measured latency and test accuracy of an exported quantised model; None where it was not measured."""
    if precision == "float32":
        ms, accuracy = exported.report["int8_measurement"]["median_ms"], exported.report["int8_accuracy"]
    else:
        candidate = next(c for c in state.of("search") if c.arch.id == exported.arch.id)
        ms, accuracy = candidate.metrics.get("measured_ms"), candidate.metrics["test_accuracy"]
    return None if ms is None else (float(ms), float(accuracy))


def volumes(fronts: Mapping[str, Sequence[Sequence[JudgedModel]]]) -> dict[str, Any]:
    """Mean hypervolume by method, 0 to 1, of fronts by seed, and their pooled standard deviation over seeds. The box
    that holds all of them goes from the fastest and most accurate network to 5 % beyond the slowest and the worst."""
    losses = np.array(
        [(ms, 100.0 - accuracy) for of_method in fronts.values() for f in of_method for ms, accuracy in f]
    )
    low, high = losses.min(axis=0), losses.max(axis=0)
    width = 1.05 * np.where(high > low, high - low, 1.0)

    def volume(front: Sequence[JudgedModel]) -> float:
        loss_NM = np.array([(ms, 100.0 - accuracy) for ms, accuracy in front]).reshape(-1, 2)
        return float(hypervolume((loss_NM - low) / width, np.ones(2)))

    by_method = {method: [volume(front) for front in of_method] for method, of_method in fronts.items()}
    several = [variance(values) for values in by_method.values() if len(values) > 1]
    deviation = float(np.sqrt(fmean(several))) if several else None
    return {**{method: fmean(values) for method, values in by_method.items()}, "deviation": deviation}


def bench(options: Options) -> dict[str, Any]:
    """Hypervolumes by data set, and the fronts themselves."""
    torch.set_num_threads(2)
    more = options.more
    setting = Setting(
        more["samples"],
        more["evaluations"],
        more["verified"],
        {"digits": more["epochs_digits"], "cifar10": more["epochs_cifar"]},
    )
    settings = {**vars(setting), "space": SPACE, "cifar": CIFAR}
    runs = FinishedRuns(more["partial"], settings)
    blobs = FolderBlobs(more["partial"].with_suffix(".blobs"))
    volume: dict[str, Any] = {}
    points: dict[str, Any] = {}
    for name in more["data"]:
        data_set = PrecisionBench(name, setting, runs, blobs, options)
        fronts = {METHOD[p]: [data_set.front(p, seed) for seed in options.seeds] for p in PRECISIONS}
        volume[name], points[name] = volumes(fronts), fronts
    return {"hypervolume": volume, "seeds": len(options.seeds), "setting": settings, "points": points}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How much is spent, and where finished runs are kept."""
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=list(DATA_SETS), help="data sets (both)")
    parser.add_argument("--samples", type=int, default=32, help="networks that a device is learned from (%(default)s)")
    parser.add_argument("--evaluations", type=int, default=32, help="networks that a search scores (%(default)s)")
    parser.add_argument("--verified", type=int, default=6, help="networks that it measures at most (%(default)s)")
    parser.add_argument("--epochs-digits", type=int, default=15, help="of the supernet on digits (%(default)s)")
    parser.add_argument("--epochs-cifar", type=int, default=5, help="of the supernet on CIFAR-10 (%(default)s)")
    default = ROOT / "benchmarks" / "results" / "precision.partial.json"
    parser.add_argument("--partial", type=Path, default=default, help="finished runs, to go on from (%(default)s)")


if __name__ == "__main__":
    about = (__doc__ or "").split("\n\n")[0]
    main("precision", bench, about, ("torch", "onnxruntime", "numpy"), seeds=1, more=add_arguments)
