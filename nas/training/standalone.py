"""Train one network by itself, outside any supernet; serialise a trial with its weights."""

from __future__ import annotations

import io
import json
import math
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial

import numpy as np
import torch
from torch import nn

from nas.core.errors import Diverged
from nas.core.ports import Dataset
from nas.core.rng import Stream, derive_seed, rng
from nas.core.tuning import Trial, TrialState
from nas.training.augment import Augmentation, MixedImages, mixup, resize
from nas.training.criterion import Criterion
from nas.training.distillation import (
    Distillation,
    Teacher,
    classifier_inputs,
    feature_loss,
    feature_projection,
    soft_target_loss,
)
from nas.training.pipeline import Pipeline
from nas.training.recipe import Recipe, cosine_rate, optimiser, weight_average
from nas.training.regularise import auxiliary_of, path_dropout, paths_of, recorded_outputs
from nas.training.weights import Weights


@dataclass(frozen=True, kw_only=True)
class StandaloneRecipe(Recipe):
    """Hyperparameters. ``lr`` is for ``batch_size`` images, with linear warm-up over ``warmup_epochs`` (None: a tenth
    of the epochs, two at most) and cosine decay. ``drop_path``: its probability in the last epoch, rising linearly.
    ``auxiliary``: the weight of the auxiliary classifier's loss. ``distillation``: what a teacher, if there is one,
    contributes."""

    epochs: int
    lr: float
    warmup_epochs: float | None = None
    drop_path: float = 0.0
    auxiliary: float = 0.0
    distillation: Distillation = field(default_factory=Distillation)


@dataclass(frozen=True)
class Batch:
    """What the images of a step come from: ``rows`` of the training images, and how they are changed."""

    rows: tuple[int, ...]
    augment_seed: int
    resolution: int
    augmentation: Augmentation
    mixup: float


class StandaloneTrainer:
    """Trains a network in place. Everything random derives from (seed, epoch, step)."""

    def __init__(
        self,
        module: nn.Module,
        resolution: int,
        data: Dataset,
        pipeline: Pipeline,
        recipe: StandaloneRecipe,
        seed: int,
        teacher: Teacher | None = None,
    ) -> None:
        self.module = module
        self.per_epoch = max(1, len(data.train) // recipe.batch_size)
        self._resolution, self._data, self._pipeline = resolution, data, pipeline
        self._recipe, self._seed, self._teacher = recipe, seed, teacher
        self._criterion = Criterion(data, pipeline.device, pipeline.value_scale)
        self._paths = paths_of(module)
        self._middle, self._head = self._auxiliary_classifier()
        self._projection = self._feature_projection()
        self._parameters = [
            *module.parameters(),
            *self._head.parameters(),
            *self._projection.parameters(),
        ]
        self._optimiser = optimiser(self._parameters, recipe)
        self._average = weight_average(module, recipe.ema_decay)

    @property
    def evaluated(self) -> nn.Module:
        """The network that training is for: with the average of the weights, if the recipe has one."""
        return self.module if self._average is None else self._average.module

    def epoch(self, number: int) -> float:
        """Train the ``number``-th epoch from 0; return its mean loss. Raises Diverged."""
        return sum(self.step(number, i) for i in range(self.per_epoch)) / self.per_epoch

    def step(self, epoch: int, i: int) -> float:
        """One optimiser step; return its loss. Raises Diverged when the loss is not finite."""
        recipe = self._recipe
        dropout_seed, augment_seed = rng(self._seed, Stream.TRAINING_STEP, epoch, i).integers(2**62, size=2).tolist()
        torch.manual_seed(dropout_seed)  # dropout only; augmentation has its own generator
        batch = self._batch_at(epoch, i, augment_seed)
        mixed = self._images(batch)
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate(epoch * self.per_epoch + i)
        self.module.train()
        self._optimiser.zero_grad(set_to_none=True)
        loss = self._loss(batch, mixed, recipe.drop_path * epoch / recipe.epochs)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(
                f"training diverged in epoch {epoch + 1}: loss is {value} at a learning rate of {recipe.lr:g}"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._parameters, recipe.clip_norm)
        self._optimiser.step()
        if self._average is not None:
            self._average.update_parameters(self.module)
        return value

    def state_dict(self) -> Weights:
        """The state to resume from."""
        weights: Weights = {
            "net": self.module.state_dict(),
            "head": self._head.state_dict(),
            "projection": self._projection.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }
        if self._average is not None:
            weights["average"] = self._average.state_dict()
        return weights

    def load_state_dict(self, state: Weights) -> None:
        """Inverse of ``state_dict``."""
        self.module.load_state_dict(state["net"])
        self._head.load_state_dict(state.get("head", {}))
        self._projection.load_state_dict(state.get("projection", {}))
        self._optimiser.load_state_dict(state["optimiser"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])

    def _batch_at(self, epoch: int, i: int, augment_seed: int) -> Batch:
        """The images of a step, as large as the student or its teacher takes them."""
        recipe = self._recipe
        order = rng(self._seed, Stream.BATCH_ORDER, 0, epoch).permutation(len(self._data.train))
        rows = order[i * recipe.batch_size : (i + 1) * recipe.batch_size]
        resolution = max(self._resolution, self._teacher.resolution if self._teacher is not None else 0)
        return Batch(tuple(rows.tolist()), augment_seed, resolution, recipe.augmentation, recipe.mixup)

    def _images(self, batch: Batch) -> MixedImages:
        rows_B = np.array(batch.rows, dtype=np.int64)
        train, resolution, seed = self._data.train, batch.resolution, batch.augment_seed
        x, y = self._pipeline.augmented(train, rows_B, resolution, seed, batch.augmentation)
        return mixup(x, y, batch.mixup, seed)

    def _loss(self, batch: Batch, mixed: MixedImages, drop_path: float) -> torch.Tensor:
        """The loss by labels, and by the teacher's outputs where there is a teacher."""
        recipe, x_BCHW = self._recipe, resize(mixed.x_BCHW, self._resolution)
        with ExitStack() as stack:
            stack.enter_context(path_dropout(self._paths, drop_path))
            middle = stack.enter_context(recorded_outputs(self._middle))
            features = stack.enter_context(classifier_inputs(self.module)) if self._compares_features else []
            outputs = self.module(x_BCHW)
        loss = mixed.loss(partial(self._criterion.loss, outputs, label_smoothing=recipe.label_smoothing))
        if recipe.auxiliary > 0:
            auxiliary_BK = self._head(middle[0])
            loss = loss + recipe.auxiliary * mixed.loss(
                partial(self._criterion.loss, auxiliary_BK, label_smoothing=recipe.label_smoothing)
            )
        if self._teacher is None:
            return loss
        target = self._teacher.on_batch(batch, mixed.x_BCHW, self._pipeline.preprocessing, self._compares_features)
        how = recipe.distillation
        if self._criterion.task.labels == "class":
            imitation = soft_target_loss(outputs, target.logits_BK, how.temperature)
        else:
            imitation = self._criterion.imitation(outputs, target.logits_BK)
        loss = (1 - how.weight) * loss + how.weight * imitation
        if target.features_BF is not None:
            loss = loss + how.features * feature_loss(self._projection(features[0]), target.features_BF)
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
