"""Training a once-for-all supernet in the phases of a schedule (``nas.training.schedules``).

One step trains some subnets on one batch, gradients are *summed*, then one optimiser step. With a frozen teacher, the
largest network as it was before shrinking teaches (Cai et al., Once-for-all, ICLR 2020, section 3.3); with a teacher in
place, the largest, the smallest and some other networks are trained and the largest of this very step teaches (Yu and
Huang, US-Nets, ICCV 2019; BigNAS, Yu et al., ECCV 2020), or each teaches the next smaller one (Scala, Zhang et al.,
2024).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product

import numpy as np
import torch

from nas.core.arch import Arch, as_archs, choice_counts
from nas.core.errors import HwnasError
from nas.core.ports import Dataset, SearchSpace
from nas.core.rng import Stream, rng
from nas.supernet import Supernet
from nas.training import samplers
from nas.training.alpha_divergence import alpha_divergence_of
from nas.training.augment import MixedImages, mixup
from nas.training.criterion import Criterion, NetworkOutputs
from nas.training.loader import BatchLoader, Position
from nas.training.pipeline import LARGE_IMAGES, Pipeline
from nas.training.ranks import ONE_PROCESS, Ranks
from nas.training.recipe import Recipe, cosine_rate, optimiser, weight_average
from nas.training.schedules import CHANNEL_FREE_AXES, Phase
from nas.training.state import TrainState
from nas.training.trainer import ImagesInParts, MicroBatch, Trainer, TrainingExecution, compile_in_place
from nas.training.weights import Weights

Sampler = Callable[[SearchSpace, Mapping[str, int], np.random.Generator, int], list[Arch]]  # as ``sample_elastic``
ExtremeArchs = tuple[Arch, Arch]  # the smallest and the largest network
_POOL = 32  # random networks among which those of equal MACs, or of every size, are sought


@dataclass(frozen=True)
class SupernetRecipe(Recipe):
    """How a supernet is trained: in ``phases``, whose ``lr`` is for ``batch_size`` images. ``distillation``: how much
    the loss by a frozen teacher, or by the next larger network, counts beside that by labels. The average of weights,
    if any, begins anew with each phase, at whose end it becomes the weights."""

    phases: tuple[Phase, ...]
    distillation: float = 1.0


@dataclass(frozen=True)
class Step:
    """One optimiser step was done: number in its phase and overall, the loss, images trained on (times subnets)."""

    phase: int
    step: int
    steps: int
    done: int
    total: int
    loss: float
    images: int


class Training:
    """A supernet that is being trained in place, with its optimiser and its teacher.

    Everything random derives from (seed, phase, step).
    """

    def __init__(
        self,
        net: Supernet,
        space: SearchSpace,
        data: Dataset,
        pipeline: Pipeline,
        recipe: SupernetRecipe,
        seed: int,
        sample: Sampler = samplers.sample_elastic,
        ends: ExtremeArchs | None = None,
        ranks: Ranks = ONE_PROCESS,
    ) -> None:
        self.space, self.recipe, self._sample = space, recipe, sample
        self._net, self._pipeline, self._seed, self._ranks = net, pipeline, seed, ranks
        self._criterion = Criterion(data, pipeline.device, pipeline.value_scale)
        self._loaders = [
            BatchLoader(pipeline, data.train, recipe.batch_size, seed, phase=p) for p in range(len(recipe.phases))
        ]
        self._per_epoch = self._loaders[0].per_epoch
        self.lengths = [p.epochs * self._per_epoch for p in recipe.phases]  # optimiser steps of each phase
        self._ends = ends or (samplers.smallest(space), samplers.largest(space))
        self._inherited = ends is not None
        self._teacher: Supernet | None = None
        self._optimiser = optimiser(net.parameters(), recipe, net)
        self._average = weight_average(net, recipe.ema_decay)
        self._trainer = Trainer(net.parameters(), recipe.clip_norm, pipeline.device, recipe.execution, ranks)
        if recipe.execution.compiled:
            compile_in_place(net.compiled_parts())

    @property
    def execution(self) -> TrainingExecution:
        """How steps are computed by now: memory may have asked for smaller micro-batches."""
        return self._trainer.execution

    def compute_in(self, micro_batches: int) -> None:
        """Compute each batch in so many parts from now on."""
        self._trainer.execution = replace(self.execution, micro_batches=micro_batches)

    def choose_precision(self, clock: Callable[[], float]) -> None:
        """Compute in the precision in which the first step is faster, as the first rank finds it. Small images stay
        float32: there is little to gain, and less to measure."""
        candidates, size, images = self._batch(0, 0)
        archs = [drawn[0] for drawn in candidates]
        if min(self.space.input_shape(archs[0])[1:]) < LARGE_IMAGES:
            return
        mixed = {part: images(part) for part in self._trainer.micro_batches(size)}
        self._net.train()
        self._trainer.choose_precision(
            size, lambda part: self._losses(self.recipe.phases[0], archs, mixed[part]), clock
        )

    def exchange_s(self, clock: Callable[[], float]) -> float:
        """Seconds in which memory is fast enough to send all gradients to another rank and add those received."""
        gradients = torch.zeros(sum(p.numel() for p in self._net.parameters()), device=self._pipeline.device)
        received = torch.ones_like(gradients)
        started_at = clock()
        for _ in range(2):
            float(gradients.add_(received)[0])
            received.copy_(gradients)
        return clock() - started_at

    def restore(self, weights: Weights) -> None:
        """Goes back to what a ``TrainState`` holds."""
        self._net.load_state_dict(weights["net"])
        self._optimiser.load_state_dict(weights["optimiser"])
        if "execution" in weights:
            self._trainer.execution = self.execution.going_on_from(weights["execution"])
        if "teacher" in weights:
            self._teacher = _freeze(self._net)
            self._teacher.load_state_dict(weights["teacher"])
        if self._average is not None and "average" in weights:
            self._average.load_state_dict(weights["average"])

    def state(self, phase: int, step: int) -> TrainState:
        """What it takes to go on from a position."""
        weights: Weights = {
            "net": self._net.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "execution": self.execution.as_record(),
        }
        if self._teacher is not None:
            weights["teacher"] = self._teacher.state_dict()
        if self._average is not None:
            weights["average"] = self._average.state_dict()
        return TrainState(phase, step, weights)

    def begin(self, phase: int) -> None:
        """Begin a phase: with an optimiser of its own, the channels sorted if it narrows networks that were trained,
        and the teacher frozen before the first phase that needs one."""
        is_frozen = self.recipe.phases[phase].teacher == "frozen"
        if is_frozen and self._teacher is None:
            self._teacher = _freeze(self._net)
        before = self.recipe.phases[phase - 1].elastic if phase > 0 else {}
        if (is_frozen or phase > 0) and self._narrows(before, self.recipe.phases[phase].elastic):
            self._net.sort_channels(self._trained_widths(before))
        self._optimiser = optimiser(self._net.parameters(), self.recipe, self._net)
        self._average = weight_average(self._net, self.recipe.ema_decay)

    def end(self) -> None:
        """End a phase: the average of the weights becomes the weights, where there is one."""
        if self._average is not None:
            self._net.load_state_dict(self._average.module.state_dict())

    def _narrows(self, before: Mapping[str, int], elastic: Mapping[str, int]) -> bool:
        counts = {d.axis: len(d.choices) for d in self.space.decisions if d.axis not in CHANNEL_FREE_AXES}
        return any(min(elastic.get(a, 1), n) > min(before.get(a, 1), n) for a, n in counts.items())

    def _trained_widths(self, before: Mapping[str, int]) -> list[Arch]:
        """Networks with every combination of the widths that were trained so far: those of the phases before, or all
        where the weights come from another training. Their functions survive the sorting of channels."""
        counts = {d.axis: len(d.choices) for d in self.space.decisions if d.axis not in CHANNEL_FREE_AXES}
        trained = {a: n if self._inherited else min(before.get(a, 1), n) for a, n in counts.items()}
        largest = choice_counts(self.space.decisions) - 1
        rows = []
        for dropped in product(*(range(n) for n in trained.values())):
            by_axis = dict(zip(trained, dropped, strict=True))
            rows.append(
                [max(0, top - by_axis.get(d.axis, 0)) for d, top in zip(self.space.decisions, largest, strict=True)]
            )
        return as_archs(self.space.id, self.space.canonical(np.array(rows, dtype=np.int64)))

    def archs(self, phase: int, step: int) -> list[Arch]:
        """The networks that a step trains; of those that are chosen on the batch, the first."""
        return [candidates[0] for candidates in self._draw(phase, step)[0]]

    def step(self, p: int, step: int) -> Step:
        """One optimiser step. Raises HwnasError when the loss is no longer finite."""
        phase, steps = self.recipe.phases[p], self.lengths[p]
        candidates, size, images = self._batch(p, step)
        archs = self._select(phase, candidates, size, images)
        lr, factor = rate(phase, step, steps, self._per_epoch), ramp(phase, step, steps, self._per_epoch)
        loss = self.learn(p, archs, size, images, lr, factor)
        if not math.isfinite(loss):
            raise HwnasError(
                f"training diverged in phase {phase.name!r} at step {step}: loss is {loss}; "
                f"expected a finite value. A smaller learning rate than {phase.lr:g} may help"
            )
        done = sum(self.lengths[:p]) + step + 1
        return Step(p, step + 1, steps, done, sum(self.lengths), loss, size * self._count(phase, archs))

    def learn(
        self, p: int, archs: Sequence[Arch], size: int, images: ImagesInParts, lr: float, factor: float = 1.0
    ) -> float:
        """One optimiser step of phase ``p`` on a batch of ``size`` images, which ``images`` gives in parts; return the
        mean loss over the networks, whose gradients are summed. ``factor``: of all networks but the largest, where that
        one teaches in place."""
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        if not self._net.training:  # walking through all modules takes a tenth of a small step
            self._net.train()
        phase = self.recipe.phases[p]
        total = self._trainer.gradients(size, lambda part: self._losses(phase, archs, images(part), factor))
        self._trainer.update(self._optimiser, self._average, self._net)
        return float(total) / self._count(phase, archs)

    @staticmethod
    def _count(phase: Phase, archs: Sequence[Arch]) -> int:
        """How many networks a step trains."""
        return phase.subnets if phase.has_ends else len(archs)

    def load(self, p: int, step: int) -> None:
        """Prepare the images of a step as it does itself, and nothing more: to tell what loading takes."""
        _, size, images = self._batch(p, step)
        for part in self._trainer.micro_batches(size):
            images(part)

    def _batch(self, p: int, step: int) -> tuple[list[list[Arch]], int, ImagesInParts]:
        """The candidates for each network of a step, how many images it has, and these images in parts."""
        recipe, loader = self.recipe, self._loaders[p]
        candidates, dropout_seed, augment_seed = self._draw(p, step)
        position = Position(*divmod(step, loader.per_epoch))
        resolution = self.space.input_shape(candidates[0][0])[1:]

        def images(part: MicroBatch) -> MixedImages:
            torch.manual_seed(part.seed(dropout_seed))  # dropout only; augmentation has its own generator
            seed = part.seed(augment_seed)
            x, y = self._pipeline.augment(loader.part(position, part), resolution, seed, recipe.augmentation)
            return mixup(x, y, recipe.mixup, seed)

        return candidates, loader.batch_size, images

    def _select(
        self, phase: Phase, candidates: Sequence[Sequence[Arch]], size: int, images: ImagesInParts
    ) -> list[Arch]:
        """One of the candidates for each network: that with the least or the largest loss on the first part of the
        batch (AttentiveNAS, section 4.2), as the first rank finds it."""
        if phase.candidates == 1:
            return [drawn[0] for drawn in candidates]
        choice = ""
        if self._ranks.rank.index == 0:
            mixed = images(self._trainer.micro_batches(size)[0])
            choice = " ".join(str(self._preferred(phase, drawn, mixed)) for drawn in candidates)
        positions = map(int, self._ranks.values(choice)[0].split())
        return [drawn[i] for drawn, i in zip(candidates, positions, strict=True)]

    @torch.no_grad()
    def _preferred(self, phase: Phase, drawn: Sequence[Arch], mixed: MixedImages) -> int:
        """The position of the network with the least or the largest loss."""
        self._net.train()
        outputs = [self._trainer.forward(self._net, mixed.x_BCHW, arch) for arch in drawn]
        losses = [float(mixed.loss(partial(self._criterion.loss, o, label_smoothing=0.0))) for o in outputs]
        return losses.index(min(losses) if phase.prefers == "best" else max(losses))

    def _losses(
        self, phase: Phase, archs: Sequence[Arch], mixed: MixedImages, factor: float = 1.0
    ) -> Iterator[torch.Tensor]:
        """The loss of each network on the same images."""
        bottom, top = (samplers.with_resolution(self.space, end, archs[0]) for end in self._ends)
        forward, criterion, recipe = self._trainer.forward, self._criterion, self.recipe
        target: NetworkOutputs | None = None
        imitation = alpha_divergence_of if phase.alpha_divergence else criterion.imitation
        if phase.has_ends:
            archs = [top, *archs[: phase.drawn], bottom]
        elif self._teacher is not None and phase.teacher == "frozen":
            with torch.no_grad():
                self._teacher.train()  # its batch norms use the batch's own statistics, as the students' do
                target = forward(self._teacher, mixed.x_BCHW, top)
        for i, arch in enumerate(archs):
            outputs = forward(self._net, mixed.x_BCHW, arch)
            if phase.teacher == "in_place" and target is not None:
                loss = imitation(outputs, target)  # the largest network of this step teaches, labels do not
                yield loss if factor == 1.0 else factor * loss
                continue
            loss = mixed.loss(partial(criterion.loss, outputs, label_smoothing=recipe.label_smoothing))
            if target is not None:
                loss = loss + recipe.distillation * criterion.imitation(outputs, target)
            if phase.teacher == "next_larger" or (phase.teacher == "in_place" and i == 0):
                target = outputs
            yield loss

    def _draw(self, p: int, step: int) -> tuple[list[list[Arch]], int, int]:
        """The candidates for each network of a step, and the seeds of dropout and augmentation."""
        generator = rng(self._seed, Stream.TRAINING_STEP, p, step)
        phase = self.recipe.phases[p]
        dropout_seed = int(generator.integers(2**62))
        candidates = self._candidates(phase, generator)
        return candidates, dropout_seed, int(generator.integers(2**62))

    def _candidates(self, phase: Phase, generator: np.random.Generator) -> list[list[Arch]]:
        if phase.ladder:
            return [[self._ladder[int(generator.integers(len(self._ladder)))]] for _ in range(phase.subnets)]
        if phase.candidates > 1:
            pool = self._sample(self.space, phase.elastic, generator, _POOL)
            return samplers.of_equal_macs(self.space, pool, generator, phase.drawn, phase.candidates)
        if phase.teacher == "next_larger":
            pool = self._sample(self.space, phase.elastic, generator, _POOL)
            return [[arch] for arch in samplers.of_every_size(self.space, pool, generator, phase.drawn)]
        archs = self._sample(self.space, phase.elastic, generator, phase.subnets)
        if phase.resolutions is not None:
            archs = [samplers.among_smallest_resolutions(self.space, arch, phase.resolutions) for arch in archs]
        return [[arch] for arch in archs]

    @cached_property
    def _ladder(self) -> list[Arch]:
        return samplers.ladder(self.space)


def train(
    net: Supernet,
    space: SearchSpace,
    data: Dataset,
    pipeline: Pipeline,
    recipe: SupernetRecipe,
    seed: int,
    start: TrainState,
    save_due: Callable[[], bool],
    sample: Sampler = samplers.sample_elastic,
    ends: ExtremeArchs | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Iterator[Step | TrainState]:
    """Trains ``net`` from ``start`` to the end, yielding a ``Step`` per optimiser step and a ``TrainState`` whenever
    ``save_due()`` and at each phase's end. Resuming from a state repeats nothing and ends in the same weights.

    ``ends``: the smallest and the largest of the networks that ``sample`` draws from, where these are not the space's.
    Raises HwnasError when the loss is no longer finite.
    """
    training = Training(net, space, data, pipeline, recipe, seed, sample, ends)
    yield from run_training(training, start, save_due, clock)


def run_training(
    training: Training, start: TrainState, save_due: Callable[[], bool], clock: Callable[[], float] = time.perf_counter
) -> Iterator[Step | TrainState]:
    """As ``train``. Several ranks run it at once; where ``save_due()`` ends their training, it has to be due on all of
    them after the same step."""
    if start.weights is not None:
        training.restore(start.weights)
    elif training.recipe.chooses_precision:
        training.choose_precision(clock)
    for p in range(start.phase, len(training.lengths)):
        first = start.step if p == start.phase else 0
        if first == 0:
            training.begin(p)
        for step in range(first, training.lengths[p]):
            yield training.step(p, step)
            if step + 1 < training.lengths[p] and save_due():
                yield training.state(p, step + 1)
        training.end()
        yield training.state(p + 1, 0)


def _freeze(net: Supernet) -> Supernet:
    """A copy that does not learn. Without dropout, as in the authors' code; its batch norms use the batch's statistics,
    so it stays in training mode."""
    teacher = copy.deepcopy(net).requires_grad_(False)
    for module in teacher.modules():
        if isinstance(module, Supernet):
            module.dropout = 0.0
    return teacher


def rate(phase: Phase, step: int, steps: int, per_epoch: int) -> float:
    """The learning rate of a step of a phase."""
    begin, end = phase.curve
    on_curve = steps / (end - begin)
    return cosine_rate(phase.lr, begin * on_curve + step, on_curve, 0.0 if begin else phase.warmup_epochs * per_epoch)


def ramp(phase: Phase, step: int, steps: int, per_epoch: int) -> float:
    """The factor of all networks but the largest: times the learning rate it rises in a line from 0 to the rate at
    which the phase began, and is 1 after that (DepS)."""
    ramp_steps = phase.ramp_epochs * per_epoch
    if step >= ramp_steps:
        return 1.0
    return step / ramp_steps * rate(phase, 0, steps, per_epoch) / rate(phase, step, steps, per_epoch)
