"""Retraining found networks on digits: with inherited weights and by a teacher against from scratch, at equal steps."""

from __future__ import annotations

import argparse
import copy
from collections.abc import Mapping
from statistics import fmean, stdev
from time import process_time
from typing import Any

import torch
from torch import nn

from benchmarks._cli import Options, main
from nas.core import registry
from nas.core.arch import Arch, as_archs, choice_counts
from nas.core.ports import Dataset, SearchSpace
from nas.core.retraining import RetrainSpec
from nas.core.spec import DataSpec, SpaceSpec
from nas.strategies.once_for_all import OnceForAllParams
from nas.supernet import Supernet
from nas.training import samplers
from nas.training.calibration import recalibrate
from nas.training.criterion import Criterion
from nas.training.distillation import Distillation, Teacher
from nas.training.pipeline import Pipeline
from nas.training.progressive import SupernetRecipe, train
from nas.training.schedules import sandwich
from nas.training.standalone import StandaloneRecipe, StandaloneTrainer
from nas.training.state import TrainState

SPACE = {"preset": "digits", "resolutions": [8], "depths": [1, 2], "final": 48, "hidden": 48, "dropout": 0.0}
SETTINGS = {  # by name: whether weights are inherited, and whether the largest network teaches
    "scratch": (False, False),
    "scratch, teacher": (False, True),
    "inherited": (True, False),
    "inherited, teacher": (True, True),
}


class Bench:
    """One data set and one search space; every result is the test accuracy in % of a network from the middle of the
    space, of the last epoch, with recalibrated batch norms."""

    def __init__(self, supernet_epochs: int, epochs: int) -> None:
        self.data: Dataset = registry.load_dataset("digits").load(DataSpec(), 0)
        self.space: SearchSpace = registry.build_space(SpaceSpec(name="mobilenet_v3", params=SPACE), self.data.shape)
        self.pipeline = Pipeline(self.data, "cpu")
        self.supernet_epochs, self.epochs = supernet_epochs, epochs
        middle_G = (choice_counts(self.space.decisions) - 1) // 2
        [self.arch] = as_archs(self.space.id, self.space.canonical(middle_G[None]))

    def supernet(self, seed: int) -> Supernet:
        """A supernet trained by the sandwich rule."""
        net: Supernet = self.space.supernet(seed)
        params, axes = OnceForAllParams(), samplers.axes(self.space.decisions)
        phases = sandwich(self.supernet_epochs, params.lr, axes)
        recipe = SupernetRecipe(phases, batch_size=params.batch_size, weight_decay=params.weight_decay)
        for _ in train(net, self.space, self.data, self.pipeline, recipe, seed, TrainState(), lambda: False):
            pass
        return net

    def accuracy(self, module: nn.Module, arch: Arch) -> float:
        """On all test images."""
        resolution = self.space.input_shape(arch)[1]
        recalibrate(module, (x for x, _ in self.pipeline.plain(self.data.train, resolution, batch=256)))
        criterion = Criterion(self.data, "cpu")
        return criterion.score(module, self.pipeline.plain(self.data.test, resolution)).quality

    def teacher(self, net: Supernet) -> Teacher:
        """The largest network of a supernet."""
        arch = samplers.largest(self.space)
        module, resolution = net.subnet(arch), self.space.input_shape(arch)[1]
        recalibrate(module, (x for x, _ in self.pipeline.plain(self.data.train, resolution, batch=256)))
        return Teacher(module, resolution, self.pipeline.preprocessing)

    def retrained(self, net: Supernet, seed: int, inherits: bool, teacher: Teacher | None) -> tuple[float, float]:
        """The accuracy after retraining with the default hyperparameters, and processor seconds."""
        spec = RetrainSpec(epochs=self.epochs)
        values = {h.name: h.default for h in spec.hyperparameters(inherits)}
        recipe = StandaloneRecipe(
            epochs=spec.epochs,
            batch_size=spec.batch_size,
            lr=values["lr"],
            weight_decay=values["weight_decay"],
            distillation=Distillation(),
        )
        source = net if inherits else self.space.supernet(seed)
        module = copy.deepcopy(source.subnet(self.arch))
        resolution = self.space.input_shape(self.arch)[1]
        trainer = StandaloneTrainer(module, resolution, self.data, self.pipeline, recipe, seed, teacher)
        started_at = process_time()
        for epoch in range(spec.epochs):
            trainer.epoch(epoch)
        seconds = process_time() - started_at
        return self.accuracy(trainer.evaluated, self.arch), seconds


def bench(options: Options) -> Mapping[str, Any]:
    """Test accuracies in %: means, standard deviations over seeds, and gains over training from scratch by seed."""
    torch.set_num_threads(1)
    it = Bench(int(options.more["supernet_epochs"]), int(options.more["epochs"]))
    rows: dict[str, list[float]] = {name: [] for name in ("teacher", "supernet", *SETTINGS)}
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for seed in options.seeds:
        net = it.supernet(seed)
        teacher = it.teacher(net)
        rows["teacher"].append(it.accuracy(copy.deepcopy(teacher.module), samplers.largest(it.space)))
        rows["supernet"].append(it.accuracy(net.subnet(it.arch), it.arch))
        for name, (inherits, is_taught) in SETTINGS.items():
            reached, took_s = it.retrained(net, seed, inherits, teacher if is_taught else None)
            rows[name].append(reached)
            seconds[name].append(took_s)
    out: dict[str, Any] = {
        "epochs": it.epochs,
        "supernet_epochs": it.supernet_epochs,
        "seeds": len(options.seeds),
        "train_images": len(it.data.train),
        "test_images": len(it.data.test),
        "test_accuracy": {name: _summary(values) for name, values in rows.items()},
        "processor_seconds": {name: fmean(values) for name, values in seconds.items()},
    }
    for name in SETTINGS:
        gains = [a - b for a, b in zip(rows[name], rows["scratch"], strict=True)]
        out["test_accuracy"][name]["gain_over_scratch"] = _summary(gains)
        out["test_accuracy"][name]["better_in"] = sum(gain > 0 for gain in gains)
    return out


def _summary(values: list[float]) -> dict[str, Any]:
    return {"mean": fmean(values), "deviation": stdev(values) if len(values) > 1 else 0.0, "values": values}


def add_epochs(parser: argparse.ArgumentParser) -> None:
    """``--epochs`` of each retraining, ``--supernet-epochs`` before."""
    parser.add_argument("--epochs", type=int, default=6, help="epochs of each retraining (%(default)s)")
    parser.add_argument("--supernet-epochs", type=int, default=8, help="epochs of each supernet (%(default)s)")


if __name__ == "__main__":
    main("retraining", bench, __doc__ or "", ("torch", "numpy"), more=add_epochs)
