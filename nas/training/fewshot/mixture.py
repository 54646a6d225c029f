"""A balanced mixture of supernets: which of several weights a combination of choices uses is learned with the weights.

Where a choice changes the function of all weights, as the place of a downsampling does, networks harm each other in one
supernet. Javan et al., Balanced mixture of supernets for learning the CNN pooling architecture, AutoML 2023, section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from nas.core.arch import LISTABLE, Arch, Floats, Genes, as_archs, every, sample, space_size
from nas.core.errors import HwnasError
from nas.core.ports import Dataset, SearchSpace
from nas.supernet import Supernet
from nas.training.fewshot.partition import Assignment, combination
from nas.training.fewshot.routed import Routed
from nas.training.pipeline import Pipeline
from nas.training.progressive import Recipe, Step, TrainState, batch_rows, optimiser, rate

DRAWN = 4_096  # networks by which it is told how often each combination occurs in a space that cannot be listed
TOLERANCE = 1e-4  # nats
COLDEST = 100.0  # inverse temperature at the end; it is 1 at the beginning
KEPT = 0.9  # of what was known of a combination, when a new accuracy comes


def balance(logits_RM: Floats, share_R: Floats, tolerance: float = TOLERANCE, most: int = 10_000) -> Floats:
    """What to add to the logits of each supernet, shape (M,), so that every one of them is drawn equally often.

    Rows are drawn with probabilities ``share_R``. By turns, columns are divided by how often they are drawn and rows
    are made to sum to 1, until the distribution over supernets is within ``tolerance`` nats of the uniform one, at most
    ``most`` times. In logarithms, since cold rows underflow.
    """
    models = logits_RM.shape[1]
    added_M = np.zeros(models)
    for _ in range(most):
        marginal_M = share_R @ probabilities(logits_RM + added_M)
        if imbalance(marginal_M) < tolerance:
            break
        added_M = added_M - np.log(np.maximum(marginal_M, 1e-300))
    return added_M


def imbalance(marginal_M: Floats) -> float:
    """Kullback-Leibler divergence of a distribution over supernets from the uniform one, in nats."""
    p_M = np.maximum(marginal_M, 1e-300)
    return float((p_M * np.log(p_M * len(p_M))).sum())


def probabilities(logits_RM: Floats) -> Floats:
    """Softmax of every row."""
    powers: Floats = np.exp(logits_RM - logits_RM.max(axis=1, keepdims=True))
    out: Floats = powers / powers.sum(axis=1, keepdims=True)
    return out


class Mixing:
    """Several supernets and the table by which networks are routed to them, learned by turns, in place.

    A step draws a network, then a supernet by the network's row of the table; the supernet learns a training batch, and
    its accuracy on a validation batch enters the row. Everything random derives from (seed, step).
    """

    def __init__(
        self,
        nets: Sequence[Supernet],
        space: SearchSpace,
        data: Dataset,
        pipeline: Pipeline,
        recipe: Recipe,
        seed: int,
        genes: tuple[int, ...],
    ) -> None:
        self.nets, self.space, self.recipe, self.genes = nn.ModuleList(nets), space, recipe, genes
        self._data, self._pipeline, self._seed = data, pipeline, seed
        self._phase = recipe.phases[0]
        self.per_epoch = max(1, len(data.train) // recipe.batch_size)
        self.steps = self._phase.epochs * self.per_epoch
        self._counts = tuple(len(space.decisions[g].choices) for g in genes)
        self._networks_NG: Genes | None = None
        rows_N = combination(genes, self._counts, self._listed())
        self.share_R = np.bincount(rows_N, minlength=math.prod(self._counts)) / len(rows_N)
        self.table_RM = np.ones((len(self.share_R), len(nets)))
        self.added_M = np.zeros(len(nets))
        self._optimisers = [optimiser(net, recipe) for net in nets]

    def p_RM(self, step: int) -> Floats:
        """How likely each supernet is drawn for each combination at a step."""
        return probabilities(self._cold(step) * self.table_RM + self.added_M)

    def assignment(self) -> Assignment:
        """The likeliest supernet of each combination."""
        logits_RM = COLDEST * self.table_RM
        found = (logits_RM + balance(logits_RM, self.share_R)).argmax(axis=1)
        return Assignment(self.genes, self._counts, tuple(int(m) for m in found), len(self.nets))

    def routed(self) -> Routed:
        """The supernets as one."""
        return Routed(self.space, self.assignment(), [net for net in self.nets if isinstance(net, Supernet)])

    def names(self, row: int) -> str:
        """The choices of a combination in words."""
        digits = np.unravel_index(row, self._counts)
        return ", ".join(str(self.space.decisions[g].choices[int(c)]) for g, c in zip(self.genes, digits, strict=True))

    def state(self, step: int) -> TrainState:
        """What it takes to go on from a step, in tensors and plain values."""
        return TrainState(
            0,
            step,
            {
                "nets": self.nets.state_dict(),
                "optimisers": [o.state_dict() for o in self._optimisers],
                "table": torch.from_numpy(self.table_RM.copy()),
                "added": torch.from_numpy(self.added_M.copy()),
            },
        )

    def restore(self, weights: Mapping[str, Any]) -> None:
        """Goes back to what ``state`` gave."""
        self.nets.load_state_dict(weights["nets"])
        for mine, kept in zip(self._optimisers, weights["optimisers"], strict=True):
            mine.load_state_dict(kept)
        self.table_RM = weights["table"].cpu().numpy().copy()
        self.added_M = weights["added"].cpu().numpy().copy()

    def step(self, step: int) -> Step:
        """One step of one supernet, and one entry of the table. Raises HwnasError when the loss is not finite."""
        if step % self.per_epoch == 0:  # between, rows change little
            self.added_M = balance(self._cold(step) * self.table_RM, self.share_R)
        rng = np.random.default_rng((self._seed, 30, step))
        arch = self._draw(rng)
        row = int(combination(self.genes, self._counts, np.array([arch.genes]))[0])
        model = int(rng.choice(len(self.nets), p=self.p_RM(step)[row]))
        dropout_seed, augment_seed = (int(s) for s in rng.integers(2**62, size=2))
        torch.manual_seed(dropout_seed)
        resolution = self.space.input_shape(arch)[1]
        size = len(self._data.train)
        index_B = batch_rows(size, self.recipe.batch_size, self._seed, 0, step, self.per_epoch)
        x, y = self._pipeline.augmented(self._data.train, index_B, resolution, augment_seed)
        loss = self._learn(model, arch, x, y, rate(self._phase, step, self.steps, self.per_epoch))
        if not math.isfinite(loss):
            raise HwnasError(
                f"training a mixture diverged at step {step}: loss is {loss}; expected a finite value. A smaller "
                f"learning rate than {self._phase.lr:g} may help"
            )
        held_out = rng.choice(len(self._data.val), min(self.recipe.batch_size, len(self._data.val)), replace=False)
        x, y = next(self._pipeline.rows(self._data.val, np.sort(held_out).astype(np.int64), resolution, len(held_out)))
        with torch.no_grad():  # normalised by the batch, since shared weights have no statistics of their own
            accuracy = float((self.nets[model](x, arch).argmax(1) == y).double().mean())
        self.table_RM[row, model] = KEPT * self.table_RM[row, model] + (1 - KEPT) * accuracy
        return Step(0, step + 1, self.steps, step + 1, self.steps, loss, len(y))

    def _learn(self, model: int, arch: Arch, x: torch.Tensor, y: torch.Tensor, lr: float) -> float:
        net, sgd = self.nets[model], self._optimisers[model]
        for group in sgd.param_groups:
            group["lr"] = lr
        sgd.zero_grad(set_to_none=True)
        net.train()
        loss = F.cross_entropy(net(x, arch), y, label_smoothing=self.recipe.label_smoothing)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(net.parameters(), self.recipe.clip_norm)
        sgd.step()
        return float(loss.detach())

    def _cold(self, step: int) -> float:
        """The inverse temperature, risen in a line by epochs."""
        epoch, last = step // self.per_epoch, self._phase.epochs - 1
        return 1.0 + (COLDEST - 1.0) * min(1.0, epoch / max(1, last))

    def _listed(self) -> Genes:
        """All networks of the space, each once; or random ones where there are too many."""
        if space_size(self.space.decisions) <= LISTABLE:
            if self._networks_NG is None:
                self._networks_NG = np.unique(self.space.canonical(every(self.space.decisions)), axis=0)
            return self._networks_NG
        return self.space.canonical(sample(self.space.decisions, np.random.default_rng(0), DRAWN))

    def _draw(self, rng: np.random.Generator) -> Arch:
        if self._networks_NG is None:
            return as_archs(self.space.id, self.space.canonical(sample(self.space.decisions, rng, 1)))[0]
        row = int(rng.integers(len(self._networks_NG)))
        return as_archs(self.space.id, self._networks_NG[row : row + 1])[0]


def mix(learning: Mixing, start: TrainState, save_due: Callable[[], bool]) -> Iterator[Step | TrainState]:
    """Goes on from ``start`` to the end, yielding a ``Step`` each, and a ``TrainState`` whenever ``save_due()`` and at
    the end. Resuming from a state repeats nothing and ends in the same weights."""
    if start.weights is not None:
        learning.restore(start.weights)
    for step in range(start.step, learning.steps):
        yield learning.step(step)
        if step + 1 < learning.steps and save_due():
            yield learning.state(step + 1)
    yield learning.state(learning.steps)
