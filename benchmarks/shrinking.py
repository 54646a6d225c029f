"""Progressive shrinking on digits: our lengths and rates of phases against the published ones, with equal epochs."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from statistics import fmean, stdev
from typing import Any

import numpy as np
import torch

from benchmarks._cli import Options, main
from nas.core import registry
from nas.core.arch import Arch, as_archs, sample
from nas.core.ports import Dataset, SearchSpace
from nas.core.spec import DataSpec, SpaceSpec
from nas.strategies.once_for_all import OnceForAllParams
from nas.training import samplers
from nas.training.calibration import recalibrate
from nas.training.criterion import Criterion
from nas.training.pipeline import Pipeline
from nas.training.progressive import SupernetRecipe, train
from nas.training.schedules import PUBLISHED, SHORT, ShrinkingPlan, progressive_shrinking
from nas.training.state import TrainState

PLANS = {"short": SHORT, "published": PUBLISHED}
NETWORKS = 24  # random ones, beside the smallest and the largest


def accuracies(space: SearchSpace, data: Dataset, plan: ShrinkingPlan, epochs: int, seed: int) -> dict[str, float]:
    """Validation accuracy in % of the smallest and the largest network and the mean of random ones."""
    params = OnceForAllParams()
    phases = progressive_shrinking(epochs, params.lr, samplers.axes(space.decisions), plan)
    recipe = SupernetRecipe(phases, batch_size=params.batch_size, weight_decay=params.weight_decay)
    pipeline, net = Pipeline(data, "cpu"), space.supernet(seed)
    for _ in train(net, space, data, pipeline, recipe, seed, TrainState(), lambda: False):
        pass

    def accuracy(arch: Arch) -> float:
        module, resolution = net.subnet(arch), space.input_shape(arch)[1]
        recalibrate(module, (x for x, _ in pipeline.plain(data.train, resolution, batch=256)))
        return Criterion(data, "cpu").score(module, pipeline.plain(data.val, resolution)).quality

    drawn = as_archs(space.id, space.canonical(sample(space.decisions, np.random.default_rng(0), NETWORKS)))
    return {
        "smallest": accuracy(samplers.smallest(space)),
        "random_mean": fmean(accuracy(arch) for arch in drawn),
        "largest": accuracy(samplers.largest(space)),
    }


def bench(options: Options) -> Mapping[str, Any]:
    """Means and standard deviations over seeds, in %, and in how many seeds ours is better."""
    torch.set_num_threads(1)
    data = registry.load_dataset("digits").load(DataSpec(), 0)
    space = registry.build_space(SpaceSpec(), data.shape)
    epochs = int(options.more["epochs"])
    runs = {
        name: [accuracies(space, data, plan, epochs, seed) for seed in options.seeds] for name, plan in PLANS.items()
    }
    out: dict[str, Any] = {"epochs": epochs, "seeds": len(options.seeds), "train_images": len(data.train)}
    for name, rows in runs.items():
        out[name] = {
            which: {
                "mean": fmean(row[which] for row in rows),
                "deviation": stdev(row[which] for row in rows) if len(rows) > 1 else 0.0,
            }
            for which in rows[0]
        }
    ours, published = runs["short"], runs["published"]
    out["short_better_in"] = {w: sum(a[w] > b[w] for a, b in zip(ours, published, strict=True)) for w in ours[0]}
    return out


def add_epochs(parser: argparse.ArgumentParser) -> None:
    """``--epochs`` of each training."""
    parser.add_argument("--epochs", type=int, default=24, help="epochs of all phases together (%(default)s)")


if __name__ == "__main__":
    main("shrinking", bench, __doc__ or "", ("torch", "numpy"), more=add_epochs)
