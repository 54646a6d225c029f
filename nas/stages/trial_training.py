"""One training of a found network: what it starts from, its teacher, its recipe, and its epochs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from nas.core.arch import Arch
from nas.core.cost_estimate import mean_seconds
from nas.core.ports import BlobStore, Problem, Resources
from nas.core.references import space_of
from nas.core.regularisers import regularisers
from nas.core.retraining import RetrainSpec
from nas.core.rng import Stream, derive_seed
from nas.core.tuning import EpochResult, Trial, TrialState, TrialStatus
from nas.mixed_precision import int8_mask
from nas.stages.precision import in_precision
from nas.stages.subnets import Subnets, read_supernet
from nas.stages.teachers import load_teacher
from nas.supernet import Supernet
from nas.training.augment import Augmentation
from nas.training.distillation import Distillation, Teacher
from nas.training.pipeline import Pipeline
from nas.training.recipe import with_fields
from nas.training.standalone import StandaloneRecipe, StandaloneTrainer, pack, unpack
from nas.training.weights import Weights


@dataclass(frozen=True, eq=False)
class TrainingSources:
    """Where trained weights come from: ``inherited``, the supernet whose weights a network starts with, None: from
    scratch; and the ``teacher``, None without one."""

    inherited: Supernet | None
    teacher: Teacher | None


@dataclass(frozen=True)
class Learning:
    """A ``nas.core.tuning.Trainable``: trains the network that a trial's group names. ``supernet``: the blob of the
    trained supernet, None without one."""

    problem: Problem
    archs: Mapping[str, Arch]
    blobs: BlobStore
    torch_device: str
    checkpoint_s: float
    clock: Callable[[], float] = time.monotonic
    is_out_of_time: Callable[[], bool] = lambda: False
    supernet: str | None = None

    def __call__(self, trial: Trial, blob: str | None) -> Iterator[EpochResult]:
        """Scores are the merit of the network on the validation images, in the precision of the search; more is better.
        Raises Diverged.

        When the time of the search is up, the epoch is the last, and a trial that has not begun is not begun; but the
        first of each network has one epoch at least, so that every network is trained."""
        if trial.number > 0 and blob is None and self.is_out_of_time():
            return
        problem, settings, arch = self.problem, retrain_spec(self.problem), self.archs[trial.group]
        recipe = recipe_of(problem, trial.values, arch)
        seed = derive_seed(problem.spec.seed, Stream.RETRAINING, trial.number)
        subnets, trainer = begin_training(problem, arch, recipe, seed, self.torch_device, self._sources)
        state = TrialState(trial)
        if blob is not None:
            state, trained = unpack(self.blobs.get(blob), self.torch_device)
            assert trained is not None
            trainer.load_state_dict(trained)
        elif recipe.chooses_precision:
            trainer.choose_precision(self.clock)
        saved_at = self.clock()
        for epoch in range(len(state.scores), settings.epochs):
            trainer.epoch(epoch)
            subnets.recalibrate(trainer.evaluated, arch)
            network = in_precision(subnets, trainer.evaluated, arch)
            quality = subnets.score(network, arch, problem.data.val).quality
            finished = epoch + 1 == settings.epochs
            cut = not finished and self.is_out_of_time()
            status: TrialStatus = "finished" if finished else "cut" if cut else "running"
            merit = problem.spec.task.merit(quality)
            state = replace(state, scores=(*state.scores, merit), status=status)
            blob_id = None
            if status != "running" or self.clock() - saved_at >= self.checkpoint_s:
                net: Weights = {"net": trainer.evaluated.state_dict()}
                blob_id = self.blobs.put(pack(state, trainer.state_dict() if status == "running" else net))
                saved_at = self.clock()
            yield EpochResult(state.scores, blob_id, cut)
            if cut:
                return

    @cached_property
    def _sources(self) -> TrainingSources:
        """The same for all trials of a process: networks that are trained on the same images share the answers of
        their teacher."""
        return load_sources(self.problem, self.blobs, self.torch_device, self.supernet)


def load_sources(problem: Problem, blobs: BlobStore, device: str, supernet: str | None) -> TrainingSources:
    """The sources that the spec names. Without the blob of a trained ``supernet``, its networks have the weights of the
    parent model, or fresh ones, which is enough to tell how long trainings take. Raises as ``load_teacher``."""
    settings, net = retrain_spec(problem), None
    if problem.spec.inherits_weights or settings.teacher == "largest":
        untrained = problem.space.supernet
        net = read_supernet(problem, blobs, supernet, device) if supernet else untrained(problem.spec.seed)
        net = net.to(torch.device(device))
    return TrainingSources(
        inherited=net if problem.spec.inherits_weights else None,
        teacher=load_teacher(problem, blobs, device, net),
    )


def begin_training(
    problem: Problem, arch: Arch, recipe: StandaloneRecipe, seed: int, device: str, sources: TrainingSources
) -> tuple[Subnets, StandaloneTrainer]:
    """A network with inherited weights, or with the first weights that a fresh supernet gives it, as every reference of
    another space has."""
    space = space_of(problem, arch)
    inherited = sources.inherited if space is problem.space else None
    net = inherited or space.supernet(seed).to(torch.device(device))
    subnets = Subnets(problem, net, device)
    trainer = StandaloneTrainer(
        subnets.net.subnet(arch),
        subnets.resolution(arch),
        problem.data,
        subnets.pipeline,
        recipe,
        seed,
        sources.teacher,
        int8_mask(problem.space, arch, problem.spec.precision),
    )
    return subnets, trainer


def seconds_of_teaching(problem: Problem, teacher: Teacher | None, batch_size: int, resources: Resources) -> float:
    """How long a teacher takes for a batch; no time without one."""
    if teacher is None:
        return 0.0
    pipeline, rows_B = Pipeline.of(problem, resources.torch_device), np.arange(batch_size)
    x_BCHW, _ = next(pipeline.rows(problem.data.train, rows_B, teacher.resolution))
    return mean_seconds(resources.clock, lambda: teacher(x_BCHW, pipeline.preprocessing))


def recipe_of(problem: Problem, values: Mapping[str, float], arch: Arch | None = None) -> StandaloneRecipe:
    """The recipe of the spec, with the values of a trial, for a network of the space, or for ``arch``, which may be a
    reference of another. Raises InvalidSpec as ``regularisers``."""
    settings = retrain_spec(problem)
    strengths = regularisers(settings, problem.space if arch is None else space_of(problem, arch))
    how = settings.distillation
    recipe = StandaloneRecipe(
        epochs=settings.epochs,
        batch_size=min(settings.batch_size, len(problem.data.train)),
        lr=values["lr"],
        weight_decay=values["weight_decay"],
        warmup_epochs=settings.warmup_epochs,
        augmentation=Augmentation(values["augmentation"]),
        drop_path=strengths["drop_path"],
        auxiliary=strengths["auxiliary"],
        distillation=Distillation(how.temperature, how.weight, how.features, how.blocks),
        quantised_epochs=settings.quantised_epochs,
    )
    return with_fields(recipe, settings)


def retrain_spec(problem: Problem) -> RetrainSpec:
    """How the spec of a search that retrains says so."""
    assert problem.spec.retrain is not None
    return problem.spec.retrain
