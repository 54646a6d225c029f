"""Cascades of a search's front against its single networks, measured on this machine with real images.

For digits and CIFAR-10: a supernet is trained and explored by the product's own stages; members of the estimated front
are packaged as the product exports them, and ``nas cascade`` chooses from them with thresholds fitted on validation
images. Every test image goes through the cascade and through the fastest single network that is as accurate on
validation images, in turn. The most accurate model also gets an early exit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks._cifar import small_cifar
from benchmarks._cli import Options, main, shared_file
from benchmarks.schedules import SPACE
from benchmarks.small_budget import PlantedLatency
from nas.blobs import FolderBlobs
from nas.cascade_package import make_cascade
from nas.core import registry
from nas.core.arch import Arch
from nas.core.device import DeviceProfile
from nas.core.errors import InfeasibleBound
from nas.core.events import SearchState, fold_all
from nas.core.model_package import ModelPackage
from nas.core.ports import Dataset, Problem, Resources, Split
from nas.core.provenance import Provenance
from nas.core.spec import BudgetSpec, ObjectiveSpec, SearchSpec, SpaceSpec, StrategySpec
from nas.early_exits import make_early_exit
from nas.engine import run_search, stages_of
from nas.packaging import package
from nas.stages.subnets import load_subnets

STAGES = ("estimate", "train", "explore")
MOST_MODELS = 8  # of a front, evenly along it
SIZES: dict[str, tuple[int, int]] = {"digits": (30, 40), "cifar10": (8, 32)}  # epochs and evaluations


def data_of(name: str, shared: Path) -> tuple[Dataset, SpaceSpec]:
    """The data set and the space that suits it. A third of the held-out images of CIFAR-10 are test images."""
    if name == "digits":
        spec = SearchSpec()
        return registry.load_dataset("digits").load(spec.data, 0), spec.space
    data = small_cifar(shared / "data" / "cifar10_jpeg.npz", 4_000, 1_500, 32)
    rows = len(data.val)
    val, test = (_part(data, slice(*ends)) for ends in ((0, 2 * rows // 3), (2 * rows // 3, rows)))
    return replace(data, val=val, test=test), SpaceSpec(params=SPACE)


def _part(data: Dataset, rows: slice) -> Split:
    return Split(data.val.array_NCHW[rows], data.val.labels[rows])


def models_of(name: str, options: Options, folder: Path) -> tuple[list[ModelPackage], Dataset]:
    """Members of the estimated front of a search, as packages."""
    data, space_spec = data_of(name, options.shared)
    epochs, evaluations = SIZES[name]
    if options.more["tiny"]:
        epochs, evaluations = 2, 8
    spec = SearchSpec(
        space=space_spec,
        strategy=StrategySpec(params={"epochs": epochs, "rank_networks": 0, "checkpoint_s": 3600.0}),
        objectives=(ObjectiveSpec(name="accuracy"), ObjectiveSpec(name="macs")),
        budget=BudgetSpec(evaluations=evaluations),
    )
    space = registry.build_space(spec.space, data.shape)
    problem = Problem(
        spec, space, data, DeviceProfile("planted", "", "", 1, "planted", "", ""), PlantedLatency.of(space)
    )
    resources = Resources(FolderBlobs(folder), lambda *_: iter(()), time.monotonic)
    stages = [stage for stage in stages_of(problem) if stage.name in STAGES]
    state = fold_all(run_search(problem, stages, resources, SearchState()))
    subnets = load_subnets(problem, resources, state)
    models = []
    for arch in front_of_macs(state):
        archive, _ = package(
            subnets.cut(arch),
            arch,
            space,
            data,
            mean=subnets.pipeline.mean,
            std=subnets.pipeline.std,
            seed=0,
            metrics={},
            int8=False,
            provenance=Provenance("", spec, None),
        )
        path = folder / f"{arch.id}.zip"
        path.write_bytes(archive)
        models.append(ModelPackage.read(path))
    return models, data


def front_of_macs(state: SearchState) -> list[Arch]:
    """Networks that no other one beats in MACs and validation accuracy, at most ``MOST_MODELS``."""
    ranked = sorted(state.of("search"), key=lambda c: (c.metrics["macs"], -c.metrics["val_accuracy"]))
    front, best = list[Arch](), -1.0
    for candidate in ranked:
        if candidate.metrics["val_accuracy"] > best:
            best = candidate.metrics["val_accuracy"]
            front.append(candidate.arch)
    step = max(1, -(-len(front) // MOST_MODELS))
    return front[::-1][::step][::-1]


def bench(options: Options) -> Mapping[str, Any]:
    """One cascade for each data set, and an early exit of its most accurate model alone."""
    torch.set_num_threads(1)
    names = options.more["data"] or list(SIZES)
    if "cifar10" in names:
        shared_file(options, "data", "cifar10_jpeg.npz")
    out, exits, within = dict[str, Any](), dict[str, Any](), options.more["within"]
    for name in names:
        with TemporaryDirectory() as folder:
            models, data = models_of(name, options, Path(folder))
            _, report = make_cascade(models, data, within=within)
            exits[name] = exit_of(models[-1], data, within)
        out[name] = {**asdict(report), "saved_percent": report.saved_percent, "models": len(models)}
    return {"cascades": out, "early_exits": exits, "within": within}


def exit_of(model: ModelPackage, data: Dataset, within: float) -> dict[str, Any]:
    """What an early exit does; where none is faster than the model, why."""
    try:
        _, report = make_early_exit(model, data, within=within)
    except InfeasibleBound as error:
        return {"saved_percent": 0.0, "none": str(error)}
    return {**asdict(report), "saved_percent": report.saved_percent}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which data, and how much accuracy may be lost on validation images."""
    parser.add_argument("--data", action="append", choices=list(SIZES), help="one of them alone; repeatable")
    parser.add_argument("--within", type=float, default=0.0, help="points of validation accuracy (%(default)s)")
    parser.add_argument("--tiny", action="store_true", help="see that it runs; its figures mean nothing")


if __name__ == "__main__":
    main("cascades", bench, (__doc__ or "").split("\n")[0], ("torch", "onnxruntime"), seeds=1, more=add_arguments)
