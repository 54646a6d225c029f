"""The outputs of a user's model in place of labels, for tasks that judge networks by it on unlabelled images."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from torch import nn

from nas.core.arch import Arch
from nas.core.errors import InvalidSpec
from nas.core.images import Resolution
from nas.core.ports import BlobStore, Dataset, Problem, Split
from nas.core.tasks import Labels
from nas.datasets.limits import check_memory
from nas.training.pipeline import Pipeline


@dataclass(frozen=True)
class ParentLabels:
    """The outputs for all images of each split, one row each."""

    train: Labels
    val: Labels
    test: Labels
    checkpoint: ClassVar[str] = "parent_labels"

    def on(self, data: Dataset) -> Dataset:
        """The data with these labels."""
        return replace(
            data,
            train=replace(data.train, labels=self.train),
            val=replace(data.val, labels=self.val),
            test=replace(data.test, labels=self.test),
        )

    def store(self, blobs: BlobStore) -> str:
        """Keeps them for a restart: the sha256 of a blob. Raises StorageError."""
        buffer = io.BytesIO()
        np.savez(buffer, train=self.train, val=self.val, test=self.test)
        return blobs.put(buffer.getvalue())

    @staticmethod
    def load(blobs: BlobStore, blob: str) -> ParentLabels:
        """Inverse of ``store``. Raises NotFound or StorageError for a lost blob."""
        with np.load(io.BytesIO(blobs.get(blob)), allow_pickle=False) as arrays:
            return ParentLabels(arrays["train"], arrays["val"], arrays["test"])


def with_parent_labels(problem: Problem, torch_device: str) -> Problem:
    """The problem with labels that the model of its space gives, where its task expects them. Raises as
    ``parent_labels``."""
    if not problem.spec.task.parent_labels:
        return problem
    return replace(problem, data=parent_labels(problem, torch_device).on(problem.data))


def parent_labels(problem: Problem, torch_device: str) -> ParentLabels:
    """What the model of the space gives: all images go through it once, not augmented. Raises InvalidSpec for a space
    without such a model, DataTooLarge for outputs beyond memory."""
    genes = problem.space.pretrained_genes
    if genes is None:
        name = problem.spec.task.name
        raise InvalidSpec(f"data.task: {name} expects a space of a model of yours, got {problem.space.name}")
    arch = Arch(problem.space.id, genes)
    module = problem.space.supernet(problem.spec.seed).subnet(arch).to(torch.device(torch_device)).eval()
    pipeline, resolution = Pipeline.of(problem, torch_device), problem.space.input_shape(arch)[1:]
    data = problem.data
    train, val, test = (_outputs(module, pipeline, s, resolution) for s in (data.train, data.val, data.test))
    return ParentLabels(train, val, test)


@torch.no_grad()
def _outputs(module: nn.Module, pipeline: Pipeline, split: Split, resolution: Resolution) -> Labels:
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
