"""An optimiser step of a once-for-all supernet, ours against the published one written out plainly, and of retraining.

Both train the same supernet (width 1.0, 6,525,980 parameters) on the same images, in turns, on one thread: the
largest network alone, one network with the largest as teacher, and four with it. Ratios are of processor time, plain
over ours, medians over repeats; above 1, ours is faster. Loading images counts on neither side. ``retrain_vs_plain`` is
the same of retraining a network against a loop over a MobileNetV3-Large of plain modules at 64 pixels, by time per MAC.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks._cli import Options, main
from benchmarks._plain_mobilenet_v3 import macs, mobilenet_v3_large
from benchmarks._plain_ofa import PlainOnceForAll
from nas.core.arch import Arch, as_archs, as_genes
from nas.core.ports import Dataset, ImageShape, SearchSpace, Split
from nas.training import samplers
from nas.training.augment import MixedImages
from nas.training.pipeline import Pipeline, in_fast_layout
from nas.training.progressive import SupernetRecipe, Training
from nas.training.schedules import Phase
from nas.training.standalone import StandaloneRecipe, StandaloneTrainer
from nas.training.trainer import TrainingExecution, TrainingPrecision
from search_spaces.mobilenet_v3.network import MobileNetV3Supernet
from search_spaces.mobilenet_v3.space import build

BATCHES = {32: 32, 64: 16, 128: 8}  # images of a step, by pixels
SUBNETS = {"largest": 1, "one": 1, "four": 4}
CLASSES = 100
RETRAINED_PIXELS, RETRAINED_BATCH = 64, 32
# MobileNetV3-Large in the space: kernels and expansions of each block of its five stages.
LARGE = (
    ((3, 4), (3, 3)),
    ((5, 3), (5, 3), (5, 3)),
    ((3, 6), (3, 3), (3, 3), (3, 3)),
    ((3, 6), (3, 6)),
    ((5, 6), (5, 6), (5, 6)),
)
GOALS = {"32": 2.2, "64": 1.6, "128": 1.4, "retrain_vs_plain": 1.2}


@dataclass(frozen=True, eq=False)
class Steps:
    """One step of each side, which return their losses."""

    plain: Callable[[], float]
    product: Callable[[], float]


def supernet_steps(pixels: int, batch: int, name: str, precision: TrainingPrecision, small: bool = False) -> Steps:
    """Steps of both sides on the same images and networks, beginning with the same weights."""
    space, data = _space(pixels, small), _data(pixels, batch)
    taught, archs = name != "largest", _archs(space, SUBNETS[name])
    archs = archs if taught else [samplers.largest(space)]
    x, y = _batch(data)

    net = _supernet(space)
    phase = Phase(name, 1, 0.01, len(archs), {}, "frozen" if taught else "none")
    recipe = SupernetRecipe((phase,), batch_size=batch, execution=TrainingExecution(precision))
    training = Training(net, space, data, Pipeline(data, "cpu"), recipe, 0)
    training.begin(0)
    mixed = MixedImages(in_fast_layout(x), y, y, 1.0)
    product = lambda: training.learn(0, archs, batch, lambda part: mixed, 0.01)  # noqa: E731

    plain = PlainOnceForAll(_supernet(space), samplers.largest(space), lr=0.01, taught=taught)
    return Steps(lambda: plain.step(x, y, archs), product)


def retraining_steps(pixels: int, batch: int, precision: TrainingPrecision, small: bool = False) -> tuple[Steps, float]:
    """A step of retraining and one of a plain loop; and how many times as many MACs the plain network has."""
    space, data = _space(pixels, small), _data(pixels, batch)
    x, y = _batch(data)
    arch = _archs(space, 1)[0] if small else mobilenet_v3_large_arch(space)
    recipe = StandaloneRecipe(epochs=1, lr=0.01, batch_size=batch, execution=TrainingExecution(precision))
    trainer = StandaloneTrainer(_supernet(space).subnet(arch), pixels, data, Pipeline(data, "cpu"), recipe, 0)
    mixed = MixedImages(in_fast_layout(x), y, y, 1.0)

    module = mobilenet_v3_large(CLASSES)
    relative_macs = macs(module, x) / float(space.costs(as_genes([arch]))["macs"][0])
    module.train()
    optimiser = torch.optim.SGD(module.parameters(), 0.01, 0.9, weight_decay=3e-5, nesterov=True)

    def plain() -> float:
        optimiser.zero_grad()
        loss = F.cross_entropy(module(x), y, label_smoothing=0.1)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return loss.item()

    return Steps(plain, lambda: trainer.learn(0, batch, lambda part: mixed, 0.01)), relative_macs


def mobilenet_v3_large_arch(space: SearchSpace) -> Arch:
    """The network of the space that is MobileNetV3-Large but for expansions that the space lacks."""
    values = {"resolution": RETRAINED_PIXELS}
    for s, blocks in enumerate(LARGE, start=1):
        values |= {f"stage{s}.width": 1, f"stage{s}.depth": len(blocks)}
        for b, (kernel, expand) in enumerate(blocks, start=1):
            values |= {f"stage{s}.block{b}.kernel": kernel, f"stage{s}.block{b}.expand": expand}
    genes = [d.choices.index(values[d.name]) if d.name in values else 0 for d in space.decisions]
    return as_archs(space.id, space.canonical(np.array([genes])))[0]


def ratio(steps: Steps, repeats: int) -> tuple[float, float]:
    """The median of plain over ours in processor time, in turns, and how far the first losses are apart."""
    plain_loss, our_loss = steps.plain(), steps.product()
    steps.plain(), steps.product()
    ratios = []
    for _ in range(repeats):
        plain_s, our_s = _processor_s(steps.plain), _processor_s(steps.product)
        ratios.append(plain_s / our_s)
    return median(ratios), abs(plain_loss - our_loss) / abs(plain_loss)


def bench(options: Options) -> dict[str, Any]:
    """All sizes and kinds of steps."""
    torch.set_num_threads(1)
    repeats, precision = len(options.seeds), options.more["precision"]
    ratios: dict[str, dict[str, float]] = {}
    differences = []
    for pixels, batch in BATCHES.items():
        ratios[str(pixels)] = {}
        for name in SUBNETS:
            ratios[str(pixels)][name], difference = ratio(supernet_steps(pixels, batch, name, precision), repeats)
            differences.append(difference)
    steps, relative_macs = retraining_steps(RETRAINED_PIXELS, RETRAINED_BATCH, precision)
    return {
        "ratio": ratios,
        "retrain_vs_plain": ratio(steps, repeats)[0] / relative_macs,
        "plain_macs_over_ours": relative_macs,
        "loss_difference": max(differences),
        "parameters": sum(p.numel() for p in _supernet(_space(32, small=False)).parameters()),
        "precision": precision,
        "batch": {str(pixels): batch for pixels, batch in BATCHES.items()},
        "goals": GOALS,
        "threads": 1,
    }


def _space(pixels: int, small: bool) -> SearchSpace:
    sizes = {"preset": "digits"} if small else {"preset": "imagenet"}
    return build({**sizes, "resolutions": [pixels], "dropout": 0.0}, ImageShape(3, pixels, pixels, CLASSES))


def _supernet(space: SearchSpace) -> MobileNetV3Supernet:
    net = space.supernet(0)
    assert isinstance(net, MobileNetV3Supernet)
    return net


def _data(pixels: int, batch: int) -> Dataset:
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(batch, 3, pixels, pixels), dtype=np.uint8)
    split = Split(images, generator.integers(CLASSES, size=batch))
    names = tuple(map(str, range(CLASSES)))
    return Dataset("noise", ImageShape(3, pixels, pixels, CLASSES), split, split, split, names, "")


def _batch(data: Dataset) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.from_numpy(data.train.images_NCHW).float()
    return (x - x.mean()) / x.std(), torch.from_numpy(data.train.labels)


def _archs(space: SearchSpace, n: int) -> Sequence[Arch]:
    elastic = {d.axis: 10**6 for d in space.decisions}
    return samplers.sample_elastic(space, elastic, np.random.default_rng(0), n)


def _processor_s(step: Callable[[], object]) -> float:
    started_s = time.process_time()
    step()
    return time.process_time() - started_s


def _more(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="of our steps (%(default)s)"
    )


if __name__ == "__main__":
    about = (__doc__ or "").split("\n\n")[0]
    main("supernet_step", bench, about, ("torch",), seeds=5, more=_more)
