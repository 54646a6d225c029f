"""A user's own model made faster: EfficientNet-Lite0, fine-tuned on photographs of hand signs, compressed here.

The model is exported in the three lines of the guide, read in, and searched by strategy ``compress``, once without any
training and once with fine-tuning and retraining. Everything goes the product's way: the intake's reader, the space
``own_model``, onboarding and measurement by the protocol, verification. ``parent`` is the model as it came; ``uniform``
are copies of it with all widths scaled alike, ``random`` the random-search baseline, both with the same retraining.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from benchmarks._cli import Options, main, shared_file
from benchmarks._device import add_device, timing_export
from benchmarks._efficientnet_lite0 import MEAN, PRETRAINED, STD, Labelled, fine_tune, logits_of, pretrained
from nas.blobs import FolderBlobs
from nas.core import registry
from nas.core.events import Candidate, SearchState, StageFinished, fold
from nas.core.metrics import share_interval
from nas.core.parent import ParentModel, Preprocessing
from nas.core.pareto import hypervolume
from nas.core.ports import Problem, Resources, predict_latency
from nas.core.retraining import RetrainSpec
from nas.core.spec import (
    BudgetSpec,
    DataSpec,
    DeviceSpec,
    ExportSpec,
    ObjectiveSpec,
    ResourceSpec,
    SearchSpec,
    SpaceSpec,
    StrategySpec,
)
from nas.engine import run_search
from nas.models.execution import build
from nas.models.reading.child import read_model
from nas.stages.fronts import front_of
from predictors.measurement.isolated import measure_isolated

SIDE = 96
RESOLUTIONS = (64, 80, 96)  # of smaller networks
PARENT_EPOCHS = 8
SHARES = (0.58, 0.11)  # of each class for training and validation; what comes after is for testing
TOLERANCE = 0.5  # points of accuracy below the parent's that count as equal
BOUND_SHARE = 0.36  # of the parent's latency, that the search with training may take at most
PARTS = ("imagenet", "no_training", "best")
SPLIT = "by position within each class of the file, in which a person's pictures lie near each other"
DROP = 10.0  # points below the parent's at which hypervolume begins


@dataclass(frozen=True)
class Network:
    """A network that was measured. Accuracy in % of the test images."""

    accuracy: float
    measured_ms: float
    macs: float
    status: str

    @property
    def losses(self) -> tuple[float, float]:
        """What hypervolume is made of: latency and error."""
        return self.measured_ms, 100.0 - self.accuracy


def bench(options: Options) -> dict[str, Any]:
    """Fine-tuning, intake, onboarding, and the two searches."""
    torch.set_num_threads(options.more["threads"])
    archive = shared_file(options, "data", "sign_digits.npz")
    sample = shared_file(options, "data", "imagenet_sample.npz")
    with tempfile.TemporaryDirectory(prefix="hwnas-own-model-") as name:
        folder = Path(name)
        presets: dict[str, Any] = {}
        seconds: dict[str, float] = {}
        about_data: dict[str, Any] = {}
        if searched := [preset for preset in PARTS[1:] if preset in options.more["parts"]]:
            blobs = FolderBlobs(folder / "blobs")
            problem = take_in(folder, prepare(archive, folder / "signs.npz"), blobs, options.more, seconds)
            about_data = {"test_images": len(problem.data.test), "split": SPLIT, "classes": problem.data.shape.classes}
            specs = searches(problem, options.more)
            for preset in searched:
                with timed(seconds, preset):
                    presets[preset] = search(problem, specs[preset], blobs)
        more: dict[str, Any] = {}
        if "imagenet" in options.more["parts"]:
            with timed(seconds, "imagenet"):
                more["imagenet"] = imagenet(sample, folder)
        best = presets.get("best") or presets.get("no_training") or {}
        return {
            **about_data,
            **best,
            **more,
            "presets": presets,
            "seconds": {**seconds, "all": sum(seconds.values())},
        }


def take_in(
    folder: Path, data: DataSpec, blobs: FolderBlobs, more: Mapping[str, Any], seconds: dict[str, float]
) -> Problem:
    """Fine-tuning, intake, and onboarding, and how long each took."""
    with timed(seconds, "parent"):
        file = train_parent(folder, more["parent_epochs"])
    with timed(seconds, "intake"):
        model = read_model(file)
        parent = ParentModel("lite0", model.graph.to_json(), lambda: model.weights, Preprocessing(MEAN, STD))
    with timed(seconds, "onboarding"):
        return prepare_problem(data, parent, blobs, more["samples"])


@contextmanager
def timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    """Context that notes how long a part took."""
    started_at = time.monotonic()
    yield
    seconds[part] = time.monotonic() - started_at


def imagenet(archive: Path, folder: Path) -> dict[str, float]:
    """Top-1 accuracy in % on one photograph of each class, of the pretrained network before and after its intake."""
    with np.load(archive, allow_pickle=False) as arrays:
        jpeg, offset, label = arrays["jpeg"].tobytes(), arrays["offset"], arrays["label"]
    images = np.stack([_centre(jpeg[offset[i] : offset[i + 1]], 224) for i in range(len(label))])
    model = pretrained()
    before = logits_of(model, images, PRETRAINED).argmax(1).numpy()
    read = read_model(export(model, 224, folder / "imagenet.pt2"))
    after = logits_of(build(read.graph, read.weights), images, PRETRAINED).argmax(1).numpy()
    return {
        "images": len(label),
        "top1_before": 100.0 * float((before == label).mean()),
        "top1_after": 100.0 * float((after == label).mean()),
        "same_answers": 100.0 * float((before == after).mean()),
    }


def _centre(jpeg: bytes, side: int) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side))).transpose(2, 0, 1)


def export(model: nn.Module, side: int, file: Path) -> Path:
    """The three lines of the guide."""
    images = torch.export.Dim("images")
    program = torch.export.export(model.train(), (torch.zeros(2, 3, side, side),), dynamic_shapes=({0: images},))
    torch.export.save(program, file)
    model.eval()
    return file


def prepare(archive: Path, file: Path) -> DataSpec:
    """The photographs as squares, in three splits by position within each class."""
    with np.load(archive, allow_pickle=False) as arrays:
        jpeg, offset, label = arrays["jpeg"].tobytes(), arrays["offset"], arrays["label"].astype(np.int64)
    images = np.stack([_square(jpeg[offset[i] : offset[i + 1]]) for i in range(len(label))])
    part = np.empty(len(label), dtype=np.int64)
    for k in np.unique(label):
        rows = np.flatnonzero(label == k)
        ends = np.cumsum(SHARES) * len(rows)
        part[rows] = np.searchsorted(ends, np.arange(len(rows)), side="right")
    arrays = {}
    for i, split in enumerate(("train", "val", "test")):
        arrays[f"x_{split}"], arrays[f"y_{split}"] = images[part == i], label[part == i]
    np.savez(file, **arrays)
    return DataSpec(name="npz", path=str(file))


def _square(jpeg: bytes) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(jpeg)).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    return np.asarray(image).transpose(2, 0, 1)


def train_parent(folder: Path, epochs: int) -> Path:
    """The pretrained network, fine-tuned in a loop of the user's own and exported."""
    with np.load(folder / "signs.npz") as arrays:
        train = Labelled(arrays["x_train"], arrays["y_train"])
        test = Labelled(arrays["x_test"], arrays["y_test"])
    model = pretrained()
    for loss in fine_tune(model, train, len(np.unique(train.labels_N)), epochs):
        _say(f"parent: loss {loss:.3f}")
    right = logits_of(model, test.images_NCHW).argmax(1).numpy() == test.labels_N
    _say(f"parent: {100 * right.mean():.2f} % of {len(right)} test images")
    return export(model, SIDE, folder / "model.pt2")


