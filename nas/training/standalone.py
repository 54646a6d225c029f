"""Train one network from scratch, outside any supernet; serialise a trial with its weights."""

from __future__ import annotations

import io
import json
import math
from dataclasses import asdict, dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn

from nas.core.errors import Diverged
from nas.core.ports import Dataset
from nas.core.rng import Stream, derive_seed, rng
from nas.core.tuning import Trial, TrialState
from nas.training.pipeline import Pipeline
from nas.training.regularise import auxiliary_of, path_dropout, paths_of, recorded_outputs
from nas.training.weights import Weights


@dataclass(frozen=True)
class StandaloneRecipe:
    """Hyperparameters. ``lr`` is for ``batch_size`` images, with linear warm-up over a tenth of the epochs (two at
    most) and cosine decay. ``augmentation`` multiplies the default strength. ``drop_path``: its probability in the last
    epoch, rising linearly. ``auxiliary``: the weight of the auxiliary classifier's loss."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    augmentation: float
    momentum: float = 0.9
    label_smoothing: float = 0.1
    clip_norm: float = 5.0
    drop_path: float = 0.0
    auxiliary: float = 0.0


class StandaloneTrainer:
    """Trains a network in place. Everything random derives from (seed, epoch, step)."""

    def __init__(
        self, module: nn.Module, resolution: int, data: Dataset, pipeline: Pipeline, recipe: StandaloneRecipe, seed: int
    ) -> None:
        self.module = module
        self.per_epoch = max(1, len(data.train) // recipe.batch_size)
        self._resolution, self._data, self._pipeline = resolution, data, pipeline
        self._recipe, self._seed = recipe, seed
        self._paths = paths_of(module)
        self._middle, self._head = self._auxiliary_classifier()
        parameters = [*module.parameters(), *self._head.parameters()]
        decay = [p for p in parameters if p.ndim > 1]
        plain = [p for p in parameters if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self._optimiser = torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=True)

    def epoch(self, number: int) -> float:
        """Train the ``number``-th epoch from 0; return its mean loss. Raises Diverged."""
        return sum(self.step(number, i) for i in range(self.per_epoch)) / self.per_epoch

    def step(self, epoch: int, i: int) -> float:
        """One optimiser step; return its loss. Raises Diverged when the loss is not finite."""
        recipe = self._recipe
        order = rng(self._seed, Stream.BATCH_ORDER, 0, epoch).permutation(len(self._data.train))
        index_B = order[i * recipe.batch_size : (i + 1) * recipe.batch_size]
        dropout_seed, augment_seed = rng(self._seed, Stream.TRAINING_STEP, epoch, i).integers(2**62, size=2).tolist()
        torch.manual_seed(dropout_seed)  # dropout only; augmentation has its own generator
        x, y = self._pipeline.augmented(self._data.train, index_B, self._resolution, augment_seed, recipe.augmentation)
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate(epoch * self.per_epoch + i)
        self.module.train()
        self._optimiser.zero_grad(set_to_none=True)
        drop_path = recipe.drop_path * epoch / recipe.epochs
        with path_dropout(self._paths, drop_path), recorded_outputs(self._middle) as features:
            loss = F.cross_entropy(self.module(x), y, label_smoothing=recipe.label_smoothing)
        if recipe.auxiliary > 0:
            auxiliary = self._head(features[0])
            loss = loss + recipe.auxiliary * F.cross_entropy(auxiliary, y, label_smoothing=recipe.label_smoothing)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(
                f"training diverged in epoch {epoch + 1}: loss is {value} at a learning rate of {recipe.lr:g}"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        parameters = [*self.module.parameters(), *self._head.parameters()]
        nn.utils.clip_grad_norm_(parameters, recipe.clip_norm)
        self._optimiser.step()
        return value

    def state_dict(self) -> Weights:
        """The state to resume from."""
        return {
            "net": self.module.state_dict(),
            "head": self._head.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }

    def load_state_dict(self, state: Weights) -> None:
        """Inverse of ``state_dict``."""
        self.module.load_state_dict(state["net"])
        self._head.load_state_dict(state.get("head", {}))
        self._optimiser.load_state_dict(state["optimiser"])

    def _auxiliary_classifier(self) -> tuple[nn.Module, nn.Module]:
        """The intermediate module and the classifier; without one, the network and a module without parameters."""
        absent = (self.module, nn.Identity())
        if self._recipe.auxiliary == 0:
            return absent
        with torch.random.fork_rng():
            torch.manual_seed(derive_seed(self._seed, Stream.AUXILIARY_WEIGHTS))
            middle, head = auxiliary_of(self.module) or absent
        return middle, head.to(next(self.module.parameters()).device)

    def _rate(self, step: int) -> float:
        steps = self._recipe.epochs * self.per_epoch
        warmup = min(2.0, 0.1 * self._recipe.epochs) * self.per_epoch
        if step < warmup:
            return self._recipe.lr * (step + 1) / (warmup + 1)
        return 0.5 * self._recipe.lr * (1 + math.cos(math.pi * step / steps))


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
