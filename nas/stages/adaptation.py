"""A short training of a network before it is scored.

Cutting a trained network leaves it with an accuracy that says little of what retraining recovers: deep cuts fall to
chance alike. A few steps with inherited weights, by the recipe and the teacher of retraining, tell them apart (as
short-term fine-tuning in NetAdapt: Yang et al., ECCV 2018).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

from nas.core.arch import Arch
from nas.core.errors import Diverged
from nas.core.ports import Dataset, Problem, Resources, Split
from nas.core.rng import Stream, derive_seed, rng
from nas.core.tasks import TaskScores
from nas.stages.subnets import Subnets
from nas.stages.trial_training import TrainingSources, load_sources, recipe_of, retrain_spec
from nas.training.standalone import StandaloneRecipe, StandaloneTrainer


@dataclass(frozen=True, eq=False)
class Adaptation:
    """Trains networks on about ``images`` training images, counting those that come again, and scores them on
    validation images. ``supernet``: the blob of the weights that they inherit, None: those of the parent model."""

    problem: Problem
    resources: Resources
    supernet: str | None
    images: int

    def scores(self, arch: Arch) -> TaskScores:
        """The scores of the network after its training, or as it was cut if that diverges."""
        trainer = self._begin(arch)
        try:
            for epoch in range(self.recipe.epochs):
                trainer.epoch(epoch)
        except Diverged:
            trainer = self._begin(arch)
        return self._judge(trainer, arch)

    def seconds_of(self, arch: Arch, clock: Callable[[], float]) -> float:
        """How long ``scores`` takes, from one step."""
        trainer = self._begin(arch)
        started_at = clock()
        trainer.step(0, 0)
        stepped = clock()
        self._judge(trainer, arch)
        return (stepped - started_at) * trainer.per_epoch * self.recipe.epochs + clock() - stepped

    @cached_property
    def recipe(self) -> StandaloneRecipe:
        """That of retraining with its first hyperparameters, shorter."""
        values = {h.name: h.default for h in retrain_spec(self.problem).hyperparameters(inherits=True)}
        recipe = recipe_of(self.problem, values)
        epochs = max(1, round(self.images / len(self.problem.data.train)))
        batch_size = min(recipe.batch_size, len(self._data.train))
        return replace(recipe, epochs=epochs, warmup_epochs=None, batch_size=batch_size)

    def _begin(self, arch: Arch) -> StandaloneTrainer:
        """The training of a network as it was cut."""
        subnets, seed = self._subnets, derive_seed(self.problem.spec.seed, Stream.ADAPTATION)
        module, resolution = subnets.net.subnet(arch), subnets.resolution(arch)
        return StandaloneTrainer(
            module, resolution, self._data, subnets.pipeline, self.recipe, seed, self._sources.teacher
        )

    def _judge(self, trainer: StandaloneTrainer, arch: Arch) -> TaskScores:
        """The scores of a network as it is now."""
        self._subnets.recalibrate(trainer.evaluated, arch)
        return self._subnets.score(trainer.evaluated, arch, self.problem.data.val)

    @cached_property
    def _data(self) -> Dataset:
        """The data with as many of the training images as are used."""
        data = self.problem.data
        rows = rng(self.problem.spec.data.seed, Stream.ADAPTATION_IMAGES).permutation(len(data.train))[: self.images]
        return replace(data, train=Split(data.train.images_NCHW[rows], data.train.labels[rows]))

    @cached_property
    def _subnets(self) -> Subnets:
        assert self._sources.inherited is not None  # strategies adapt only what inherits weights
        return Subnets(self.problem, self._sources.inherited, self.resources.torch_device)

    @cached_property
    def _sources(self) -> TrainingSources:
        return load_sources(self.problem, self.resources.blobs, self.resources.torch_device, self.supernet)