def prepare_problem(data: DataSpec, parent: ParentModel, blobs: FolderBlobs, samples: int) -> Problem:
    """The space of the model, and this machine with a predictor for it."""
    params = {"resolutions": list(RESOLUTIONS)}
    spec = SearchSpec(space=SpaceSpec(name="own_model", model=parent.name, params=params), data=data)
    dataset = registry.load_dataset(data.name).load(data, data.seed)
    space = registry.build_space(spec.space, dataset.shape, parent)
    device = add_device(DeviceSpec(space=spec.space, data=data, samples=samples), space, blobs, timing_export(space))
    return Problem(spec, space, dataset, device.profile, device.predictor)


def searches(problem: Problem, more: Mapping[str, Any]) -> dict[str, SearchSpec]:
    """A spec for each preset. With training, networks may take a share of the parent's time at most."""
    base = problem.spec.model_copy(
        update={
            "strategy": StrategySpec(name="compress", params={"preset": "no_training"}),
            "budget": BudgetSpec(evaluations=8, verified=4, reexplore=0),
            "export": ExportSpec(count=1, int8=False),
            "resources": ResourceSpec(cpus=more["threads"]),
        }
    )
    trained = {"preset": "best", "adapt_images": more["adapt_images"]}
    retraining = {"networks": more["networks"], "epochs": more["epochs"]}
    parent_G = np.array(problem.space.pretrained_genes)
    parent_ms = float(predict_latency(problem.predictor, problem.space, parent_G[None]).mean_ms[0])
    latency = ObjectiveSpec(name="latency", bound=round(BOUND_SHARE * parent_ms, 3))
    return {
        "no_training": base,
        "best": base.model_copy(
            update={
                "strategy": StrategySpec(name="compress", params=trained),
                "objectives": (ObjectiveSpec(name="accuracy"), latency),
                "budget": BudgetSpec(evaluations=more["evaluations"], verified=8, reexplore=1),
                "retrain": RetrainSpec(**retraining, trials=1, batch_size=32, teacher="parent"),
            }
        ),
    }


