"""Training one network by itself, from its first weights to its last; and what was reached as bytes."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from nas.core.errors import Diverged
from nas.core.ports import Dataset
from nas.core.tuning import Trial, TrialState
from nas.training.pipeline import Pipeline
from nas.training.regularise import auxiliary_of, dropped, paths_of, seen


@dataclass(frozen=True)
class AloneRecipe:
    """How a network is trained. ``lr`` is for ``batch_size`` images, falls as a cosine, and rises in a tenth of the
    epochs, two at most. ``augmentation`` is a multiple of what is usual. ``drop_path`` is reached at the end;
    ``auxiliary`` is how much a second classifier's loss counts."""

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


class Alone:
    """A network that is being trained in place. Everything random derives from (seed, epoch, step)."""

    def __init__(
        self, module: nn.Module, resolution: int, data: Dataset, pipeline: Pipeline, recipe: AloneRecipe, seed: int
    ) -> None:
        self.module = module
        self.per_epoch = max(1, len(data.train) // recipe.batch_size)
        self._resolution, self._data, self._pipeline = resolution, data, pipeline
        self._recipe, self._seed = recipe, seed
        self._paths = paths_of(module)
        self._middle, self._head = self._second_classifier()
        learned = [*module.parameters(), *self._head.parameters()]
        decay = [p for p in learned if p.ndim > 1]
        plain = [p for p in learned if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self._optimiser = torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=True)

    def epoch(self, number: int) -> float:
        """The ``number``-th epoch from 0; its mean loss. Raises Diverged."""
        return sum(self.step(number, i) for i in range(self.per_epoch)) / self.per_epoch

    def step(self, epoch: int, i: int) -> float:
        """One optimiser step; its loss. Raises Diverged when that is no longer finite."""
        recipe = self._recipe
        order = np.random.default_rng((self._seed, 0, epoch)).permutation(len(self._data.train))
        index_B = order[i * recipe.batch_size : (i + 1) * recipe.batch_size]
        dropout_seed, augment_seed = np.random.default_rng((self._seed, 1, epoch, i)).integers(2**62, size=2).tolist()
        torch.manual_seed(dropout_seed)  # dropout only; augmentation has its own generator
        x, y = self._pipeline.augmented(self._data.train, index_B, self._resolution, augment_seed, recipe.augmentation)
        for group in self._optimiser.param_groups:
            group["lr"] = self._rate(epoch * self.per_epoch + i)
        self.module.train()
        self._optimiser.zero_grad(set_to_none=True)
        with dropped(self._paths, recipe.drop_path * epoch / recipe.epochs), seen(self._middle) as features:
            loss = F.cross_entropy(self.module(x), y, label_smoothing=recipe.label_smoothing)
        if recipe.auxiliary > 0:
            second = self._head(features[0])
            loss = loss + recipe.auxiliary * F.cross_entropy(second, y, label_smoothing=recipe.label_smoothing)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(
                f"training diverged in epoch {epoch + 1}: loss is {value} at a learning rate of {recipe.lr:g}"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        learned = [*self.module.parameters(), *self._head.parameters()]
        nn.utils.clip_grad_norm_(learned, recipe.clip_norm)
        self._optimiser.step()
        return value

    def weights(self) -> dict[str, Any]:
        """What it takes to go on."""
        return {
            "net": self.module.state_dict(),
            "head": self._head.state_dict(),
            "optimiser": self._optimiser.state_dict(),
        }

    def restore(self, weights: Mapping[str, Any]) -> None:
        """Inverse of ``weights``."""
        self.module.load_state_dict(weights["net"])
        self._head.load_state_dict(weights.get("head", {}))
        self._optimiser.load_state_dict(weights["optimiser"])

    def _second_classifier(self) -> tuple[nn.Module, nn.Module]:
        """The module it looks at and itself; where there is none, the network and something without parameters."""
        nothing = (self.module, nn.Identity())
        if self._recipe.auxiliary == 0:
            return nothing
        with torch.random.fork_rng():
            torch.manual_seed(int(np.random.default_rng((self._seed, 2)).integers(2**62)))
            middle, head = auxiliary_of(self.module) or nothing
        return middle, head.to(next(self.module.parameters()).device)

    def _rate(self, step: int) -> float:
        steps = self._recipe.epochs * self.per_epoch
        warmup = min(2.0, 0.1 * self._recipe.epochs) * self.per_epoch
        if step < warmup:
            return self._recipe.lr * (step + 1) / (warmup + 1)
        return 0.5 * self._recipe.lr * (1 + math.cos(math.pi * step / steps))


def pack(state: TrialState, weights: Mapping[str, Any] | None) -> bytes:
    """A trial with its weights, None for one that is over; tensors and plain values only."""
    buffer = io.BytesIO()
    torch.save({"state": json.dumps(asdict(replace(state, blob=None))), "weights": weights}, buffer)
    return buffer.getvalue()


def unpack(data: bytes, device: str) -> tuple[TrialState, Mapping[str, Any] | None]:
    """Inverse of ``pack``; never unpickles objects."""
    record = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
    state = json.loads(record["state"])
    trial = Trial(**state.pop("trial"))
    return TrialState(trial, **{**state, "scores": tuple(state["scores"])}), record["weights"]
