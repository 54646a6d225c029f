"""The outputs of a user's model in place of labels, for tasks that judge networks by it on unlabelled images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from nas.core.arch import Arch
from nas.core.errors import InvalidSpec
from nas.core.ports import Problem, Split
from nas.core.tasks import Labels
from nas.datasets.limits import check_memory
from nas.training.pipeline import Pipeline


def with_parent_labels(problem: Problem, torch_device: str) -> Problem:
    """The problem with labels that the model of its space gives, where its task expects them: all images go through it
    once, not augmented. Raises InvalidSpec for a space without such a model, DataTooLarge for outputs beyond memory."""
    if not problem.spec.task.parent_labels:
        return problem
    genes = problem.space.pretrained_genes
    if genes is None:
        name = problem.spec.task.name
        raise InvalidSpec(f"data.task: {name} expects a space of a model of yours, got {problem.space.name}")
    arch = Arch(problem.space.id, genes)
    module = problem.space.supernet(problem.spec.seed).subnet(arch).to(torch.device(torch_device)).eval()
    pipeline, resolution = Pipeline.of(problem, torch_device), problem.space.input_shape(arch)[1]

    def labelled(split: Split) -> Split:
        return replace(split, labels=_outputs(module, pipeline, split, resolution))

    data = problem.data
    data = replace(data, train=labelled(data.train), val=labelled(data.val), test=labelled(data.test))
    return replace(problem, data=data)


@torch.no_grad()
def _outputs(module: nn.Module, pipeline: Pipeline, split: Split, resolution: int) -> Labels:
    """All outputs of each image in a row, float32 (N, T)."""
    batches: list[Labels] = []
    for x_BCHW, _ in pipeline.plain(split, resolution, batch=100):
        outputs = module(x_BCHW)
        tensors = outputs if isinstance(outputs, tuple) else (outputs,)
        rows_BT = torch.cat([tensor.float().flatten(1) for tensor in tensors], dim=1).cpu().numpy()
        if not batches:
            check_memory(f"outputs of the model for {len(split)} images", 2 * rows_BT[0].nbytes * len(split))
        batches.append(rows_BT)
    return np.concatenate(batches)
