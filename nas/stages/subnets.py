"""Subnets of a trained supernet, recalibrated and scored; or with weights of their own."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import nn

from nas.core.arch import Arch
from nas.core.errors import InvalidSpec
from nas.core.events import Origin, SearchState
from nas.core.ports import BlobStore, ImageShape, Problem, Resources, Split
from nas.core.references import is_of_another_space, space_of
from nas.core.rng import Stream, rng
from nas.core.tasks import TaskScores
from nas.export import InUnits, Normalised
from nas.stages.racing import FIRST_PART, SurvivesRung
from nas.stages.results import RetrainResult, SensitivityResult, TrainResult
from nas.supernet import Supernet
from nas.training.calibration import recalibrate
from nas.training.criterion import Criterion
from nas.training.fewshot.routed_supernet import supernet_from_weights
from nas.training.pipeline import Pipeline
from nas.training.standalone import unpack
from nas.training.state import TrainState
from nas.training.weights import TensorsByName


class Subnets:
    """Cuts subnets from trained weights. Everything is deterministic: the same architecture scores the same.

    ``own`` gives the weights of a network that was trained alone, by its architecture and origin, None for one that was
    not. Batch norms are recalibrated on ``calibration_images``, by default as many as ``images_for_calibration``.
    """

    def __init__(
        self,
        problem: Problem,
        net: Supernet,
        device: str,
        calibration_images: int | None = None,
        own: Callable[[Arch, Origin], TensorsByName | None] = lambda arch, origin: None,
    ) -> None:
        self.problem = problem
        self.net = net.eval()
        self._own = own
        self.pipeline = Pipeline.of(problem, device)
        self._criterion = Criterion(problem.data, device, self.pipeline.value_scale)
        size = len(problem.data.train)
        rows = rng(problem.spec.data.seed, Stream.CALIBRATION_IMAGES).permutation(size)
        rows = rows[: calibration_images or images_for_calibration(problem.data.shape)]
        train = problem.data.train
        self.calibration = Split(train.images_NCHW[rows], train.labels[rows])

    def cut(self, arch: Arch, origin: Origin = "search") -> nn.Module:
        """A stand-alone module in eval mode, its batch norms recalibrated on training images if it has no weights of
        its own."""
        module = supernet_of(self.problem, self.net, arch).subnet(arch)
        own = self._own(arch, origin)
        if own is not None:
            module.load_state_dict(own)
            return module.eval()
        self.recalibrate(module, arch)
        return module

    def recalibrate(self, module: nn.Module, arch: Arch) -> None:
        """Gives a module the batch statistics of training images and leaves it in eval mode."""
        resolution = self.resolution(arch)
        batch = max(64, min(256, 2**19 // prod(resolution)))  # larger batches of large images are slow on a CPU
        recalibrate(module, (x for x, _ in self.pipeline.plain(self.calibration, resolution, batch)))

    def with_normalisation(self, module: nn.Module) -> nn.Module:
        """The network as it is exported and measured: it takes pixel values 0 to 255, and gives values in the units of
        their labels."""
        scale = self.pipeline.value_scale
        network = module if scale is None else InUnits(module, scale.mean, scale.std)
        return Normalised(network, self.pipeline.mean, self.pipeline.std)

    def resolution(self, arch: Arch) -> tuple[int, int]:
        """Input height and width of this network."""
        return space_of(self.problem, arch).input_shape(arch)[1:]

    def score(
        self, module: nn.Module, arch: Arch, split: Split, survives_rung: SurvivesRung | None = None
    ) -> TaskScores:
        """How good a cut subnet is over a split, or over its first images as long as it ``survives_rung``."""
        batches = self.pipeline.plain(split, self.resolution(arch))
        return self._criterion.score(module, batches, survives_rung, FIRST_PART)


def supernet_of(problem: Problem, net: Supernet, arch: Arch) -> Supernet:
    """The supernet that a network is cut out of: ``net``, or a fresh one for a reference of another space."""
    if not is_of_another_space(problem, arch):
        return net
    fresh: Supernet = space_of(problem, arch).supernet(problem.spec.seed)
    return fresh.to(next(net.parameters()).device)


def images_for_calibration(shape: ImageShape) -> int:
    """How many training images give batch norms their statistics: 512 of up to 32 pixels, fewer of larger images, which
    have more values each, and at least 128."""
    return max(128, min(512, 2**19 // (shape.height * shape.width)))


def load_supernet(problem: Problem, resources: Resources, blob: str) -> Supernet:
    """The supernet that was kept under ``blob``, on the training device."""
    return read_supernet(problem, resources.blobs, blob, resources.torch_device)


def read_supernet(problem: Problem, blobs: BlobStore, blob: str, device: str) -> Supernet:
    """The supernet that was kept under ``blob``, on ``device``."""
    weights = TrainState.from_bytes(blobs.get(blob), device).weights
    assert weights is not None
    return supernet_from_weights(problem.space, problem.spec.seed, weights).to(torch.device(device))


def initial_supernet(problem: Problem, resources: Resources, state: SearchState) -> Supernet:
    """The supernet before training, on the training device: fresh, or as a user's model has filled it."""
    filled = SensitivityResult.read(state.finished)
    if filled is not None:
        return load_supernet(problem, resources, filled.supernet)
    net: Supernet = problem.space.supernet(problem.spec.seed)
    return net.to(torch.device(resources.torch_device))


