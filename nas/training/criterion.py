"""Where losses and scores of networks are computed, by the task of a data set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from nas.core.ports import Dataset
from nas.core.tasks import LossOptions, TaskScores, load_task
from nas.training.pipeline import ValueScale

NetworkOutputs = Tensor | tuple[Tensor, ...]


class Criterion:
    """The loss of the task of ``data``, with its class weights, and its scores. ``scale``: that of the outputs."""

    def __init__(self, data: Dataset, device: str, scale: ValueScale | None = None) -> None:
        self.task = load_task(data.task)
        self._scale = scale
        self._classes = data.shape.classes
        weights = data.class_weights
        self._class_weights = None if weights is None else torch.tensor(weights, device=device)

    def loss(self, outputs: NetworkOutputs, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """The mean loss of a batch."""
        targets = labels if self._scale is None else self._scale.standardised(labels)
        loss: Tensor = self.task.loss(outputs, targets, LossOptions(label_smoothing, self._class_weights))
        return loss

    def imitation(self, outputs: NetworkOutputs, teacher: NetworkOutputs) -> Tensor:
        """The mean loss of a batch against the raw outputs of a teacher, to which no gradients flow."""
        fixed = teacher.detach() if isinstance(teacher, Tensor) else tuple(t.detach() for t in teacher)
        loss: Tensor = self.task.imitation(outputs, fixed)
        return loss

    @torch.no_grad()
    def score(
        self,
        module: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        survives_rung: Callable[[float, int], bool] | None = None,
        first_part: int = 0,
    ) -> TaskScores:
        """How good a module in eval mode is over (images, labels) batches, all classes alike; the mean loss of an image
        where the task has one in nats. After ``first_part`` images, and each time that they have doubled, it is asked
        with the quality and the number of images whether the module ``survives_rung``; if not, the scores are those
        over these images."""
        module.eval()
        scorer, summed, images, part = self.task.scorer(self._classes), 0.0, 0, first_part
        for x_BCHW, labels in batches:
            outputs = module(x_BCHW)
            if self._scale is not None:
                outputs = self._scale.in_units(outputs)
            tensors = outputs if isinstance(outputs, tuple) else (outputs,)
            scorer.add([tensor.float().cpu().numpy() for tensor in tensors], labels.cpu().numpy())
            images += len(labels)
            if self.task.loss_in_nats:
                summed += float(self.task.loss(outputs, labels, LossOptions(summed=True)))
            if survives_rung is not None and images >= part:
                if not survives_rung(scorer.scores().quality, images):
                    break
                part = 2 * images
        scores = scorer.scores()
        return replace(scores, loss=summed / images) if self.task.loss_in_nats else scores