def search(problem: Problem, spec: SearchSpec, blobs: FolderBlobs) -> dict[str, Any]:
    """A whole search; its front beside what it is compared with."""
    problem = Problem(spec, problem.space, problem.data, problem.profile, problem.predictor)
    resources = Resources(blobs, measure_isolated, time.monotonic, worker="this machine")
    state, started_at = SearchState(), time.monotonic()
    for event in run_search(problem, registry.load_strategy("compress").stages(problem), resources, state):
        state = fold(state, event)
        if isinstance(event, StageFinished):
            _say(f"{spec.strategy.params['preset']}: {event.stage} after {time.monotonic() - started_at:.0f} s")
    return compare(problem, state)


def compare(problem: Problem, state: SearchState) -> dict[str, Any]:
    """What the issue of every such search is: how much faster, at which accuracy, and against which baselines."""
    genes = problem.space.pretrained_genes
    references = state.of("reference")
    parent = next(_network(p) for p in references if p.arch.genes == genes)
    front = [_network(p) for p in front_of(problem.spec, state).members]
    uniform = _measured([p for p in references if p.arch.genes != genes])
    random = _measured(state.of("baseline"))
    equal = [n for n in front if n.status == "verified" and n.accuracy >= parent.accuracy - TOLERANCE]
    n = len(problem.data.test)
    return {
        "parent": {**vars(parent), "interval": share_interval(parent.accuracy, n)},
        "front": [{**vars(network), "interval": share_interval(network.accuracy, n)} for network in front],
        "speedup_at_equal_accuracy": max((parent.measured_ms / m.measured_ms for m in equal), default=1.0),
        "macs_ratio_at_equal_accuracy": max((parent.macs / m.macs for m in equal), default=1.0),
        "hypervolume": {
            "ours": volume(parent, front),
            "uniform": volume(parent, uniform),
            "random": volume(parent, random),
        },
        "uniform": [vars(network) for network in uniform],
        "random": [vars(network) for network in random],
    }


def _measured(candidates: Sequence[Candidate]) -> list[Network]:
    return [_network(p) for p in candidates if "measured_ms" in p.metrics and "test_accuracy" in p.metrics]


def _network(p: Candidate) -> Network:
    return Network(p.metrics["test_accuracy"], p.metrics["measured_ms"], p.metrics["macs"], p.status)


def volume(parent: Network, networks: Sequence[Network]) -> float:
    """The share of the box between no latency and the parent's, and between all right and ``DROP`` points below the
    parent's accuracy, that the networks dominate."""
    reference = np.array([parent.measured_ms, 100.0 - parent.accuracy + DROP])
    losses = np.array([network.losses for network in networks]).reshape(-1, 2)
    return hypervolume(losses, reference) / float(np.prod(reference))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _more(parser: argparse.ArgumentParser) -> None:
    numbers = {
        "--parent-epochs": (PARENT_EPOCHS, "epochs of fine-tuning the parent"),
        "--samples": (40, "networks measured in onboarding"),
        "--adapt-images": (1200, "images on which a network is trained before it is scored"),
        "--evaluations": (32, "networks that are scored by the search, and by its baseline"),
        "--networks": (8, "networks of search and baseline each that are retrained"),
        "--epochs": (12, "epochs of retraining each"),
        "--threads": (2, "threads of training and evaluation"),
    }
    for name, (default, text) in numbers.items():
        parser.add_argument(name, type=int, default=default, help=f"{text} (%(default)s)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to run (all)")


if __name__ == "__main__":
    main("own_model", bench, (__doc__ or "").split("\n\n")[0], ("torch", "onnxruntime", "numpy"), 1, _more)