def trained_supernet(state: SearchState) -> str | None:
    """The blob of the supernet of this search: as it was trained, or as a user's model has filled it; None before."""
    trained, filled = TrainResult.read(state.finished), SensitivityResult.read(state.finished)
    return (trained.supernet if trained is not None else None) or (filled.supernet if filled is not None else None)


def parent_weights(problem: Problem, arch: Arch) -> TensorsByName:
    """The weights and statistics of a user's model as uploaded, unchanged by the training of the supernet."""
    weights: TensorsByName = problem.space.supernet(problem.spec.seed).subnet(arch).state_dict()
    return weights


def has_trained_weights(problem: Problem, state: SearchState) -> bool:
    """Whether networks have weights that were trained: those of a supernet, of a user's model, or their own."""
    retrained = RetrainResult.read(state.finished)
    return (
        problem.supernet_blob is not None
        or trained_supernet(state) is not None
        or problem.space.pretrained_genes is not None
        or (retrained is not None and bool(retrained.networks))
    )


def load_subnets(
    problem: Problem, resources: Resources, state: SearchState, untrained_will_do: bool = False
) -> Subnets:
    """The subnets of the supernet this search trained or reuses, those that were retrained with weights of their own.
    The parent of a user's space, as a reference, has those that it came with.

    Of a fresh supernet if there is none and that will do: for cost estimates, after retraining, or where a user's model
    has filled it. Raises InvalidSpec when there is none.
    """
    result = RetrainResult.read(state.finished)
    retrained = result.networks if result is not None else {}

    def own(arch: Arch, origin: Origin) -> TensorsByName | None:
        if origin == "reference" and arch.genes == problem.space.pretrained_genes:
            return parent_weights(problem, arch)
        if arch.id not in retrained:
            return None
        _, weights = unpack(resources.blobs.get(retrained[arch.id].weights), resources.torch_device)
        assert weights is not None
        return weights["net"]

    blob = problem.supernet_blob or trained_supernet(state)
    if blob is not None:
        return Subnets(problem, load_supernet(problem, resources, blob), resources.torch_device, own=own)
    net = problem.space.supernet(problem.spec.seed)
    if not untrained_will_do and not has_trained_weights(problem, state):
        raise InvalidSpec("expected a trained supernet: train one, or name a finished search under 'supernet'")
    return Subnets(problem, net.to(torch.device(resources.torch_device)), resources.torch_device, own=own)
