"""Train one network by itself, outside any supernet; serialise a trial with its weights."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from nas.core.errors import Diverged
from nas.core.images import Resolution, height_and_width
from nas.core.ports import Dataset
from nas.core.rng import Stream, derive_seed, rng
from nas.core.tuning import Trial, TrialState
from nas.quantisation import layers_in_order, rounded, selected_layers
from nas.training.augment import Augmentation, MixedImages, mixup, resize
from nas.training.criterion import Criterion
from nas.training.distillation import Distillation, Teacher, feature_loss, soft_target_loss
from nas.training.features import classifier_inputs, feature_projection
from nas.training.loader import BatchLoader, Position
from nas.training.pipeline import LARGE_IMAGES, Pipeline, in_fast_weight_layout
from nas.training.recipe import Recipe, cosine_rate, optimiser, weight_average
from nas.training.regularise import auxiliary_of, path_dropout, paths_of, recorded_outputs
from nas.training.stable_kd import BlockLosses, BlockwiseDistillation, recorded
from nas.training.trainer import ImagesInParts, MicroBatch, Trainer, TrainingExecution, compile_in_place
from nas.training.weights import Weights

_IMAGES_FOR_MAPS = 32  # from which the first maps between features are computed


@dataclass(frozen=True, kw_only=True)
class StandaloneRecipe(Recipe):
    """Hyperparameters. ``lr`` is for ``batch_size`` images, with linear warm-up over ``warmup_epochs`` (None: a tenth
    of the epochs, two at most) and cosine decay. ``drop_path``: its probability in the last epoch, rising linearly.
    ``auxiliary``: the weight of the auxiliary classifier's loss. ``distillation``: what a teacher, if there is one,
    contributes. ``quantised_epochs``: the last so many are computed with the rounding of int8."""

    epochs: int
    lr: float
    warmup_epochs: float | None = None
    drop_path: float = 0.0
    auxiliary: float = 0.0
    distillation: Distillation = field(default_factory=Distillation)
    quantised_epochs: int = 0


@dataclass(frozen=True)
class BatchOrigin:
    """What images of a step come from: ``rows`` of the training images, and how they are changed."""

    rows: tuple[int, ...]
    crop_seed: int
    augment_seed: int
    resolution: Resolution
    augmentation: Augmentation
    mixup: float


class StandaloneTrainer:
    """Trains a network in place. Everything random derives from (seed, epoch, step). ``int8``: which convolutions and
    dense layers are rounded in the ``quantised_epochs`` of the recipe, in the order in which they run; None: all."""

    def __init__(
        self,
        module: nn.Module,
        resolution: Resolution,
        data: Dataset,
        pipeline: Pipeline,
        recipe: StandaloneRecipe,
        seed: int,
        teacher: Teacher | None = None,
        int8: Sequence[bool] | None = None,
    ) -> None:
        self.module = in_fast_weight_layout(module, resolution)
        self._int8_layers: list[nn.Conv2d | nn.Linear] = []
        if recipe.quantised_epochs:
            x_BCHW = torch.zeros(2, data.shape.channels, *height_and_width(resolution), device=pipeline.device)
            self._int8_layers = selected_layers(layers_in_order(module, x_BCHW), int8)
        self._loader = BatchLoader(pipeline, data.train, recipe.batch_size, seed)
        self.per_epoch = self._loader.per_epoch
        self._resolution, self._pipeline, self._data = resolution, pipeline, data
        self._recipe, self._seed, self._teacher = recipe, seed, teacher
        self._criterion = Criterion(data, pipeline.device, pipeline.value_scale)
        self._paths = paths_of(module)
        self._middle, self._head = self._auxiliary_classifier()
        self._projection = self._feature_projection()
        self._blockwise = self._blockwise_distillation()
        self._parameters = [
            *module.parameters(),
            *self._head.parameters(),
            *self._projection.parameters(),
            *(self._blockwise.parameters() if self._blockwise is not None else ()),
        ]
        self._optimiser = optimiser(self._parameters, recipe, module)
        self._average = weight_average(module, recipe.ema_decay)
        if recipe.execution.compiled:
            compile_in_place([module])
        self._trainer = Trainer(self._parameters, recipe.clip_norm, pipeline.device, recipe.execution)

    @property
    def execution(self) -> TrainingExecution:
        """How steps are computed by now: memory may have asked for smaller micro-batches."""
        return self._trainer.execution

    @property
    def evaluated(self) -> nn.Module:
        """The network that training is for: with the average of the weights, if the recipe has one."""
        return self.module if self._average is None else self._average.module

    def epoch(self, number: int) -> float:
        """Train the ``number``-th epoch from 0; return its mean loss. Raises Diverged."""
        return sum(self.step(number, i) for i in range(self.per_epoch)) / self.per_epoch

    def step(self, epoch: int, i: int) -> float:
        """One optimiser step; return its loss. Raises Diverged when the loss is not finite."""
        size, images = self._batch(epoch, i)
        value = self.learn(epoch, size, images, self._rate(epoch * self.per_epoch + i))
        if not math.isfinite(value):
            raise Diverged(
                f"training diverged in epoch {epoch + 1}: loss is {value} at a learning rate of {self._recipe.lr:g}"
            )
        return value

    def learn(self, epoch: int, size: int, images: ImagesInParts, lr: float) -> float:
        """One optimiser step on a batch of ``size`` images, which ``images`` gives in parts; return its loss."""
        for group in self._optimiser.param_groups:
            group["lr"] = lr
        if not self.module.training:  # walking through all modules takes a tenth of a small step
            self.module.train()
        is_quantised = epoch >= self._recipe.epochs - self._recipe.quantised_epochs
        with rounded(self._int8_layers if is_quantised else ()):
            total = self._trainer.gradients(size, lambda part: iter([self._loss(images(part), epoch)]))
        self._trainer.update(self._optimiser, self._average, self.module)
        return float(total)

    def choose_precision(self, clock: Callable[[], float]) -> None:
        """Compute in the precision in which the first step is faster; small images stay float32."""
        if min(height_and_width(self._resolution)) < LARGE_IMAGES:
            return
        size, images = self._batch(0, 0)
        mixed = {part: images(part) for part in self._trainer.micro_batches(size)}
        statistics = {name: buffer.clone() for name, buffer in self.module.named_buffers()}

        self.module.train()
        self._trainer.choose_precision(size, lambda part: iter([self._loss(mixed[part], 0)]), clock)
        for name, buffer in self.module.named_buffers():
            buffer.copy_(statistics[name])

    def state_dict(self) -> Weights:
        """The state to resume from."""
        weights: Weights = {
            "net": self.module.state_dict(),
            "head": self._head.state_dict(),
            "projection": self._projection.state_dict(),
            "blocks": self._blockwise.state_dict() if self._blockwise is not None else {},
            "optimiser": self._optimiser.state_dict(),
            "execution": self.execution.as_record(),
        }
        if self._average is not None:
            weights["average"] = self._average.state_dict()
        return weights

    def load_state_dict(self, state: Weights) -> None:
        """Inverse of ``state_dict``."""
        self.module.load_state_dict(state["net"])
        self._head.load_state_dict(state.get("head", {}))
        self._projection.load_state_dict(state.get("projection", {}))
        if self._blockwise is not None:
            self._blockwise.load_state_dict(state["blocks"])
        self._optimiser.load_state_dict(state["optimiser"])
        if "execution" in state:
            self._trainer.execution = self.execution.going_on_from(state["execution"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])

    def _batch(self, epoch: int, i: int) -> tuple[int, ImagesInParts]:
        """How many images a step has, and these images in parts, as large as the student or its teacher takes them."""
        recipe = self._recipe
        dropout_seed, augment_seed = rng(self._seed, Stream.TRAINING_STEP, epoch, i).integers(2**62, size=2).tolist()
        resolution = self._resolution
        if self._teacher is not None:
            resolution = max(resolution, self._teacher.resolution, key=lambda size: math.prod(height_and_width(size)))
        position = Position(epoch, i)

        def images(part: MicroBatch) -> MixedImages:
            torch.manual_seed(part.seed(dropout_seed))  # dropout only; augmentation has its own generator
            seed = part.seed(augment_seed)
            raw = self._loader.part(position, part)
            x, y = self._pipeline.augment(raw, resolution, seed, recipe.augmentation)
            rows = tuple(part.rows(self._loader.rows(position)).tolist())
            crop_seed = part.seed(self._loader.seed(position))
            origin = BatchOrigin(rows, crop_seed, seed, resolution, recipe.augmentation, recipe.mixup)
            return replace(mixup(x, y, recipe.mixup, seed), origin=origin)

        return self._loader.batch_size, images

    def _loss(self, mixed: MixedImages, epoch: int) -> torch.Tensor:
        """The loss by labels, and by the teacher's outputs where there is a teacher."""
        recipe, x_BCHW = self._recipe, resize(mixed.x_BCHW, self._resolution)
        with ExitStack() as stack:
            stack.enter_context(path_dropout(self._paths, recipe.drop_path * epoch / recipe.epochs))
            block_losses = self._taught_blocks(stack, mixed, epoch)
            middle = stack.enter_context(recorded_outputs(self._middle))
            features = stack.enter_context(classifier_inputs(self.module)) if self._compares_features else []
            outputs = self._trainer.forward(self.module, x_BCHW)
        loss = mixed.loss(partial(self._criterion.loss, outputs, label_smoothing=recipe.label_smoothing))
        if recipe.auxiliary > 0:
            auxiliary_BK = self._trainer.forward(self._head, middle[0])
            loss = loss + recipe.auxiliary * mixed.loss(
                partial(self._criterion.loss, auxiliary_BK, label_smoothing=recipe.label_smoothing)
            )
        if self._teacher is None:
            return loss
        by = self._pipeline.preprocessing
        target = self._teacher.on_batch(mixed.origin, mixed.x_BCHW, by, self._compares_features)
        how = recipe.distillation
        if self._criterion.task.labels == "class":
            assert isinstance(outputs, torch.Tensor)
            imitation = soft_target_loss(outputs, target.logits_BK, how.temperature)
        else:
            imitation = self._criterion.imitation(outputs, target.logits_BK)
        loss = (1 - how.weight) * loss + how.weight * imitation
        loss = loss + block_losses.total()
        if target.features_BF is not None:
            loss = loss + how.features * feature_loss(self._projection(features[0].float()), target.features_BF)
        return loss

    @property
    def _compares_features(self) -> bool:
        return self._teacher is not None and self._recipe.distillation.features > 0

    def _auxiliary_classifier(self) -> tuple[nn.Module, nn.Module]:
        """The intermediate module and the classifier; without one, the network and a module without parameters."""
        absent = (self.module, nn.Identity())
        if self._recipe.auxiliary == 0:
            return absent
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self._seed, Stream.AUXILIARY_WEIGHTS))
            middle, head = auxiliary_of(self.module) or absent
        return middle, head.to(next(self.module.parameters()).device)

    def _taught_blocks(self, stack: ExitStack, mixed: MixedImages, epoch: int) -> BlockLosses:
        """What the student's blocks are compared with in this epoch, within ``stack``."""
        if self._blockwise is None or self._teacher is None or not (ends := self._blockwise.active(epoch)):
            return BlockLosses()
        x_BCHW = self._teacher.images(mixed.x_BCHW, self._pipeline.preprocessing)
        features = recorded(self._teacher.module.eval(), ends, x_BCHW)
        return stack.enter_context(self._blockwise.taught(self.module, features))

    def _blockwise_distillation(self) -> BlockwiseDistillation | None:
        """The maps between the blocks' features, from some training images."""
        blocks = self._recipe.distillation.blocks
        if self._teacher is None or blocks == 1:
            return None
        pipeline, rows_B = self._pipeline, np.arange(min(_IMAGES_FOR_MAPS, len(self._data.train)))
        x_BCHW, _ = next(pipeline.rows(self._data.train, rows_B, self._resolution, len(rows_B)))
        return BlockwiseDistillation(
            self.module.eval(),
            self._teacher.module.eval(),
            blocks,
            self._recipe.epochs,
            x_BCHW,
            self._teacher.images(x_BCHW, pipeline.preprocessing),
        )

    def _feature_projection(self) -> nn.Module:
        if self._teacher is None or not self._compares_features:
            return nn.Identity()
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self._seed, Stream.FEATURE_PROJECTION))
            projection = feature_projection(self.module, self._teacher.module)
        return projection.to(next(self.module.parameters()).device)

    def _rate(self, step: int) -> float:
        recipe = self._recipe
        warmup = min(2.0, 0.1 * recipe.epochs) if recipe.warmup_epochs is None else recipe.warmup_epochs
        return cosine_rate(recipe.lr, step, recipe.epochs * self.per_epoch, warmup * self.per_epoch)


def pack(state: TrialState, weights: Weights | None) -> bytes:
    """A trial with its weights (None once they are not needed) as bytes; tensors and plain values only."""
    buffer = io.BytesIO()
    torch.save({"state": json.dumps(asdict(replace(state, blob=None))), "weights": weights}, buffer)
    return buffer.getvalue()


def unpack(data: bytes, device: str) -> tuple[TrialState, Weights | None]:
    """Inverse of ``pack``; never unpickles objects."""
    record = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    state = json.loads(record["state"])
    trial = Trial(**state.pop("trial"))
    return TrialState(trial, **{**state, "scores": tuple(state["scores"])}), record["weights"]
